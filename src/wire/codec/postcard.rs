use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guard::{Budget, Guarded};
use super::{Codec, CodecError};

/// postcard: as small as [`Bincode`](super::Bincode), with a published format.
///
/// The same limits apply: values are read back by the very type that wrote them,
/// and types that need to look at the bytes first, or leave fields out, cannot be
/// read.
#[derive(Debug, Clone, Copy)]
pub struct Postcard;

impl Codec for Postcard {
    const ID: u8 = 3;
    const NAME: &'static str = "postcard";

    fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        postcard::to_io(value, out)
            .map(drop)
            .map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        let budget = Budget::new(bytes);
        let mut input = postcard::Deserializer::from_bytes(bytes);
        let value = T::deserialize(Guarded::new(&mut input, &budget)).map_err(CodecError::new)?;
        let rest = input.finalize().map_err(CodecError::new)?;
        if !rest.is_empty() {
            return Err(CodecError::trailing());
        }
        Ok(value)
    }
}
