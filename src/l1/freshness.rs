//! The state of the partition, as far as this instance knows it, and until when L1 may be served: the subscriber proves
//! several times per `max_staleness` that every message was applied (rules 7 to 9). Knows nothing of the entries in L1:
//! an entry names its generation, and one number here makes all of a former one invisible.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::NEVER;
use super::numbers::{Generation, Issued, TagChanges};
use super::partition_time::PartitionTime;
use super::sync::{AtomicBool, AtomicU64, Mutex, lock};
use crate::ablation::{Rule, without};
use crate::clock::{Clock, Tick, nanos};
use crate::vocabulary::{ClockNumbers, PartitionClock, Version};

/// `live_until` and `proven_until` while there is no proof.
const NO_PROOF: Tick = 0;
/// `live_until` where no other instance shares the partition, which needs no proof.
const UNSHARED: Tick = NEVER;
/// The end of a proof that does not run out, which is not [`UNSHARED`].
const ENDLESS_PROOF: Tick = UNSHARED - 1;

/// The proof that every message so far has been applied, and the counters that change when it is lost.
///
/// All reads are single atomic loads: they are on the path of every hit. So the order in which the fields are written says
/// what a reader may conclude from them:
///
/// | field | written by | order | under `proof_state` |
/// | --- | --- | --- | --- |
/// | `live_until` | `prove` | last | yes |
/// | | `flush_and_revoke_proof` | before `generation` | yes |
/// | | `suspend_proof`, `end_proof` | before `proven_until` | no |
/// | | `mark_unshared` | after `epoch` | no |
/// | `proven_until` | `prove` | after `applied_ver` | yes |
/// | | `end_proof` | last | no |
/// | `generation` | `flush` | last | no |
/// | | `flush_and_revoke_proof` | after `live_until` | yes |
/// | | `flush_and_keep_proof` | alone | no |
/// | `tag_changes` | `tags_changed` | after the floors of the tags | no |
/// | `epoch` | `flush` | after `issued` and `applied_ver`, before `generation` | no |
/// | | `mark_unshared` | before `live_until` | no |
/// | `issued` | `raise_issued` | before the floors of the keys and tags | no |
/// | | `flush` | first | no |
/// | `applied_ver` | `prove` | after `partition_time` | yes |
/// | | `flush` | after `issued` | no |
/// | `partition_time` | `prove` | first | yes |
/// | | `connected` | alone | no |
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    clock: Clock,
    /// How long a proof holds, in nanoseconds.
    max_staleness: u64,
    /// Until when L1 may be served.
    live_until: AtomicU64,
    /// Until when the last proof would have held: [`suspend_proof`](Self::suspend_proof) does not change it.
    proven_until: AtomicU64,
    /// Counts flushes and revoked proofs: entries and operations of an earlier generation are not served, joined or
    /// stored.
    generation: AtomicU64,
    /// Counts invalidations of tags that were applied, from one.
    tag_changes: AtomicU64,
    /// The partition's epoch, as the subscriber last found it; zero when unknown.
    epoch: AtomicU64,
    /// The highest version that the partition is known to have issued in this epoch.
    issued: AtomicU64,
    /// All changes up to this version, in this epoch, have been applied: the partition had issued no higher one when it was
    /// asked for the last proof.
    applied_ver: AtomicU64,
    partition_time: PartitionTime,
    /// Under a lock, so that no proof that was asked for before a revocation outlives it.
    proof_state: Mutex<ProofState>,
    /// Wakes the subscriber, so that it asks for a proof.
    proof_wake: Notify,
    /// When [`wake_for_proof_once_in`](Self::wake_for_proof_once_in) wakes it again.
    next_wake: AtomicU64,
    /// Notified of each proof.
    proven: watch::Sender<()>,
    /// A caller has waited for a proof in vain, and no other one waits until there is a proof.
    pub(crate) is_awaited_in_vain: AtomicBool,
}

/// A caller that looks for a flight to join: when it asked, and whether there was a proof then. Made before the flight
/// is looked up: a later proof says nothing of that flight (rule 5: no unproven joins).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(super) now: Tick,
    pub(crate) is_proven: bool,
}

