//! The `Codec` of JSON.

use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

use super::{Category, Codec, CodecError, Result, bounded, ids};

/// JSON: larger and slower, but people and other programs can read it.
///
/// Fields go by name, so fields can be added to a type (with `#[serde(default)]`)
/// and removed. Map keys have to be strings, numbers, `bool`s or unit variants.
///
/// A cache reads each value back before it stores it, which takes about as long as to encode and to decode it. It
/// stores none that JSON cannot bring back: a float that is not finite, which becomes `null`, a `Some(None)` or
/// `Some(())`, which comes back as `None`, and a variant of an `untagged` enum that an earlier variant reads as another
/// value. The error names the field, if it is in one. Finite floats come back bit by bit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl Codec for Json {
    const ID: u8 = ids::JSON;
    const NAME: &'static str = "json";

    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(out, value).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T> {
        bounded::decode(bytes.len(), |seed| {
            let mut input = serde_json::Deserializer::from_slice(bytes);
            let value = seed.deserialize(&mut input).map_err(|error| {
                let position = offset(bytes, &error);
                CodecError::of(category(&error), error).at(position)
            })?;
            // White space may follow, as people and other programs write it.
            input.end().map_err(|error| {
                CodecError::from(Category::TrailingBytes).at(offset(bytes, &error))
            })?;
            Ok(value)
        })
    }
}

fn category(error: &serde_json::Error) -> Category {
    match error.classify() {
        serde_json::error::Category::Data => Category::UnexpectedType,
        _ => Category::Malformed,
    }
}

/// How many bytes were read: `serde_json` counts lines and columns.
fn offset(bytes: &[u8], error: &serde_json::Error) -> usize {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let before = lines.take(error.line().saturating_sub(1));
    before.map(<[u8]>::len).sum::<usize>() + error.column()
}
