//! Encodes values to bytes and decodes them. Knows nothing of envelopes and stores.
//!
//! The bytes to decode may be anything: another release wrote them, or another program did. So no bytes may panic,
//! hang or exhaust memory here.

#[cfg(all(feature = "bincode", feature = "messagepack"))]
mod auto;
#[cfg(feature = "bincode")]
mod bincode;
#[cfg(any(
    feature = "bincode",
    feature = "json",
    feature = "messagepack",
    feature = "postcard"
))]
mod bounded;
mod cache_value;
#[cfg(feature = "compression")]
mod compressed;
#[cfg(feature = "encryption")]
mod encrypted;
#[cfg(feature = "encryption")]
mod encryption_keys;
mod error;
#[allow(dead_code, reason = "some codecs are not compiled in")]
mod ids;
#[cfg(feature = "json")]
mod json;
mod local;
#[cfg(feature = "compression")]
mod lz4;
mod memory;
#[cfg(feature = "messagepack")]
mod messagepack;
#[cfg(feature = "postcard")]
mod postcard;
mod shape;
mod shape_serializer;
#[cfg(any(feature = "bincode", feature = "postcard"))]
mod shaped;
mod stack;
mod value;

#[cfg(feature = "inspect")]
use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(all(feature = "bincode", feature = "messagepack"))]
pub use self::auto::Auto;
#[cfg(feature = "bincode")]
pub use self::bincode::Bincode;
pub use self::cache_value::{CacheValue, DefaultCodec, SharedValue};
#[cfg(feature = "compression")]
pub use self::compressed::Compressed;
#[cfg(feature = "encryption")]
pub use self::encrypted::Encrypted;
#[cfg(feature = "encryption")]
pub use self::encryption_keys::{EncryptionKeys, InvalidKey};
pub use self::error::CodecError;
use self::error::{Category, check_size};
#[cfg(feature = "json")]
pub use self::json::Json;
#[cfg(feature = "messagepack")]
pub use self::messagepack::MessagePack;
#[cfg(feature = "postcard")]
pub use self::postcard::Postcard;
#[cfg(any(test, fuzzing))]
pub(crate) use self::shaped::Shaped;
pub(crate) use self::stack::ValueContext;
pub use self::stack::{BaseCodec, CodecStack, Unencrypted};
#[cfg(feature = "write-behind")]
pub(crate) use self::value::catch_panic;
pub(crate) use self::value::{BoxedCodec, FormerType, ValueCodec, former_type};

/// The name of the format with this id, for people.
#[cfg(feature = "inspect")]
pub(crate) fn name_of(id: u8) -> &'static str {
    match id {
        ids::BINCODE => "bincode",
        ids::JSON => "json",
        ids::POSTCARD => "postcard",
        ids::MESSAGEPACK => "messagepack",
        ids::COMPRESSED => "compressed",
        ids::ENCRYPTED => "encrypted",
        ids::FIRST_OWN.. => "of the service",
        _ => "unknown",
    }
}

/// The id and the bytes of the codec below the layers. `None` if they are encrypted, or compressed and cannot be read,
/// or have more than `max` bytes.
#[cfg(feature = "inspect")]
#[cfg_attr(
    not(feature = "compression"),
    expect(unused_variables, reason = "no bytes grow")
)]
pub(crate) fn below_layers(id: u8, bytes: &[u8], max: usize) -> Option<(u8, Cow<'_, [u8]>)> {
    match id {
        // As in `CodecStack::open`: a layer in a layer is not opened, so hostile bytes grow once.
        #[cfg(feature = "compression")]
        ids::COMPRESSED => {
            let (id, bytes) = lz4::decompress(bytes, max).ok()?;
            Some((id, Cow::Owned(bytes)))
        }
        id if !matches!(id, ids::COMPRESSED | ids::ENCRYPTED) => Some((id, Cow::Borrowed(bytes))),
        _ => None,
    }
}

/// The shape that bincode and postcard write before a value.
#[cfg(feature = "inspect")]
pub(crate) fn shape_of(id: u8, bytes: &[u8]) -> Option<u64> {
    let shape = bytes
        .first_chunk()
        .filter(|_| matches!(id, ids::BINCODE | ids::POSTCARD))?;
    Some(u64::from_be_bytes(*shape))
}

type Result<T, E = CodecError> = std::result::Result<T, E>;

