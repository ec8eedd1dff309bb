//! What is under way in this instance, key by key: the operations that may end in L1, and the reads
//! and loads that callers share.
//!
//! A message raises the floor of its key while operations on it are under way, and detaches its
//! flights, all under one lock; an operation stores under that same lock. A key without operations
//! takes no memory.
//!
//! Architecture invariant: no lock is held while a flight is polled, a value dropped or moka called.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::hasher::{Hasher, hasher};
use super::sync::{Mutex, MutexGuard, SHARDS, lock};
use super::{Fresh, Key, Liveness, Slot};
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::error::LoadError;
use crate::l2::Want;
use crate::source::Source;

/// How a read of L2 ended.
pub(crate) enum ReadOutcome<V> {
    /// With a value.
    Hit(Fresh<V>),
    /// L2 has none.
    Miss,
    /// L2 has something that cannot be read; what to ask for instead.
    Unreadable(Want),
    /// L2 was not asked, or did not answer.
    Unavailable,
}

impl<V> Clone for ReadOutcome<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Hit(fresh) => Self::Hit(fresh.clone()),
            Self::Miss => Self::Miss,
            Self::Unreadable(instead) => Self::Unreadable(*instead),
            Self::Unavailable => Self::Unavailable,
        }
    }
}

/// How a load ended, and who had the value in the end: nobody, if the loader of many keys knows no such key.
pub(crate) type LoadOutcome<V> = Result<Option<(Arc<Slot<V>>, Source)>, LoadError>;

type Read<V> = BoxFuture<'static, ReadOutcome<V>>;
type Load<V> = BoxFuture<'static, LoadOutcome<V>>;

/// Some of the keys. Its operations hold it and nothing else, as what all operations held would go from core to
/// core each time; and it shares no cache line with its neighbours.
#[repr(align(64))]
struct Shard<V> {
    keys: Mutex<Keys<V>>,
    liveness: Arc<Liveness>,
}

struct Keys<V> {
    states: HashMap<Key, KeyState<V>, Hasher>,
    /// The number of the next operation. Only those on the same key are compared.
    next: u64,
}

/// All that is under way.
pub(crate) struct Flights<V> {
    shards: Box<[Arc<Shard<V>>]>,
    hasher: Hasher,
}

struct KeyState<V> {
    /// Operations under way; the state goes with the last.
    ops: usize,
    /// The generation that the floor belongs to: versions do not compare across epochs.
    generation: u64,
    /// The oldest version that may still be stored.
    floor: u64,
    /// Operations with a lower number may store nothing at all.
    barred_below: u64,
    read: Option<Flight<WeakShared<Read<V>>>>,
    load: Option<Flight<Shared<Load<V>>>>,
    refresh: Option<u64>,
}

struct Flight<F> {
    id: u64,
    generation: u64,
    began: Tick,
    shared: F,
}

/// The result of asking for a read.
pub(crate) enum Reading<V> {
    /// Nothing was under way: read, as this operation. Nobody can join that, so it costs no more than it must.
    Alone(Op<V>),
    /// One that is shared with all who ask meanwhile: wait for it.
    Shared(Shared<Read<V>>),
}

/// The result of asking for a load.
pub(crate) enum Joined<V> {
    /// One is under way: wait for it.
    Under(Shared<Load<V>>),
    /// None was: run it, as this operation.
    Lead(Op<V>),
}

/// An operation under way on one key. Its floor counts what happens to the key while this lives.
pub(crate) struct Op<V> {
    shard: Arc<Shard<V>>,
    key: Key,
    id: u64,
    is_flight: bool,
    generation: u64,
    epoch: u64,
}

