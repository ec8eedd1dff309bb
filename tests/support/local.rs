//! The store in which most tests of the cache keep their values: in the process, where time passes only when the test
//! says so.

use std::time::Duration;

use larder::l2::MemorySnapshot;
use larder::{Clock, MemoryL2};

pub(crate) type Snapshot = MemorySnapshot;

pub(crate) struct Local {
    l2: MemoryL2,
    clock: Clock,
}

impl Local {
    pub(crate) fn new() -> Self {
        let clock = Clock::manual();
        let l2 = MemoryL2::with_clock(clock.clone());
        Self { l2, clock }
    }

    /// Whose clock is not that of the instances. Also returns what moves it.
    pub(crate) fn apart() -> (Self, impl Fn(Duration)) {
        let store = Clock::manual();
        let l2 = MemoryL2::with_clock(store.clone());
        let clock = Clock::manual();
        (Self { l2, clock }, move |by| store.advance(by))
    }

    /// As another instance has it.
    pub(crate) fn open(&self) -> MemoryL2 {
        self.l2.clone()
    }

    /// The clock of the instances.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.l2.snapshot()
    }

    /// It restarts with what it held then.
    pub(crate) fn restore(&self, snapshot: &Snapshot) {
        self.l2.restore(snapshot);
    }
}
