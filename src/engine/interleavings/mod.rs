//! The flight map, the floors and L1 in every order in which a few threads can take their steps.
//!
//! loom runs each test again and again, each time in another order, until there is none left that
//! interrupts a thread more than [`PREEMPTIONS`] times. Run with `tests/interleavings.sh`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a step that fails ends the test"
)]

mod joins;
mod proofs;
mod values;

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread::{self, JoinHandle};

use super::{Core, Parts};
use crate::clock::Clock;
use crate::codec::Bincode;
use crate::key::Key;
use crate::l1::{Begun, Fresh, Freshness, Joined, NEVER, Op, Slot};
use crate::l2::{LaneClock, LocalLane};
use crate::options::Options;
use crate::wire::codec::ValueCodec;

const KEY: &str = "k";
/// The epoch that an instance knows at first, and the one after it.
const EPOCH: u64 = 1;
const NEXT_EPOCH: u64 = 2;

/// Enough to catch each line of this that was broken to see if it would be. `LOOM_MAX_PREEMPTIONS` sets
/// another number; each one more takes ten times as long.
const PREEMPTIONS: usize = 2;

/// What a value can be told by: its epoch and its version.
type Mark = (u64, u64);

/// One instance, and what L2 has under one key. Clones are the same.
#[derive(Clone)]
struct World {
    core: Arc<Core<u64>>,
    key: Key,
    stored: Arc<Mutex<Mark>>,
}

/// Runs a test in every order.
fn in_every_order(test: impl Fn(World) + Send + Sync + 'static) {
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound.get_or_insert(PREEMPTIONS);
    explorer.check(move || {
        let world = World::new();
        test(world.clone());
        assert!(
            world.core.flights.is_idle(),
            "what is over leaves nothing behind"
        );
    });
}

impl World {
    /// An instance that knows its epoch and hears of everything; L2 has version 1.
    fn new() -> Self {
        let options = Options {
            clock: Clock::manual(),
            ..Options::new("test:interleavings".to_owned())
        };
        let liveness = Arc::new(Freshness::new(options.clock.clone()));
        liveness.flush(EPOCH);
        let lane = Box::new(LocalLane::new(options.clock.clone()));
        let core = Core::new(Parts {
            options,
            weigher: None,
            codec: ValueCodec::new::<Bincode>(),
            type_tag: 0,
            liveness,
            lane,
        });
        let world = Self {
            core: Arc::new(core),
            key: KEY.into(),
            stored: Arc::new(Mutex::new((EPOCH, 1))),
        };
        world.prove(0);
        world
    }

    fn spawn<T: 'static>(&self, run: impl FnOnce(Self) -> T + 'static) -> JoinHandle<T> {
        let world = self.clone();
        thread::spawn(move || run(world))
    }

    fn begin(&self) -> Begun<u64> {
        self.core.flights.begin_owned(&self.key)
    }

    /// What L2 answers: whatever lies there.
    fn ask(&self) -> Mark {
        *self.stored.lock().unwrap()
    }

    /// Keeps what L2 has answered, and hands it out, if it may be believed.
    fn publish(&self, op: &Op, mark: Mark) {
        let fresh = fresh(mark);
        if self.core.is_usable(op, &fresh) {
            self.core.keep_or_outdate(op, &fresh);
        }
    }

    /// A look-up that goes to L2.
    fn read(&self) {
        let op = self.begin();
        self.publish(&op, self.ask());
    }

    /// Another instance writes the key, and its message comes. Returns its version.
    fn hear_of_a_write(&self) -> u64 {
        let (epoch, ver) = self.write();
        self.core.apply([KEY], epoch, ver);
        ver
    }

    /// The same, but the message is lost, and that it was is all that is heard.
    fn miss_a_write(&self) -> u64 {
        let (epoch, ver) = self.write();
        self.core.flush(epoch);
        ver
    }

    fn write(&self) -> Mark {
        let mut stored = self.stored.lock().unwrap();
        stored.1 += 1;
        *stored
    }

    /// All messages have been heard, asked when there were so many doubts.
    fn prove(&self, doubts: u64) {
        let lane = LaneClock {
            epoch: self.core.liveness.epoch(),
            seq: 0,
            now: 0,
        };
        let now = self.core.now();
        self.core.liveness.prove(&lane, now, now + 1, doubts);
    }

    /// Asks to load the key.
    fn lead(&self) -> Joined<u64> {
        let now = self.core.now();
        self.core.flights.lead(&self.key, now, now)
    }

    fn refresh(&self) -> Option<Begun<u64>> {
        self.core.flights.refresh(&self.key)
    }

    /// A hit that moka is told of, and the front filled with.
    fn promote(&self) {
        self.core.l1.promote(KEY, self.core.now());
    }

    fn shown(&self) -> Option<Mark> {
        let slot = self.core.l1.get(KEY, self.core.now())?;
        Some((slot.value, slot.ver))
    }

    /// Whether L1 has exactly what it shows.
    fn is_tidy(&self) -> bool {
        self.core.l1.len() == u64::from(self.shown().is_some())
    }
}

/// A value that tells its epoch.
fn fresh((epoch, ver): Mark) -> Fresh<u64> {
    let slot = Slot::new(KEY.into(), epoch, ver, 0, NEVER, NEVER);
    Fresh {
        slot: Arc::new(slot),
        epoch,
    }
}
