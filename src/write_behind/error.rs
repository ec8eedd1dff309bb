//! Why a write was not accepted, or a writer not built.

use crate::error::{L2Error, LoadError, WriteError};
use crate::wire::codec::CodecError;

/// Why a call of [write-behind](super) has failed. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct WriteBehindError(#[from] Reason);

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error(
        "{0} writes wait for their source or are dead letters, and there is no room for more; nothing was changed"
    )]
    Full(u64),
    #[error(
        "write-behind needs an L2 with a stream, in which writes wait: Redis, or MemoryL2 in tests"
    )]
    Unsupported,
    #[error("write-behind cannot be set up like this: {0}")]
    Misuse(&'static str),
    #[error("the key could not be encoded; nothing was changed")]
    Key(#[source] CodecError),
    #[error(
        "Redis did not confirm the write: it reaches the source or not, and its key is invalidated"
    )]
    Unknown(#[source] WriteError),
    #[error("the write was not accepted; nothing was changed")]
    Write(#[source] WriteError),
    #[error("the value could not be loaded; nothing was changed")]
    Load(#[source] LoadError),
    #[error("Redis did not answer, or refused")]
    L2(#[source] L2Error),
    #[error("some writes could not be written to the source, and are dead letters now")]
    DeadLetters,
    #[error(
        "Redis has lost the stream of writes, or was restarted or replaced: what waited may not reach the source"
    )]
    Lost,
}

impl From<WriteError> for Reason {
    fn from(error: WriteError) -> Self {
        if error.is_deferred() {
            Self::Unknown(error)
        } else {
            Self::Write(error)
        }
    }
}

impl WriteBehindError {
    /// Whether too many writes wait. Nothing was changed: try again later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(&self.0, Reason::Full(_))
    }

    /// Whether an [`update`](super::WriteBehind::update) gave up: each time that it had read the value, another writer
    /// came first, or the value could not be stored, as when older writes of the key wait for a source that does not
    /// answer. Nothing was changed.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        matches!(&self.0, Reason::Write(error) if error.is_contended())
    }

    /// Whether Redis refused the write or was not asked, as while the circuit breaker is open or the cache is switched
    /// off. Nothing was changed: try again later.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(&self.0, Reason::Write(error) if error.is_refused())
    }

    /// Whether the value that an [`update`](super::WriteBehind::update) changes could not be loaded. Nothing was
    /// changed.
    #[must_use]
    pub fn is_load(&self) -> bool {
        matches!(&self.0, Reason::Load(_))
    }

    /// Whether the cache has no L2, or an L2 without streams.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(&self.0, Reason::Unsupported)
    }

    /// Whether an option cannot work, or there is no runtime. The error says which.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        matches!(&self.0, Reason::Misuse(_))
    }

    /// Whether Redis did not answer: the write may reach the source or not.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(&self.0, Reason::Unknown(_))
    }

    /// Whether writes became dead letters during a [`flush`](super::WriteBehind::flush).
    #[must_use]
    pub fn is_dead_letter(&self) -> bool {
        matches!(&self.0, Reason::DeadLetters)
    }

    /// Whether Redis has lost the stream of writes during a [`flush`](super::WriteBehind::flush), or was restarted or
    /// replaced, so that it may have lost some writes.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(&self.0, Reason::Lost)
    }
}
