//! An L2 inside the process: the same steps as on Redis, each under one lock.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::ready;
use futures::{FutureExt, Stream};
use tokio::sync::mpsc;

use super::{
    Ask, Fill, Heard, L2, L2Error, Lane, LaneClock, Lead, Lease, Listener, OnConnect, Reply,
    Sealed, Stamp, Want, random,
};
use crate::clock::{Clock, millis};
use crate::lock::lock;
use crate::wire::{envelope, message};

/// Messages that may wait for one listener before it has to be told of a gap.
const QUEUE: usize = 1024;
/// Values in one namespace; past that, the ones that would expire first make room.
const CAPACITY: usize = 100_000;

/// A second level inside this process, for trying the crate out and for tests.
///
/// Clones share what is stored: give one to each of several caches, and they behave as instances that
/// share a Redis do. It holds at most 100 000 values per namespace.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, MemoryL2};
///
/// let l2 = MemoryL2::new();
/// let a: Cache<u64, String> = Cache::builder("docs:shared").l2(l2.clone()).build()?;
/// let b: Cache<u64, String> = Cache::builder("docs:shared").l2(l2).build()?;
/// a.insert(&1, "one".to_owned()).await?;
/// assert_eq!(b.get(&1).await.as_deref().map(String::as_str), Some("one"));
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct MemoryL2 {
    clock: Clock,
    lanes: Arc<Mutex<HashMap<String, Arc<Mutex<State>>>>>,
}

impl MemoryL2 {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one whose time is that of `clock`.
    #[must_use]
    pub fn with_clock(clock: Clock) -> Self {
        Self {
            clock,
            ..Self::default()
        }
    }
}

impl fmt::Debug for MemoryL2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryL2").finish_non_exhaustive()
    }
}

impl L2 for MemoryL2 {
    fn lane(&self, namespace: &str, _timeout: Duration, on_connect: OnConnect) -> Box<dyn Lane> {
        let state = Arc::clone(lock(&self.lanes).entry(namespace.to_owned()).or_default());
        let lane = MemoryLane {
            clock: self.clock.clone(),
            state,
        };
        on_connect(&lane.clock());
        Box::new(lane)
    }
}

struct MemoryLane {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

struct State {
    epoch: u64,
    seq: u64,
    ver: u64,
    values: Expiring<Vec<u8>>,
    /// The epoch and the token of each.
    leases: Expiring<(u64, u64)>,
    listeners: Vec<mpsc::Sender<message::Message>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            epoch: random(),
            seq: 0,
            ver: 0,
            values: Expiring::default(),
            leases: Expiring::default(),
            listeners: Vec::new(),
        }
    }
}

impl State {
    fn stamp(&mut self, now: u64) -> Stamp {
        self.ver += 1;
        Stamp {
            epoch: self.epoch,
            ver: self.ver,
            written_at: now,
        }
    }

    fn store(&mut self, key: &str, value: &Sealed, now: u64) -> Stamp {
        let stamp = self.stamp(now);
        self.values
            .insert(key, envelope::stamped(stamp, &value.body), now, value.ttl);
        self.leases.remove(key);
        stamp
    }

    fn usable(&mut self, key: &str, want: Want, now: u64) -> Option<Vec<u8>> {
        let bytes = self.values.get(key, now)?;
        let (stamp, hard_ttl_ms) = envelope::peek(bytes)?;
        let wanted = match want {
            Want::Any => true,
            Want::NewerThan(seen) => stamp.ver != seen,
            Want::Nothing => false,
        };
        let live = stamp.epoch == self.epoch && now < stamp.written_at.saturating_add(hard_ttl_ms);
        (wanted && live).then(|| bytes.clone())
    }

    fn publish(&mut self, ver: u64, tail: &[u8]) {
        self.seq += 1;
        let mut bytes = b"LM\x01".to_vec();
        for number in [self.epoch, self.seq, ver] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(tail);
        self.listeners.retain(|listener| !listener.is_closed());
        let Some(message) = message::open(&bytes) else {
            return;
        };
        for listener in &self.listeners {
            // A full queue loses it, and the listener finds the hole.
            let _ = listener.try_send(message.clone());
        }
    }
}

impl MemoryLane {
    /// Does one step of the lane, with nothing in between.
    fn step<'a, T: Send + 'a>(&self, step: impl FnOnce(&mut State, u64) -> T) -> Reply<'a, T> {
        let now = self.now();
        ready(Ok(step(&mut lock(&self.state), now))).boxed()
    }

    fn now(&self) -> u64 {
        self.clock.now() / 1_000_000
    }

    fn clock(&self) -> LaneClock {
        let now = self.now();
        let state = lock(&self.state);
        LaneClock {
            epoch: state.epoch,
            seq: state.seq,
            now,
        }
    }
}

impl fmt::Debug for MemoryLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLane").finish_non_exhaustive()
    }
}

