//! One instance: its levels, and what every flow needs of them.

use std::mem::replace;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::backoff::RefreshBackoff;
use super::deferred::Deferred;
use super::queue::Queue;
use super::subscriber::{self, SIGN_OF_LIFE};
use crate::ablation::{Rule, without};
use crate::clock::{Tick, millis, nanos};
use crate::entry::Entry;
use crate::key::Key;
use crate::l1::{Fresh, Freshness, InFlight, L1, NEVER, Op, Slot, UNSTORED, Weigher};
use crate::l2::{EncodedValue, L2Error, Lane, Want, random};
use crate::lock::lock;
use crate::options::Options;
use crate::source::Source;
use crate::stats::{Counters, Health, Stats};
use crate::wire::codec::{EncodeError, ValueCodec};
use crate::wire::envelope::{self, Head, Stamp};

/// So long after it was first missed, without a sign of life, a listener is replaced.
const STANDS_STILL_AFTER: Duration = Duration::from_secs(3);
const WARN_EVERY: Duration = Duration::from_secs(5);

/// L2 did what it was asked.
const UP: u8 = 0;
/// It refused.
const REFUSES: u8 = 1;
/// It did not answer.
const SILENT: u8 = 2;

/// All parts of a running instance. Tasks hold it; when the last handle goes, they are told to stop.
pub(crate) struct Core<V: Send + Sync + 'static> {
    pub(super) options: Options,
    pub(super) l1: L1<V>,
    pub(super) flights: Arc<InFlight<V>>,
    pub(super) liveness: Arc<Freshness>,
    pub(super) lane: Box<dyn Lane>,
    pub(super) outbox: Deferred,
    pub(super) queue: Queue<V>,
    pub(super) backoff: RefreshBackoff,
    pub(super) counters: Counters,
    /// The turns to run a loader.
    pub(super) loads: Semaphore,
    /// Names this instance in the messages that it sends.
    pub(super) origin: u64,
    codec: ValueCodec<V>,
    type_tag: u64,
    /// How L2 answered last: one of the three above.
    l2: AtomicU8,
    /// When trouble with L2 was last spoken of: it can come and go with every request.
    warned_at: AtomicU64,
    listener: Mutex<Listening>,
    stop: CancellationToken,
}

/// Who listens, and since when it is missed. By the runtime's time, as its signs of life are.
#[derive(Default)]
struct Listening {
    task: Option<JoinHandle<()>>,
    /// When it was first looked for since its last sign of life.
    missed_since: Option<Instant>,
}

