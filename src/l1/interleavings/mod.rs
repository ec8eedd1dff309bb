//! L1 in every order in which a few threads can take their steps.
//!
//! loom runs each test again and again, each time in another order, until there is none left that
//! interrupts a thread more than [`PREEMPTIONS`] times. Run with
//! `sh tests/proof.sh interleavings`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a step that fails ends the test"
)]

mod coherence;
mod freshness;
mod pairs;
mod proof_first;
mod single_flight;
mod stand_ins;

pub(super) use self::stand_ins::{ArcSlot, Policy};

use std::sync::Arc;
use std::time::Duration;

use loom::sync::Mutex;
use loom::thread::{self, JoinHandle};

use super::{
    Join, L1, LoadOutcome, Op, OpNumber, ProofStart, Record, RecordHead, SharedRecord, Tags,
};
use crate::clock::{Clock, Tick};
use crate::key::Key;
use crate::options::Options;
use crate::settings::Settings;
use crate::vocabulary::{AnyValue, L1Capacity, PartitionClock, Value, Version};

const KEY: &str = "k";
/// The tag that some values have.
const TAG: &str = "t";
/// The epoch that an instance knows at first, and the one after it.
const EPOCH: u64 = 1;
const NEXT_EPOCH: u64 = 2;

/// How long a proof holds.
const BOUND: u64 = 10;

/// Enough to fail for each line that was broken on purpose. `LOOM_MAX_PREEMPTIONS` sets another number; each one more
/// takes ten times as long.
const PREEMPTIONS: usize = 2;

/// What identifies a value: its epoch and its version.
type Stamp = (u64, u64);

fn version(epoch: u64, ver: u64) -> Version {
    Version { epoch, ver }
}

/// The L1 of one instance, and what L2 has under one key. Clones are the same.
#[derive(Clone)]
struct World {
    l1: Arc<L1>,
    clock: Clock,
    /// The present time; that of most tests stands still.
    now: Tick,
    key: Key,
    stored: Arc<Mutex<Stamp>>,
    /// The version with which the tag was invalidated last.
    tag_version: Arc<Mutex<u64>>,
}

/// Runs a test in every order.
fn in_every_order(test: impl Fn(World) + Send + Sync + 'static) {
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound.get_or_insert(PREEMPTIONS);
    explorer.check(move || {
        let world = World::new();
        test(world.clone());
        assert!(
            world.l1.in_flight.is_idle(),
            "what is over leaves nothing behind"
        );
    });
}

impl World {
    /// An instance that knows its epoch and receives every message; L2 has version 1.
    fn new() -> Self {
        let clock = Clock::manual();
        let now = clock.now();
        let set = Settings {
            l1_capacity: Some(L1Capacity::Entries(1)),
            max_staleness: Some(Duration::from_nanos(BOUND)),
            ..Settings::default()
        };
        let options = Options::new("test".to_owned(), &set, clock.clone());
        let world = Self {
            l1: Arc::new(L1::new(
                &options,
                options.l1_capacity.number(),
                None,
                None,
                &Arc::default(),
                false,
            )),
            clock,
            now,
            key: KEY.into(),
            stored: Arc::new(Mutex::new((EPOCH, 1))),
            tag_version: Arc::new(Mutex::new(0)),
        };
        world.l1.flush(EPOCH);
        world.prove(world.l1.freshness.begin_proof());
        world
    }

    /// So many nanoseconds pass.
    fn pass(&mut self, nanos: u64) {
        self.clock.advance(Duration::from_nanos(nanos));
        self.now = self.clock.now();
    }

