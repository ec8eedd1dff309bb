//! The instances that a partition knows, how far each of them is, and the counters that they store.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use twox_hash::XxHash3_64;

use super::{Key, random};

/// Heartbeats come this many times in each `max_staleness` (rule 8: heartbeat).
// So two may be lost before the proof of the instance runs out.
pub(crate) const HEARTBEATS: u32 = 3;

/// How an instance introduces itself to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// A random number that no other instance has.
    pub id: u64,
    /// For how long it may use its L1 after it sent the last heartbeat that was answered.
    pub max_staleness: Duration,
}

/// How far an instance is with a partition's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The epoch of the partition.
    pub epoch: u64,
    /// The number of the last message that it has applied.
    pub seq: u64,
}

impl Applied {
    /// Of an instance that has just subscribed: which messages it has missed is not known yet.
    pub(crate) const NOTHING: Self = Self { epoch: 0, seq: 0 };
}

/// An instance, as a partition knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// How it introduced itself.
    pub info: MemberInfo,
    /// How far it was when it noted that last.
    pub applied: Applied,
    /// Names that note, or the subscription if there was none since: a random number. While it stays the same, the
    /// member has noted nothing.
    pub note: u64,
}

impl Member {
    /// A member that has applied these messages now.
    pub(crate) fn new(info: MemberInfo, applied: Applied) -> Self {
        Self {
            info,
            applied,
            note: random(),
        }
    }
}

/// The instances that a partition knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Names this list: a random number. A list that may have lost members gets another one.
    pub generation: u64,
    /// The members, or those that were asked for.
    pub list: Vec<Member>,
}

/// For how long a list of members exists, at least, by the monotonic clock of an instance that is in it.
#[derive(Clone, Copy)]
pub(crate) struct ListAge {
    age: Duration,
    at: Instant,
}

impl ListAge {
    /// The list had existed for so long when the answer arrived that says so. An earlier time would make it seem older.
    pub(crate) fn new(age: Duration) -> Self {
        // By tokio's clock, which the simulation sets; in a service it is the system's monotonic one.
        let at = Instant::now();
        Self { age, at }
    }

    pub(crate) fn now(self) -> Duration {
        self.age.saturating_add(self.at.elapsed())
    }
}

/// What a member has noted last, and until when that is enough.
pub(crate) struct Noted {
    applied: Applied,
    until: Instant,
}

impl Noted {
    pub(crate) fn new() -> Self {
        Self {
            applied: Applied::NOTHING,
            until: Instant::now(),
        }
    }

    /// Whether a heartbeat has to note `applied` now: if it has changed, and otherwise every two `max_staleness` (rule
    /// 16: members), at a time that `align` makes common to several members.
    pub(crate) fn is_due(
        &mut self,
        applied: Applied,
        max_staleness: Duration,
        align: impl FnOnce(Instant, Duration) -> Instant,
    ) -> bool {
        let every = 2 * max_staleness;
        // Half the time between heartbeats: those that are sent together may be a little before or after that time.
        let soon = Instant::now() + max_staleness / HEARTBEATS / 2;
        let is_due = applied != self.applied || soon >= self.until;
        if is_due {
            let until = align(soon + every, every);
            *self = Self { applied, until };
        }
        is_due
    }
}

/// The counters of one instance, for [`Partition::store_counts`](super::Partition::store_counts).
#[derive(Clone, Copy, Debug)]
pub struct StoredCounts<'a> {
    /// The id of the instance.
    pub instance: u64,
    /// When they were read, in milliseconds by a clock of the instance: later ones are not replaced, as by a late copy
    /// of the request.
    pub at: u64,
    /// `name=number`, separated by spaces; and `name:text`, which is not added up.
    pub text: &'a str,
    /// Whether counters that were stored a day ago or earlier are added up.
    pub folds: bool,
}

/// The keys that all instances leave out of the cache, as the answer to
/// [`Partition::store_counts`](super::Partition::store_counts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetBypass {
    /// Milliseconds of the store's own time.
    pub now: u64,
    /// What the keys begin with, and when that ends, by the store's own time.
    pub prefixes: BTreeMap<Key, u64>,
}

impl FleetBypass {
    /// Tells lists apart, for those who ask whether an instance follows the present one. `None` of an empty list.
    pub(crate) fn id(&self) -> Option<u64> {
        let texts = self
            .prefixes
            .iter()
            .map(|(prefix, till)| format!("{till} {prefix} "));
        let text: String = texts.collect();
        (!text.is_empty()).then(|| XxHash3_64::oneshot(text.as_bytes()))
    }
}
