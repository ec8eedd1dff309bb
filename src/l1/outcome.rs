//! How reads and loads end, as the callers that share one learn it.

use std::sync::Arc;

use super::record::SharedRecord;
use crate::error::LoadError;
use crate::vocabulary::{AcceptedValue, Source};

/// How a read of L2 ended.
pub(crate) type ReadOutcome = Result<SharedRecord, NoValue>;

/// Why a read of L2 has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoValue {
    /// L2 has none, or none that can be used. A load may end with a stored value that it accepts.
    Missing(AcceptedValue),
    /// L2 was not asked, or did not answer; it is not to be asked for a load either.
    Unavailable,
}

impl NoValue {
    /// L2 has no value, so that a load accepts any.
    pub(crate) const MISS: Self = Self::Missing(AcceptedValue::Any);

    /// The stored values with which a load may end; `None` if L2 is not asked.
    pub(crate) const fn accepted(self) -> Option<AcceptedValue> {
        match self {
            Self::Missing(accepted) => Some(accepted),
            Self::Unavailable => None,
        }
    }
}

/// How a load or refresh ended. `None` if the loader of many keys knows no such key.
pub(crate) type LoadOutcome = Result<Option<Outcome>, LoadError>;

/// The value that the callers of a load get.
pub(crate) struct Outcome {
    pub(crate) record: SharedRecord,
    /// Which source had it.
    pub(crate) source: Source,
    pub(crate) kind: OutcomeKind,
    /// Why the load has failed, if this was looked up afterwards.
    pub(crate) failed: Option<LoadError>,
}

/// Whether the value is the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutcomeKind {
    /// It was loaded, or is as good.
    Fresh,
    /// The load failed. This one was there before, and was looked up afterwards.
    Fallback,
    /// The load failed, and this value was found in an L1 that has no proof.
    UnprovenFallback,
}

impl Outcome {
    /// Whether a caller may have the value that came after some tag had been invalidated during the load: if the value
    /// was stored, since L2 stores no value with an invalidated tag (rule 20: tags), and none of its tags was
    /// invalidated since. A caller with a token needs more (rule 22: a token names a write).
    pub(crate) fn is_usable_if_early(&self) -> bool {
        // An unstored value has no version to be compared with the version of the invalidation.
        self.record.is_stored() && self.record.tags().allow(self.record.version.ver)
    }

    pub(crate) fn fresh(record: SharedRecord, source: Source) -> Self {
        Self {
            record,
            source,
            kind: OutcomeKind::Fresh,
            failed: None,
        }
    }
}

impl Clone for Outcome {
    fn clone(&self) -> Self {
        Self {
            record: Arc::clone(&self.record),
            failed: self.failed.clone(),
            ..*self
        }
    }
}