/// What [`prove`](Freshness::prove) needs to know of the moment before the partition was asked for its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProofStart {
    at: Tick,
    /// How many proofs had been revoked.
    pub(super) revocations: u64,
}

/// What changes in one critical section with a proof.
#[derive(Debug)]
struct ProofState {
    /// How many proofs were revoked.
    revocations: u64,
    /// The highest version that the partition has named in an answer to a write of this instance; [`ABSENT`](Version::ABSENT) for
    /// none. With its epoch: an answer that is noted after a flush is of the former one.
    answered: Version,
    /// The answers to writes of this instance that the subscriber has not taken.
    answers: Vec<ClockNumbers>,
}

/// How many answers wait for the subscriber at most, which takes them with each message and heartbeat. If more come, the
/// oldest is not compared with messages (rule 31: histories).
const MAX_WAITING_ANSWERS: usize = 256;

impl Default for ProofState {
    fn default() -> Self {
        Self {
            revocations: 0,
            answered: Version::ABSENT,
            answers: Vec::new(),
        }
    }
}

impl Freshness {
    pub(super) fn new(clock: Clock, max_staleness: Duration) -> Self {
        Self {
            clock,
            max_staleness: nanos(max_staleness),
            generation: AtomicU64::new(Generation::FIRST.0),
            tag_changes: AtomicU64::new(TagChanges::FIRST.0),
            ..Self::default()
        }
    }

