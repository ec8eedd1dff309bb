//! One instance: its parts, put together, started and stopped; and which part answers which call.

#[cfg(feature = "metrics")]
use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
#[cfg(feature = "metrics")]
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::at_least;
use super::attendance::Attendance;
use super::backoff::Backoff;
use super::breaker::Breaker;
#[cfg(feature = "write-behind")]
use super::change::{Appending, Queued};
use super::commit;
use super::context::Context;
use super::convert::{Convert, TagsOf, TtlOf};
use super::deferred::Deferred;
use super::extensions::Extensions;
use super::fleet_stats;
use super::hot_keys::HotKeys;
use super::listener::{Listener, Listeners};
use super::load::{Begin, Current, Loads};
use super::loader::{Loader, LoaderCalls};
use super::lookup;
#[cfg(feature = "metrics")]
use super::metrics::Metrics;
use super::publisher::{PublishTo, Publisher};
#[cfg(feature = "metrics")]
use super::record;
use super::refresh::Refreshes;
use super::reported::Reported;
use super::subscriber;
use super::touch::touch;
use super::update::{Attempts, Turns};
use super::verifier::{Same, Verifier};
use super::warm;
use super::write::Writes;
use crate::clock::Tick;
use crate::entry::Entry;
use crate::error::{CommitError, L2Error, LoadError, WriteError};
use crate::events::{CacheEvent, Events};
use crate::hot_key::HotKey;
use crate::key::{CacheKey, Key, KeyTooLong};
use crate::l1::{L1, Weigher};
use crate::l2::{L2, MemoryL2, OnConnect, random};
#[cfg(feature = "write-behind")]
use crate::l2::{Waiting, WriteStream};
use crate::loaded::Loaded;
use crate::lock::lock;
use crate::options::{DEFAULT_L1_ENTRIES, Options};
use crate::stats::{Counters, Health, Stats};
use crate::throttle::Throttle;
use crate::token::Token;
use crate::vocabulary::{Value, Version};
use crate::warming::Warming;
use crate::wire::codec::ValueCodec;
#[cfg(feature = "write-behind")]
use crate::wire::message::{self, Kind};

/// How often a caller of `ready` looks whether the subscriber is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A running instance. Its tasks hold what they need of it, and are stopped with the last handle.
pub(crate) struct Engine<V: Value> {
    ctx: Arc<Context<V>>,
    loads: Arc<Loads<V>>,
    writes: Arc<Writes<V>>,
    turns: Turns,
    /// The task of the subscriber, once it has been started.
    subscriber: Mutex<Option<JoinHandle<()>>>,
    /// The task that hands the counters over, once it has been started.
    #[cfg(feature = "metrics")]
    recording: Mutex<Option<AbortOnDropHandle<Infallible>>>,
    stop: CancellationToken,
    key_warnings: Throttle,
}

/// What an [`Engine`] is built from.
pub(crate) struct Parts<V> {
    pub(crate) options: Options,
    pub(crate) weigher: Option<Weigher<V>>,
    pub(crate) ttl_of: Option<TtlOf<V>>,
    pub(crate) tags_of: Option<TagsOf<V>>,
    pub(crate) codec: Box<dyn ValueCodec<V>>,
    pub(crate) type_tag: u64,
    /// `None` for L1 alone.
    pub(crate) l2: Option<Box<dyn L2>>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) publish_to: Option<PublishTo>,
    pub(crate) same: Same<V>,
}

