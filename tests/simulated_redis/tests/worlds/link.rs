//! One instance's place in the network: what its packets go through now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::faults::Fault;
use crate::recorder::Recorder;

/// Which of the connections of an instance: those for requests, or the subscriber's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wire {
    Data,
    Subscription,
}

/// From the instance to the store, or back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

pub(crate) struct Link {
    pub(crate) instance: usize,
    pub(crate) config: Arc<Config>,
    pub(crate) recorder: Arc<Recorder>,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    /// When the last answer to a request arrives.
    last_answer: Option<Instant>,
    /// Until when each fault lasts.
    faults: BTreeMap<Fault, Instant>,
    /// With the server that each leads to; none for a sentinel.
    connections: Vec<(Wire, Option<usize>, CancellationToken)>,
    /// Until when each server is not reached.
    unreachable: BTreeMap<usize, Instant>,
}

impl Link {
    pub(crate) fn new(
        instance: usize,
        config: Arc<Config>,
        recorder: Arc<Recorder>,
        rng: Rng,
    ) -> Self {
        Self {
            instance,
            config,
            recorder,
            state: Mutex::new(State {
                rng,
                last_answer: None,
                faults: BTreeMap::new(),
                connections: Vec::new(),
                unreachable: BTreeMap::new(),
            }),
        }
    }

    pub(crate) fn begin(&self, fault: Fault, lasts: Duration) {
        let until = Instant::now() + lasts;
        let mut state = self.state.lock().unwrap();
        let end = state.faults.entry(fault).or_insert(until);
        *end = until.max(*end);
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.until(fault).is_some()
    }

    /// When a fault ends, if it has begun.
    fn until(&self, fault: Fault) -> Option<Instant> {
        let until = self.state.lock().unwrap().faults.get(&fault).copied();
        until.filter(|until| Instant::now() < *until)
    }

    /// Ends all faults but death.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.faults.retain(|fault, _| *fault == Fault::Death);
    }

    /// Until when the instance's process stands still, if it does.
    pub(crate) fn paused(&self) -> Option<Instant> {
        self.until(Fault::Paused).max(self.until(Fault::PausedLong))
    }

    /// Waits until the process goes on.
    pub(crate) async fn awake(&self) {
        while let Some(until) = self.paused() {
            sleep_until(until).await;
        }
    }

    /// Until when what arrives is not let out at the other end, if it is held up.
    pub(crate) fn held_up(&self, wire: Wire, way: Way) -> Option<Instant> {
        match (wire, way) {
            (Wire::Data, Way::Up) => self.until(Fault::Congestion),
            (Wire::Data, Way::Down) => self.paused().max(self.until(Fault::AnswersHeldUp)),
            (Wire::Subscription, Way::Down) => self.paused().max(self.until(Fault::MessagesHeldUp)),
            (Wire::Subscription, Way::Up) => None,
        }
    }

    /// Whether a packet that is sent now vanishes.
    pub(crate) fn loses(&self, wire: Wire, way: Way) -> bool {
        let faults: &[Fault] = match (wire, way) {
            (Wire::Data, Way::Up) => &[Fault::RequestsVanish, Fault::HalfOpen],
            (Wire::Data, Way::Down) => &[Fault::RepliesVanish, Fault::HalfOpen],
            (Wire::Subscription, Way::Up) => &[Fault::SubscriberHalfOpen],
            (Wire::Subscription, Way::Down) => {
                &[Fault::SubscriberHalfOpen, Fault::SubscriberSilent]
            }
        };
        let everywhere = [Fault::Unreachable, Fault::Death];
        faults
            .iter()
            .chain(&everywhere)
            .any(|fault| self.has(*fault))
    }

    /// When a packet that is sent now arrives.
    pub(crate) fn arrival(&self, way: Way) -> Instant {
        let slow = self.has(Fault::SlowNetwork);
        // What a paused process sends leaves when it goes on.
        let leaves = match way {
            Way::Up => self.paused(),
            Way::Down => None,
        };
        let mut state = self.state.lock().unwrap();
        let delay = if slow {
            let timeout = self.config.l2_timeout_ms;
            state.rng.u64(timeout / 8..=timeout * 3 / 2)
        } else {
            state.rng.u64(self.config.delay_ms.clone())
        };
        leaves.unwrap_or_else(Instant::now) + Duration::from_millis(delay)
    }

    /// Whether chance will have it.
    pub(crate) fn chance(&self, share: f64) -> bool {
        self.state.lock().unwrap().rng.f64() < share
    }

    /// Notes a new connection, to be cut some day.
    pub(crate) fn connected(&self, wire: Wire, server: Option<usize>) -> CancellationToken {
        let cut = CancellationToken::new();
        let mut state = self.state.lock().unwrap();
        state.connections.retain(|(.., cut)| !cut.is_cancelled());
        state.connections.push((wire, server, cut.clone()));
        cut
    }

    /// Cuts the connections to all servers.
    pub(crate) fn cut(&self, wire: Wire) {
        for (of, _, cut) in &self.state.lock().unwrap().connections {
            if *of == wire {
                cut.cancel();
            }
        }
    }

    /// What cuts the connections to a server.
    pub(crate) fn connections(&self, wire: Wire, server: usize) -> Vec<CancellationToken> {
        let state = self.state.lock().unwrap();
        let connections = state.connections.iter();
        let here = connections.filter(|(of, to, _)| (*of, *to) == (wire, Some(server)));
        here.map(|(.., cut)| cut.clone()).collect()
    }

    /// Cuts the connections to a server, and makes none for so long.
    pub(crate) fn part_from(&self, server: usize, lasts: Duration) {
        for wire in [Wire::Data, Wire::Subscription] {
            let here = self.connections(wire, server);
            here.iter().for_each(CancellationToken::cancel);
        }
        let until = Instant::now() + lasts;
        self.state.lock().unwrap().unreachable.insert(server, until);
    }

    /// Whether a connection to a server can be made. Sentinels are always reached.
    pub(crate) fn reaches(&self, server: Option<usize>) -> bool {
        let state = self.state.lock().unwrap();
        let until = server.and_then(|server| state.unreachable.get(&server));
        until.is_none_or(|until| *until <= Instant::now())
    }

    /// Notes when an answer or a message arrives. Whether it is a message that does so before an answer that was sent
    /// earlier.
    pub(crate) fn overtakes(&self, wire: Wire, arrives: Instant) -> bool {
        let last = &mut self.state.lock().unwrap().last_answer;
        if wire == Wire::Data {
            *last = (*last).max(Some(arrives));
        }
        wire == Wire::Subscription && last.is_some_and(|last| arrives < last)
    }
}