impl<V> Flights<V> {
    pub(crate) fn new(liveness: &Arc<Liveness>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::new(liveness)).collect(),
            hasher: hasher(),
        }
    }

    /// Registers an operation, before it sends anything.
    pub(crate) fn begin(&self, key: &Key) -> Op<V> {
        let shard = self.shard(key);
        shard.register(&mut shard.keys(), key, false)
    }

    /// Joins the read under way on a key, or starts one: one to join, if anything else is under way on the key.
    ///
    /// Neither this nor [`lead`](Self::lead) joins one that began before a flush, nor, when nobody knows
    /// what messages were missed since, one that began before `joinable_from`.
    pub(crate) fn read(
        &self,
        key: &Key,
        now: Tick,
        joinable_from: Tick,
        start: impl FnOnce(Op<V>) -> Read<V>,
    ) -> Reading<V> {
        let shard = self.shard(key);
        let mut keys = shard.keys();
        let Some(state) = keys.states.get(key) else {
            return Reading::Alone(shard.register(&mut keys, key, false));
        };
        if let Some(flight) = &state.read
            && shard.joinable(flight, joinable_from)
            && let Some(shared) = flight.shared.upgrade()
        {
            return Reading::Shared(shared);
        }
        let op = shard.register(&mut keys, key, false);
        let (id, generation) = (op.id, op.generation);
        let shared = start(op).shared();
        if let (Some(state), Some(weak)) = (keys.states.get_mut(key), shared.downgrade()) {
            state.read = Some(Flight {
                id,
                generation,
                began: now,
                shared: weak,
            });
        }
        Reading::Shared(shared)
    }

    /// Joins the load under way on a key, or makes the caller's `load` the one to join.
    pub(crate) fn lead(
        &self,
        key: &Key,
        now: Tick,
        joinable_from: Tick,
        load: impl FnOnce() -> Shared<Load<V>>,
    ) -> Joined<V> {
        let shard = self.shard(key);
        let mut keys = shard.keys();
        if let Some(flight) = keys.states.get(key).and_then(|state| state.load.as_ref())
            && shard.joinable(flight, joinable_from)
        {
            return Joined::Under(flight.shared.clone());
        }
        let op = shard.register(&mut keys, key, true);
        let flight = Flight {
            id: op.id,
            generation: op.generation,
            began: now,
            shared: load(),
        };
        let former = keys
            .states
            .get_mut(key)
            .and_then(|state| state.load.replace(flight));
        drop(keys);
        drop(former);
        Joined::Lead(op)
    }

    /// Registers a refresh, unless the key is being refreshed or loaded already.
    pub(crate) fn refresh(&self, key: &Key) -> Option<Op<V>> {
        let shard = self.shard(key);
        let mut keys = shard.keys();
        if keys
            .states
            .get(key)
            .is_some_and(|state| state.refresh.is_some() || state.load.is_some())
        {
            return None;
        }
        let op = shard.register(&mut keys, key, true);
        if let Some(state) = keys.states.get_mut(key) {
            state.refresh = Some(op.id);
        }
        Some(op)
    }

    /// Applies what happened to a key: operations under way store nothing older than `ver` from now on,
    /// and nobody joins its flights any more.
    pub(crate) fn raise(&self, key: &str, ver: u64, generation: u64) {
        self.detach(key, |state, _| {
            if state.generation == generation {
                state.floor = state.floor.max(ver);
            }
        });
    }

    /// As [`raise`](Self::raise), where no version says what is old: operations under way store nothing.
    pub(crate) fn bar(&self, key: &str) {
        self.detach(key, |state, next| state.barred_below = next);
    }

    fn detach(&self, key: &str, change: impl FnOnce(&mut KeyState<V>, u64)) {
        let mut keys = self.shard(key).keys();
        let next = keys.next;
        let Some(state) = keys.states.get_mut(key) else {
            return;
        };
        change(state, next);
        if without(Rule::Detach) {
            return;
        }
        let detached = (state.read.take(), state.load.take(), state.refresh.take());
        drop(keys);
        drop(detached);
    }

    /// Whether nothing is under way, and no key's state was left behind.
    #[cfg(all(test, larder_interleavings))]
    pub(crate) fn is_idle(&self) -> bool {
        let mut shards = self.shards.iter();
        shards.all(|shard| shard.keys().states.is_empty())
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the length"
    )]
    fn shard(&self, key: &str) -> &Arc<Shard<V>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        &self.shards[hash % self.shards.len()]
    }
}

