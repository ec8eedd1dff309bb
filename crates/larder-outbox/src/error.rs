//! Why an outbox wrote nothing, or its relay was not started.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use larder::WriteError;

/// Why nothing was written to the outbox, or its relay was not started. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct OutboxError(#[from] Reason);

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error("the database has failed at the outbox")]
    Database(#[source] Arc<dyn Error + Send + Sync>),
    #[error("the interval of a relay is from 1 ms to 1 hour, and not {0:?}")]
    Interval(Duration),
    #[error("a relay needs caches, and was given none")]
    NoCaches,
    #[error("this needs a Tokio runtime, and there is none")]
    NoRuntime,
    #[error(transparent)]
    Key(WriteError),
}

impl OutboxError {
    pub(super) fn database(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Reason::Database(error.into().into()))
    }

    /// Whether the database has failed, such as for want of the table. Its own error is the
    /// [source](Error::source). Roll the transaction back.
    #[must_use]
    pub fn is_database(&self) -> bool {
        matches!(&self.0, Reason::Database(_))
    }

    /// Whether the call cannot work as it was made: an option of a relay is wrong, or there is no runtime. Nothing was
    /// begun. The error says why.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        matches!(
            &self.0,
            Reason::Interval(_) | Reason::NoRuntime | Reason::NoCaches
        )
    }

    /// Whether a key or tag is over [`MAX_KEY_BYTES`](larder::key::MAX_KEY_BYTES). No value is cached under it, and
    /// nothing was written to the outbox.
    #[must_use]
    pub fn is_key_too_long(&self) -> bool {
        matches!(&self.0, Reason::Key(_))
    }
}
