//! The operations under way in this instance, key by key: those that may store a value in L1, and the reads and loads
//! that callers share (single flight). A change of a key raises its floor and detaches its flights in the critical
//! section in which an operation would make its value visible (rules 3: floors, 4: detach and 11: versions are
//! compared). No lock is held while a future is polled, a value is dropped or moka is called.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

use super::Record;
use super::freshness::{Caller, Freshness};
use super::hasher::{Hasher, hasher};
use super::key_state::{GenerationVersion, Joinable, KeyState, LeaseWaiter, OpKind};
use super::numbers::{Generation, OpNumber};
use super::outcome::{LoadOutcome, ReadOutcome};
use super::sync::{Guard, Mutex, SHARDS, lock};
use crate::ablation::{Rule, without};
use crate::key::Key;
use crate::util::shared_result::{ResultSender, SharedResult, shared_result};
use crate::vocabulary::Version;

/// How a caller takes part in a read.
pub(crate) enum JoinRead {
    /// Nothing was under way on the key. The caller reads in place, as this operation. No other caller can join it, so
    /// there is no result to share and no task.
    Alone(Op),
    /// Something was under way: callers share a read from now on.
    Shared(Join<ReadOutcome>),
}

/// How a caller takes part in a read or load that callers share.
pub(crate) struct Join<T> {
    /// The caller waits for it.
    pub(crate) result: SharedResult<T>,
    /// If none was under way: the operation that the caller has begun, and the sender of its result. Others join it
    /// until it ends.
    pub(crate) begun: Option<(Op, ResultSender<T>)>,
}

/// How a caller takes part in a load or refresh.
pub(crate) type JoinLoad = Join<LoadOutcome>;

impl<T> Join<T> {
    fn joined(result: SharedResult<T>) -> Self {
        let begun = None;
        Self { result, begun }
    }
}

/// One operation on a key, a read, a load, a refresh or an insert: under way for as long as this lives.
pub(crate) struct Op {
    in_flight: Arc<InFlight>,
    pub(crate) key: Key,
    /// The hash of the key in the table of operations.
    hash: u64,
    number: OpNumber,
    kind: OpKind,
    /// The generation and the epoch that L1 knew when this began.
    generation: Generation,
    pub(super) epoch: u64,
}

impl Drop for Op {
    fn drop(&mut self) {
        self.in_flight.end(self);
    }
}

/// All that is under way in one instance.
pub(crate) struct InFlight {
    /// Each has a part of the keys.
    shards: Box<[Mutex<Shard>]>,
    hasher: Hasher,
    freshness: Arc<Freshness>,
    are_values_local: bool,
}

/// A read of L2 comes here four times and hashes its key once. With a `HashMap`, which hashes the key each time, a read
/// takes 3 % more instructions, and an insert 5 % more.
struct Shard {
    /// The number of the next operation.
    next_op: OpNumber,
    /// Of the keys with operations under way.
    states: HashTable<KeyState>,
}

impl Shard {
    fn get(&self, hash: u64, key: &str) -> Option<&KeyState> {
        self.states.find(hash, |state| *state.key == *key)
    }

    fn get_mut(&mut self, hash: u64, key: &str) -> Option<&mut KeyState> {
        self.states.find_mut(hash, |state| *state.key == *key)
    }
}

impl InFlight {
    pub(super) fn new(freshness: &Arc<Freshness>, are_values_local: bool) -> Self {
        let shard = |_| {
            Mutex::new(Shard {
                next_op: OpNumber::FIRST,
                states: HashTable::new(),
            })
        };
        Self {
            // Many, so that two threads seldom wait for each other: each look-up of L2 locks a shard four times.
            shards: (0..SHARDS).map(shard).collect(),
            hasher: hasher(),
            freshness: Arc::clone(freshness),
            are_values_local,
        }
    }

    /// Registers an operation on a key, before it sends anything (rule 3, floors).
    pub(crate) fn begin(self: &Arc<Self>, key: &Key) -> Op {
        let hash = self.hash(key);
        let (op, _) = self.register(&mut self.lock(hash), hash, key, OpKind::Other);
        op
    }

    /// The number of the next operation on a key: operations with a lower one began before.
    pub(crate) fn next_op_number(&self, key: &str) -> OpNumber {
        self.lock(self.hash(key)).next_op
    }

