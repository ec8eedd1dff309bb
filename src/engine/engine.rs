//! One instance: the parts of each lane, put together, started and stopped; and which part answers which call.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, Stream};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::breaker::Breaker;
use super::context::Context;
use super::convert::{Convert, ValueRules};
use super::deferred::Deferred;
use super::lanes::Lanes;
use super::load::{LaneLoads, Loads, Permits, Same};
use super::metrics::Metrics;
use super::read::LaneReads;
use super::read::hot_keys::HotKeys;
use super::read::lookup::Reads;
use super::report::recording;
use super::subscribe::listen::Channel;
use super::subscribe::publish::{PublishTo, Publisher};
use super::subscribe::subscriber::{ForAll, Subscriber};
use super::write::{LaneWrites, Writes};
use crate::clock::Tick;
use crate::error::{L2Error, WriteError};
use crate::events::Events;
use crate::key::{Key, KeyTooLong};
use crate::l1::{L1, Weigher};
use crate::l2::{L2, LaneName, MemoryL2, OnConnect, random};
use crate::loaded::Loaded;
use crate::options::Options;
use crate::stats::{Counters, Health, Stats, Warming};
use crate::token::Token;
use crate::util::lock::lock;
use crate::vocabulary::Value;

/// How often a caller of `ready` looks whether the subscribers are still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A running instance. Its tasks hold the parts that they need, and are stopped with the last handle.
pub(crate) struct Engine<V: Value> {
    /// The calls that need no other part are those of the contexts.
    pub(crate) contexts: Arc<Lanes<Arc<Context<V>>>>,
    reads: LaneReads<V>,
    writes: Arc<LaneWrites<V>>,
    loads: Arc<LaneLoads<V>>,
    subscribers: Lanes<Arc<Subscriber<V>>>,
    /// The task that records, once it has been started.
    recording: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// The user code and the L2 that an [`Engine`] is built from, besides its options.
pub(crate) struct Parts<V> {
    pub(crate) weigher: Option<Weigher<V>>,
    pub(crate) values: ValueRules<V>,
    /// `None` for L1 alone.
    pub(crate) l2: Option<Box<dyn L2>>,
    pub(crate) channels: Vec<Channel>,
    pub(crate) publish_to: Option<PublishTo>,
    pub(crate) same: Same<V>,
}

impl<V: Value> Engine<V> {
    /// Puts the parts together. Starts the subscribers at once if there is a runtime, otherwise at the first call.
    pub(crate) fn new(options: Options, type_tag: u64, parts: Parts<V>) -> Self {
        let (options, counters) = (Arc::new(options), Arc::new(Counters::default()));
        let (events, instance) = (Arc::new(Events::default()), random());
        let (values, weigher) = (Arc::new(parts.values), parts.weigher);
        let metrics = Arc::new(Metrics::new(&options.namespace));
        let has_l2 = parts.l2.is_some();
        // Without an L2 a clock in memory issues versions, so that L1 alone runs the same code.
        let l2 =
            (parts.l2).unwrap_or_else(|| Box::new(MemoryL2::without_values(options.clock.clone())));
        // Without an L2 there are no servers on which several could lie.
        let set = options.lanes.filter(|_| has_l2);
        let lanes = set.unwrap_or_else(|| l2.default_lanes());
        let contexts = Lanes::new(lanes, |lane| {
            // Each lane has an equal part of L1, as keys are spread evenly.
            let capacity = options.l1_capacity.div_ceil(u64::from(lanes));
            let max_deferred = options.max_deferred.div_ceil(usize::from(lanes));
            let l1 = Arc::new(L1::new(&options, capacity, weigher.clone()));
            let freshness = Arc::clone(&l1.freshness);
            let on_connect: OnConnect = Box::new(move |clock| {
                // A store that no other instance shares needs no proof: no message can be missed.
                if has_l2 {
                    freshness.connected(clock);
                } else {
                    freshness.set_no_l2(clock.epoch);
                }
            });
            let namespace = options.namespace.as_str();
            let name = LaneName { namespace, lane };
            let lane = l2.lane(name, options.l2_timeout, on_connect);
            let (system, reporter) = (lane.system(), l2.outages().join(namespace));
            Arc::new(Context {
                breaker: Breaker::new(system, reporter, &options, &counters, &events, &metrics),
                convert: Convert::new(&values, type_tag, &options, &counters, &l1),
                deferred: Deferred::new(max_deferred),
                backoff: Backoff::new(options.clock.clone()),
                instance,
                is_off: AtomicBool::new(!options.enabled),
                options: Arc::clone(&options),
                l1,
                lane,
                counters: Arc::clone(&counters),
                events: Arc::clone(&events),
                metrics: Arc::clone(&metrics),
            })
        });
        let contexts = Arc::new(contexts);
        // In this order: each part is given those that it calls, and no part calls one that is made later.
        let hot_keys = Arc::new(HotKeys::new(options.track_hot_keys));
        let reads = contexts.map(|lane, ctx| Arc::new(Reads::new(lane, ctx, &hot_keys)));
        let writes = reads.map(|lane, reads| Arc::new(Writes::new(lane, contexts.at(lane), reads)));
        let permits = Arc::new(Permits::new(&options));
        let loads = writes.map(|lane, writes| {
            let (ctx, reads) = (contexts.at(lane), reads.at(lane));
            Arc::new(Loads::new(ctx, reads, writes, &permits, &parts.same))
        });
        let writes = Arc::new(writes);
        let publisher = parts.publish_to.map(|to| Arc::new(Publisher::new(to)));
        let mut for_all = Some(ForAll::new(&contexts, &writes, parts.channels));
        let subscribers = writes.map(|lane, writes| {
            // The first lane has it: they are made in their order.
            let for_all = for_all.take();
            let subscriber = Subscriber::new(contexts.at(lane), writes, publisher.clone(), for_all);
            Arc::new(subscriber)
        });
        let engine = Self {
            recording: Mutex::default(),
            contexts,
            reads,
            writes,
            loads: Arc::new(loads),
            subscribers,
        };
        // A cache may be built before there is a runtime, as in a static. Then the first call starts the tasks.
        if Handle::try_current().is_ok() {
            engine.ensure_subscribed();
            engine.start_recording();
        }
        engine
    }

