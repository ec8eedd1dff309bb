//! One instance: its parts, put together, started and stopped; and which part answers which call.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
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
use super::load::{Loads, Same};
use super::metrics::Metrics;
use super::read::lookup::Reads;
use super::report::recording;
use super::subscribe::listen::Channel;
use super::subscribe::publish::PublishTo;
use super::subscribe::subscriber::Subscriber;
use super::write::Writes;
use crate::error::{L2Error, WriteError};
use crate::events::Events;
use crate::key::{Key, KeyTooLong};
use crate::l1::{L1, Weigher};
use crate::l2::{L2, MemoryL2, OnConnect, random};
use crate::loaded::Loaded;
use crate::options::Options;
use crate::stats::{Counters, Health, Stats, Warming};
use crate::token::Token;
use crate::util::lock::lock;
use crate::vocabulary::Value;

/// How often a caller of `ready` looks whether the subscriber is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A running instance. Its tasks hold the parts that they need, and are stopped with the last handle.
pub(crate) struct Engine<V: Value> {
    /// The calls that need no other part are those of the context.
    pub(crate) ctx: Arc<Context<V>>,
    reads: Arc<Reads<V>>,
    writes: Arc<Writes<V>>,
    loads: Arc<Loads<V>>,
    subscriber: Arc<Subscriber<V>>,
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
    /// Puts the parts together. Starts the subscriber at once if there is a runtime, otherwise at the first call.
    pub(crate) fn new(options: Options, type_tag: u64, parts: Parts<V>) -> Self {
        let (options, counters) = (Arc::new(options), Arc::new(Counters::default()));
        let events = Arc::new(Events::default());
        let l1 = Arc::new(L1::new(&options, parts.weigher));
        let (freshness, has_l2) = (Arc::clone(&l1.freshness), parts.l2.is_some());
        let on_connect: OnConnect = Box::new(move |clock| {
            // A store that no other instance shares needs no proof: no message can be missed.
            if has_l2 {
                freshness.connected(clock);
            } else {
                freshness.set_no_l2(clock.epoch);
            }
        });
        // Without an L2 a clock in memory issues versions, so that L1 alone runs the same code.
        let l2 =
            (parts.l2).unwrap_or_else(|| Box::new(MemoryL2::without_values(options.clock.clone())));
        let lane = l2.lane(&options.namespace, options.l2_timeout, on_connect);
        let (system, reporter) = (lane.system(), l2.outages().join(&options.namespace));
        let instance = random();
        let metrics = Arc::new(Metrics::new(&options.namespace));
        let ctx = Arc::new(Context {
            breaker: Breaker::new(system, reporter, &options, &counters, &events, &metrics),
            convert: Convert::new(parts.values, type_tag, &options, &counters, &l1),
            deferred: Deferred::new(options.max_deferred),
            backoff: Backoff::new(options.clock.clone()),
            instance,
            is_off: AtomicBool::new(!options.enabled),
            options,
            l1,
            lane,
            counters,
            events,
            metrics,
        });
        // In this order: each part is given those that it calls, and no part calls one that is made later.
        let reads = Arc::new(Reads::new(&ctx));
        let writes = Arc::new(Writes::new(&ctx, &reads));
        let loads = Arc::new(Loads::new(&ctx, &reads, &writes, parts.same));
        let subscriber = Subscriber::new(&ctx, &writes, parts.channels, parts.publish_to);
        let engine = Self {
            recording: Mutex::default(),
            reads,
            writes,
            loads,
            subscriber: Arc::new(subscriber),
            ctx,
        };
        // A cache may be built before there is a runtime, as in a static. Then the first call starts the tasks.
        if Handle::try_current().is_ok() {
            engine.ensure_subscribed();
            engine.start_recording();
        }
        engine
    }

    /// Starts the subscriber, if it is not running and should be. Called by each call that L1 alone does not answer.
    fn ensure_subscribed(&self) {
        // One atomic load in the common case. A subscriber that ends takes its proof with it, so a proof shows that
        // there is one.
        if !self.ctx.l1.freshness.is_live_at(self.ctx.now()) && self.subscriber.start() {
            self.start_recording();
        }
    }

    fn start_recording(&self) {
        let started = recording::start(&self.loads);
        // The former task is aborted when its handle is replaced, so that there is one at a time.
        *lock(&self.recording) = started;
    }

    /// Look-ups in L1, for which the subscriber need not run.
    pub(crate) fn local(&self) -> &Reads<V> {
        &self.reads
    }

    /// Look-ups in both levels.
    pub(crate) fn reads(&self) -> &Reads<V> {
        self.ensure_subscribed();
        &self.reads
    }

    /// Changes of both levels.
    pub(crate) fn writes(&self) -> &Arc<Writes<V>> {
        self.ensure_subscribed();
        &self.writes
    }

