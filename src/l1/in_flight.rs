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
use std::mem;
use std::ops::Deref;
use std::sync::Arc;

use super::hasher::{Hasher, hasher};
use super::sync::{Mutex, MutexGuard, SHARDS, lock};
use super::{Fresh, Freshness, LeaseWaiter, Slot};
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::error::LoadError;
use crate::key::Key;
use crate::shared_result::{ResultSender, SharedResult, shared_result};
use crate::source::Source;
use crate::vocabulary::Want;

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

/// All that is under way.
pub(crate) struct InFlight<V> {
    shards: Box<[Shard<V>]>,
    hasher: Hasher,
    liveness: Arc<Freshness>,
}

/// Some of the keys, nearly always one of them at a time: that lies where the lock does, for what an operation
/// writes to has to come from another core each time, and costs more than what is done with it. For the same
/// reason no two shards have a cache line in common, or two that are fetched together.
#[repr(align(128))]
struct Shard<V>(Mutex<Keys<V>>);

/// In this order, so that nothing but the first key is written to as long as there is no other.
#[repr(C)]
struct Keys<V> {
    /// The number of the next operation.
    next: u64,
    first: Option<(Key, KeyState<V>)>,
    others: HashMap<Key, KeyState<V>, Hasher>,
}

struct KeyState<V> {
    /// The number of its first operation. By that its operations find it, at less cost than by the key.
    id: u64,
    /// Operations under way; the state goes with the last.
    ops: usize,
    /// The generation that the floor belongs to: versions do not compare across epochs.
    generation: u64,
    /// The oldest version that may still be stored.
    floor: u64,
    /// What most operations have nothing to do with.
    rare: Option<Box<Rare<V>>>,
}

struct Rare<V> {
    /// Operations with a lower number may store nothing at all.
    barred_below: u64,
    read: Option<Flight<ReadOutcome<V>>>,
    load: Option<Flight<LoadOutcome<V>>>,
    refresh: Option<u64>,
    /// Who waits for another instance's lease on the key to end.
    waiting: Vec<Arc<LeaseWaiter>>,
}

struct Flight<T> {
    id: u64,
    generation: u64,
    began: Tick,
    outcome: SharedResult<T>,
}

/// The result of asking for a read.
pub(crate) enum Reading<'a, V> {
    /// Nothing was under way: read, as this operation. Nobody can join that, so it costs no more than it must.
    Alone(Begun<V, &'a InFlight<V>>),
    /// One is that is shared: wait for it.
    Under(SharedResult<ReadOutcome<V>>),
    /// Something else was: run one that is shared, as this operation.
    Lead(Joinable<V, ReadOutcome<V>>),
}

/// The result of asking for a load.
pub(crate) enum Joined<V> {
    /// One is under way: wait for it.
    Under(SharedResult<LoadOutcome<V>>),
    /// None was: run it, as this operation.
    Lead(Joinable<V, LoadOutcome<V>>),
}

/// An operation that others may join from now on until it ends.
pub(crate) struct Joinable<V, T> {
    pub(crate) op: Begun<V>,
    pub(crate) teller: ResultSender<T>,
    pub(crate) outcome: SharedResult<T>,
}

/// An operation on one key, under way for as long as this lives.
///
/// What happens to the key meanwhile is held against it. Who waits in place borrows the flights: a count of owners
/// would be written to by all cores.
pub(crate) struct Begun<V, F: Deref<Target = InFlight<V>> = Arc<InFlight<V>>> {
    flights: F,
    op: Op,
}

/// What an operation goes by.
pub(crate) struct Op {
    key: Key,
    shard: usize,
    id: u64,
    /// The number of its key's state.
    state: u64,
    is_flight: bool,
    generation: u64,
    epoch: u64,
}