impl Listening {
    /// Whether another has to take over. It ends when the runtime that it was started on does, and stands still when
    /// nobody drives that.
    fn is_lost(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.missed_since.get_or_insert(now);
        now.duration_since(since) > STANDS_STILL_AFTER
            || self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// What a [`Core`] is built from.
pub(crate) struct Parts<V> {
    pub(crate) options: Options,
    pub(crate) weigher: Option<Weigher<V>>,
    pub(crate) codec: ValueCodec<V>,
    pub(crate) type_tag: u64,
    pub(crate) liveness: Arc<Freshness>,
    pub(crate) lane: Box<dyn Lane>,
}

impl<V: Send + Sync + 'static> Core<V> {
    pub(crate) fn new(parts: Parts<V>) -> Self {
        let Parts {
            options,
            weigher,
            codec,
            type_tag,
            liveness,
            lane,
        } = parts;
        let flights = Arc::new(InFlight::new(&liveness));
        Self {
            l1: L1::new(options.l1_capacity, weigher, &flights, &liveness),
            flights,
            outbox: Deferred::new(options.max_deferred),
            queue: Queue::new(),
            backoff: RefreshBackoff::new(options.clock.clone()),
            counters: Counters::default(),
            loads: Semaphore::new(options.max_concurrent_loads),
            origin: random(),
            l2: AtomicU8::new(UP),
            warned_at: AtomicU64::new(0),
            listener: Mutex::default(),
            stop: CancellationToken::new(),
            options,
            liveness,
            lane,
            codec,
            type_tag,
        }
    }

    pub(crate) fn now(&self) -> Tick {
        self.options.clock.now()
    }

    /// Starts the listener, if it is not running and should be. Called where L1 alone did not answer.
    pub(crate) fn ensure_listening(self: &Arc<Self>) {
        self.ensure_listening_at(self.now());
    }

    /// The same, where the time is known.
    pub(super) fn ensure_listening_at(self: &Arc<Self>, now: Tick) {
        if self.liveness.is_live_at(now) {
            return;
        }
        let mut listener = lock(&self.listener);
        if listener.is_lost() && !self.stop.is_cancelled() {
            let task = tokio::spawn(subscriber::run(Arc::clone(self), self.stop.clone()));
            let anew = Listening {
                task: Some(task),
                missed_since: None,
            };
            if let Some(former) = replace(&mut *listener, anew).task {
                former.abort();
            }
        }
    }

    /// The listener is there.
    pub(super) fn listener_is_seen(&self) {
        lock(&self.listener).missed_since = None;
    }

    pub(crate) async fn ready(self: &Arc<Self>) {
        loop {
            self.ensure_listening();
            tokio::select! {
                biased;
                () = self.liveness.live() => return,
                () = self.stop.cancelled() => return,
                // Whoever listens may be lost meanwhile.
                () = sleep(SIGN_OF_LIFE) => {}
            }
        }
    }

    /// Tells the tasks to stop.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.liveness.end();
    }