    /// Starts the subscribers that are not running and should be. Called by each call that L1 alone does not answer.
    fn ensure_subscribed(&self) {
        let now = self.now();
        // One atomic load for a lane in the common case. A subscriber that ends takes its proof with it, so a proof
        // shows that there is one.
        let are_live = (self.contexts.iter()).all(|ctx| ctx.l1.freshness.is_live_at(now));
        // All of them: each is looked at, whether or not another one was started.
        if !are_live && self.subscribers.iter().filter(|one| one.start()).count() > 0 {
            self.start_recording();
        }
    }

    fn start_recording(&self) {
        let started = recording::start(&self.loads);
        // The former task is aborted when its handle is replaced, so that there is one at a time.
        *lock(&self.recording) = started;
    }

    pub(crate) fn now(&self) -> Tick {
        self.contexts.first().now()
    }

    pub(crate) fn events(&self) -> &Events {
        &self.contexts.first().events
    }

    /// Look-ups in L1, for which no subscriber need run.
    #[inline]
    pub(crate) fn local(&self) -> &LaneReads<V> {
        &self.reads
    }

    /// Look-ups in both levels.
    pub(crate) fn reads(&self) -> &LaneReads<V> {
        self.ensure_subscribed();
        &self.reads
    }

    /// Changes of both levels.
    pub(crate) fn writes(&self) -> &Arc<LaneWrites<V>> {
        self.ensure_subscribed();
        &self.writes
    }

    /// Calls that may run a loader.
    pub(crate) fn loads(&self) -> &LaneLoads<V> {
        self.ensure_subscribed();
        &self.loads
    }

    /// Takes the position in the log when it is called, and not when its future is polled: the caller may read the
    /// values in between (rule 23).
    pub(crate) fn warm(
        &self,
        items: impl Stream<Item = (Result<Key, KeyTooLong>, Loaded<V>)>,
        progress: impl FnMut(&Warming),
    ) -> impl Future<Output = Result<Warming, WriteError>> {
        let before = self.loads.log_positions();
        async move {
            self.ensure_subscribed();
            self.loads.warm(before, items, progress).await
        }
    }

    /// A key to look up, as text. One that is too long is counted and traced. Any end user may cause one, so not each
    /// is traced.
    pub(crate) fn accept<T>(&self, key: Result<T, KeyTooLong>) -> Option<T> {
        if let Err(error) = &key {
            let ctx = self.contexts.first();
            ctx.counters.keys_refused.bump();
            if ctx.options.may_log() {
                let namespace = ctx.options.namespace.as_str();
                let error = error as &dyn Error;
                warn!(namespace, error, "a key cannot be looked up");
            }
        }
        key.ok()
    }

    /// Stops the subscribers.
    pub(crate) fn stop(&self) {
        for (subscriber, ctx) in self.subscribers.iter().zip(self.contexts.iter()) {
            // Before the proof ends: a subscriber that is not cancelled yet could take another one.
            subscriber.stop.cancel();
            ctx.l1.freshness.end();
        }
    }

    /// Stores what is left of a lane's work, and leaves it.
    async fn leave(ctx: &Context<V>, writes: &Writes<V>, subscriber: &Subscriber<V>) {
        let leaving = async {
            // First: a heartbeat that came after `leave` would list this instance again.
            subscriber.ended().await;
            writes.deliver_deferred().await;
            // Otherwise the lane forgets this instance after a while.
            let _ = ctx.breaker.observe(ctx.lane.leave(ctx.instance).await);
            // With the requests since the subscriber has stored its own.
            subscriber.store_last_counts().await;
        };
        // Bounded, since an L2 that hangs must not keep a service from stopping.
        let _ = timeout(ctx.options.l2_timeout.saturating_mul(2), leaving).await;
    }

