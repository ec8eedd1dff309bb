//! The `Codec` of `MessagePack`.

use std::io::ErrorKind;

use rmp_serde::decode::{Error, ReadRefReader};
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde::{Deserialize, Serialize};

use super::{Category, Codec, CodecError, Result, bounded, ids};

/// `MessagePack` with named fields: like JSON, but smaller and with byte strings.
///
/// Fields can be added to a type (with `#[serde(default)]`) and removed.
///
/// A cache reads each value back before it stores it, as with `Json`, and stores none with a `Some(None)` or a variant
/// of an `untagged` enum that an earlier variant reads as another value.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePack;

impl Codec for MessagePack {
    const ID: u8 = ids::MESSAGEPACK;
    const NAME: &'static str = "messagepack";

    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        // With names: without them a field that is added would shift all that follow.
        let mut output = rmp_serde::Serializer::new(out).with_struct_map();
        value.serialize(&mut output).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T> {
        bounded::decode(bytes.len(), |seed| {
            let mut input = rmp_serde::Deserializer::from_read_ref(bytes);
            let value = seed.deserialize(&mut input);
            let value = value.map_err(|error| CodecError::of(category(&error), error))?;
            if !at_end(&mut input) {
                return Err(Category::TrailingBytes.into());
            }
            Ok(value)
        })
    }
}

fn category(error: &Error) -> Category {
    match error {
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) | Error::Utf8Error(_) => {
            Category::Malformed
        }
        Error::DepthLimitExceeded => Category::TooDeep,
        _ => Category::UnexpectedType,
    }
}

/// The reader does not say how far it is, so try whether one more value starts.
fn at_end(input: &mut rmp_serde::Deserializer<ReadRefReader<'_, [u8]>>) -> bool {
    matches!(
        bool::deserialize(input),
        Err(Error::InvalidMarkerRead(error)) if error.kind() == ErrorKind::UnexpectedEof
    )
}
