//! The state of one key while operations on it are under way: which of them may still store a value in L1, and which of
//! them callers may join.
//!
//! Knows nothing of locks, other keys or the values in L1.

use std::mem;

use tokio::sync::mpsc::UnboundedSender;

use super::numbers::{Generation, Issued, OpNumber, TagChanges};
use super::outcome::{LoadOutcome, ReadOutcome};
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::key::Key;
use crate::util::shared_result::SharedResult;

/// Which operations a change of their key keeps from storing, whatever their version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpKind {
    /// A load or a refresh. It stores nothing once it is detached from its key (rule 4: detach).
    Load,
    /// A read, an insert, or another operation.
    Other,
}

/// Sends the keys whose leases have ended to a caller that waits for them.
pub(crate) type LeaseWaiter = UnboundedSender<Key>;

/// A version, and the generation in which it may be compared with others.
#[derive(Clone, Copy)]
pub(super) struct GenerationVersion {
    pub(super) ver: u64,
    pub(super) generation: Generation,
}

/// The state of one key, from the beginning of its first operation to the end of its last.
pub(super) struct KeyState {
    pub(super) key: Key,
    /// How many operations are under way.
    ops: usize,
    /// The generation that the floor belongs to: versions compare only within one epoch.
    generation: Generation,
    /// The oldest version that may still be stored.
    floor: u64,
    /// Operations with a lower number were under way when the key was last changed.
    changed_below: OpNumber,
    /// Operations with a lower number store nothing.
    barred_below: OpNumber,
    /// The read that callers may join.
    pub(super) read: Option<Joinable<ReadOutcome>>,
    /// The load that callers may join.
    pub(super) load: Option<Joinable<LoadOutcome>>,
    /// The refresh that callers may join.
    pub(super) refresh: Option<Joinable<LoadOutcome>>,
    /// Notified when the lease ends that another instance has on the key.
    waiters: Vec<LeaseWaiter>,
}

/// A read or load that callers may join.
pub(super) struct Joinable<T> {
    pub(super) op: OpNumber,
    pub(super) generation: Generation,
    /// How many invalidations of tags had been applied when it began.
    pub(super) tag_changes: TagChanges,
    pub(super) began: Tick,
    /// Whether this instance's proof says that its result is new enough, and not L2 or the source (rule 5, no unproven
    /// joins).
    pub(super) relies_on_proof: bool,
    /// It began after the partition had named this version: changes up to it were made before. Zero unless it loads a
    /// local value.
    pub(super) follows: u64,
    pub(super) result: SharedResult<T>,
}

impl<T> Joinable<T> {
    /// Whether its key may have been changed, with this version, since it began.
    fn may_be_older(&self, change: Option<GenerationVersion>) -> bool {
        change.is_none_or(|GenerationVersion { ver, generation }| {
            self.generation != generation || ver > self.follows
        })
    }
}

impl KeyState {
    pub(super) fn new(key: &Key) -> Self {
        Self {
            key: key.clone(),
            ops: 0,
            generation: Generation::NONE,
            floor: 0,
            changed_below: OpNumber::FIRST,
            barred_below: OpNumber::FIRST,
            read: None,
            load: None,
            refresh: None,
            waiters: Vec::new(),
        }
    }

    /// Counts an operation that begins in `generation`.
    pub(super) fn begin(&mut self, generation: Generation) {
        self.ops += 1;
        // A floor of a former epoch would keep every value of this one out, as versions begin anew.
        if self.generation != generation {
            (self.generation, self.floor) = (generation, 0);
        }
    }

    /// Counts an operation that ends. Returns whether it was the last, and the flights that it leaves, to be dropped
    /// without the lock.
    pub(super) fn end(&mut self, op: OpNumber) -> (bool, impl Sized + use<>) {
        debug_assert!(self.ops > 0, "an operation that ends has begun");
        self.ops -= 1;
        let read = self.read.take_if(|read| read.op == op);
        let load = self.load.take_if(|load| load.op == op);
        let refresh = self.refresh.take_if(|refresh| refresh.op == op);
        let has_flight = self.read.is_some() || self.load.is_some() || self.refresh.is_some();
        debug_assert!(
            self.ops > 0 || !has_flight,
            "a flight ends with its operation"
        );
        (self.ops == 0, (read, load, refresh))
    }

