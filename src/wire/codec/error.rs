//! The error of encoding and decoding. Its `Display` may be logged; its source may quote a value.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::vocabulary::ByteSize;

/// A value could not be encoded, or bytes could not be decoded.
///
/// Its `Display` names the kind of failure and, where the format knows, the byte. That shows nothing of
/// the value. The [`source`](Error::source), the error of the format or type, may quote it, as in `invalid type: string
/// "…"`: the cache logs it at DEBUG only. Cloning is cheap.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
// Behind one pointer, as every decoded value is returned beside it.
pub struct CodecError(Arc<Cause>);

#[derive(Debug, thiserror::Error)]
#[error("{category}{}", .position.map_or_else(String::new, |at| format!(", at byte {at}")))]
struct Cause {
    category: Category,
    /// How many bytes had been read.
    position: Option<usize>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The kind of a failure. Safe to show: it says nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    not(any(feature = "bincode", feature = "postcard")),
    expect(dead_code, reason = "some are of codecs that are not compiled in")
)]
pub(super) enum Category {
    #[error("the bytes are not in the codec's format")]
    Malformed,
    #[error("the bytes do not fit the type")]
    UnexpectedType,
    /// Of a format without names.
    #[error("it has another shape than the values of this type")]
    AnotherShape,
    #[error("bytes are left over after the value")]
    TrailingBytes,
    #[error("it takes {}, and at most {} are allowed", ByteSize(*size), ByteSize(*max))]
    TooLarge { size: usize, max: usize },
    /// As it was encoded, and not as it is stored.
    #[error("the value takes {}, and at most {} are allowed", ByteSize(*size), ByteSize(*max))]
    ValueTooLarge { size: usize, max: usize },
    #[error("nested too deep")]
    TooDeep,
    #[error("decoding would take too much memory")]
    TooMuchMemory,
    #[error("no codec with id {0} is compiled in")]
    UnknownCodec(u8),
    #[cfg(feature = "encryption")]
    #[error("it is encrypted, and this instance has no keys")]
    NoKeys,
    #[cfg(feature = "encryption")]
    #[error("it is encrypted with a key that this instance does not have, of id {0}")]
    UnknownKey(u32),
    #[cfg(feature = "encryption")]
    #[error("it was altered, or encrypted with another key, or for another entry")]
    NotAuthentic,
    #[cfg(feature = "encryption")]
    #[error("it is not encrypted")]
    Unencrypted,
    /// The name is of the type, and says nothing of the value.
    #[error(
        "the value leaves out its field `{0}`, as by skip_serializing_if, which a format without names cannot express: use Json or MessagePack"
    )]
    FieldLeftOut(&'static str),
    #[error(
        "a value of its type cannot be read back: use Json or MessagePack for types with flatten, untagged, tag or fields that are only written, or mend its Deserialize"
    )]
    NotReadBack,
    /// In a format with names. The name is of the type.
    #[error(
        "the value{} is not read back as it was: such as Some(None), a number that is not finite, or an untagged variant that another one takes. Mend the type, or use Bincode",
        Field(*field)
    )]
    ReadOtherwise { field: Option<&'static str> },
    #[error("the type's own code panicked")]
    Panicked,
    /// Of encoding, and of a user's own codec.
    #[error("the codec refused")]
    Refused,
}

/// The name of a field, if it is known, within a sentence.
struct Field(Option<&'static str>);

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(field) => write!(f, " of the field `{field}`"),
            None => Ok(()),
        }
    }
}

/// Refuses bytes that are more than `max`.
pub(super) fn check_size(size: usize, max: usize) -> Result<(), Category> {
    if size > max {
        return Err(Category::TooLarge { size, max });
    }
    Ok(())
}

impl CodecError {
    /// Wraps the error of the library behind a codec, or a message. It is the [`source`](Error::source).
    ///
    /// ```
    /// use std::error::Error;
    ///
    /// let error = larder::codec::CodecError::new("no price: \"a secret\"");
    /// assert_eq!(error.to_string(), "the codec refused");
    /// assert_eq!(error.source().unwrap().to_string(), "no price: \"a secret\"");
    /// ```
    #[must_use]
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of(Category::Refused, source)
    }

    pub(super) fn of(category: Category, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::from(category).with(|cause| cause.source = Some(source.into()))
    }

    /// This failure after `change`, while the error has one owner; otherwise this failure as it was.
    fn with(mut self, change: impl FnOnce(&mut Cause)) -> Self {
        // One owner, as no caller has it yet; a codec of a user's own may keep a clone, which stays as it was.
        if let Some(cause) = Arc::get_mut(&mut self.0) {
            change(cause);
        }
        self
    }

    pub(super) fn category(&self) -> Category {
        self.0.category
    }

    /// How many bytes a value may take, if this says that an encoded one takes more.
    pub(crate) fn exceeded(&self) -> Option<usize> {
        match self.category() {
            Category::ValueTooLarge { max, .. } => Some(max),
            _ => None,
        }
    }

    /// Whether this says that the bytes are of a value of another type, or of a former definition of the type.
    pub(crate) fn is_another_shape(&self) -> bool {
        self.category() == Category::AnotherShape
    }

    /// This failure with another kind, while the error has one owner.
    pub(super) fn because(self, category: Category) -> Self {
        self.with(|cause| cause.category = category)
    }

    /// This failure to read a value back that was just encoded, with the kind that says so. A value beyond the bounds of
    /// decoding keeps its kind, which says more.
    pub(super) fn of_reading_back(self, category: impl FnOnce() -> Category) -> Self {
        match self.category() {
            Category::TooDeep | Category::TooMuchMemory => self,
            _ => self.because(category()),
        }
    }

    /// Adds how many bytes had been read, while the error has one owner.
    #[cfg(any(feature = "json", feature = "postcard"))]
    pub(super) fn at(self, position: usize) -> Self {
        self.with(|cause| cause.position = Some(position))
    }
}

impl From<Category> for CodecError {
    fn from(category: Category) -> Self {
        Self(Arc::new(Cause {
            category,
            position: None,
            source: None,
        }))
    }
}
