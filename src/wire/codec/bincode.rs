//! The `Codec` of bincode.

use std::any::TypeId;

use bincode::config::standard;
use bincode::error::DecodeError;
use bincode::serde::{
    DecodeError as Unreadable, encode_into_std_write as write, seed_decode_from_slice,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shaped::{self, Shaped};
use super::{Category, Codec, CodecError, Result, bounded, ids};

/// bincode 2 in its standard configuration: small and fast. The default, `Auto`, takes it for each value that it can hold.
///
/// The bytes of a value follow its shape, in 8 bytes: a hash of the names and kinds of its parts. A cache takes values of
/// another shape for misses, see [changes of a type](crate::guide::ttls_and_codecs#changes-of-a-type). A direct
/// [`decode`](Codec::decode) does not compare the shape.
///
/// Types are refused that need to look at the bytes to know their form (`#[serde(flatten)]`, `#[serde(untagged)]`,
/// `#[serde(tag = "...")]`), and values that leave a field out (`skip_serializing_if`): nothing of them is stored. The
/// error says so, and names the field; `Auto`, `Json` and `MessagePack` have no such limits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bincode;

impl Codec for Bincode {
    const ID: u8 = ids::BINCODE;
    const NAME: &'static str = "bincode";

    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        shaped::encode(value, out, |value, out| {
            write(value, out, standard()).map(drop)
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

impl Shaped for Bincode {
    fn read<T: DeserializeOwned + Send>(bytes: &[u8]) -> Result<T> {
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
        DecodeError::Serde(
            Unreadable::AnyNotSupported
            | Unreadable::IdentifierNotSupported
            | Unreadable::IgnoredAnyNotSupported,
        ) => Category::ReadsByContent,
        DecodeError::OtherString(_) | DecodeError::Serde(_) => Category::UnexpectedType,
        _ => Category::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    struct Order {
        number: u64,
        lines: Vec<(String, i32)>,
        payments: Vec<Payment>,
        paid: Option<bool>,
        notes: BTreeMap<u8, char>,
    }

    #[derive(Serialize)]
    enum Payment {
        Cash,
        Card { holder: &'static str },
    }

    /// The shapes of values are shared with other releases: this test fails when they drift.
    #[test]
    fn shapes_are_frozen() {
        let order = |paid| Order {
            number: 7,
            lines: vec![("tea".to_owned(), 2); 3],
            payments: vec![Payment::Card { holder: "Ada" }, Payment::Cash],
            paid,
            notes: BTreeMap::from([(1, 'x')]),
        };
        let shape = |order: &Order| {
            let mut bytes = Vec::new();
            Bincode.encode(order, &mut bytes).unwrap();
            u64::from_be_bytes(*bytes.first_chunk().unwrap())
        };
        assert_eq!(shape(&order(Some(true))), 11_257_974_309_602_629_954);
        assert_eq!(shape(&order(None)), 5_833_612_500_161_329_981);
    }
}