impl<V> InFlight<V> {
    pub(crate) fn new(liveness: &Arc<Freshness>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::new()).collect(),
            hasher: hasher(),
            liveness: Arc::clone(liveness),
        }
    }

    /// Registers an operation, before it sends anything.
    pub(crate) fn begin(&self, key: &Key) -> Begun<V, &Self> {
        let op = self.registered(key);
        Begun { flights: self, op }
    }

    /// The same for one that goes on elsewhere.
    pub(crate) fn begin_owned(self: &Arc<Self>, key: &Key) -> Begun<V> {
        self.owned(self.registered(key))
    }

    /// Joins the read under way on a key, or begins one: one to join, if anything else is under way on the key.
    ///
    /// Neither this nor [`lead`](Self::lead) joins one that began before a flush, nor, when nobody knows
    /// what messages were missed since, one that began before `joinable_from`.
    pub(crate) fn read(
        self: &Arc<Self>,
        key: &Key,
        now: Tick,
        joinable_from: Tick,
    ) -> Reading<'_, V> {
        let shard = self.shard_of(key);
        let mut keys = self.keys(shard);
        let Some(state) = keys.get(key) else {
            let op = self.register(shard, &mut keys, key, false);
            return Reading::Alone(Begun { flights: self, op });
        };
        if let Some(flight) = state.rare.as_ref().and_then(|rare| rare.read.as_ref())
            && self.joinable(flight, joinable_from)
        {
            return Reading::Under(flight.outcome.clone());
        }
        let op = self.register(shard, &mut keys, key, false);
        Reading::Lead(self.joined(op, keys, now, |rare| &mut rare.read))
    }

    /// Joins the load under way on a key, or begins one to join.
    pub(crate) fn lead(self: &Arc<Self>, key: &Key, now: Tick, joinable_from: Tick) -> Joined<V> {
        let shard = self.shard_of(key);
        let mut keys = self.keys(shard);
        let rare = keys.get(key).and_then(|state| state.rare.as_ref());
        if let Some(flight) = rare.and_then(|rare| rare.load.as_ref())
            && self.joinable(flight, joinable_from)
        {
            return Joined::Under(flight.outcome.clone());
        }
        let op = self.register(shard, &mut keys, key, true);
        Joined::Lead(self.joined(op, keys, now, |rare| &mut rare.load))
    }

    /// Makes an operation the one that others join, in its place on its key.
    fn joined<T>(
        self: &Arc<Self>,
        op: Op,
        mut keys: MutexGuard<'_, Keys<V>>,
        began: Tick,
        place: impl FnOnce(&mut Rare<V>) -> &mut Option<Flight<T>>,
    ) -> Joinable<V, T> {
        let (teller, outcome) = shared_result();
        let flight = Flight {
            id: op.id,
            generation: op.generation,
            began,
            outcome: outcome.clone(),
        };
        let state = keys.of(&op);
        let former = state.and_then(|state| place(state.rare()).replace(flight));
        drop(keys);
        drop(former);
        Joinable {
            op: self.owned(op),
            teller,
            outcome,
        }
    }

    /// Registers a refresh, unless the key is being refreshed or loaded already.
    pub(crate) fn refresh(self: &Arc<Self>, key: &Key) -> Option<Begun<V>> {
        let shard = self.shard_of(key);
        let mut keys = self.keys(shard);
        let rare = keys.get(key).and_then(|state| state.rare.as_ref());
        if rare.is_some_and(|rare| rare.refresh.is_some() || rare.load.is_some()) {
            return None;
        }
        let op = self.register(shard, &mut keys, key, true);
        if let Some(state) = keys.get(key) {
            state.rare().refresh = Some(op.id);
        }
        Some(self.owned(op))
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
        self.detach(key, |state, next| state.rare().barred_below = next);
    }

    /// Has it told, once, when the lease ends that another instance has on an operation's key.
    pub(crate) fn await_lease(&self, op: &Op, awaited: &Arc<LeaseWaiter>) {
        let mut keys = self.keys(op.shard);
        let Some(state) = keys.of(op) else {
            return;
        };
        let waiting = &mut state.rare().waiting;
        if !waiting.iter().any(|one| Arc::ptr_eq(one, awaited)) {
            waiting.push(Arc::clone(awaited));
        }
    }

    /// A lease on a key has ended.
    pub(crate) fn lease_ended(&self, key: &str) {
        let mut keys = self.keys(self.shard_of(key));
        let rare = keys.get(key).and_then(|state| state.rare.as_mut());
        let waiting = rare.map(|rare| mem::take(&mut rare.waiting));
        drop(keys);
        tell(waiting.unwrap_or_default(), key);
    }

    /// The change is told the number of the next operation.
    fn detach(&self, key: &str, change: impl FnOnce(&mut KeyState<V>, u64)) {
        let mut keys = self.keys(self.shard_of(key));
        let next = keys.next;
        let Some(state) = keys.get(key) else {
            return;
        };
        change(state, next);
        if without(Rule::Detach) {
            return;
        }
        let detached = (state.rare.as_mut()).map(|rare| {
            let flights = (rare.read.take(), rare.load.take(), rare.refresh.take());
            (flights, mem::take(&mut rare.waiting))
        });
        drop(keys);
        if let Some((_flights, waiting)) = detached {
            // What happens to a key ends its lease, too.
            tell(waiting, key);
        }
    }

    /// Whether what was known when an operation began still is, with nothing flushed since.
    pub(crate) fn is_current(&self, op: &Op) -> bool {
        op.generation == self.liveness.generation()
    }

    /// Whether a value may go into L1.
    pub(super) fn may_store(&self, op: &Op, fresh: &Fresh<V>) -> bool {
        let mut keys = self.keys(op.shard);
        let state = keys.of(op);
        state.is_some_and(|state| self.allowed(op, state, fresh))
    }

    /// Makes a stored entry visible, if it still may be; then nothing older may.
    pub(super) fn reveal(&self, op: &Op, fresh: &Fresh<V>) -> bool {
        let mut keys = self.keys(op.shard);
        let state = keys.of(op);
        let Some(state) = state.filter(|state| self.allowed(op, state, fresh)) else {
            return false;
        };
        state.floor = state.floor.max(fresh.ver);
        // It will be handed out, even if L1 has no room for it: nobody joins a read that may be older.
        let rare = state.rare.as_mut();
        let former = rare.and_then(|rare| rare.read.take_if(|read| read.id != op.id));
        fresh.reveal(op.generation);
        drop(keys);
        drop(former);
        true
    }

    fn allowed(&self, op: &Op, state: &KeyState<V>, fresh: &Fresh<V>) -> bool {
        let rare = state.rare.as_ref();
        // A detached flight began before what detached it, whatever version it was given since.
        let attached = !op.is_flight || rare.is_some_and(|rare| rare.has(op.id));
        let barred = rare.is_some_and(|rare| op.id < rare.barred_below);
        let unharmed = !barred && fresh.ver >= state.floor;
        let of_now = fresh.epoch == op.epoch || without(Rule::Epochs);
        attached && (unharmed || without(Rule::Floors)) && of_now && self.is_current(op)
    }

    /// Whether nothing is under way, and no key's state was left behind.
    #[cfg(all(test, larder_interleavings))]
    pub(crate) fn is_idle(&self) -> bool {
        let mut shards = self.shards.iter().map(|shard| lock(&shard.0));
        shards.all(|keys| keys.first.is_none() && keys.others.is_empty())
    }

    fn shard_of(&self, key: &str) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index was taken modulo the length"
    )]
    fn keys(&self, shard: usize) -> MutexGuard<'_, Keys<V>> {
        lock(&self.shards[shard].0)
    }

    fn joinable<F>(&self, flight: &Flight<F>, joinable_from: Tick) -> bool {
        flight.generation == self.liveness.generation()
            && (flight.began >= joinable_from
                || self.liveness.is_live()
                || without(Rule::NoUnprovenJoins))
    }

    fn registered(&self, key: &Key) -> Op {
        let shard = self.shard_of(key);
        self.register(shard, &mut self.keys(shard), key, false)
    }

    fn register(&self, shard: usize, keys: &mut Keys<V>, key: &Key, is_flight: bool) -> Op {
        // The generation first: an operation with an old one and a new epoch stores nothing, which is safe.
        let (generation, epoch) = (self.liveness.generation(), self.liveness.epoch());
        let (id, state) = keys.begin(key);
        state.ops += 1;
        if state.generation != generation {
            (state.generation, state.floor) = (generation, 0);
        }
        Op {
            key: key.clone(),
            shard,
            id,
            state: state.id,
            is_flight,
            generation,
            epoch,
        }
    }

    fn owned(self: &Arc<Self>, op: Op) -> Begun<V> {
        let flights = Arc::clone(self);
        Begun { flights, op }
    }

    fn end(&self, op: &Op) {
        let mut keys = self.keys(op.shard);
        let Some(state) = keys.of(op) else {
            return;
        };
        state.ops -= 1;
        let is_last = state.ops == 0;
        let ended = state.rare.as_mut().map(|rare| rare.end(op.id));
        let state = if is_last { keys.remove(op) } else { None };
        drop(keys);
        drop((ended, state));
    }
}

