//! The `Codec` of postcard.

use std::any::TypeId;

use postcard::Error;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

use super::shaped::{self, Shaped};
use super::{Category, Codec, CodecError, Result, bounded, ids};

/// postcard: as small as `Bincode`, with a published format.
///
/// The limits of `Bincode` apply: values of a changed type are misses, and types that need to look at
/// the bytes first, or leave fields out, are refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Postcard;

impl Codec for Postcard {
    const ID: u8 = ids::POSTCARD;
    const NAME: &'static str = "postcard";

    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        shaped::encode(value, out, |value, out| {
            postcard::to_io(&value, out).map(drop)
        })
    }

    fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T> {
        Self::read(shaped::split(bytes)?.1)
    }

    fn decode_same_shape<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        bytes: &[u8],
    ) -> Result<T> {
        self.decode_shaped(TypeId::of::<T>(), bytes)
    }

    /// One value of each shape: reading follows the type, and the shape has all that it depends on.
    fn read_back<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        _: &T,
        bytes: &[u8],
    ) -> Result<()> {
        shaped::read_back::<_, T>(self, bytes)
    }
}

impl Shaped for Postcard {
    fn read<T: DeserializeOwned + Send>(bytes: &[u8]) -> Result<T> {
        bounded::decode(bytes.len(), |seed| {
            let mut input = postcard::Deserializer::from_bytes(bytes);
            let value = seed.deserialize(&mut input);
            // How many bytes are left also tells where it failed.
            let left = input.finalize().unwrap_or_default().len();
            match value {
                Ok(_) if left > 0 => Err(Category::TrailingBytes.into()),
                Ok(value) => Ok(value),
                Err(error) => {
                    let error = CodecError::of(category(&error), error);
                    Err(error.at(bytes.len() - left))
                }
            }
        })
    }
}

fn category(error: &Error) -> Category {
    match error {
        Error::WontImplement => Category::ReadsByContent,
        Error::SerdeDeCustom => Category::UnexpectedType,
        _ => Category::Malformed,
    }
}
