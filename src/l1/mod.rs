//! The first level: the entries of this process, and when they may be served and stored.
//!
//! [`L1`] owns coherence: each change of a key that L2 has accepted goes through one of its methods, which raises the
//! key's floor, detaches its flights and evicts an older entry. No other layer can raise a floor without evicting.
//!
//! The methods of [`L1`], by subject:
//!
//! - [`look_up`]: which entry answers a look-up
//! - [`put`]: which values are stored
//! - [`changes`]: what changes of keys, prefixes and tags do, and flushes
//! - [`sweeping`]: when the memory of entries is given back
//!
//! The parts of [`L1`]:
//!
//! - [`bounded_entries`]: the entries: the [`table`] of all, and moka, the [`policy`] by which they are bounded
//! - [`in_flight`]: the operations under way on each key ([`key_state`]): which operations may still store, and single
//!   flight
//! - [`tags`]: which tags the entries have, and when these were invalidated
//! - [`freshness`]: the proof that nothing was missed, by which entries may be served; [`partition_time`]: the
//!   partition's time
//! - [`size_advice`]: which hit rates other capacities would have
//! - [`era`]: which hits are reported to moka and to the size advisor
//! - [`record`]: a value with its key, its version and its times; in L1 it is called an entry. [`visible_in`] says which
//!   generation may see it, and [`reported_eras`] which of its hits was reported last
//! - [`outcome`]: how a read or load ended
//! - [`numbers`], [`arc_slot`], [`hasher`], [`sync`]: the parts of these
//!
//! What drops entries:
//!
//! | method | drops | operations under way | proof |
//! | --- | --- | --- | --- |
//! | `apply`, `apply_prefixes`, `apply_tags` | older entries: the floor of a key is raised | older values are not stored | stands |
//! | `apply_unversioned`, `apply_unversioned_prefix`, `apply_unversioned_tag` | entries of a change that has no version yet | are not stored | stands |
//! | `evict` | the entry of a key | may be stored | stands |
//! | `flush` | all, in one step: another generation begins | are not stored | stands: its caller has ended it, or takes another |
//! | `flush_and_revoke_proof` | all | are not stored | revoked, with the proofs that were asked for |
//! | `flush_and_keep_proof` | all | are not stored | stands |
//! | `remove_gone`, `sweep`, `sweep_all` | what is no answer any more: only the memory | | |
//!
//! Knows nothing of L2 and of the engine: does no I/O, starts no task, and waits only for notifications.

// Each part of the path of a hit: where the compiler splits it, a hit takes 3 to 8 % more instructions.
#![allow(
    clippy::inline_always,
    reason = "tests/instructions.sh limits what a hit takes"
)]

#[cfg(not(larder_interleavings))]
mod arc_slot;
mod bounded_entries;
mod changes;
mod era;
mod freshness;
mod hasher;
mod in_flight;
#[cfg(larder_interleavings)]
mod interleavings;
mod key_state;
mod look_up;
mod numbers;
mod outcome;
mod partition_time;
#[cfg(not(larder_interleavings))]
mod policy;
mod put;
mod record;
mod reported_eras;
mod size_advice;
mod sweeping;
mod sync;
mod table;
mod tags;
mod visible_in;

pub(crate) use self::bounded_entries::{Weigher, entry_bytes};
pub(crate) use self::freshness::{Caller, Freshness, ProofStart};
pub(crate) use self::hasher::{Hasher, hasher};
pub(crate) use self::in_flight::{Join, JoinRead, Op};
pub(crate) use self::key_state::LeaseWaiter;
pub(crate) use self::numbers::{Generation, OpNumber, TagChanges};
pub(crate) use self::outcome::{LoadOutcome, NoValue, Outcome, OutcomeKind, ReadOutcome};
pub(crate) use self::record::{NEVER, Record, RecordHead, SharedRecord};
pub(crate) use self::size_advice::SizeAdvisor;
pub(crate) use self::tags::{TagState, Tags};

use std::sync::Arc;
use std::time::Duration;

use self::bounded_entries::{BoundedEntries, OnRemoved};
use self::in_flight::InFlight;
use self::tags::TagTable;
use crate::clock::Tick;
use crate::events::{CacheEvent, Events};
use crate::options::Options;

/// The entries of this instance, the operations on them, and the proof that they may be served.
pub(crate) struct L1 {
    pub(crate) entries: BoundedEntries,
    /// For how long after its TTL an entry is kept as a fallback.
    fallback_time: Duration,
    /// The operations under way on each key, and the reads and loads to join.
    pub(crate) in_flight: Arc<InFlight>,
    tags: TagTable,
    /// Whether values stay in their instance, and L2 has none (rule 30: local values).
    pub(crate) are_values_local: bool,
    /// Until when L1 may be served, and the proof of it.
    pub(crate) freshness: Arc<Freshness>,
}

impl L1 {
    pub(crate) fn new(
        options: &Options,
        capacity: u64,
        weigher: Option<Weigher>,
        advisor: Option<Arc<SizeAdvisor>>,
        events: &Arc<Events>,
        are_values_local: bool,
    ) -> Self {
        // Without a subscription there is no proof, and no bound for what a caller may join.
        let max_staleness = options.max_staleness * u32::from(options.is_listed);
        let freshness = Freshness::new(options.clock.clone(), max_staleness);
        let freshness = Arc::new(freshness);
        let on_removed: OnRemoved = {
            let (events, freshness) = (Arc::clone(events), Arc::clone(&freshness));
            let clock = options.clock.clone();
            Box::new(move |record, was_evicted| {
                events.emit(|| removal(&freshness, record, was_evicted, clock.now()));
            })
        };
        Self {
            entries: BoundedEntries::new(
                capacity,
                weigher,
                advisor,
                options.stale_if_error,
                on_removed,
            ),
            fallback_time: options.stale_if_error,
            in_flight: Arc::new(InFlight::new(&freshness, are_values_local)),
            tags: TagTable::new(are_values_local),
            are_values_local,
            freshness,
        }
    }

    /// Whether L2 has no values: they are local, or there is no L2.
    pub(crate) fn is_only_level(&self) -> bool {
        self.are_values_local || self.freshness.is_unshared()
    }

    #[inline]
    fn is_visible(&self, record: &Record, now: Tick) -> bool {
        self.is_current(record) && now < record.expires_at
    }

    #[inline]
    fn is_current(&self, record: &Record) -> bool {
        record.is_visible_in(self.freshness.generation(), || self.freshness.tag_changes())
    }
}

/// The event of an entry that has left L1. `None` if a change has removed it, which has an event of its own.
fn removal(
    freshness: &Freshness,
    record: &Record,
    was_evicted: bool,
    now: Tick,
) -> Option<CacheEvent> {
    let key = || (*record.key).to_owned();
    let is_current = record.is_visible_in(freshness.generation(), || freshness.tag_changes());
    match now >= record.expires_at {
        _ if !is_current => None,
        true => Some(CacheEvent::Expired { key: key() }),
        false => was_evicted.then(|| CacheEvent::Evicted { key: key() }),
    }
}