impl<V: Value> Engine<V> {
    /// Puts the parts together. Starts the subscriber at once if there is a runtime, otherwise at the first call.
    pub(crate) fn new(parts: Parts<V>) -> Self {
        let Parts {
            options,
            weigher,
            ttl_of,
            tags_of,
            codec,
            type_tag,
            l2,
            listeners,
            publish_to,
            same,
        } = parts;
        let (options, counters) = (Arc::new(options), Arc::new(Counters::default()));
        let events = Arc::new(Events::default());
        let l1 = Arc::new(L1::new(
            options.l1_capacity.unwrap_or(DEFAULT_L1_ENTRIES),
            weigher,
            options.clock.clone(),
            options.max_staleness,
        ));
        let on_connect: OnConnect = {
            let (l1, has_l2) = (Arc::clone(&l1), l2.is_some());
            Box::new(move |clock| {
                if has_l2 {
                    l1.freshness().connected(clock);
                } else {
                    l1.freshness().set_alone(clock.epoch);
                }
            })
        };
        let l2 = l2.unwrap_or_else(|| Box::new(MemoryL2::without_values(options.clock.clone())));
        let lane = l2.lane(&options.namespace, options.l2_timeout, on_connect);
        let reporter = l2.outages().join(&options.namespace);
        let instance = random();
        #[cfg(feature = "metrics")]
        let metrics = Metrics::new(&options.namespace);
        let ctx = Arc::new(Context {
            breaker: Breaker::new(
                lane.system(),
                reporter,
                &options,
                &counters,
                &events,
                #[cfg(feature = "metrics")]
                &metrics,
            ),
            attendance: Attendance::default(),
            convert: Convert::new(codec, ttl_of, tags_of, type_tag, &options, &counters, &l1),
            extensions: Extensions::new(options.clock.clone()),
            deferred: Deferred::new(options.max_deferred),
            listeners: Arc::new(Listeners::new(listeners, &counters)),
            publisher: publish_to.map(|to| Publisher::new(to, &counters)),
            hot_keys: HotKeys::new(options.track_hot_keys),
            verifier: Verifier::new(options.verify, same),
            backoff: Backoff::new(options.clock.clone()),
            instance,
            is_off: AtomicBool::new(!options.is_enabled),
            options,
            l1,
            lane,
            counters,
            events,
            reported: Reported::default(),
            #[cfg(feature = "metrics")]
            metrics,
        });
        let calls = Arc::new(LoaderCalls::new(&ctx));
        let writes = Arc::new(Writes::new(&ctx));
        let refreshes = Arc::new(Refreshes::new(&ctx, &calls, &writes));
        let engine = Self {
            loads: Arc::new(Loads::new(&ctx, &calls, &refreshes, &writes)),
            writes,
            turns: Turns::default(),
            subscriber: Mutex::default(),
            #[cfg(feature = "metrics")]
            recording: Mutex::default(),
            stop: CancellationToken::new(),
            key_warnings: Throttle::default(),
            ctx,
        };
        if Handle::try_current().is_ok() {
            engine.ensure_subscribed(engine.now());
            #[cfg(feature = "metrics")]
            engine.keep_recording();
        }
        engine
    }

    pub(crate) fn now(&self) -> Tick {
        self.ctx.now()
    }

    /// Starts the subscriber, if it is not running and should be. Called by each call that L1 alone does not answer.
    fn ensure_subscribed(&self, now: Tick) {
        if self.ctx.l1.freshness().is_live_at(now) {
            return;
        }
        let mut subscriber = lock(&self.subscriber);
        // It ends with the runtime that it was started on.
        let has_ended = subscriber.as_ref().is_none_or(JoinHandle::is_finished);
        if has_ended && !self.stop.is_cancelled() {
            let (ctx, writes) = (Arc::clone(&self.ctx), Arc::clone(&self.writes));
            let task = subscriber::run(ctx, writes, self.stop.clone());
            *subscriber = Some(tokio::spawn(task));
            #[cfg(feature = "metrics")]
            self.keep_recording();
        }
    }

    /// As with the subscriber, it ends with the runtime that it was started on.
    #[cfg(feature = "metrics")]
    fn keep_recording(&self) {
        let (loads, writes) = (Arc::clone(&self.loads), Arc::clone(&self.writes));
        let recording = record::keep_recording(Arc::clone(&self.ctx), loads, writes);
        let recording = AbortOnDropHandle::new(tokio::spawn(recording));
        *lock(&self.recording) = Some(recording);
    }

    #[cfg(feature = "metrics")]
    fn record(&self) {
        record::record(&self.ctx, &self.loads, &self.writes);
    }

    pub(crate) fn get_local(&self, key: &str, now: Tick) -> Option<Entry<V>> {
        lookup::get_local(&self.ctx, key, now)
    }

    pub(crate) fn get_instead(&self, key: &str) -> Option<Entry<V>> {
        lookup::get_instead(&self.ctx, key)
    }

    pub(crate) async fn get(&self, key: Key, now: Tick) -> Option<Entry<V>> {
        self.ensure_subscribed(now);
        lookup::get(&self.ctx, key, now).await
    }

    pub(crate) async fn get_many(&self, keys: &[Key], now: Tick) -> Vec<Option<Entry<V>>> {
        self.ensure_subscribed(now);
        lookup::get_many(&self.ctx, keys).await
    }

    pub(crate) async fn get_or_load(
        &self,
        key: Key,
        now: Tick,
        load: impl Begin<V>,
    ) -> Result<Entry<V>, LoadError> {
        self.ensure_subscribed(now);
        self.loads.get_or_load(key, now, load).await
    }

    /// Whether any look-up is one with this token.
    pub(crate) fn has_applied(&self, token: Token) -> bool {
        self.ctx.l1.freshness().has_applied(token)
    }

    pub(crate) async fn get_many_at_least(
        &self,
        keys: &[Key],
        token: Token,
    ) -> Vec<Option<Entry<V>>> {
        self.ensure_subscribed(self.now());
        at_least::get_many(&self.ctx, keys, token).await
    }