    pub(crate) async fn close(&self) {
        self.stop();
        let listener = lock(&self.listener).task.take();
        if let Some(listener) = listener {
            // Its panic, if any, has been reported where it happened; and its runtime may not be driven.
            let _ = timeout(self.options.l2_timeout, listener).await;
        }
        let last_words = async {
            self.deliver_deferred().await;
            // Otherwise it is forgotten after a while.
            let _ = self.lane.leave(self.origin).await;
        };
        let _ = timeout(self.options.l2_timeout.saturating_mul(2), last_words).await;
        match self.outbox.len() {
            0 => {}
            lost => warn!(
                namespace = self.options.namespace.as_str(),
                lost,
                "closed before L2 could be told of all deferred writes; it may keep their old values until they expire"
            ),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.options.namespace
    }

    pub(crate) fn stats(&self) -> Stats {
        self.counters
            .snapshot(self.liveness.generation() - 1, self.l1.len())
    }

    pub(crate) fn health(&self) -> Health {
        Health {
            l2_up: self.is_l2_up(),
            listener_live: self.liveness.is_live(),
        }
    }

    /// Whether L2 did what it was last asked to do.
    fn is_l2_up(&self) -> bool {
        self.l2.load(Ordering::Relaxed) == UP
    }

    /// Whether it is of any use to ask L2.
    pub(super) fn does_l2_answer(&self) -> bool {
        self.l2.load(Ordering::Relaxed) != SILENT
    }

    /// Counts and traces how L2 answered, and passes the answer on.
    pub(super) fn heard<T>(&self, answer: Result<T, L2Error>) -> Result<T, L2Error> {
        let namespace = self.options.namespace.as_str();
        match &answer {
            // Only a load: this is on the way of every answer.
            Ok(_) if self.is_l2_up() => {}
            Ok(_) => {
                self.l2.store(UP, Ordering::Relaxed);
                debug!(namespace, "L2 does what it is asked again");
            }
            Err(error) => {
                self.counters.l2_errors.bump();
                let state = if error.is_refused() { REFUSES } else { SILENT };
                self.l2.store(state, Ordering::Relaxed);
                let error = error as &dyn std::error::Error;
                if self.may_warn() {
                    warn!(
                        namespace,
                        error, "L2 did not do what it was asked; going on without it"
                    );
                } else {
                    debug!(namespace, error, "L2 did not do what it was asked");
                }
            }
        }
        answer
    }

    /// Once in a while, however often there is reason.
    fn may_warn(&self) -> bool {
        let (now, last) = (self.now(), self.warned_at.load(Ordering::Relaxed));
        now.saturating_sub(last) >= nanos(WARN_EVERY)
            && self
                .warned_at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Hands a value out, and counts if it is stale.
    pub(super) fn hand_out(&self, slot: Arc<Slot<V>>, now: Tick, source: Source) -> Entry<V> {
        if now >= slot.soft_at {
            self.counters.stale_served.bump();
        }
        Entry::new(slot, now, source)
    }

    /// Reads stored bytes. The caller decides whether their epoch and age are right.
    ///
    /// Where they cannot be read, says what else to ask for: something other than this.
    pub(super) fn open(&self, key: &Key, bytes: &[u8]) -> Result<Fresh<V>, Want> {
        self.open_at(key, bytes, self.now())
    }

    /// The same, where the time is known.
    pub(super) fn open_at(&self, key: &Key, bytes: &[u8], now: Tick) -> Result<Fresh<V>, Want> {
        let slot = match envelope::open(bytes) {
            Ok(envelope) if envelope.head.type_tag != self.type_tag => {
                Err("it is tagged as another type".to_owned())
            }
            Ok(envelope) => self
                .codec
                .decode(envelope.head.codec, envelope.payload)
                .map(|value| self.fresh_at(key, value, envelope.stamp, &envelope.head, now))
                .map_err(|error| error.reason().to_string()),
            Err(damage) => Err(damage.to_string()),
        };
        slot.map_err(|reason| {
            self.counters.decode_errors.bump();
            warn!(
                namespace = self.options.namespace.as_str(),
                key = &**key,
                reason,
                "a stored value cannot be read"
            );
            envelope::peek(bytes).map_or(Want::Nothing, |(stamp, _)| Want::NewerThan(stamp.ver))
        })
    }

    /// Encodes a value for L2, with TTLs of its own.
    pub(super) fn seal(&self, value: &V) -> Result<(Head, EncodedValue), EncodeError> {
        let ttl = self.options.jittered(self.options.l2_ttl);
        let soft_ttl = self
            .options
            .soft_ttl
            .map(|soft_ttl| self.options.jittered(soft_ttl));
        let head = Head {
            codec: self.codec.id(),
            type_tag: self.type_tag,
            soft_ttl_ms: soft_ttl.map_or(0, millis),
            hard_ttl_ms: millis(ttl),
        };
        let mut body = envelope::begin(&head);
        let encoded = self
            .codec
            .encode(value, &mut body, self.options.max_value_size);
        encoded.inspect_err(|error| {
            self.counters.encode_errors.bump();
            warn!(
                namespace = self.options.namespace.as_str(),
                error = error as &dyn std::error::Error,
                "a value cannot be stored"
            );
        })?;
        Ok((
            head,
            EncodedValue {
                body: envelope::seal(body),
                ttl,
            },
        ))
    }

    /// A value with a stamp, its times translated to this process's clock.
    pub(super) fn fresh(&self, key: &Key, value: V, stamp: Stamp, head: &Head) -> Fresh<V> {
        self.fresh_at(key, value, stamp, head, self.now())
    }

    /// The same, where the time is known.
    pub(super) fn fresh_at(
        &self,
        key: &Key,
        value: V,
        stamp: Stamp,
        head: &Head,
        now: Tick,
    ) -> Fresh<V> {
        // The lane's time is overestimated, so a value seems older than it is, and goes early.
        let age = self
            .liveness
            .lane_time(now)
            .map_or(0, |lane_now| lane_now.saturating_sub(stamp.written_at));
        let born_at = now.saturating_sub(nanos(Duration::from_millis(age)));
        let after = |ms: u64| born_at.saturating_add(nanos(Duration::from_millis(ms)));
        let soft_at = if head.soft_ttl_ms == 0 {
            NEVER
        } else {
            after(head.soft_ttl_ms)
        };
        let l1_ttl = self.options.l1_ttl.map_or(NEVER, |ttl| {
            now.saturating_add(nanos(self.options.jittered(ttl)))
        });
        let slot = Slot::new(
            key.clone(),
            value,
            stamp.ver,
            born_at,
            soft_at,
            l1_ttl.min(after(head.hard_ttl_ms)),
        );
        Fresh {
            slot: Arc::new(slot),
            epoch: stamp.epoch,
        }
    }

    /// A value that L2 does not hold, for those who waited for it and for nobody else.
    pub(super) fn unstored(&self, key: &Key, value: V) -> Arc<Slot<V>> {
        self.counters.loads_not_stored.bump();
        let now = self.now();
        let key = key.clone();
        Arc::new(Slot::new(key, value, UNSTORED, now, NEVER, now))
    }

    /// Whether a value that was read as it lay may be believed: written in the epoch that was known when
    /// the operation began and still is, and not expired.
    pub(super) fn is_usable(&self, op: &Op, fresh: &Fresh<V>) -> bool {
        self.is_usable_at(op, fresh, self.now())
    }

    /// The same, where the time is known.
    pub(super) fn is_usable_at(&self, op: &Op, fresh: &Fresh<V>, now: Tick) -> bool {
        let of_now = fresh.epoch == op.epoch() || without(Rule::Epochs);
        self.flights.is_current(op) && of_now && now < fresh.expires_at
    }

    /// Applies a change of keys that L2 has accepted: what is older is gone from here.
    pub(super) fn apply<'a>(&self, keys: impl IntoIterator<Item = &'a str>, epoch: u64, ver: u64) {
        self.outdate(keys, epoch, ver, L1::evict_older);
    }

    /// The same for an insert of this instance, which will replace what is older as soon as it hears the
    /// answer, or forget the key.
    pub(super) fn expect<'a>(&self, keys: impl IntoIterator<Item = &'a str>, epoch: u64, ver: u64) {
        self.outdate(keys, epoch, ver, L1::hide_older);
    }