    /// The key was changed, and the change has this version: operations store nothing older (rule 3, floors).
    /// Operations under way also store no version above the issued one (rule 11, versions are compared), and nothing at
    /// all if no version says what is older.
    pub(super) fn change(
        &mut self,
        change: Option<GenerationVersion>,
        issued: Issued,
        next_op: OpNumber,
    ) {
        let Some(GenerationVersion { ver, generation }) = change else {
            return self.bar(next_op);
        };
        // Versions of another epoch are not comparable: a flush has already made all older values invisible (rule 9,
        // lost messages).
        if self.generation != generation {
            return;
        }
        debug_assert!(self.changed_below <= next_op, "numbers only grow");
        self.changed_below = next_op;
        if !issued.includes(self.floor) {
            // A value that the partition may not have issued was handed out. It is gone, but if it was issued, nothing
            // older may follow: whatever began before this stores nothing.
            self.barred_below = next_op;
            self.floor = ver;
        }
        self.floor = self.floor.max(ver);
    }

    /// A value of this version is handed out: nothing older may follow it (rule 3, floors). Returns the read that
    /// callers must not join any more, as it may be older.
    pub(super) fn raise_floor_for_stored(&mut self, op: OpNumber, ver: u64) -> impl Sized + use<> {
        debug_assert!(
            ver >= self.floor || without(Rule::Floors),
            "it may be stored"
        );
        self.floor = self.floor.max(ver);
        self.read.take_if(|read| read.op != op)
    }

    /// A local value is stored: no operation that began before stores another one, whose version may be the same (rule 30:
    /// local values).
    pub(super) fn bar_older(&mut self, op: OpNumber) {
        self.barred_below = self.barred_below.max(op);
    }

    /// A value of this version is handed out, and was not stored: nothing older may follow it (rule 3: floors). If the
    /// partition has not issued the version, a floor of it would keep every later value out: then operations under way
    /// store nothing.
    pub(super) fn raise_floor_for_unstored(
        &mut self,
        op: OpNumber,
        of: GenerationVersion,
        issued: Issued,
        next_op: OpNumber,
    ) {
        let GenerationVersion { ver, generation } = of;
        if !issued.includes(ver) && op < self.changed_below {
            self.bar(next_op);
        } else if self.generation == generation {
            self.floor = self.floor.max(ver);
        }
    }

    /// Operations that are under way store nothing.
    fn bar(&mut self, next_op: OpNumber) {
        debug_assert!(self.barred_below <= next_op, "numbers only grow");
        self.barred_below = next_op;
    }

    /// Whether an operation may store a value of this version.
    pub(super) fn may_store(&self, op: OpNumber, kind: OpKind, ver: u64, issued: Issued) -> bool {
        // A load began before the change that detached it, whatever version its value was given since (rule 4: detach).
        let is_attached = kind != OpKind::Load || self.is_attached(op);
        let is_barred = op < self.barred_below;
        // Rule 11 (versions are compared): a version above all that are issued passes only if the key was not changed
        // since.
        let is_issued = issued.includes(ver) || op >= self.changed_below;
        is_attached && (!is_barred && ver >= self.floor && is_issued || without(Rule::Floors))
    }

    /// Whether nothing has detached a load or refresh from its key since it began.
    pub(super) fn is_attached(&self, op: OpNumber) -> bool {
        let mut flights = [&self.load, &self.refresh].into_iter().flatten();
        flights.any(|flight| flight.op == op)
    }

    /// The result of a load or refresh relies on the proof from here on.
    pub(super) fn rely_on_proof(&mut self, op: OpNumber) {
        let flights = [&mut self.load, &mut self.refresh];
        if let Some(flight) = flights.into_iter().flatten().find(|flight| flight.op == op) {
            flight.relies_on_proof = true;
        }
    }

    /// Keeps later callers from joining a flight that may be older than a change (rule 4, detach). Returns the flights, to
    /// be dropped without the lock, and the waiters to be notified: every change of a key ends its lease, too.
    pub(super) fn detach(
        &mut self,
        change: Option<GenerationVersion>,
    ) -> (impl Sized + use<>, Vec<LeaseWaiter>) {
        debug_assert!(self.ops > 0, "a key without operations has no state");
        let flights = (
            self.read.take_if(|read| read.may_be_older(change)),
            self.load.take_if(|load| load.may_be_older(change)),
            self.refresh.take_if(|refresh| refresh.may_be_older(change)),
        );
        (flights, self.take_waiters())
    }

    pub(super) fn add_waiter(&mut self, waiter: &LeaseWaiter) {
        if !self.waiters.iter().any(|known| known.same_channel(waiter)) {
            self.waiters.push(waiter.clone());
        }
    }

    pub(super) fn take_waiters(&mut self) -> Vec<LeaseWaiter> {
        mem::take(&mut self.waiters)
    }
}