fn tell(waiting: Vec<Arc<LeaseWaiter>>, key: &str) {
    for one in waiting {
        one.end(key);
    }
}

impl<V> Shard<V> {
    fn new() -> Self {
        Self(Mutex::new(Keys {
            next: 0,
            first: None,
            others: HashMap::with_hasher(hasher()),
        }))
    }
}

impl<V> Keys<V> {
    fn get(&mut self, key: &str) -> Option<&mut KeyState<V>> {
        match &mut self.first {
            Some((first, state)) if **first == *key => Some(state),
            _ => self.others.get_mut(key),
        }
    }

    /// The state of an operation under way.
    fn of(&mut self, op: &Op) -> Option<&mut KeyState<V>> {
        match &mut self.first {
            Some((_, state)) if state.id == op.state => Some(state),
            _ => self.others.get_mut(&op.key),
        }
    }

    /// Numbers an operation, and finds or makes the state of its key.
    fn begin(&mut self, key: &Key) -> (u64, &mut KeyState<V>) {
        let id = self.next;
        self.next += 1;
        if self.first.is_none() && !self.others.contains_key(key) {
            let (_, state) = self.first.insert((key.clone(), KeyState::new(id)));
            return (id, state);
        }
        let state = match &mut self.first {
            Some((first, state)) if first == key => state,
            _ => (self.others.entry(key.clone())).or_insert_with(|| KeyState::new(id)),
        };
        (id, state)
    }

