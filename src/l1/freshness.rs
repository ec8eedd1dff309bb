//! What this instance knows of its lane, and how long that may be believed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::NEVER;
use super::sync::{AtomicU64, Mutex, lock};
use crate::clock::{Clock, Tick, nanos};
use crate::vocabulary::LaneClock;

/// The lane's time before it was first read.
const UNKNOWN: u64 = u64::MAX;

/// Proof that every message so far has been applied, and what follows from losing it.
///
/// All reads are single atomic loads: they are on the path of every hit.
#[derive(Debug)]
pub(crate) struct Freshness {
    clock: Clock,
    /// Until when the last proof holds.
    live_until: AtomicU64,
    /// Until when it did before it was void.
    proven_until: AtomicU64,
    /// Counts flushes: what belongs to an earlier one is not served, joined or stored.
    generation: AtomicU64,
    /// The lane's epoch, as of the last proof; zero when unknown.
    epoch: AtomicU64,
    /// What to add to our time, in ns, for an upper bound of the lane's.
    lane_ahead: AtomicU64,
    /// Counts what made a proof void. Under a lock, so that no proof older than a doubt outlives it.
    doubts: Mutex<u64>,
    /// Told when there is a doubt, or somebody waits for a proof, so that the listener asks for one.
    doubted: Notify,
    changed: watch::Sender<()>,
}

impl Freshness {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            live_until: AtomicU64::new(0),
            proven_until: AtomicU64::new(0),
            generation: AtomicU64::new(1),
            epoch: AtomicU64::new(0),
            lane_ahead: AtomicU64::new(UNKNOWN),
            doubts: Mutex::new(0),
            doubted: Notify::new(),
            changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn is_live_at(&self, now: Tick) -> bool {
        now < self.live_until.load(Ordering::Acquire)
    }

    /// Whether there was a proof that ran out less than `limit` before `now`.
    pub(crate) fn was_live(&self, now: Tick, limit: Duration) -> bool {
        let until = self.proven_until.load(Ordering::Acquire);
        until != 0 && now < until.saturating_add(nanos(limit))
    }

    pub(crate) fn is_live(&self) -> bool {
        self.is_live_at(self.clock.now())
    }

    /// Resolves when there is a proof that holds.
    pub(crate) async fn live(&self) {
        let mut changed = self.changed.subscribe();
        while !self.is_live() {
            self.doubted.notify_one();
            // The sender lives as long as `self` does.
            let _ = changed.changed().await;
        }
    }

    /// What a proof that is asked for now has to be handed in with.
    pub(crate) fn doubts(&self) -> u64 {
        *lock(&self.doubts)
    }

    /// Takes a proof: at `sent`, or later, the lane's clock read like this, and all messages up to then
    /// have been applied. It holds until `until`, unless there was a doubt since it was asked for.
    pub(crate) fn prove(&self, lane: &LaneClock, sent: Tick, until: Tick, doubts: u64) {
        let now = lock(&self.doubts);
        if *now != doubts {
            return;
        }
        // The lane read its clock after `sent`, so its time runs at most this far ahead of ours.
        self.lane_ahead
            .store(Self::ahead(lane, sent), Ordering::Release);
        self.proven_until.store(until, Ordering::Release);
        self.live_until.store(until, Ordering::Release);
        self.changed.send_replace(());
    }

    /// For a lane that nobody shares: no message can be missed.
    pub(crate) fn alone(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        self.live_until.store(NEVER, Ordering::Release);
    }

    /// Whether nobody shares the lane.
    pub(crate) fn is_alone(&self) -> bool {
        self.live_until.load(Ordering::Acquire) == NEVER
    }

    /// Makes all that this instance holds or is fetching invisible, in one step.
    pub(crate) fn flush(&self, epoch: u64) {
        // In this order: whoever sees the new generation sees the new epoch.
        self.epoch.store(epoch, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Believes nothing until there is another proof.
    pub(crate) fn lapse(&self) {
        self.live_until.store(0, Ordering::Release);
    }

    /// The same, and does not remember that there was a proof.
    pub(crate) fn end(&self) {
        self.lapse();
        self.proven_until.store(0, Ordering::Release);
    }

    /// A new connection found the lane like this; if its epoch is not the known one, the last proof is
    /// void. Which of the two is the newer is for the listener to find out.
    pub(crate) fn met(&self, lane: &LaneClock) {
        let ahead = Self::ahead(lane, self.clock.now());
        let _ =
            self.lane_ahead
                .compare_exchange(UNKNOWN, ahead, Ordering::AcqRel, Ordering::Relaxed);
        if self.epoch() != lane.epoch {
            self.doubt();
        }
    }

    /// Drops everything, and believes nothing until the listener has asked again; which a lane that nobody
    /// shares has no need of.
    pub(crate) fn doubt(&self) {
        let mut doubts = lock(&self.doubts);
        *doubts += 1;
        if !self.is_alone() {
            self.lapse();
        }
        // The epoch is the listener's to change.
        self.generation.fetch_add(1, Ordering::AcqRel);
        drop(doubts);
        self.doubted.notify_one();
    }

    /// Has the listener ask for a proof now, and do what it does when it has one.
    pub(crate) fn ask(&self) {
        self.doubted.notify_one();
    }

    /// Resolves when somebody doubts, or waits for, the proof.
    pub(crate) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// The latest that the lane's time, in ms, can be at `now`; `None` before it was first read.
    pub(crate) fn lane_time(&self, now: Tick) -> Option<u64> {
        let ahead = self.lane_ahead.load(Ordering::Acquire);
        (ahead != UNKNOWN).then(|| now.wrapping_add(ahead) / 1_000_000)
    }

    fn ahead(lane: &LaneClock, at: Tick) -> u64 {
        // The lane counts whole milliseconds: it may be almost one further.
        lane.now
            .saturating_add(1)
            .saturating_mul(1_000_000)
            .wrapping_sub(at)
    }
}
