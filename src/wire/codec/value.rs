//! One type with its codec.

use std::any::type_name;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::memory::memory_of;
use super::stack::{BaseCodec as _, BaseCodecOf, EncodedAs, read_by, read_by_any};
use super::{Category, Codec, CodecError, CodecStack, Result, ValueContext, ids};
use crate::util::partial_debug::partial_debug;
use crate::vocabulary::{AnyValue, Value};

/// Encodes and decodes the values of a cache: a [`CodecStack`] for one type, which only the place where this is made
/// knows.
pub(crate) trait ValueCodec: Send + Sync {
    /// Appends the bytes of `value` to `out`; leaves `out` as it was on an error.
    ///
    /// # Errors
    ///
    /// If the value takes too many bytes, a layer refuses it, or its bytes [cannot be read back](Codec::read_back).
    fn encode(
        &self,
        value: &AnyValue,
        context: &ValueContext<'_>,
        out: &mut Vec<u8>,
    ) -> Result<EncodedAs>;

    /// Decodes bytes in the format with this id. If they are no value of the type, tries the `former` types.
    ///
    /// # Errors
    ///
    /// If they are too many, no format with this id is compiled in, or a layer refuses the bytes.
    fn decode(
        &self,
        id: u8,
        bytes: &[u8],
        context: &ValueContext<'_>,
        former: &[FormerType],
    ) -> Result<Decoded>;

    /// Whether the values are in a format of this crate, so that a [`FormerType`] can be read from them.
    fn is_of_this_crate(&self) -> bool;

    /// The type of the values, for people.
    fn type_name(&self) -> &'static str;

    /// The bytes that a value takes in memory, with what it has on the heap: an estimate.
    ///
    /// # Errors
    ///
    /// If the type's own code refuses to serialize it.
    fn memory_of(&self, value: &AnyValue) -> Result<usize>;

    /// Whether two values are encoded to equal bytes, without layers.
    ///
    /// # Errors
    ///
    /// If one of them cannot be encoded.
    fn have_same_bytes(&self, one: &AnyValue, other: &AnyValue) -> Result<bool>;
}

/// The [`ValueCodec`] that a builder starts with.
// The hidden function of a public trait returns it, and so may not return a type of this crate alone.
#[derive(Debug)]
pub struct BoxedCodec(pub(crate) Box<dyn ValueCodec>);

/// A value that was decoded.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: AnyValue,
    /// The value was made of a value of a [`FormerType`].
    pub(crate) is_of_former_type: bool,
}

/// Reads a value of a former type from bytes that are in no layer, and makes a value of the present type of it.
pub(crate) type FormerType = Box<dyn Fn(u8, &[u8]) -> Result<AnyValue> + Send + Sync>;

/// A [`FormerType`] whose values `convert` makes values of the present type of.
pub(crate) fn former_type<T, V>(convert: impl Fn(T) -> V + Send + Sync + 'static) -> FormerType
where
    T: Serialize + DeserializeOwned + Send + 'static,
    V: Value,
{
    Box::new(move |id, bytes| Ok(AnyValue::new(convert(read_by_any(id, bytes)?))))
}

/// A [`CodecStack`] for values of type `V`.
pub(crate) struct TypedCodec<S, V> {
    stack: S,
    value: PhantomData<fn() -> V>,
}

impl<S, V> TypedCodec<S, V> {
    pub(crate) fn new(stack: S) -> Self {
        let value = PhantomData;
        Self { stack, value }
    }
}

impl<S: CodecStack, V: Serialize + DeserializeOwned + Value> ValueCodec for TypedCodec<S, V> {
    fn encode(
        &self,
        value: &AnyValue,
        context: &ValueContext<'_>,
        out: &mut Vec<u8>,
    ) -> Result<EncodedAs> {
        let start = out.len();
        // The caller goes on with `out`, whatever a codec or a type has appended before it failed.
        catch_panic(|| self.stack.seal((value.typed::<V>(), context), out))
            .inspect_err(|_| out.truncate(start))
    }

    fn decode(
        &self,
        id: u8,
        bytes: &[u8],
        context: &ValueContext<'_>,
        former: &[FormerType],
    ) -> Result<Decoded> {
        let mut is_of_former_type = false;
        let codec = self.stack.base().codec();
        let read = |id, bytes: &[u8]| match read_by::<_, V>(codec, id, bytes) {
            Ok(value) => Ok(AnyValue::new(value)),
            Err(error) => {
                let found = former.iter().find_map(|read| read(id, bytes).ok());
                is_of_former_type = found.is_some();
                found.ok_or(error)
            }
        };
        let value = catch_panic(|| self.stack.open(id, (bytes, context), read))?;
        Ok(Decoded {
            value,
            is_of_former_type,
        })
    }

    fn is_of_this_crate(&self) -> bool {
        BaseCodecOf::<S>::ID < ids::FIRST_OWN
    }

    fn type_name(&self) -> &'static str {
        type_name::<V>()
    }

    fn memory_of(&self, value: &AnyValue) -> Result<usize> {
        catch_panic(|| memory_of(value.typed::<V>()))
    }

    fn have_same_bytes(&self, one: &AnyValue, other: &AnyValue) -> Result<bool> {
        catch_panic(|| {
            let unlayered = self.stack.base();
            let encode = |value: &AnyValue| {
                let mut bytes = Vec::new();
                let value = value.typed::<V>();
                let written = unlayered.encode_checked(value, usize::MAX, &mut bytes)?;
                Ok::<_, CodecError>((written.id, bytes))
            };
            Ok(encode(one)? == encode(other)?)
        })
    }
}

