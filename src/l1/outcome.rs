//! How reads and loads end, as the callers that share one learn it.

use std::sync::Arc;

use super::slot::Slot;
use crate::error::LoadError;
use crate::source::Source;
use crate::vocabulary::Want;

/// How a read of L2 ended.
pub(crate) enum ReadOutcome<V> {
    /// With a value.
    Hit(Arc<Slot<V>>),
    /// L2 has none.
    Miss,
    /// L2 has something that cannot be read. Names what to ask for instead.
    Unreadable(Want),
    /// L2 was not asked, or did not answer.
    Unavailable,
}

impl<V> Clone for ReadOutcome<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Hit(slot) => Self::Hit(Arc::clone(slot)),
            Self::Miss => Self::Miss,
            Self::Unreadable(instead) => Self::Unreadable(*instead),
            Self::Unavailable => Self::Unavailable,
        }
    }
}

/// How a load ended, and which source had the value. `None` if the loader of many keys knows no such key.
pub(crate) type LoadOutcome<V> = Result<Option<(Arc<Slot<V>>, Source)>, LoadError>;
