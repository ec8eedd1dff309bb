//! One type and its codecs: encodes with the chosen one, decodes with every one that is compiled in.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Category;
use super::{Bincode, Codec, CodecError};

/// Encodes and decodes values of type `V`.
///
/// Holds function pointers, so that the bounds on `V` are needed only where it is made.
#[derive(Debug)]
pub(crate) struct ValueCodec<V> {
    /// The codec that encodes.
    id: u8,
    encode: fn(&V, &mut Vec<u8>) -> Result<(), CodecError>,
    /// Takes the id of the codec that encoded the bytes.
    decode: fn(u8, &[u8]) -> Result<V, CodecError>,
}

impl<V: Serialize + DeserializeOwned> ValueCodec<V> {
    /// Encodes with `C`.
    pub(crate) fn new<C: Codec>() -> Self {
        Self {
            id: C::ID,
            encode: C::encode::<V>,
            decode: decode_as::<C, V>,
        }
    }
}

impl<V> ValueCodec<V> {
    /// The id of the codec that encodes.
    pub(crate) fn id(&self) -> u8 {
        self.id
    }

    /// Appends the bytes of `value` to `out`; leaves `out` as it was on an error.
    ///
    /// # Errors
    ///
    /// If the value takes more than `max` bytes, or the codec refuses it.
    pub(crate) fn encode(
        &self,
        value: &V,
        out: &mut Vec<u8>,
        max: usize,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        let result = catch_panic(|| (self.encode)(value, out)).map_err(EncodeError::from);
        let size = out.len().saturating_sub(start);
        let result = match result {
            Ok(()) if size > max => Err(EncodeError::TooLarge { size, max }),
            other => other,
        };
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Decodes what the codec with this id encoded.
    ///
    /// # Errors
    ///
    /// If the bytes are more than `max`, no codec with this id is compiled in, or the codec refuses the bytes.
    pub(crate) fn decode(&self, id: u8, bytes: &[u8], max: usize) -> Result<V, CodecError> {
        let size = bytes.len();
        if size > max {
            return Err(Category::TooLarge { size, max }.into());
        }
        catch_panic(|| (self.decode)(id, bytes))
    }
}

/// Makes an error of a panic in the type's own code: it must not end the calls that share the value.
fn catch_panic<T>(code: impl FnOnce() -> Result<T, CodecError>) -> Result<T, CodecError> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|_| Err(Category::Panicked.into()))
}

impl<V> Clone for ValueCodec<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for ValueCodec<V> {}

/// Why a value was not encoded.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EncodeError {
    /// It takes too many bytes.
    #[error("the value takes {size} bytes, and at most {max} are allowed")]
    TooLarge { size: usize, max: usize },
    /// The codec refused it.
    #[error(transparent)]
    Failed(#[from] CodecError),
}

/// The chosen codec comes first: a user's own codec may have any id.
fn decode_as<C: Codec, V: DeserializeOwned>(id: u8, bytes: &[u8]) -> Result<V, CodecError> {
    match id {
        id if id == C::ID => C::decode(bytes),
        Bincode::ID => Bincode::decode(bytes),
        #[cfg(feature = "json")]
        super::Json::ID => super::Json::decode(bytes),
        #[cfg(feature = "postcard")]
        super::Postcard::ID => super::Postcard::decode(bytes),
        #[cfg(feature = "messagepack")]
        super::MessagePack::ID => super::MessagePack::decode(bytes),
        unknown => Err(Category::UnknownCodec(unknown).into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Own;

    impl Codec for Own {
        const ID: u8 = 200;
        const NAME: &'static str = "own";

        fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
            out.push(b'!');
            Bincode::encode(value, out)
        }

        fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
            let bytes = bytes
                .strip_prefix(b"!")
                .ok_or_else(|| CodecError::new("no mark"))?;
            Bincode::decode(bytes)
        }
    }

    #[test]
    fn reads_its_own_and_the_crates_codecs() {
        let codec = ValueCodec::<u8>::new::<Own>();
        let mut out = b"header".to_vec();
        codec.encode(&7, &mut out, 2).unwrap();
        assert_eq!(out, b"header!\x07");
        assert_eq!(codec.id(), 200);
        assert_eq!(codec.decode(200, b"!\x07", 2).unwrap(), 7);
        assert_eq!(codec.decode(Bincode::ID, b"\x07", 2).unwrap(), 7);
    }

    #[test]
    fn reads_every_codec_compiled_in() {
        fn moves_to<C: Codec>() {
            let mut out = Vec::new();
            C::encode("text", &mut out).unwrap();
            let codec = ValueCodec::<String>::new::<Own>();
            assert_eq!(
                codec.decode(C::ID, &out, 100).unwrap(),
                "text",
                "{}",
                C::NAME
            );
        }
        moves_to::<Bincode>();
        #[cfg(feature = "json")]
        moves_to::<crate::wire::codec::Json>();
        #[cfg(feature = "postcard")]
        moves_to::<crate::wire::codec::Postcard>();
        #[cfg(feature = "messagepack")]
        moves_to::<crate::wire::codec::MessagePack>();
    }

    #[test]
    fn an_unknown_id_is_an_error() {
        let codec = ValueCodec::<u8>::new::<Bincode>();
        let error = codec.decode(200, b"\x07", 1).unwrap_err();
        assert_eq!(error.to_string(), "no codec with id 200 is compiled in");
    }

    #[test]
    fn a_value_that_is_too_large_is_not_decoded() {
        let codec = ValueCodec::<String>::new::<Bincode>();
        let bytes = b"\x05value";
        assert_eq!(codec.decode(Bincode::ID, bytes, 6).unwrap(), "value");
        let error = codec.decode(Bincode::ID, bytes, 5).unwrap_err();
        assert!(error.to_string().contains("takes 6 bytes"), "{error}");
    }

    #[test]
    fn a_value_that_is_too_large_leaves_nothing() {
        let codec = ValueCodec::<String>::new::<Bincode>();
        let mut out = b"header".to_vec();
        codec.encode(&"x".repeat(9), &mut out, 10).unwrap();
        out.truncate(6);
        let error = codec.encode(&"x".repeat(10), &mut out, 10).unwrap_err();
        assert!(matches!(error, EncodeError::TooLarge { size: 11, max: 10 }));
        assert_eq!(out, b"header");
    }

    #[test]
    fn a_value_the_codec_refuses_leaves_nothing() {
        #[derive(serde::Deserialize)]
        struct Halfway;
        impl Serialize for Halfway {
            fn serialize<S: serde::Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                use serde::ser::{Error, SerializeTuple};
                let mut pair = output.serialize_tuple(2)?;
                pair.serialize_element(&1)?;
                Err(S::Error::custom("no more"))
            }
        }
        let codec = ValueCodec::<Halfway>::new::<Bincode>();
        let mut out = b"header".to_vec();
        let error = codec.encode(&Halfway, &mut out, 10).unwrap_err();
        assert!(matches!(error, EncodeError::Failed(_)));
        assert_eq!(out, b"header");
    }
}