    /// Joins the read that is under way for a key, or begins one, which may rely on the proof if the caller has one.
    pub(crate) fn join_read(self: &Arc<Self>, key: &Key, caller: Caller) -> JoinRead {
        let hash = self.hash(key);
        let mut shard = self.lock(hash);
        // Most keys are read by one caller at a time: it needs no task and no channel.
        let Some(state) = shard.get(hash, key) else {
            let (op, _) = self.register(&mut shard, hash, key, OpKind::Other);
            return JoinRead::Alone(op);
        };
        JoinRead::Shared(match self.joinable(state.read.as_ref(), caller, false) {
            Some(result) => Join::joined(result),
            None => self.start(shard, (hash, key), caller, OpKind::Other, |it| &mut it.read),
        })
    }

    /// Joins the load that is under way for a key, or begins one. The `bool` is true if the joined load began too early:
    /// its number is below `since`, or a tag was invalidated since. Then its outcome may not be
    /// [usable](super::Outcome::is_usable_if_early). Such a load is joined only if the caller `accepts_early`.
    ///
    /// If each such caller loaded for itself, a key that takes long to load would be loaded again after each
    /// invalidation of whatever tag.
    pub(crate) fn join_load(
        self: &Arc<Self>,
        key: &Key,
        caller: Caller,
        since: OpNumber,
        accepts_early: bool,
    ) -> (JoinLoad, bool) {
        let hash = self.hash(key);
        let shard = self.lock(hash);
        let load = shard.get(hash, key).and_then(|state| state.load.as_ref());
        // Rule 22: a load with a lower number may have read the source before the write of the token.
        let in_time = load.filter(|load| load.op >= since);
        if let Some(result) = self.joinable(in_time, caller, false) {
            return (Join::joined(result), false);
        }
        if accepts_early && let Some(result) = self.joinable(load, caller, true) {
            return (Join::joined(result), true);
        }
        let begun = self.start(shard, (hash, key), caller, OpKind::Load, |it| &mut it.load);
        (begun, false)
    }

    /// Joins the refresh or load that is under way for a key, or begins a refresh. `None` if one is under way that the
    /// caller may not join.
    pub(crate) fn join_refresh(self: &Arc<Self>, key: &Key, caller: Caller) -> Option<JoinLoad> {
        let hash = self.hash(key);
        let shard = self.lock(hash);
        let state = shard.get(hash, key);
        let flight = state.and_then(|state| state.refresh.as_ref().or(state.load.as_ref()));
        if flight.is_some() {
            return self.joinable(flight, caller, false).map(Join::joined);
        }
        Some(self.start(shard, (hash, key), caller, OpKind::Load, |it| {
            &mut it.refresh
        }))
    }

    /// Whether a load or refresh of the key is under way that callers can join.
    pub(crate) fn is_loading(&self, key: &str) -> bool {
        let hash = self.hash(key);
        let shard = self.lock(hash);
        let state = shard.get(hash, key);
        state.is_some_and(|state| state.load.is_some() || state.refresh.is_some())
    }

    /// Whether a load or refresh is still the one of its key: nothing has changed the key, and nothing was flushed,
    /// since it began.
    pub(crate) fn is_attached(&self, op: &Op) -> bool {
        let shard = self.lock(op.hash);
        let state = shard.get(op.hash, &op.key);
        state.is_some_and(|state| state.is_attached(op.number)) && self.is_current(op)
    }

    /// The result of a read or load in flight, if a caller may join it: it began after the last flush and the last
    /// invalidation of a tag, as its value may have that tag (rule 20: tags). If the caller has no proof that no
    /// message was missed, the flight also began less than `max_staleness` ago, and relies on no proof (rule 5: no
    /// unproven joins). If it `accepts_early` ones, whatever tags were invalidated since it began.
    fn joinable<T>(
        &self,
        flight: Option<&Joinable<T>>,
        caller: Caller,
        accepts_early: bool,
    ) -> Option<SharedResult<T>> {
        let flight = flight?;
        // A caller that may not join a load begins another one. The first load has the lease, though both are of this
        // instance: the second load waits for it as for a load of another instance, for up to `lease_wait`.
        let is_in_time = accepts_early || flight.tag_changes == self.freshness.tag_changes();
        let is_current = flight.generation == self.freshness.generation();
        let is_proven = if without(Rule::ProofFirst) {
            self.freshness.is_live_at(caller.now)
        } else {
            caller.is_proven
        };
        let is_recent = flight.began >= self.freshness.joinable_from(caller.now);
        let is_checked = !flight.relies_on_proof || without(Rule::NoProvenFlights);
        let is_new_enough = is_recent && is_checked || without(Rule::NoUnprovenJoins);
        let may_join = is_in_time && is_current && (is_proven || is_new_enough);
        may_join.then(|| flight.result.clone())
    }