/// A format for values: turns them into bytes and back.
///
/// The crate brings `Bincode`, `Json`, `Postcard` and `MessagePack`, each with the feature of its name, of which
/// `bincode` and `messagepack` are on by default. Without another codec a cache writes with `Auto`, which takes one of
/// these two for each value. A cache reads every
/// codec that is compiled in, so a fleet can move from one to another: build
/// all services with both first, then change the one that is written.
///
/// The bytes of a codec can go through layers: `Compressed`, with the feature `compression`, and `Encrypted`, with the
/// feature `encryption`.
///
/// # Limits of the crate's codecs
///
/// Bytes from Redis are not trusted. Besides bytes that do not fit the type,
/// decoding refuses, as an error:
///
/// - bytes left over after the value (after JSON, white space is no such byte);
/// - nesting deeper than 128 levels (JSON: 127), where every sequence, map, struct,
///   tuple, enum and `Some` is a level. A list of structs that each hold the next
///   in an `Option<Box<_>>` may have 64 of them. A value of more than 16 levels is decoded on a thread of its own with
///   8 MiB of stack, so that a worker thread of 2 MiB is enough for structs of up to a kilobyte;
/// - more memory than 64 times the bytes, plus 64 MiB, for the elements of sequences and maps. An element counts for
///   its size in memory, and for 64 bytes at least.
///
/// A cache stores no value that is nested deeper, as it [reads values back](#values-that-are-not-stored) first. With
/// bincode and postcard it does not notice that a value takes more memory: that one is written but never read.
///
/// So a stored value of at most [`max_value_size`](crate::Builder::max_value_size) bytes, once it is decompressed,
/// takes at most 64 times as much memory when it is decoded, plus 64 MiB; and as much again as its collections keep in
/// reserve. Memory that a type's own `Deserialize` takes besides its parts is not counted.
///
/// # Values that are not stored
///
/// A cache stores no value that another instance could not read, or would read as another one; the error of `insert`
/// says so, and names the field where it knows it. With bincode and postcard it reads one value of each shape back: the
/// names and kinds of the parts, each variant, and whether a collection is empty. In a format with names, and with a
/// codec of your own, the value itself may decide how it is read. So the cache reads each value back, and compares all that
/// both show to serde: that takes about as long as to encode and to decode the value once more. Two variants of an
/// `untagged` enum that have one content, such as two texts, show nothing that tells them apart: the first one is read.
///
/// What the type does not show to serde is in no bytes. A field with `#[serde(skip)]` comes back as its default, at
/// every instance but the one that stored the value.
///
/// # Your own codec
///
/// Implement the trait, with an [`ID`](Self::ID) from 128 on.
///
/// ```
/// use larder::codec::{Codec, CodecError};
/// use serde::{Serialize, de::DeserializeOwned};
///
/// struct PrettyJson;
///
/// impl Codec for PrettyJson {
///     const ID: u8 = 128;
///     const NAME: &'static str = "pretty-json";
///
///     fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         serde_json::to_writer_pretty(out, value).map_err(CodecError::new)
///     }
///
///     fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T, CodecError> {
///         serde_json::from_slice(bytes).map_err(CodecError::new)
///     }
/// }
///
/// let mut bytes = Vec::new();
/// PrettyJson.encode(&[1, 2], &mut bytes)?;
/// assert_eq!(PrettyJson.decode::<Vec<u8>>(&bytes)?, [1, 2]);
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec: Send + Sync + 'static {
    /// Names the codec in Redis, next to every value it wrote.
    ///
    /// 0 to 127 belong to this crate, 128 to 255 are free for your own. Never give
    /// an id to another format while values in the old one may still be stored.
    const ID: u8;

    /// Names the codec for people.
    const NAME: &'static str;

    /// Appends the bytes of `value` to `out`.
    ///
    /// # Errors
    ///
    /// If the format cannot express the value. The bytes that were appended until then
    /// are of no use and may stay in `out`.
    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<()>;

    /// Reads a value from `bytes`, all of them.
    ///
    /// An own codec has to be ready for any bytes, as the crate's are.
    ///
    /// # Errors
    ///
    /// If the bytes are not one value of this type, or go beyond the limits of
    /// the codec.
    fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T>;

    /// Reads a value as [`decode`](Self::decode) does, for a cache: a codec without names refuses a value that was
    /// written with another shape.
    ///
    /// # Errors
    ///
    /// The errors of [`decode`](Self::decode), and an error for a value of another shape.
    #[doc(hidden)]
    fn decode_same_shape<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        bytes: &[u8],
    ) -> Result<T> {
        self.decode(bytes)
    }

    /// Checks that `bytes`, to which this codec has encoded a value, are read back as a value of its shape: before it is
    /// stored, as L1 would hide for a while that no other instance can read it. Each value is read, as in a format with
    /// names the value decides how it is read: of an `untagged` enum, the first variant that takes it.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be read, or the value that is read has another shape. The error names the field.
    #[doc(hidden)]
    fn read_back<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        value: &T,
        bytes: &[u8],
    ) -> Result<()> {
        let read = self.decode(bytes);
        let read = read.map_err(|error| {
            // MessagePack has all floats.
            let is_text = Self::ID != ids::MESSAGEPACK;
            let not_finite = is_text
                .then(|| shape_serializer::not_finite(value))
                .flatten();
            let error = error.in_field(not_finite);
            error.of_reading_back(Category::ReadOtherwise)
        })?;
        shape_serializer::compare(value, &read, Self::ID != ids::MESSAGEPACK)
    }
}
