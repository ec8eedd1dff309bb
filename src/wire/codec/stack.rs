//! The codec of a cache: one alone or in layers. Decodes with every codec that is compiled in.

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(any(feature = "compression", feature = "encryption"))]
use super::ids;
#[cfg(feature = "compression")]
use super::lz4;
use super::{Category, Codec, CodecError, Result, check_size};
use crate::key::Key;

/// The parameter of [`Builder::codec`](crate::Builder::codec): a [`Codec`] or `Auto`, alone or in layers.
///
/// Every [`Codec`] is one, and so is `Auto`, the default. The layers come with features: `Compressed<C>`,
/// `Encrypted<C>` and `Encrypted<Compressed<C>>`. For a format of your own implement [`Codec`]; this trait has no public
/// methods.
pub trait CodecStack: Send + Sync + 'static {
    /// The codec, or the two of `Auto`, below the layers.
    #[doc(hidden)]
    type Base: BaseCodec;

    #[doc(hidden)]
    fn base(&self) -> &Self::Base;

    /// As [`BaseCodec::encode_checked`], in the layers.
    ///
    /// # Errors
    ///
    /// The errors of [`BaseCodec::encode_checked`], or if a layer makes too many bytes of it.
    #[doc(hidden)]
    fn seal<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        value: WithContext<'_, T>,
        out: &mut Vec<u8>,
    ) -> Result<EncodedAs> {
        let (value, context) = value;
        self.base().encode_checked(value, context.max, out)
    }

    /// Takes bytes in the format with this id out of their layers, and reads them by `read`, which is given the id of
    /// their codec.
    ///
    /// # Errors
    ///
    /// If there are too many bytes in any layer, a layer refuses them, or `read` fails.
    #[doc(hidden)]
    fn open<T>(
        &self,
        id: u8,
        bytes: WithContext<'_, [u8]>,
        read: impl FnOnce(u8, &[u8]) -> Result<T>,
    ) -> Result<T> {
        let (bytes, context) = bytes;
        // Before anything is decoded, which may take 64 times as much memory.
        check_size(bytes.len(), context.max)?;
        match id {
            // Every codec reads compressed values. A user's own codec may have the id of a layer.
            #[cfg(feature = "compression")]
            ids::COMPRESSED if id != BaseCodecOf::<Self>::ID => {
                // `read` knows no layers, so layers in layers cannot multiply the size of hostile bytes.
                let (id, bytes) = lz4::decompress(bytes, context.max)?;
                read(id, &bytes)
            }
            #[cfg(feature = "encryption")]
            ids::ENCRYPTED if id != BaseCodecOf::<Self>::ID => Err(Category::NoKeys.into()),
            id => read(id, bytes),
        }
    }
}

/// A [`CodecStack`] without layers, so that `Compressed` can be around it: a [`Codec`] or `Auto`.
pub trait BaseCodec: Unencrypted {
    /// The codec that comes first.
    #[doc(hidden)]
    type Codec: Codec;

    #[doc(hidden)]
    fn codec(&self) -> &Self::Codec;

    /// Appends the bytes of a value to `out`, at most `max`, once they have been [read back](Codec::read_back). On an
    /// error `out` may have more bytes than before.
    ///
    /// # Errors
    ///
    /// If they are too many, the codec refuses the value, or they are not read back as it.
    #[doc(hidden)]
    fn encode_checked<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        value: &T,
        max: usize,
        out: &mut Vec<u8>,
    ) -> Result<EncodedAs> {
        encode_by(self.codec(), value, max, out)
    }
}

/// The codec that comes first below the layers.
pub(super) type BaseCodecOf<S> = <<S as CodecStack>::Base as BaseCodec>::Codec;

/// A [`CodecStack`] that does not encrypt, so that `Encrypted` can: a [`Codec`], `Auto` or `Compressed`. Its bytes do not
/// depend on the context.
pub trait Unencrypted: CodecStack {}

/// Where a value belongs, and how large it may be.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "encryption"),
    expect(dead_code, reason = "only encryption asks")
)]
pub struct ValueContext<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) key: &'a str,
    /// Distinguishes values of one type from values of other types.
    pub(crate) type_tag: u64,
    pub(crate) tags: &'a [Key],
    /// How many bytes it may take in any layer.
    pub(crate) max: usize,
}

/// A value or its bytes, and where it belongs.
pub(super) type WithContext<'a, T> = (&'a T, &'a ValueContext<'a>);

/// How a value was written.
#[derive(Clone, Debug)]
pub struct EncodedAs {
    /// Names the format.
    pub(crate) id: u8,
    /// Why the format that comes first has not taken it.
    pub(crate) refused: Option<CodecError>,
}

/// Has a codec write a value, and read it back.
pub(super) fn encode_by<C: Codec, T: Serialize + DeserializeOwned + Send + 'static>(
    codec: &C,
    value: &T,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<EncodedAs> {
    let start = out.len();
    codec.encode(value, out)?;
    let size = out.len().saturating_sub(start);
    if size > max {
        return Err(Category::ValueTooLarge { size, max }.into());
    }
    codec.read_back(value, out.get(start..).unwrap_or_default())?;
    Ok(EncodedAs {
        id: C::ID,
        refused: None,
    })
}

impl<C: Codec> Unencrypted for C {}

impl<C: Codec> BaseCodec for C {
    type Codec = C;

    fn codec(&self) -> &C {
        self
    }
}

impl<C: Codec> CodecStack for C {
    type Base = C;

    fn base(&self) -> &C {
        self
    }
}

/// Reads bytes that are in no layer. The chosen codec comes first: one of a user's own may have any id.
pub(super) fn read_by<C: Codec, T: Serialize + DeserializeOwned + Send + 'static>(
    codec: &C,
    id: u8,
    bytes: &[u8],
) -> Result<T> {
    if id == C::ID {
        codec.decode_same_shape(bytes)
    } else {
        read_by_any(id, bytes)
    }
}

/// Reads bytes that are in no layer, by the codec of this crate that has written them.
#[cfg_attr(
    not(any(
        feature = "bincode",
        feature = "json",
        feature = "postcard",
        feature = "messagepack"
    )),
    expect(unused_variables, reason = "there is no codec that reads them")
)]
pub(super) fn read_by_any<T: Serialize + DeserializeOwned + Send + 'static>(
    id: u8,
    bytes: &[u8],
) -> Result<T> {
    match id {
        #[cfg(feature = "bincode")]
        super::Bincode::ID => super::Bincode.decode_same_shape(bytes),
        #[cfg(feature = "json")]
        super::Json::ID => super::Json.decode(bytes),
        #[cfg(feature = "postcard")]
        super::Postcard::ID => super::Postcard.decode_same_shape(bytes),
        #[cfg(feature = "messagepack")]
        super::MessagePack::ID => super::MessagePack.decode(bytes),
        unknown => Err(Category::UnknownCodec(unknown).into()),
    }
}