    pub(crate) async fn get_or_load_at_least(
        &self,
        key: Key,
        token: Token,
        load: impl Begin<V>,
    ) -> Result<Entry<V>, LoadError> {
        self.ensure_subscribed(self.now());
        at_least::get_or_load(&self.ctx, &self.loads, key, token, load).await
    }

    pub(crate) async fn get_many_or_load(
        &self,
        keys: &[&(impl CacheKey + ?Sized)],
        loader: impl Fn(&[usize]) -> Loader<V>,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError> {
        let now = self.now();
        self.ensure_subscribed(now);
        self.loads.get_many_or_load(keys, now, loader).await
    }

    pub(crate) async fn load_anew(
        &self,
        key: Key,
        loader: Loader<V>,
    ) -> Result<Entry<V>, LoadError> {
        self.ensure_subscribed(self.now());
        self.loads.load_anew(key, loader).await
    }

    pub(crate) fn refresh_stale(
        &self,
        key: Key,
        stale: &Entry<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) -> Option<Current<V>> {
        self.loads.refresh_stale(key, stale, loader)
    }

    pub(crate) async fn insert(
        &self,
        values: impl IntoIterator<Item = (Key, Loaded<V>)>,
    ) -> Result<Token, WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.insert(values).await
    }

    /// The stream of writes, if L2 has one.
    #[cfg(feature = "write-behind")]
    pub(crate) fn write_stream(&self) -> Option<&dyn WriteStream> {
        self.ctx.lane.write_stream()
    }