    fn remove(&mut self, op: &Op) -> Option<(Key, KeyState<V>)> {
        let first = self.first.take_if(|(_, state)| state.id == op.state);
        first.or_else(|| self.others.remove_entry(&op.key))
    }
}

impl<V> KeyState<V> {
    fn new(id: u64) -> Self {
        Self {
            id,
            ops: 0,
            generation: 0,
            floor: 0,
            rare: None,
        }
    }

    fn rare(&mut self) -> &mut Rare<V> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                barred_below: 0,
                read: None,
                load: None,
                refresh: None,
                waiting: Vec::new(),
            })
        })
    }
}

impl<V> Rare<V> {
    /// Whether a flight is still the one that its key's callers join.
    fn has(&self, flight: u64) -> bool {
        self.refresh == Some(flight) || self.load.as_ref().is_some_and(|load| load.id == flight)
    }

    /// Nobody joins an operation that has ended. What is left of it is to be dropped.
    fn end(&mut self, op: u64) -> impl Sized + use<V> {
        self.refresh.take_if(|id| *id == op);
        let read = self.read.take_if(|read| read.id == op);
        (read, self.load.take_if(|load| load.id == op))
    }
}

impl Op {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The epoch that was known when this began.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl<V, F: Deref<Target = InFlight<V>>> Deref for Begun<V, F> {
    type Target = Op;

    fn deref(&self) -> &Op {
        &self.op
    }
}

impl<V, F: Deref<Target = InFlight<V>>> Drop for Begun<V, F> {
    fn drop(&mut self) {
        self.flights.end(&self.op);
    }
}

#[cfg(all(test, not(larder_interleavings)))]
mod tests {
    use std::collections::HashMap;

    use super::{Keys, Op, Shard};
    use crate::key::Key;
    use crate::lock::lock;

    /// The first one on a key.
    fn begin(keys: &mut Keys<()>, key: &Key) -> Op {
        let (id, state) = keys.begin(key);
        assert_eq!(state.id, id, "a state was left behind");
        Op {
            key: key.clone(),
            shard: 0,
            id,
            state: id,
            is_flight: false,
            generation: 0,
            epoch: 0,
        }
    }

    /// Whichever of some keys lies where, and whichever goes first.
    #[test]
    fn keys_of_a_shard_have_a_state_each_from_first_to_last() {
        let names: [Key; 3] = ["a", "b", "c"].map(Key::from);
        for mut steps in 0..names.len().pow(8) {
            let shard = Shard::<()>::new();
            let (mut keys, mut ops) = (lock(&shard.0), HashMap::new());
            for _ in 0..8 {
                let name = &names[steps % names.len()];
                steps /= names.len();
                if let Some(op) = ops.remove(name) {
                    let (key, state) = keys.remove(&op).unwrap();
                    assert_eq!((&key, state.id), (name, op.id));
                } else {
                    ops.insert(name.clone(), begin(&mut keys, name));
                }
                for name in &names {
                    let op = ops.get(name);
                    let id = op.map(|op| op.id);
                    assert_eq!(keys.get(name).map(|state| state.id), id);
                    if let (Some(op), Some(id)) = (op, id) {
                        assert_eq!(keys.of(op).map(|state| state.id), Some(id));
                        assert_eq!(keys.begin(name).1.id, id);
                    }
                }
            }
        }
    }
}
