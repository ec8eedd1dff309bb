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
#[error("{}{}", Reason(self), .category.advice())]
struct Cause {
    category: Category,
    /// The field of the value's type that it is about.
    field: Option<&'static str>,
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
    /// The encoded value has another shape, in a format without names of fields.
    #[error("it has another shape than the values of this type")]
    AnotherShape,
    #[error("bytes are left over after the value")]
    TrailingBytes,
    #[error("it takes {}, and at most {} are allowed", ByteSize(*size), ByteSize(*max))]
    StoredTooLarge { size: usize, max: usize },
    /// The sizes are those of the encoded value, and not of the stored bytes.
    #[error("the value takes {}, and at most {} are allowed", ByteSize(*size), ByteSize(*max))]
    ValueTooLarge { size: usize, max: usize },
    #[error("nested too deep")]
    TooDeep,
    #[error("decoding would take too much memory")]
    TooMuchMemory,
    #[error("no codec with id {0} is compiled in")]
    UnknownCodec(u8),
    #[error("a value that stays in the process has no bytes")]
    LocalValue,
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
    /// This reason and the three that follow are about formats without names of fields.
    #[error("the value leaves a field out, as by skip_serializing_if")]
    FieldLeftOut,
    #[error("the value does not tell how many entries it has, as with flatten")]
    UnknownLength,
    #[error(
        "the type reads itself by what the bytes say, as with untagged, tag, flatten or deserialize_any"
    )]
    ReadsByContent,
    #[error("the value cannot be read back")]
    NotReadBack,
    /// The format has names of fields.
    #[error(
        "the value is not read back as it was: such as Some(None), a number that is not finite, or an untagged variant that an earlier one reads as another value"
    )]
    ReadOtherwise,
    #[cfg(all(feature = "bincode", feature = "messagepack"))]
    #[error(
        "bincode cannot read the value back, and MessagePack not as it was: such as Some(None), or an untagged variant that an earlier one reads as another value"
    )]
    HeldByNeither,
    #[error("the type's own code panicked")]
    Panicked,
    /// A codec of the user failed, or any codec while it encoded.
    #[error("the codec refused")]
    Refused,
}

impl Category {
    /// What a user of the codec can do.
    const fn advice(self) -> &'static str {
        match self {
            Self::FieldLeftOut | Self::UnknownLength | Self::ReadsByContent => {
                ": use Auto, MessagePack or Json"
            }
            Self::NotReadBack => {
                ": mend its Serialize or Deserialize, or use Auto, MessagePack or Json"
            }
            Self::ReadOtherwise => ": mend the type, or use Bincode",
            #[cfg(all(feature = "bincode", feature = "messagepack"))]
            Self::HeldByNeither => ": mend the type",
            _ => "",
        }
    }
}

/// An error without its advice.
struct Reason<'a>(&'a Cause);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(cause) = self;
        write!(f, "{}", cause.category)?;
        // The name is of the type, and says nothing of the value.
        if let Some(field) = cause.field {
            write!(f, " (field `{field}`)")?;
        }
        match cause.position {
            Some(at) => write!(f, ", at byte {at}"),
            None => Ok(()),
        }
    }
}

/// Refuses bytes that are more than `max`.
pub(super) fn check_size(size: usize, max: usize) -> Result<(), Category> {
    if size > max {
        return Err(Category::StoredTooLarge { size, max });
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

    /// This failure to read a value back that was just encoded, with the kind that says so. A kind that says more stays.
    pub(super) fn of_reading_back(self, category: Category) -> Self {
        match self.category() {
            Category::TooDeep | Category::TooMuchMemory | Category::ReadsByContent => self,
            _ => self.because(category),
        }
    }

    /// Adds the field that it is about, if it is known and none was added before, while the error has one owner.
    pub(super) fn in_field(self, field: Option<&'static str>) -> Self {
        self.with(|cause| cause.field = cause.field.or(field))
    }

    #[cfg(all(feature = "bincode", feature = "messagepack"))]
    pub(super) fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// This without advice, for an error that needs none.
    pub(crate) fn reason(&self) -> impl fmt::Display {
        Reason(&self.0)
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
            field: None,
            position: None,
            source: None,
        }))
    }
}