    /// Stores a value, and has it wait for its source.
    #[cfg(feature = "write-behind")]
    pub(crate) async fn append(
        &self,
        key: Key,
        value: Loaded<V>,
        queued: Queued,
    ) -> Result<Appending, WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.append(key, value, queued).await
    }

    /// Reads a value that waits for its source.
    #[cfg(feature = "write-behind")]
    pub(crate) fn open_waiting(&self, waiting: &Waiting) -> Option<V> {
        let key = Key::from(&*waiting.key);
        self.ctx.convert.open_waiting(&key, &waiting.body)
    }

    /// Names this instance in its messages.
    #[cfg(feature = "write-behind")]
    pub(crate) fn instance(&self) -> u64 {
        self.ctx.instance
    }

    /// The message by which these keys are invalidated.
    #[cfg(feature = "write-behind")]
    pub(crate) fn invalidation_of(&self, keys: &[&str]) -> Vec<u8> {
        message::payload(Kind::Invalidate, self.ctx.instance, keys)
    }

    /// The call counts, and not when its future is polled.
    pub(crate) fn warm(
        &self,
        items: impl Stream<Item = (Result<Key, KeyTooLong>, Loaded<V>)>,
        progress: impl FnMut(&Warming),
    ) -> impl Future<Output = Result<Warming, WriteError>> {
        let before = warm::place_before(&self.ctx);
        async move {
            self.ensure_subscribed(self.now());
            warm::warm(&self.ctx, before, items, progress).await
        }
    }

    pub(crate) async fn insert_if(
        &self,
        key: Key,
        loaded: Loaded<V>,
        version: Version,
    ) -> Result<bool, WriteError> {
        self.ensure_subscribed(self.now());
        let stored = self.writes.insert_if(key, loaded, version).await?;
        Ok(stored.is_some())
    }

    /// Stores what `change` makes of the value that is there, in its place.
    pub(crate) async fn update(
        &self,
        key: Key,
        mut change: impl FnMut(Option<&V>) -> Loaded<V>,
    ) -> Result<Token, WriteError> {
        self.ensure_subscribed(self.now());
        let mut attempts = self.attempts(&key).await;
        loop {
            attempts.next().await?;
            let now = self.now();
            let stored = match self.get_local(&key, now) {
                Some(entry) => Some(entry),
                None => self.get(key.clone(), now).await,
            };
            // What L2 does not have, such as a value that could not be stored in it, cannot be replaced in it.
            let version = stored
                .as_ref()
                .map_or(Some(Version::ABSENT), |entry| entry.meta().version());
            let Some(version) = version else { continue };
            let changed = change(stored.as_deref());
            drop(stored);
            if let Some(token) = self.writes.insert_if(key.clone(), changed, version).await? {
                return Ok(token);
            }
        }
    }

    /// Waits for the turn of an update.
    pub(crate) async fn attempts(&self, key: &Key) -> Attempts<'_, V> {
        Attempts::new(&self.ctx, &self.turns, key.clone()).await
    }

    pub(crate) async fn touch(&self, key: Key, ttl: Duration) -> Result<bool, WriteError> {
        self.ensure_subscribed(self.now());
        touch(&self.ctx, key, ttl).await
    }

    pub(crate) async fn expire(&self, key: Key) -> Result<(), WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.expire(key).await
    }

    pub(crate) async fn invalidate(
        &self,
        keys: impl IntoIterator<Item = Key>,
        hold: Duration,
    ) -> Result<Token, WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.invalidate(keys, hold).await
    }

    pub(crate) async fn invalidate_after<T, E>(
        &self,
        key: Result<Key, KeyTooLong>,
        commit: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, CommitError<T, E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.ensure_subscribed(self.now());
        commit::invalidate_after(&self.ctx, &self.writes, key, commit).await
    }

    pub(crate) async fn write_through<Fut, E>(
        &self,
        key: Key,
        loaded: Loaded<V>,
        store: impl FnOnce(&V) -> Fut,
    ) -> Result<Token, CommitError<(), E>>
    where
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        self.ensure_subscribed(self.now());
        commit::write_through(&self.ctx, &self.writes, key, loaded, store).await
    }

    pub(crate) async fn invalidate_and_wait(&self, key: Key) -> Result<Token, WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.invalidate_and_wait(key).await
    }

    pub(crate) async fn invalidate_prefix(&self, prefix: Key) -> Result<u64, WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.invalidate_prefixes([prefix]).await
    }

    pub(crate) async fn invalidate_tags(
        &self,
        tags: impl IntoIterator<Item = Key>,
    ) -> Result<Token, WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.invalidate_tags(tags).await
    }

    pub(crate) async fn clear(&self) -> Result<Token, WriteError> {
        self.ensure_subscribed(self.now());
        self.writes.clear().await
    }

    pub(crate) async fn ready(&self) {
        loop {
            self.ensure_subscribed(self.now());
            tokio::select! {
                biased;
                () = self.ctx.l1.freshness().live() => return,
                () = self.stop.cancelled() => return,
                // The subscriber may end meanwhile, with a runtime that is not the caller's.
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Counts and traces a look-up of a key that is too long: any end user may cause one, so not each is traced.
    pub(crate) fn refuse_key(&self, error: KeyTooLong) {
        self.ctx.counters.keys_refused.bump();
        if self.key_warnings.allows(self.now()) {
            warn!(
                namespace = self.namespace(),
                error = &error as &dyn Error,
                "a key cannot be looked up"
            );
        }
    }

    /// Stops the subscriber.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.ctx.l1.freshness().end();
    }

    /// Stops all. Returns how many deferred invalidations could not be sent: they are [reported](report_losses) by the caller.
    pub(crate) async fn close(&self) -> usize {
        self.stop();
        let subscriber = lock(&self.subscriber).take();
        let ctx = &*self.ctx;
        let leaving = async {
            if let Some(subscriber) = subscriber {
                // Its panic, if any, has been reported where it happened.
                let _ = subscriber.await;
            }
            self.writes.deliver_deferred().await;
            // Otherwise the lane forgets this instance after a while.
            let _ = ctx.breaker.observe(ctx.lane.leave(ctx.instance).await);
            // What was counted since the subscriber has done so.
            fleet_stats::report_last(ctx).await;
        };
        let _ = timeout(ctx.options.l2_timeout.saturating_mul(2), leaving).await;
        #[cfg(feature = "metrics")]
        self.record();
        self.ctx.deferred.close()
    }

    /// The last handle is dropped.
    pub(crate) fn abandon(&self) {
        #[cfg(feature = "metrics")]
        self.record();
        if !self.stop.is_cancelled() {
            self.stop();
            report_losses(&[(self.namespace(), self.ctx.deferred.close())]);
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        !self.ctx.is_off()
    }

    pub(crate) fn set_enabled(&self, is_enabled: bool) {
        let was_off = self.ctx.is_off.swap(!is_enabled, Ordering::AcqRel);
        if was_off != is_enabled {
            return;
        }
        if !is_enabled {
            // After the switch: what began before belongs to the former generation of L1, and is not stored.
            self.ctx.l1.empty();
        }
        let namespace = self.namespace();
        info!(namespace, is_enabled, "the cache was switched");
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.ctx.options.namespace
    }

    pub(crate) fn stats(&self) -> Stats {
        self.ctx.stats()
    }

    pub(crate) fn events(&self) -> BoxStream<'static, CacheEvent> {
        self.ctx.events.stream()
    }

    pub(crate) fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        self.ctx.hot_keys.hottest(most)
    }

    pub(crate) async fn global_stats(&self) -> Result<Stats, L2Error> {
        self.ensure_subscribed(self.now());
        fleet_stats::of_all(&self.ctx).await
    }

    pub(crate) fn health(&self) -> Health {
        Health {
            l2_up: self.ctx.breaker.is_up(),
            breaker_open: self.ctx.breaker.is_open(),
            listener_live: self.ctx.l1.freshness().is_live(),
            started: self.ctx.l1.freshness().is_alone() || lock(&self.subscriber).is_some(),
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