impl Lane for MemoryLane {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        self.step(|state, now| state.values.get(key, now).cloned())
    }

    fn lead<'a>(&'a self, key: &'a str, ask: Ask) -> Reply<'a, Lead> {
        self.step(|state, now| {
            if let Some(bytes) = state.usable(key, ask.want, now) {
                return Lead::Hit(bytes);
            }
            if ask.ttl.is_zero() {
                return Lead::Miss;
            }
            let epoch = state.epoch;
            match state.leases.get(key, now) {
                Some(&(of, token)) if of == epoch && token != ask.token => {
                    return Lead::Wait(state.leases.remaining(key, now));
                }
                Some(&lease) if lease == (epoch, ask.token) => {}
                _ => state.leases.insert(key, (epoch, ask.token), now, ask.ttl),
            }
            Lead::Granted(Lease {
                token: ask.token,
                epoch,
            })
        })
    }

    fn fill<'a>(&'a self, key: &'a str, lease: Lease, value: &'a Sealed) -> Reply<'a, Fill> {
        self.step(|state, now| {
            if state.leases.get(key, now) != Some(&(lease.epoch, lease.token))
                || state.epoch != lease.epoch
            {
                return Fill::Rejected(state.values.get(key, now).cloned());
            }
            Fill::Stored(state.store(key, value, now))
        })
    }

    fn renew<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        self.step(|state, now| {
            let held = state.leases.get(key, now).copied();
            let Some(lease) = held.filter(|(_, held)| *held == token) else {
                return false;
            };
            if ttl.is_zero() {
                state.leases.remove(key);
            } else {
                state.leases.insert(key, lease, now, ttl);
            }
            true
        })
    }

    fn insert<'a>(
        &'a self,
        key: &'a str,
        value: &'a Sealed,
        tail: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        if deadline.is_some_and(|deadline| self.now() > deadline) {
            return ready(Err(L2Error::unexpected(
                "the insert came after its deadline",
            )))
            .boxed();
        }
        self.step(|state, now| {
            let stamp = state.store(key, value, now);
            state.publish(stamp.ver, tail);
            stamp
        })
    }

    fn invalidate<'a>(&'a self, keys: &'a [&'a str], tail: &'a [u8]) -> Reply<'a, Stamp> {
        self.step(|state, now| {
            for key in keys {
                state.values.remove(key);
                state.leases.remove(key);
            }
            let stamp = state.stamp(now);
            state.publish(stamp.ver, tail);
            stamp
        })
    }

    fn clear<'a>(&'a self, tail: &'a [u8]) -> Reply<'a, Stamp> {
        self.step(|state, now| {
            state.epoch = random();
            state.values = Expiring::default();
            let stamp = state.stamp(now);
            state.publish(stamp.ver, tail);
            stamp
        })
    }

    fn listen(&self) -> Reply<'_, (LaneClock, Box<dyn Listener>)> {
        let (queue, messages) = mpsc::channel(QUEUE);
        lock(&self.state).listeners.push(queue);
        let lane = Self {
            clock: self.clock.clone(),
            state: Arc::clone(&self.state),
        };
        let clock = lane.clock();
        let listener: Box<dyn Listener> = Box::new(MemoryListener {
            lane,
            messages,
            ahead: 0,
            beat: None,
        });
        ready(Ok((clock, listener))).boxed()
    }
}

struct MemoryListener {
    lane: MemoryLane,
    messages: mpsc::Receiver<message::Message>,
    /// How many messages come before the beat.
    ahead: usize,
    beat: Option<LaneClock>,
}

impl Listener for MemoryListener {
    fn beat(&mut self) {
        self.beat = Some(self.lane.clock());
        self.ahead = self.messages.len();
    }
}

impl Stream for MemoryListener {
    type Item = Result<Heard, L2Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Counted, since the queue may look empty when it is not: tokio makes a busy task yield.
        if self.ahead == 0
            && let Some(beat) = self.beat.take()
        {
            return Poll::Ready(Some(Ok(Heard::Beat(beat))));
        }
        self.messages.poll_recv(cx).map(|message| {
            self.ahead = self.ahead.saturating_sub(1);
            message.map(|message| Ok(Heard::Message(message)))
        })
    }
}

/// A bounded map whose entries expire.
struct Expiring<T> {
    entries: HashMap<Box<str>, (T, u64)>,
    order: BTreeSet<(u64, Box<str>)>,
}

impl<T> Default for Expiring<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<T> Expiring<T> {
    fn get(&self, key: &str, now: u64) -> Option<&T> {
        self.entries
            .get(key)
            .filter(|(_, end)| now < *end)
            .map(|(value, _)| value)
    }

    fn remaining(&self, key: &str, now: u64) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |(_, end)| {
            Duration::from_millis(end.saturating_sub(now))
        })
    }

    fn insert(&mut self, key: &str, value: T, now: u64, ttl: Duration) {
        self.remove(key);
        while self
            .order
            .first()
            .is_some_and(|(end, _)| *end <= now || self.order.len() >= CAPACITY)
        {
            if let Some((_, key)) = self.order.pop_first() {
                self.entries.remove(&key);
            }
        }
        let end = now.saturating_add(millis(ttl));
        self.order.insert((end, key.into()));
        self.entries.insert(key.into(), (value, end));
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, (_, end))) = self.entries.remove_entry(key) {
            self.order.remove(&(end, key));
        }
    }
}