impl<V> Shard<V> {
    fn new(liveness: &Arc<Liveness>) -> Arc<Self> {
        let keys = Keys {
            states: HashMap::with_hasher(hasher()),
            next: 0,
        };
        Arc::new(Self {
            keys: Mutex::new(keys),
            liveness: Arc::clone(liveness),
        })
    }

    fn keys(&self) -> MutexGuard<'_, Keys<V>> {
        lock(&self.keys)
    }

    fn joinable<F>(&self, flight: &Flight<F>, joinable_from: Tick) -> bool {
        flight.generation == self.liveness.generation()
            && (flight.began >= joinable_from
                || self.liveness.is_live()
                || without(Rule::NoDeafJoins))
    }

    fn register(self: &Arc<Self>, keys: &mut Keys<V>, key: &Key, is_flight: bool) -> Op<V> {
        // The generation first: an operation with an old one and a new epoch stores nothing, which is safe.
        let (generation, epoch) = (self.liveness.generation(), self.liveness.epoch());
        let id = keys.next;
        keys.next += 1;
        let state = keys
            .states
            .entry(Arc::clone(key))
            .or_insert_with(KeyState::new);
        state.ops += 1;
        if state.generation != generation {
            (state.generation, state.floor) = (generation, 0);
        }
        Op {
            shard: Arc::clone(self),
            key: Arc::clone(key),
            id,
            is_flight,
            generation,
            epoch,
        }
    }
}

impl<V> KeyState<V> {
    fn new() -> Self {
        Self {
            ops: 0,
            generation: 0,
            floor: 0,
            barred_below: 0,
            read: None,
            load: None,
            refresh: None,
        }
    }

    /// Whether a flight is still the one that its key's callers join.
    fn has(&self, flight: u64) -> bool {
        self.refresh == Some(flight) || self.load.as_ref().is_some_and(|load| load.id == flight)
    }
}

impl<V> Op<V> {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The epoch that was known when this began.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether what was known when this began still is, with nothing flushed since.
    pub(crate) fn is_current(&self) -> bool {
        self.generation == self.shard.liveness.generation()
    }

    /// Whether a value may go into L1.
    pub(super) fn may_store(&self, fresh: &Fresh<V>) -> bool {
        let keys = self.shard.keys();
        let state = keys.states.get(&self.key);
        state.is_some_and(|state| self.allowed(state, fresh))
    }

    /// Makes a stored entry visible, if it still may be; then nothing older may.
    pub(super) fn reveal(&self, fresh: &Fresh<V>) -> bool {
        let mut keys = self.shard.keys();
        let state = keys.states.get_mut(&self.key);
        let Some(state) = state.filter(|state| self.allowed(state, fresh)) else {
            return false;
        };
        state.floor = state.floor.max(fresh.ver);
        // It will be handed out, even if L1 has no room for it: nobody joins a read that may be older.
        let former = state.read.take_if(|read| read.id != self.id);
        fresh.reveal(self.generation);
        drop(keys);
        drop(former);
        true
    }

    fn allowed(&self, state: &KeyState<V>, fresh: &Fresh<V>) -> bool {
        // A detached flight began before what detached it, whatever version it was given since.
        let attached = !self.is_flight || state.has(self.id);
        let unharmed = self.id >= state.barred_below && fresh.ver >= state.floor;
        let of_now = fresh.epoch == self.epoch || without(Rule::Epochs);
        attached && (unharmed || without(Rule::Floors)) && of_now && self.is_current()
    }
}

impl<V> Drop for Op<V> {
    fn drop(&mut self) {
        let mut keys = self.shard.keys();
        let Some(state) = keys.states.get_mut(&self.key) else {
            return;
        };
        state.ops -= 1;
        state.refresh.take_if(|id| *id == self.id);
        state.read.take_if(|read| read.id == self.id);
        let ended = state.load.take_if(|load| load.id == self.id);
        let state = if state.ops == 0 {
            keys.states.remove(&self.key)
        } else {
            None
        };
        drop(keys);
        drop((ended, state));
    }
}
