//! The `Codec` of bincode.

use bincode::config::standard;
use bincode::error::DecodeError;
use bincode::serde::{encode_into_std_write as write, seed_decode_from_slice};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Category, Codec, CodecError, Result, bounded, complete};

/// bincode 2 in its standard configuration: small and fast, and the default.
///
/// Bytes carry no names and no types. A value is read back by the very type that
/// wrote it; a changed type gives an error or, with bad luck, a wrong value, so a
/// changed type must not read bytes of the old one.
///
/// Types are refused that need to look at the bytes to know their form (`#[serde(flatten)]`, `#[serde(untagged)]`,
/// `#[serde(tag = "...")]`), and values that leave a field out (`skip_serializing_if`): nothing of them is stored. The
/// error says so; `Json` and `MessagePack` have no such limits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bincode;

impl Codec for Bincode {
    const ID: u8 = 1;
    const NAME: &'static str = "bincode";

    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        complete::serialize(value, |value| write(value, out, standard()).map(drop))
    }

    fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T> {
        // Without a limit of bincode's own: counting the bytes a second time costs a fifth.
        let (value, used) = bounded::decode(bytes.len(), |seed| {
            seed_decode_from_slice(seed, bytes, standard())
                .map_err(|error| CodecError::of(category(&error), error))
        })?;
        if used < bytes.len() {
            return Err(Category::TrailingBytes.into());
        }
        Ok(value)
    }
}

fn category(error: &DecodeError) -> Category {
    match error {
        DecodeError::OtherString(_) | DecodeError::Serde(_) => Category::UnexpectedType,
        _ => Category::Malformed,
    }
}
