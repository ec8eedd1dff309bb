use bincode::config;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guard::{Budget, Seed};
use super::{Codec, CodecError};

/// bincode 2 in its standard configuration: small and fast, and the default.
///
/// Bytes carry no names and no types. A value is read back by the very type that
/// wrote it; a changed type gives an error or, with bad luck, a wrong value, so a
/// changed type must not read what the old one wrote. Types that need to look at the bytes
/// to know what they are (`#[serde(flatten)]`, `#[serde(untagged)]`,
/// `#[serde(tag = "...")]`) or leave fields out (`skip_serializing_if`) are
/// written but cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct Bincode;

impl Codec for Bincode {
    const ID: u8 = 1;
    const NAME: &'static str = "bincode";

    fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        bincode::serde::encode_into_std_write(value, out, config::standard())
            .map(drop)
            .map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        let budget = Budget::new(bytes);
        // With no limit of bincode's own: the guard keeps to the bytes, and to count them twice costs a fifth.
        let seed = Seed::<T>::new(&budget);
        let (value, used) = bincode::serde::seed_decode_from_slice(seed, bytes, config::standard())
            .map_err(CodecError::new)?;
        if used < bytes.len() {
            return Err(CodecError::trailing());
        }
        Ok(value)
    }
}