    /// The result of a load or refresh will rely on the proof that there is from here on: callers without a proof do
    /// not join it any more (rule 5: no unproven joins). To be called before the proof is looked at.
    pub(crate) fn rely_on_proof(&self, op: &Op) {
        let mut shard = self.lock(op.hash);
        if let Some(state) = shard.get_mut(op.hash, &op.key) {
            state.rely_on_proof(op.number);
        }
    }

    /// Begins an operation that others join, as the `flight` of its key.
    fn start<T>(
        self: &Arc<Self>,
        mut shard: Guard<'_, Shard>,
        (hash, key): (u64, &Key),
        caller: Caller,
        kind: OpKind,
        flight: impl FnOnce(&mut KeyState) -> &mut Option<Joinable<T>>,
    ) -> Join<T> {
        let (op, state) = self.register(&mut shard, hash, key, kind);
        let tag_changes = self.freshness.tag_changes();
        let (sender, result) = shared_result();
        // Before anything is loaded (rule 30: local values). A flush in between leaves the flight with a former generation.
        let loads_local = self.are_values_local && kind == OpKind::Load;
        let follows = loads_local.then(|| self.freshness.version_before_load().ver);
        // A flight that callers may not join any more is replaced. Those that wait for it keep its result.
        let former = flight(state).replace(Joinable {
            op: op.number,
            generation: op.generation,
            tag_changes,
            began: caller.now,
            relies_on_proof: caller.is_proven && kind != OpKind::Load,
            follows: follows.unwrap_or(0),
            result: result.clone(),
        });
        drop(shard);
        drop(former);
        let begun = Some((op, sender));
        Join { result, begun }
    }