    fn spawn<T: 'static>(&self, run: impl FnOnce(Self) -> T + 'static) -> JoinHandle<T> {
        let world = self.clone();
        thread::spawn(move || run(world))
    }

    fn begin(&self) -> Op {
        self.l1.in_flight.begin(&self.key)
    }

    /// What L2 answers: the stored value.
    fn ask(&self) -> Stamp {
        *self.stored.lock().unwrap()
    }

    /// Publishes what L2 has answered, if it is usable.
    fn publish(&self, op: &Op, stamp: Stamp) {
        let fresh = fresh(stamp);
        if self.l1.is_usable(op, &fresh, self.now) {
            self.l1.put_from_l2(op, &fresh);
        }
    }

    /// A look-up that goes to L2.
    fn read(&self) {
        let op = self.begin();
        self.publish(&op, self.ask());
    }

    /// A look-up of another key, of which L2 has version 1.
    fn read_other(&self, key: &str) {
        let op = self.l1.in_flight.begin(&key.into());
        self.l1
            .put_from_l2(&op, &entry(key, (EPOCH, 1), Tags::default()));
    }

    /// Another instance writes the key, and its message comes. Returns its version.
    fn hear_of_a_write(&self) -> u64 {
        let (epoch, ver) = self.write();
        self.l1.apply([KEY], version(epoch, ver));
        ver
    }

    /// The same, of all keys that begin like it.
    fn hear_of_a_prefix(&self) -> u64 {
        let (epoch, ver) = self.write();
        self.l1
            .apply_prefixes(&[(KEY, version(epoch, ver))], self.now);
        ver
    }

    /// A look-up of a value with the tag.
    fn read_tagged(&self) {
        let op = self.begin();
        let Some((stamp, tags)) = self.ask_with_tag() else {
            return;
        };
        let fresh = tagged(stamp, tags);
        if self.l1.is_usable(&op, &fresh, self.now) {
            self.l1.put_from_l2(&op, &fresh);
        }
    }

    /// L2's value, if the tag does not say that it is old. Asks for the tag version, unless the instance knows the tag.
    fn ask_with_tag(&self) -> Option<(Stamp, Tags)> {
        let stamp = self.ask();
        let tags = self.l1.register_tags(&[TAG.into()]);
        let state = tags.iter().next().unwrap();
        if !state.is_known(self.l1.freshness.generation()) {
            let tag_version = *self.tag_version.lock().unwrap();
            if tag_version > stamp.1 {
                return None;
            }
            state.learn(tag_version);
        }
        tags.allow(stamp.1).then_some((stamp, tags))
    }

    /// The tag is invalidated, and the message comes. Returns the version.
    fn hear_of_a_tag(&self) -> u64 {
        let (epoch, ver) = self.write_tag();
        self.l1.apply_tags([TAG], version(epoch, ver));
        ver
    }

    /// The same, but the message is lost, and the instance notices only that one was lost.
    fn miss_a_tag(&self) -> u64 {
        let (epoch, ver) = self.write_tag();
        self.l1.flush(epoch);
        ver
    }

    fn write_tag(&self) -> Stamp {
        let stored = self.stored.lock().unwrap();
        let (epoch, ver) = *stored;
        let mut tag_version = self.tag_version.lock().unwrap();
        *tag_version = ver.max(*tag_version) + 1;
        (epoch, *tag_version)
    }

    /// The same, but the message is lost, and the instance notices only that one was lost.
    fn miss_a_write(&self) -> u64 {
        let (epoch, ver) = self.write();
        self.l1.flush(epoch);
        ver
    }

    fn write(&self) -> Stamp {
        let mut stored = self.stored.lock().unwrap();
        stored.1 = self.after(stored.1);
        *stored
    }

    /// The next version, after those of the key and of the tag.
    fn after(&self, stored: u64) -> u64 {
        stored.max(*self.tag_version.lock().unwrap()) + 1
    }

    /// A load fills L2, unless another value has come since it was granted the lease.
    fn fill(&self, lease: Stamp) -> Option<Stamp> {
        let mut stored = self.stored.lock().unwrap();
        (*stored == lease).then(|| {
            stored.1 = self.after(stored.1);
            *stored
        })
    }

    /// L2 changes, and the instance notices only in which epoch it is now.
    fn flush_after(&self, change: impl FnOnce(&mut Stamp)) {
        let mut stored = self.stored.lock().unwrap();
        change(&mut stored);
        self.l1.flush(stored.0);
    }

    fn remove_gone(&self) {
        let is_gone = |record: &Record| self.l1.is_gone(record, self.now);
        self.l1.entries.remove_where(is_gone).for_each(drop);
    }

    /// All messages up to a question have been applied.
    fn prove(&self, asked: ProofStart) {
        let partition = PartitionClock {
            incarnation: 1,
            epoch: self.l1.freshness.epoch(),
            seq: 0,
            ver: 0,
            nonce: 0,
            now: 0,
            is_off: false,
        };
        self.l1.freshness.prove(&partition, asked);
    }

    fn join_load(&self) -> Join<LoadOutcome> {
        let caller = self.l1.freshness.caller(self.now);
        self.l1
            .in_flight
            .join_load(&self.key, caller, OpNumber::FIRST, false)
            .0
    }

    fn refresh(&self) -> Option<Op> {
        let caller = self.l1.freshness.caller(self.now);
        let join = self.l1.in_flight.join_refresh(&self.key, caller);
        join?.begun.map(|(op, _)| op)
    }

    /// The entry that is served.
    fn shown(&self) -> Option<Stamp> {
        let record = self.l1.get(KEY, self.now)?;
        Some((*record.value().typed(), record.version.ver))
    }

    /// The sweep of all entries, after most have gone together.
    fn sweep_all(&self) {
        self.l1.sweep_all(self.now).1.for_each(drop);
        self.l1.entries.admit_rest().for_each(drop);
    }

    /// Whether L1 has exactly what it shows, and moka knows of it.
    fn is_tidy(&self) -> bool {
        let len = self.l1.entries.len();
        len == u64::from(self.shown().is_some()) && len <= self.l1.entries.admitted_weight()
    }
}

/// A value of this epoch and version.
fn fresh(stamp: Stamp) -> SharedRecord {
    tagged(stamp, Tags::default())
}

fn tagged(stamp: Stamp, tags: Tags) -> SharedRecord {
    entry(KEY, stamp, tags)
}

fn entry(key: &str, stamp: Stamp, tags: Tags) -> SharedRecord {
    entry_of(key, stamp, stamp.0, tags)
}

fn entry_of(key: &str, (epoch, ver): Stamp, value: impl Value, tags: Tags) -> SharedRecord {
    let head = RecordHead::endless(version(epoch, ver));
    Arc::new(Record::new(key.into(), AnyValue::new(value), head, tags))
}