    /// Calls that may run a loader.
    pub(crate) fn loads(&self) -> &Arc<Loads<V>> {
        self.ensure_subscribed();
        &self.loads
    }

    /// Whether any look-up is one with this token.
    pub(crate) fn has_applied(&self, token: Token) -> bool {
        self.ctx.l1.freshness.has_applied(token)
    }

    /// Takes the position in the log when it is called, and not when its future is polled: the caller may read the
    /// values in between (rule 23).
    pub(crate) fn warm(
        &self,
        items: impl Stream<Item = (Result<Key, KeyTooLong>, Loaded<V>)>,
        progress: impl FnMut(&Warming),
    ) -> impl Future<Output = Result<Warming, WriteError>> {
        let before = self.loads.log_position();
        async move {
            self.ensure_subscribed();
            self.loads.warm(before, items, progress).await
        }
    }

    /// A key to look up, as text. One that is too long is counted and traced. Any end user may cause one, so not each
    /// is traced.
    pub(crate) fn accept<T>(&self, key: Result<T, KeyTooLong>) -> Option<T> {
        if let Err(error) = &key {
            self.ctx.counters.keys_refused.bump();
            if self.ctx.options.may_log() {
                let namespace = self.ctx.options.namespace.as_str();
                let error = error as &dyn Error;
                warn!(namespace, error, "a key cannot be looked up");
            }
        }
        key.ok()
    }

    /// Stops the subscriber.
    pub(crate) fn stop(&self) {
        // Before the proof ends: a subscriber that is not cancelled yet could take another one.
        self.subscriber.stop.cancel();
        self.ctx.l1.freshness.end();
    }

    pub(crate) async fn global_stats(&self) -> Result<Stats, L2Error> {
        self.ensure_subscribed();
        self.subscriber.fleet_stats.of_all().await
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
        &self.ctx.options.namespace
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                self.ensure_subscribed();
                tokio::select! {
                    // The states before the time: a cache that is live, or closed, is so without a wait.
                    biased;
                    () = self.ctx.l1.freshness.live() => return,
                    () = self.subscriber.stop.cancelled() => return,
                    // The subscriber may end meanwhile, with a runtime that is not the caller's.
                    () = sleep(LOOK_AGAIN) => {}
                }
            }
        })
    }

    fn health(&self) -> Health {
        Health {
            l2_up: self.ctx.breaker.is_up(),
            breaker_open: self.ctx.breaker.is_open(),
            subscriber_live: self.ctx.l1.freshness.is_live(),
            started: self.ctx.l1.freshness.has_no_l2() || self.subscriber.is_started(),
        }
    }

    fn stats(&self) -> Stats {
        self.ctx.stats()
    }

    fn is_enabled(&self) -> bool {
        !self.ctx.is_off()
    }

    fn set_enabled(&self, is_enabled: bool) {
        // Release, for `Context::is_off`: a thread that sees the switch on again sees the new generation of L1, too.
        let was_off = self.ctx.is_off.swap(!is_enabled, Ordering::AcqRel);
        if was_off != is_enabled {
            return;
        }
        if !is_enabled {
            // After the switch: operations that began before belong to the former generation of L1, and store nothing.
            self.ctx.l1.empty();
        }
        let namespace = self.ctx.options.namespace.as_str();
        info!(namespace, is_enabled, "the cache was switched");
    }

    fn clear(&self) -> BoxFuture<'_, Result<Token, WriteError>> {
        self.writes().clear().boxed()
    }

    fn invalidate_tag(&self, tag: Key) -> BoxFuture<'_, Result<Token, WriteError>> {
        self.writes().invalidate_tags([tag]).boxed()
    }

    fn close(&self) -> BoxFuture<'_, usize> {
        Box::pin(async {
            self.stop();
            let ctx = &*self.ctx;
            let leaving = async {
                // First: a heartbeat that came after `leave` would list this instance again.
                self.subscriber.ended().await;
                self.writes.deliver_deferred().await;
                // Otherwise the lane forgets this instance after a while.
                let _ = ctx.breaker.observe(ctx.lane.leave(ctx.instance).await);
                // With the requests since the subscriber has stored its own.
                self.subscriber.fleet_stats.store_last().await;
            };
            // Bounded, since an L2 that hangs must not keep a service from stopping.
            let _ = timeout(ctx.options.l2_timeout.saturating_mul(2), leaving).await;
            recording::record(&self.loads);
            self.ctx.deferred.close()
        })
    }
}

impl<V: Value> Drop for Engine<V> {
    fn drop(&mut self) {
        recording::record(&self.loads);
        if !self.subscriber.stop.is_cancelled() {
            self.stop();
            let ctx = &self.ctx;
            report_losses(&[(&ctx.options.namespace, ctx.deferred.close())]);
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
