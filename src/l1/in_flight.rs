//! What is under way in this instance, key by key: operations that may store a value in L1, and the reads and loads that
//! callers share (single flight).
//!
//! Each of the protocol's rules 3, 4 and 11 is one critical section here: a change of a key raises its floor and detaches
//! what is in flight, under the lock under which an operation makes its value visible. A key without operations has no
//! state.
//!
//! Knows nothing of the entries in L1. No lock is held while a future is polled, a value is dropped or moka is called.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Deref;
use std::sync::Arc;

use super::freshness::Freshness;
use super::hasher::{Hasher, hasher};
use super::key_state::{Joinable, KeyState, Op};
use super::outcome::{LoadOutcome, ReadOutcome};
use super::sync::{Mutex, MutexGuard, SHARDS, lock};
use super::{Fresh, LeaseWaiter};
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::key::Key;
use crate::shared_result::{ResultSender, SharedResult, shared_result};

/// How a caller takes part in a read.
pub(crate) enum JoinRead<V> {
    /// Nothing was under way on the key. The caller reads in place, as this operation. No other caller can join it, so
    /// there is no result to share and no task.
    Alone(OpGuard<V>),
    /// Something was under way: callers share a read from now on.
    Shared(Join<V, ReadOutcome<V>>),
}

/// How a caller takes part in a read or load that callers share.
pub(crate) enum Join<V, T> {
    /// One is under way: the caller waits for its result.
    Joined(SharedResult<T>),
    /// None was under way: the caller has begun one.
    Started(Started<V, T>),
}

/// A read or load that others join from now on until its operation ends.
pub(crate) struct Started<V, T> {
    pub(crate) op: OpGuard<V>,
    pub(crate) sender: ResultSender<T>,
    pub(crate) result: SharedResult<T>,
}

/// An operation that is under way for as long as this lives.
pub(crate) struct OpGuard<V> {
    in_flight: Arc<InFlight<V>>,
    op: Op,
}

impl<V> Deref for OpGuard<V> {
    type Target = Op;

    fn deref(&self) -> &Op {
        &self.op
    }
}

impl<V> Drop for OpGuard<V> {
    fn drop(&mut self) {
        self.in_flight.end(&self.op);
    }
}

/// All that is under way in one instance.
pub(crate) struct InFlight<V> {
    /// Each has a part of the keys.
    shards: Box<[Shard<V>]>,
    /// Says which shard has a key.
    hasher: Hasher,
    freshness: Arc<Freshness>,
}

type Shard<V> = Mutex<Keys<V>>;

struct Keys<V> {
    /// The number of the next operation.
    next: u64,
    /// Of the keys with operations under way.
    states: HashMap<Key, KeyState<V>, Hasher>,
}

impl<V> InFlight<V> {
    pub(super) fn new(freshness: &Arc<Freshness>) -> Self {
        let of_keys = hasher();
        let shard = |_| {
            Mutex::new(Keys {
                next: 0,
                states: HashMap::with_hasher(of_keys.clone()),
            })
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            hasher: hasher(),
            freshness: Arc::clone(freshness),
        }
    }

    /// Registers an operation.
    pub(super) fn begin(self: &Arc<Self>, key: &Key) -> OpGuard<V> {
        let op = self.register(&mut self.lock(key), key, false);
        self.guard(op)
    }

    /// Joins the read that is under way for a key, or begins one.
    pub(super) fn join_read(self: &Arc<Self>, key: &Key, now: Tick) -> JoinRead<V> {
        let mut keys = self.lock(key);
        let Some(state) = keys.states.get(key) else {
            let op = self.register(&mut keys, key, false);
            return JoinRead::Alone(self.guard(op));
        };
        JoinRead::Shared(match self.joinable(state.read.as_ref(), now) {
            Some(result) => Join::Joined(result),
            None => Join::Started(self.start(keys, key, now, false, |state| &mut state.read)),
        })
    }

    /// Joins the load that is under way for a key, or begins one.
    pub(super) fn join_load(self: &Arc<Self>, key: &Key, now: Tick) -> Join<V, LoadOutcome<V>> {
        let keys = self.lock(key);
        let load = keys.states.get(key).and_then(|state| state.load.as_ref());
        match self.joinable(load, now) {
            Some(result) => Join::Joined(result),
            None => Join::Started(self.start(keys, key, now, true, |state| &mut state.load)),
        }
    }

    /// Registers a refresh, unless the key is being refreshed or loaded already.
    pub(super) fn begin_refresh(self: &Arc<Self>, key: &Key) -> Option<OpGuard<V>> {
        let mut keys = self.lock(key);
        let state = keys.states.get(key);
        if state.is_some_and(|state| state.refresh.is_some() || state.load.is_some()) {
            return None;
        }
        let op = self.register(&mut keys, key, true);
        if let Some(state) = keys.states.get_mut(key) {
            state.refresh = Some(op.id);
        }
        Some(self.guard(op))
    }

    /// The result of a read or load in flight, if a caller may join it: it began after the last flush and, while there
    /// is no proof that no message was missed, less than `max_staleness` ago (rule 5).
    fn joinable<T>(&self, flight: Option<&Joinable<T>>, now: Tick) -> Option<SharedResult<T>> {
        let flight = flight?;
        let is_current = flight.generation == self.freshness.generation();
        let is_recent = || flight.began >= self.freshness.joinable_from(now);
        let may_join = is_current
            && (is_recent() || self.freshness.is_live() || without(Rule::NoUnprovenJoins));
        may_join.then(|| flight.result.clone())
    }