    /// Ends the deliveries of deferred invalidations. Returns how many are lost.
    fn close_deferred(&self) -> usize {
        self.contexts.iter().map(|ctx| ctx.deferred.close()).sum()
    }

    pub(crate) async fn global_stats(&self) -> Result<Stats, L2Error> {
        self.ensure_subscribed();
        self.subscribers.first().global_stats().await
    }
}

/// An [`Engine`] without its type, with the calls that do not depend on keys and values.
pub(crate) trait Untyped: Send + Sync {
    fn namespace(&self) -> &str;
    fn ready(&self) -> BoxFuture<'_, ()>;
    fn health(&self) -> Health;
    fn stats(&self) -> Stats;
    fn is_enabled(&self) -> bool;
    fn set_enabled(&self, is_enabled: bool);
    fn clear(&self) -> BoxFuture<'_, Result<Token, WriteError>>;
    fn invalidate_tag(&self, tag: Key) -> BoxFuture<'_, Result<Token, WriteError>>;
    /// Stops all. Returns how many deferred invalidations could not be sent: they are [reported](report_losses) by the
    /// caller.
    fn close(&self) -> BoxFuture<'_, usize>;
}

impl<V: Value> Untyped for Engine<V> {
    fn namespace(&self) -> &str {
        &self.contexts.first().options.namespace
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                self.ensure_subscribed();
                let are_live = async {
                    for ctx in self.contexts.iter() {
                        ctx.l1.freshness.live().await;
                    }
                };
                tokio::select! {
                    // The states before the time: a cache that is live, or closed, is so without a wait.
                    biased;
                    () = are_live => return,
                    () = self.subscribers.first().stop.cancelled() => return,
                    // A subscriber may end meanwhile, with a runtime that is not the caller's.
                    () = sleep(LOOK_AGAIN) => {}
                }
            }
        })
    }

    fn health(&self) -> Health {
        let lanes = || self.contexts.iter();
        let are_started = || self.subscribers.iter().all(|one| one.is_started());
        Health {
            l2_up: lanes().all(|ctx| ctx.breaker.is_up()),
            breaker_open: lanes().any(|ctx| ctx.breaker.is_open()),
            subscriber_live: lanes().all(|ctx| ctx.l1.freshness.is_live()),
            started: self.contexts.first().l1.freshness.has_no_l2() || are_started(),
        }
    }

    fn stats(&self) -> Stats {
        self.contexts.stats()
    }

    fn is_enabled(&self) -> bool {
        !self.contexts.first().is_off()
    }

    fn set_enabled(&self, is_enabled: bool) {
        let mut is_new = false;
        for ctx in self.contexts.iter() {
            // Release, for `Context::is_off`: a thread that sees the switch on again sees the new generation of L1, too.
            let was_off = ctx.is_off.swap(!is_enabled, Ordering::AcqRel);
            is_new |= was_off == is_enabled;
            if !is_enabled && !was_off {
                // After the switch: operations that began before belong to the former generation of L1, and store
                // nothing.
                ctx.l1.empty();
            }
        }
        if is_new {
            info!(
                namespace = self.namespace(),
                is_enabled, "the cache was switched"
            );
        }
    }

    fn clear(&self) -> BoxFuture<'_, Result<Token, WriteError>> {
        self.writes().clear().boxed()
    }

    fn invalidate_tag(&self, tag: Key) -> BoxFuture<'_, Result<Token, WriteError>> {
        self.writes().invalidate_tags(vec![tag]).boxed()
    }

    fn close(&self) -> BoxFuture<'_, usize> {
        Box::pin(async {
            self.stop();
            let lanes = self
                .contexts
                .iter()
                .zip(self.writes.iter())
                .zip(self.subscribers.iter());
            let leaving = lanes.map(|((ctx, writes), one)| Self::leave(ctx, writes, one));
            join_all(leaving).await;
            recording::record(&self.loads);
            self.close_deferred()
        })
    }
}

impl<V: Value> Drop for Engine<V> {
    fn drop(&mut self) {
        recording::record(&self.loads);
        if !self.subscribers.first().stop.is_cancelled() {
            self.stop();
            report_losses(&[(self.namespace(), self.close_deferred())]);
        }
    }
}

/// Says how many deferred invalidations are lost with some caches.
pub(crate) fn report_losses(closed: &[(&str, usize)]) {
    let lost: usize = closed.iter().map(|(_, lost)| lost).sum();
    if lost > 0 {
        let with_losses = closed.iter().filter(|(_, lost)| *lost > 0);
        let namespaces: Vec<&str> = with_losses.map(|(namespace, _)| *namespace).collect();
        warn!(
            namespaces = namespaces.join(", "),
            lost,
            "closed before deferred invalidations could be sent to L2; it may keep old values until they expire"
        );
    }
}
