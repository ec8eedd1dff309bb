use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guard::{Budget, Guarded};
use super::{Codec, CodecError};

/// JSON: larger and slower, but people and other programs can read it.
///
/// Fields go by name, so fields can be added to a type (with `#[serde(default)]`)
/// and removed. Map keys have to be strings, numbers, `bool`s or unit variants, a
/// float that is not finite becomes `null`, and `Some(None)` comes back as `None`.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl Codec for Json {
    const ID: u8 = 2;
    const NAME: &'static str = "json";

    fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        let budget = Budget::new(bytes);
        let mut input = serde_json::Deserializer::from_slice(bytes);
        let value = T::deserialize(Guarded::new(&mut input, &budget)).map_err(CodecError::new)?;
        input.end().map_err(CodecError::new)?;
        Ok(value)
    }
}