    /// Whether L1 may be served now.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live_at(self.clock.now())
    }

    /// Whether L1 may be served at `now`.
    #[inline]
    pub(crate) fn is_live_at(&self, now: Tick) -> bool {
        // Acquire: changes that were applied before the proof are visible to a hit that relies on it.
        now < self.live_until.load(Ordering::Acquire)
    }

    /// A caller that asks at `now`.
    pub(crate) fn caller(&self, now: Tick) -> Caller {
        let is_proven = self.is_live_at(now);
        Caller { now, is_proven }
    }

    /// Whether the last proof ran out less than `limit` before `now`, or still holds.
    pub(super) fn was_live_within(&self, now: Tick, limit: Duration) -> bool {
        let until = self.proven_until.load(Ordering::Acquire);
        until != NO_PROOF && now < until.saturating_add(nanos(limit))
    }

    /// Waits until L1 may be served, and has the subscriber ask for the proof.
    pub(crate) async fn wait_until_live(&self) {
        let mut proven = self.proven.subscribe();
        while !self.is_live() {
            self.proof_wake.notify_one();
            // The sender lives as long as `self` does.
            let _ = proven.changed().await;
        }
    }

    /// When a read or load must have begun, at the earliest, for a caller to join it without a proof (rule 5: no
    /// unproven joins).
    pub(super) fn joinable_from(&self, now: Tick) -> Tick {
        now.saturating_sub(self.max_staleness)
    }

    /// To be called before the partition is asked how far it is: the proof then starts too early rather than too late.
    pub(crate) fn begin_proof(&self) -> ProofStart {
        ProofStart {
            at: self.clock.now(),
            revocations: lock(&self.proof_state).revocations,
        }
    }

    /// Takes a proof (rule 8: heartbeat): the partition's clock was read like this after it was asked, and all messages
    /// up to then have been applied. It holds for `max_staleness` from the question, unless it was revoked since.
    pub(crate) fn prove(&self, partition: &PartitionClock, start: ProofStart) {
        let until = if without(Rule::Heartbeat) {
            ENDLESS_PROOF
        } else {
            start.at.saturating_add(self.max_staleness)
        };
        // Rule 8, one critical section with `flush_and_revoke_proof`.
        let state = lock(&self.proof_state);
        debug_assert!(
            start.revocations <= state.revocations,
            "revocations are only counted up"
        );
        debug_assert!(
            !self.is_unshared() && until != UNSHARED,
            "a partition that is not shared needs no proof"
        );
        if state.revocations != start.revocations {
            return;
        }
        self.partition_time.learn(partition, start.at);
        self.applied_ver.store(partition.ver, Ordering::Release);
        // Last: a hit that finds L1 live may rely on all that is stored above.
        self.proven_until.store(until, Ordering::Release);
        self.live_until.store(until, Ordering::Release);
        self.is_awaited_in_vain.store(false, Ordering::Relaxed);
        // A task that is woken may run at once.
        drop(state);
        self.proven.send_replace(());
    }

    /// Suspends the proof: L1 keeps what it holds, and serves nothing until there is another proof.
    pub(crate) fn suspend_proof(&self) {
        // Not the generation: the entries are as good as before once there is another proof.
        self.live_until.store(NO_PROOF, Ordering::Release);
    }

    /// Ends the proof for good: L1 does not serve entries unproven, either.
    pub(crate) fn end_proof(&self) {
        self.suspend_proof();
        self.proven_until.store(NO_PROOF, Ordering::Release);
    }

    /// Makes all that this instance holds or is fetching invisible, and revokes the proof and those that were asked for
    /// before; and has the subscriber ask for another. A partition that no other instance shares needs none.
    pub(crate) fn flush_and_revoke_proof(&self) {
        // Rule 8 (heartbeat), one critical section with `prove`.
        let mut state = lock(&self.proof_state);
        state.revocations += 1;
        if !self.is_unshared() {
            self.suspend_proof();
        }
        // The epoch is the subscriber's to change.
        self.generation.fetch_add(1, Ordering::AcqRel);
        drop(state);
        self.wake_for_proof();
    }

    /// Takes note of the clock that a new connection found. If its epoch is not the known one, only the subscriber can
    /// find out which of the two is the newer (rule 13, new incarnation, new epoch).
    pub(crate) fn connected(&self, partition: &PartitionClock) {
        // The first connection only: a proof knows better, as it was asked for at a known time.
        (self.partition_time).learn_first(partition, self.clock.now());
        if self.epoch() != partition.epoch {
            self.flush_and_revoke_proof();
        }
    }

    /// Wakes the subscriber, which asks the partition for a proof now.
    pub(crate) fn wake_for_proof(&self) {
        self.proof_wake.notify_one();
    }

    /// As [`wake_for_proof`](Self::wake_for_proof), but once in this time at most.
    pub(crate) fn wake_for_proof_once_in(&self, gap: Duration, now: Tick) {
        // Relaxed: of two threads both may wake it.
        let next = self.next_wake.load(Ordering::Relaxed);
        if now >= next {
            let next = now.saturating_add(nanos(gap));
            self.next_wake.store(next, Ordering::Relaxed);
            self.wake_for_proof();
        }
    }

    /// Waits until the subscriber is [woken](Self::wake_for_proof). A call that came while no task waited is not lost.
    pub(crate) async fn woken_for_proof(&self) {
        self.proof_wake.notified().await;
    }

    /// Takes note that no other instance shares the partition: no message can be missed.
    pub(crate) fn mark_unshared(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        self.live_until.store(UNSHARED, Ordering::Release);
    }

    /// Whether no other instance shares the partition.
    pub(crate) fn is_unshared(&self) -> bool {
        self.live_until.load(Ordering::Acquire) == UNSHARED
    }

    /// The partition's epoch, as the subscriber last found it; zero when unknown.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The version of no write, which counts as applied as soon as the epoch is known.
    pub(crate) fn no_write(&self) -> Version {
        Version {
            epoch: self.epoch(),
            ver: 0,
        }
    }

    /// The present generation: the next flush begins another.
    #[inline]
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Counts invalidations of tags that were applied: an entry with tags is looked at again after each, and no
    /// flight that began before is joined.
    #[inline]
    pub(crate) fn tag_changes(&self) -> TagChanges {
        TagChanges(self.tag_changes.load(Ordering::Acquire))
    }

    /// An invalidation of tags has been applied.
    pub(super) fn tags_changed(&self) {
        self.tag_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes all that this instance holds or is fetching invisible, in one step (rule 9, lost messages).
    pub(super) fn flush(&self, epoch: u64) {
        // In this order: a thread that sees the new generation sees the new epoch.
        self.issued.store(0, Ordering::Release);
        self.applied_ver.store(0, Ordering::Release);
        self.epoch.store(epoch, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes all that this instance holds or is fetching invisible. Values that are stored later may be served: the
    /// proof stands.
    pub(crate) fn flush_and_keep_proof(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The highest version that the partition is known to have issued in this epoch.
    pub(super) fn issued(&self) -> Issued {
        Issued(self.issued.load(Ordering::Acquire))
    }

    /// Whether a write of this partition that a token names has been applied here, with all changes before it (rule 22:
    /// a token names a write). To be asked before a look-up, which finds nothing older then.
    ///
    /// Not by the versions that messages name, as anybody who may publish can make them up (rule 21: numbers can be
    /// made up): only by the version that the partition has named.
    pub(crate) fn has_applied(&self, write: Version) -> bool {
        // In this order: after a flush, with a version of the new epoch, it is true of a token of the former one, whose
        // values are all gone.
        let is_known = write.epoch == self.epoch();
        self.is_unshared() || is_known && write.ver <= self.applied_ver.load(Ordering::Acquire)
    }

    /// The version of a local value that is loaded from now on, if there is a proof: the highest that the partition itself
    /// has named (rule 30: local values).
    pub(crate) fn version_before_load(&self) -> Version {
        // The epoch first: after a flush in between, the load is of a former generation, and is not stored.
        let epoch = self.epoch();
        let applied = self.applied_ver.load(Ordering::Acquire);
        let answered = lock(&self.proof_state).answered;
        let answered = Some(answered.ver).filter(|_| answered.epoch == epoch);
        Version {
            epoch,
            ver: applied.max(answered.unwrap_or(0)),
        }
    }

    /// The partition has named its clock in the answer to a write of this instance.
    pub(crate) fn note_answered(&self, numbers: ClockNumbers) {
        if self.is_unshared() {
            return;
        }
        let ClockNumbers { epoch, ver, .. } = numbers;
        let version = Version { epoch, ver };
        let state = &mut *lock(&self.proof_state);
        let answered = &mut state.answered;
        if answered.epoch == version.epoch {
            answered.ver = answered.ver.max(version.ver);
        } else if version.epoch == self.epoch() {
            // Of the known epoch only: a late answer does not replace a newer one.
            *answered = version;
        }
        match state.answers.last_mut() {
            // Fills, which have no message. Only the highest version counts.
            Some(last) if (last.epoch, last.seq) == (numbers.epoch, numbers.seq) => {
                last.ver = last.ver.max(numbers.ver);
            }
            _ => {
                if state.answers.len() == MAX_WAITING_ANSWERS {
                    state.answers.remove(0);
                }
                state.answers.push(numbers);
            }
        }
    }

    /// Takes the answers to writes of this instance since the last time. `into` is empty.
    pub(crate) fn take_answers(&self, into: &mut Vec<ClockNumbers>) {
        mem::swap(&mut lock(&self.proof_state).answers, into);
    }

    /// The highest version that the partition is known to have issued, by messages, answers or a proof.
    pub(crate) fn highest_known(&self) -> u64 {
        self.issued().0.max(self.version_before_load().ver)
    }

    /// The partition has issued a version, in this epoch. A flush that comes in between leaves a version of the former
    /// epoch: then more versions pass than the partition has issued, as if the highest were not known.
    pub(super) fn raise_issued(&self, ver: u64) {
        // Most messages bring no higher version. To load is cheaper than to write a line that all threads share.
        if !self.issued().includes(ver) {
            self.issued.fetch_max(ver, Ordering::AcqRel);
        }
    }

    /// The latest that the partition's time, in milliseconds, can be at `now`; `None` before it was first read.
    pub(crate) fn partition_time(&self, now: Tick) -> Option<u64> {
        self.partition_time.latest_at(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::later;

    #[test]
    fn writes_of_two_epochs_are_applied_nowhere() {
        let freshness = Freshness::new(Clock::manual(), Duration::from_secs(2));
        let [one, other] = [1, 2].map(|epoch| Version { epoch, ver: 1 });
        assert!(
            !freshness.has_applied(later(one, other)),
            "not by one that has heard of none"
        );
    }
}
