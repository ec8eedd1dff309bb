use std::error::Error;
use std::sync::Arc;

/// A value could not be encoded, or bytes could not be decoded.
///
/// Says why in [`source`](Error::source). Cloning is cheap.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the value cannot be encoded or decoded")]
pub struct CodecError {
    source: Arc<dyn Error + Send + Sync>,
}

impl CodecError {
    /// Wraps the error of the library behind a codec, or a message.
    ///
    /// ```
    /// use std::error::Error;
    ///
    /// let error = larder::codec::CodecError::new("bytes left over");
    /// assert_eq!(error.source().unwrap().to_string(), "bytes left over");
    /// ```
    #[must_use]
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            source: source.into().into(),
        }
    }

    pub(crate) fn reason(&self) -> &(dyn Error + Send + Sync) {
        &*self.source
    }

    /// The value ended before the bytes did.
    pub(super) fn trailing() -> Self {
        Self::new("there are bytes left over after the value")
    }
}