    fn outdate<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        epoch: u64,
        ver: u64,
        remove_older: impl Fn(&L1<V>, &str, u64),
    ) {
        // The generation first: should a flush come in between, versions of its epoch are left alone.
        let generation = self.liveness.generation();
        let comparable = epoch == self.liveness.epoch();
        for key in keys {
            if comparable {
                self.flights.raise(key, ver, generation);
                remove_older(&self.l1, key, ver);
            } else {
                self.forget(key);
            }
        }
    }

    /// Puts a value that L2 has accepted in the place of what is older: that need not go before it.
    pub(super) fn supersede(&self, op: &Op, fresh: &Fresh<V>) {
        let (key, epoch, ver) = (op.key(), fresh.epoch, fresh.ver);
        let generation = self.liveness.generation();
        if epoch == self.liveness.epoch() {
            self.flights.raise(key, ver, generation);
            if self.l1.publish(op, fresh) {
                return;
            }
        }
        self.apply([&**key], epoch, ver);
    }

    /// Keeps a value of L2's in L1. Where it may not be kept, it will be handed out all the same, and then
    /// nothing older may be: it may have overtaken the message that tells of it.
    pub(super) fn keep_or_outdate(&self, op: &Op, fresh: &Fresh<V>) {
        if !self.l1.publish(op, fresh) {
            self.apply([&**op.key()], fresh.epoch, fresh.ver);
        }
    }

    /// Drops a key from L1, and keeps what is under way out of it.
    pub(super) fn forget(&self, key: &str) {
        self.flights.bar(key);
        self.l1.evict(key);
    }

    /// When a flight must have begun to be joined by somebody who cannot know what it missed.
    pub(super) fn joinable_from(&self, now: Tick) -> Tick {
        now.saturating_sub(nanos(self.options.max_staleness))
    }
}
