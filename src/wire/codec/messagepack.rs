use std::io::ErrorKind;

use rmp_serde::decode::{Error, ReadRefReader};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::guard::{Budget, Guarded};
use super::{Codec, CodecError};

/// `MessagePack` with named fields: like JSON, but smaller and with byte strings.
///
/// Fields can be added to a type (with `#[serde(default)]`) and removed.
/// `Some(None)` comes back as `None`.
#[derive(Debug, Clone, Copy)]
pub struct MessagePack;

impl Codec for MessagePack {
    const ID: u8 = 4;
    const NAME: &'static str = "messagepack";

    fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut output = rmp_serde::Serializer::new(out).with_struct_map();
        value.serialize(&mut output).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        let budget = Budget::new(bytes);
        let mut input = rmp_serde::Deserializer::from_read_ref(bytes);
        let value = T::deserialize(Guarded::new(&mut input, &budget)).map_err(CodecError::new)?;
        if !at_end(&mut input) {
            return Err(CodecError::trailing());
        }
        Ok(value)
    }
}

/// The reader does not tell how far it is, so see if one more value starts.
fn at_end(input: &mut rmp_serde::Deserializer<ReadRefReader<'_, [u8]>>) -> bool {
    matches!(
        bool::deserialize(input),
        Err(Error::InvalidMarkerRead(error)) if error.kind() == ErrorKind::UnexpectedEof
    )
}