    /// Registers an operation, before it sends anything (rule 3, floors).
    fn register<'s>(
        self: &Arc<Self>,
        shard: &'s mut Shard,
        hash: u64,
        key: &Key,
        kind: OpKind,
    ) -> (Op, &'s mut KeyState) {
        // The generation first: an operation with an old one and a new epoch stores nothing, which is safe.
        let (generation, epoch) = (self.freshness.generation(), self.freshness.epoch());
        let number = shard.next_op;
        shard.next_op = number.next();
        let is_it = |state: &KeyState| state.key == *key;
        let entry = (shard.states).entry(hash, is_it, |state| self.hash(&state.key));
        let state = entry.or_insert_with(|| KeyState::new(key)).into_mut();
        state.begin(generation);
        let op = Op {
            in_flight: Arc::clone(self),
            key: key.clone(),
            hash,
            number,
            kind,
            generation,
            epoch,
        };
        (op, state)
    }

    /// The state of a key goes with its last operation.
    fn end(&self, op: &Op) {
        let mut shard = self.lock(op.hash);
        let is_it = |state: &KeyState| state.key == op.key;
        let Ok(mut entry) = shard.states.find_entry(op.hash, is_it) else {
            debug_assert!(false, "a key has a state while an operation is under way");
            return;
        };
        let (is_last, ended) = entry.get_mut().end(op.number);
        if is_last {
            // A flight goes with its own operation, so none is left for callers to join.
            entry.remove();
        }
        drop(shard);
        drop(ended);
    }

    /// Applies a change of a key, see [`KeyState::change`], and detaches its flights.
    pub(super) fn change(&self, key: &str, change: Option<GenerationVersion>) {
        self.detach(key, change, |state, next_op| {
            state.change(change, self.freshness.issued(), next_op);
        });
    }

    /// A value that was not stored is handed out, see [`KeyState::raise_floor_for_unstored`]. Detaches the flights of its key.
    pub(super) fn raise_floor_for_unstored(&self, op: &Op, of: GenerationVersion) {
        self.detach(&op.key, None, |state, next_op| {
            state.raise_floor_for_unstored(op.number, of, self.freshness.issued(), next_op);
        });
    }

    /// Rules 3 and 4 in one critical section. `raise_floor` is given the number of the next operation. A `change` without a
    /// version detaches every flight.
    fn detach(
        &self,
        key: &str,
        change: Option<GenerationVersion>,
        raise_floor: impl FnOnce(&mut KeyState, OpNumber),
    ) {
        let hash = self.hash(key);
        let mut shard = self.lock(hash);
        let next_op = shard.next_op;
        let Some(state) = shard.get_mut(hash, key) else {
            return;
        };
        raise_floor(state, next_op);
        if without(Rule::Detach) {
            return;
        }
        // Without the lock: a value that is dropped, or a task that is woken, may come back to this shard.
        let (flights, waiters) = state.detach(change);
        drop(shard);
        drop(flights);
        notify(waiters, key);
    }

    /// As [`change`](Self::change), for all keys that begin with `prefix`. An operation that is registered meanwhile
    /// began after its key was changed in L2.
    pub(super) fn change_prefix(&self, prefix: &str, change: Option<GenerationVersion>) {
        let mut keys = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let under_way = shard.states.iter().map(|state| &state.key);
            keys.extend(under_way.filter(|key| key.starts_with(prefix)).cloned());
        }
        // In an order that does not depend on hashes, so that a simulated run can be repeated.
        keys.sort_unstable();
        for key in keys {
            self.change(&key, change);
        }
    }

    /// Whether an operation may store a value. It may change at any time before [`reveal`](Self::reveal).
    pub(super) fn may_store(&self, op: &Op, fresh: &Record) -> bool {
        let shard = self.lock(op.hash);
        let state = shard.get(op.hash, &op.key);
        state.is_some_and(|state| self.allows(state, op, fresh))
    }

    /// Makes a stored value visible, if it still may be; then nothing older may (rule 3, floors).
    pub(super) fn reveal(&self, op: &Op, fresh: &Record) -> bool {
        let mut shard = self.lock(op.hash);
        let state = shard.get_mut(op.hash, &op.key);
        let Some(state) = state.filter(|state| self.allows(state, op, fresh)) else {
            return false;
        };
        // Rule 3, in the critical section in which changes raise floors: either the change has raised the floor, and
        // the value was refused above; or the change finds it visible, and evicts it. Even if L1 has no room for it.
        let older = state.raise_floor_for_stored(op.number, fresh.version.ver);
        if self.are_values_local {
            state.bar_older(op.number);
        }
        fresh.reveal(op.generation);
        drop(shard);
        drop(older);
        true
    }

    fn allows(&self, state: &KeyState, op: &Op, fresh: &Record) -> bool {
        self.allows_version(state, op, fresh.version) && fresh.has_tags_of(op.generation)
    }

    fn allows_version(&self, state: &KeyState, op: &Op, version: Version) -> bool {
        let is_of_epoch = version.epoch == op.epoch || without(Rule::Epochs);
        let (ver, issued) = (version.ver, self.freshness.issued());
        state.may_store(op.number, op.kind, ver, issued) && is_of_epoch && self.is_current(op)
    }

    /// As [`may_store`](Self::may_store), for a value of this version that has no record yet.
    pub(super) fn may_store_version(&self, op: &Op, version: Version) -> bool {
        let shard = self.lock(op.hash);
        let state = shard.get(op.hash, &op.key);
        state.is_some_and(|state| self.allows_version(state, op, version))
    }

    /// Whether nothing was flushed since an operation began.
    pub(crate) fn is_current(&self, op: &Op) -> bool {
        let generation = self.freshness.generation();
        debug_assert!(op.generation <= generation, "generations only grow");
        op.generation == generation
    }

    /// Has `waiter` notified, once, when the lease ends that another instance has on an operation's key.
    pub(crate) fn await_lease(&self, op: &Op, waiter: &LeaseWaiter) {
        if let Some(state) = self.lock(op.hash).get_mut(op.hash, &op.key) {
            state.add_waiter(waiter);
        }
    }

    /// Notifies those that wait for the lease on a key.
    pub(crate) fn lease_ended(&self, key: &str) {
        let hash = self.hash(key);
        let waiters = (self.lock(hash).get_mut(hash, key)).map(KeyState::take_waiters);
        notify(waiters.unwrap_or_default(), key);
    }

    /// Whether nothing is under way, and no state was left behind.
    pub(crate) fn is_idle(&self) -> bool {
        let mut shards = self.shards.iter();
        shards.all(|shard| lock(shard).states.is_empty())
    }

    fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the length"
    )]
    fn lock(&self, hash: u64) -> Guard<'_, Shard> {
        // By other bits of the hash than those by which the table of a shard places a key.
        let shard = usize::try_from((hash >> 32) % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[shard])
    }
}

fn notify(waiters: Vec<LeaseWaiter>, key: &str) {
    for waiter in waiters {
        // It may wait no longer.
        let _ = waiter.send(key.into());
    }
}