    /// Begins an operation that others join, in its `place` in the state of its key.
    fn start<T>(
        self: &Arc<Self>,
        mut keys: MutexGuard<'_, Keys<V>>,
        key: &Key,
        now: Tick,
        is_load: bool,
        place: impl FnOnce(&mut KeyState<V>) -> &mut Option<Joinable<T>>,
    ) -> Started<V, T> {
        let op = self.register(&mut keys, key, is_load);
        let (sender, result) = shared_result();
        let flight = Joinable {
            id: op.id,
            generation: op.generation,
            began: now,
            result: result.clone(),
        };
        let state = keys.states.get_mut(key);
        let former = state.and_then(|state| place(state).replace(flight));
        drop(keys);
        drop(former);
        Started {
            op: self.guard(op),
            sender,
            result,
        }
    }

    /// Registers an operation, before it sends anything (rule 3).
    fn register(&self, keys: &mut Keys<V>, key: &Key, is_load: bool) -> Op {
        // The generation first: an operation with an old one and a new epoch stores nothing, which is safe.
        let (generation, epoch) = (self.freshness.generation(), self.freshness.epoch());
        let id = keys.next;
        keys.next += 1;
        match keys.states.get_mut(key) {
            Some(state) => state.begin(generation),
            None => {
                let mut state = KeyState::new();
                state.begin(generation);
                keys.states.insert(key.clone(), state);
            }
        }
        Op {
            key: key.clone(),
            id,
            is_load,
            generation,
            epoch,
        }
    }

    fn guard(self: &Arc<Self>, op: Op) -> OpGuard<V> {
        let in_flight = Arc::clone(self);
        OpGuard { in_flight, op }
    }

    /// The state of a key goes with its last operation.
    fn end(&self, op: &Op) {
        let mut keys = self.lock(&op.key);
        let Some((is_last, ended)) = keys.states.get_mut(&op.key).map(|state| state.end(op.id))
        else {
            return;
        };
        let state = if is_last {
            keys.states.remove_entry(&op.key)
        } else {
            None
        };
        drop(keys);
        drop((ended, state));
    }

    /// Applies a change of a key that the lane has issued, see [`KeyState::raise`], and detaches what is in flight.
    pub(super) fn raise(&self, key: &str, ver: u64, generation: u64) {
        self.detach(key, |state, next| {
            state.raise(ver, generation, self.freshness.issued(), next);
        });
    }

    /// Applies a change of a key whose version is unknown, see [`KeyState::bar`], and detaches what is in flight.
    pub(super) fn bar(&self, key: &str) {
        self.detach(key, KeyState::bar);
    }

    /// A value that was not stored is handed out, see [`KeyState::hand_out_unstored`]. Detaches what is in flight.
    pub(super) fn hand_out_unstored(&self, op: &Op, ver: u64, generation: u64) {
        self.detach(&op.key, |state, next| {
            state.hand_out_unstored(op, ver, generation, self.freshness.issued(), next);
        });
    }

    /// Rules 3 and 4 in one critical section. `change` is given the number of the next operation.
    fn detach(&self, key: &str, change: impl FnOnce(&mut KeyState<V>, u64)) {
        let mut keys = self.lock(key);
        let next = keys.next;
        let Some(state) = keys.states.get_mut(key) else {
            return;
        };
        change(state, next);
        if without(Rule::Detach) {
            return;
        }
        let (flights, waiters) = state.detach();
        drop(keys);
        drop(flights);
        notify(waiters, key);
    }

    /// Whether an operation may store a value. It may change at any time before [`reveal`](Self::reveal).
    pub(super) fn may_store(&self, op: &Op, fresh: &Fresh<V>) -> bool {
        let keys = self.lock(&op.key);
        let state = keys.states.get(&op.key);
        state.is_some_and(|state| self.allows(state, op, fresh))
    }

    /// Makes a stored value visible, if it still may be; then nothing older may (rule 3).
    pub(super) fn reveal(&self, op: &Op, fresh: &Fresh<V>) -> bool {
        let mut keys = self.lock(&op.key);
        let state = keys.states.get_mut(&op.key);
        let Some(state) = state.filter(|state| self.allows(state, op, fresh)) else {
            return false;
        };
        // Even if L1 has no room for it.
        let older = state.hand_out(op, fresh.ver);
        fresh.reveal(op.generation);
        drop(keys);
        drop(older);
        true
    }

    fn allows(&self, state: &KeyState<V>, op: &Op, fresh: &Fresh<V>) -> bool {
        let is_of_epoch = fresh.epoch == op.epoch || without(Rule::Epochs);
        state.may_store(op, fresh.ver, self.freshness.issued())
            && is_of_epoch
            && self.is_current(op)
    }

    /// Whether nothing was flushed since an operation began.
    pub(super) fn is_current(&self, op: &Op) -> bool {
        op.generation == self.freshness.generation()
    }

    /// Has `waiter` notified, once, when the lease ends that another instance has on an operation's key.
    pub(super) fn await_lease(&self, op: &Op, waiter: &Arc<LeaseWaiter>) {
        if let Some(state) = self.lock(&op.key).states.get_mut(&op.key) {
            state.add_waiter(waiter);
        }
    }

    /// Notifies those that wait for the lease on a key.
    pub(super) fn lease_ended(&self, key: &str) {
        let waiters = (self.lock(key).states.get_mut(key)).map(KeyState::take_waiters);
        notify(waiters.unwrap_or_default(), key);
    }

    /// Whether nothing is under way, and no state was left behind.
    #[cfg(all(test, larder_interleavings))]
    pub(super) fn is_idle(&self) -> bool {
        self.shards.iter().all(|keys| lock(keys).states.is_empty())
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the length"
    )]
    fn lock(&self, key: &str) -> MutexGuard<'_, Keys<V>> {
        let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[shard])
    }
}

fn notify(waiters: Vec<Arc<LeaseWaiter>>, key: &str) {
    for waiter in waiters {
        waiter.end(key);
    }
}