/// Makes an error of a panic in the type's own code: it must not end the calls that share the value.
pub(crate) fn catch_panic<T>(code: impl FnOnce() -> Result<T>) -> Result<T> {
    // Unwind safe: the value is dropped, and a panic leaves no state of this crate behind.
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|_| Err(Category::Panicked.into()))
}

partial_debug!([] dyn ValueCodec, "ValueCodec");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::{Bincode, CodecError};

    fn within(max: usize) -> ValueContext<'static> {
        ValueContext {
            namespace: "ns",
            key: "k",
            type_tag: 7,
            tags: &[],
            max,
        }
    }

    struct Own;

    impl Codec for Own {
        const ID: u8 = 200;
        const NAME: &'static str = "own";

        fn encode<T: Serialize + ?Sized>(
            &self,
            value: &T,
            out: &mut Vec<u8>,
        ) -> Result<(), CodecError> {
            out.push(b'!');
            Codec::encode(&Bincode, value, out)
        }

        fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T, CodecError> {
            let bytes = bytes
                .strip_prefix(b"!")
                .ok_or_else(|| CodecError::new("no mark"))?;
            Codec::decode(&Bincode, bytes)
        }
    }

    fn by_bincode(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
        let mut bytes = Vec::new();
        Codec::encode(&Bincode, value, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn reads_its_own_and_the_crates_codecs() {
        let codec = TypedCodec::<_, u8>::new(Own);
        let (mut out, bytes) = (b"header".to_vec(), by_bincode(&7_u8));
        let encoded = codec.encode(&AnyValue::new(7_u8), &within(10), &mut out);
        let id = encoded.unwrap().id;
        assert_eq!((id, &out[6..]), (200, &*[b"!", &*bytes].concat()));
        for (id, bytes) in [(200, &out[6..]), (Bincode::ID, &bytes)] {
            let value = codec.decode(id, bytes, &within(10), &[]).unwrap();
            assert_eq!(*value.value.typed::<u8>(), 7);
        }
    }

    #[test]
    fn reads_every_codec_compiled_in() {
        fn moves_to<C: Codec>(other: &C) {
            let mut out = Vec::new();
            other.encode("text", &mut out).unwrap();
            let codec = TypedCodec::<_, String>::new(Own);
            assert_eq!(
                *codec
                    .decode(C::ID, &out, &within(100), &[])
                    .unwrap()
                    .value
                    .typed::<String>(),
                "text",
                "{}",
                C::NAME
            );
        }
        moves_to(&Bincode);
        #[cfg(feature = "json")]
        moves_to(&crate::wire::codec::Json);
        #[cfg(feature = "postcard")]
        moves_to(&crate::wire::codec::Postcard);
        #[cfg(feature = "messagepack")]
        moves_to(&crate::wire::codec::MessagePack);
    }

    #[test]
    fn an_unknown_id_is_an_error() {
        let codec = TypedCodec::<_, u8>::new(Bincode);
        let error = codec.decode(200, b"\x07", &within(1), &[]).unwrap_err();
        assert_eq!(error.to_string(), "no codec with id 200 is compiled in");
    }

    #[test]
    fn a_value_that_is_too_large_is_not_decoded() {
        let codec = TypedCodec::<_, String>::new(Bincode);
        let bytes = by_bincode("value");
        let value = codec.decode(Bincode::ID, &bytes, &within(14), &[]).unwrap();
        assert_eq!(*value.value.typed::<String>(), "value");
        let error = codec
            .decode(Bincode::ID, &bytes, &within(13), &[])
            .unwrap_err();
        assert!(error.to_string().contains("takes 14 bytes"), "{error}");
    }

    /// What is nested deep is decoded on another thread.
    #[test]
    fn a_panic_in_the_types_own_code_is_an_error_at_any_depth() {
        #[derive(serde::Serialize)]
        struct Panics;
        impl<'de> serde::Deserialize<'de> for Panics {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                panic!("of the type")
            }
        }
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Chain(Option<Box<Chain>>, Option<Panics>);

        let codec = TypedCodec::<_, Chain>::new(Bincode);
        for depth in [0, 3, 60] {
            let bytes = [vec![0; 8], vec![1; depth], vec![0, 1]].concat();
            let error = codec
                .decode(Bincode::ID, &bytes, &within(100), &[])
                .map(drop)
                .unwrap_err();
            assert_eq!(error.to_string(), "the type's own code panicked", "{depth}");
        }
    }

    #[test]
    fn a_value_that_is_too_large_leaves_nothing() {
        let codec = TypedCodec::<_, String>::new(Bincode);
        let mut out = b"header".to_vec();
        codec
            .encode(&AnyValue::new("x".repeat(9)), &within(18), &mut out)
            .unwrap();
        out.truncate(6);
        let error = codec
            .encode(&AnyValue::new("x".repeat(10)), &within(18), &mut out)
            .unwrap_err();
        assert!(matches!(
            error.category(),
            Category::ValueTooLarge { size: 19, max: 18 }
        ));
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
        let codec = TypedCodec::<_, Halfway>::new(Bincode);
        let mut out = b"header".to_vec();
        let error = codec
            .encode(&AnyValue::new(Halfway), &within(10), &mut out)
            .unwrap_err();
        assert_eq!(error.category(), Category::Refused);
        assert_eq!(out, b"header");
    }
}
