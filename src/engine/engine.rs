//! One instance: the parts of each partition, put together and started; and which part answers which call.

use std::error::Error;
use std::iter::successors;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::breaker::Breaker;
use super::context::Context;
use super::convert::{Convert, TypeRules};
use super::deferred::Deferred;
use super::load::Mismatch;
use super::load::{LoaderSource, Loads, Mismatches, PartitionLoads, Permits};
use super::metrics::Metrics;
use super::other_programs::listen::{Channel, Channels};
use super::other_programs::publish::{PublishTarget, Publisher};
use super::partitions::Partitions;
use super::read::PartitionReads;
use super::read::hot_keys::HotKeys;
use super::read::looked_up::LookedUp;
use super::read::lookup::Reads;
use super::report::recording;
use super::subscribe::instance_tasks::{InstanceTasks, OnOtherPartitions};
use super::subscribe::subscriber::Subscriber;
use super::sweep::Sweeper;
use super::switch::Switch;
use super::write::{PartitionWrites, Writes};
use crate::clock::Tick;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::events::Events;
use crate::key::{Key, KeyTooLong};
use crate::l1::{L1, SizeAdvisor};
use crate::l2::{L2, MemoryL2, OnConnect, Outages, PartitionName, PartitionNumber, random};
use crate::options::Options;
use crate::settings::AllSettings;
use crate::stats::Counters;
use crate::util::call::FirstStep;
use crate::util::few_names::few_names;
use crate::util::lock::lock;
use crate::vocabulary::Mode;

/// A running instance, with as many partitions as its namespace has. Its tasks hold the parts that they need, and are
/// stopped with the last handle.
pub(crate) struct Engine {
    /// Calls that need no other part go to the contexts.
    pub(crate) contexts: Arc<Partitions<Arc<Context>>>,
    pub(super) reads: PartitionReads,
    pub(super) writes: Arc<PartitionWrites>,
    pub(super) loads: Arc<PartitionLoads>,
    pub(super) subscribers: Partitions<Arc<Subscriber>>,
    /// The task that records, once it has been started.
    pub(super) recording: Mutex<Option<AbortOnDropHandle<()>>>,
    /// The task that gives the memory of L1's entries back.
    pub(super) sweeper: Sweeper,
    pub(super) instance: Arc<Instance>,
    /// That which has taken the place of this one, as the namespace has another number of partitions now (rule 27: only
    /// the partitions of one number are used). Calls that have begun here end here.
    pub(super) next: OnceLock<Arc<Self>>,
    /// Whether that is being built.
    pub(super) goes_on: AtomicBool,
}

#[cfg(feature = "macros")]
type Functions = Vec<(&'static str, &'static str)>;

/// What does not depend on the number of partitions.
pub(super) struct Instance {
    pub(super) id: u64,
    pub(super) options: Arc<Options>,
    pub(super) settings: AllSettings,
    pub(super) type_tag: u64,
    pub(super) values: Arc<TypeRules>,
    /// Without an L2 a clock in memory issues versions, so that L1 alone runs the same code.
    pub(super) l2: Box<dyn L2>,
    pub(super) has_l2: bool,
    /// Of all partitions together.
    pub(super) l1_capacity: AtomicU64,
    pub(super) hot_keys: Arc<HotKeys>,
    pub(super) mismatches: Arc<Mismatches>,
    /// The functions with `#[cached]`, each after the form of its keys.
    #[cfg(feature = "macros")]
    pub(super) functions: Mutex<Functions>,
    /// One for all partitions, which share the capacity.
    pub(super) size_advice: Option<Arc<SizeAdvisor>>,
    pub(super) permits: Arc<Permits>,
    pub(super) channels: Arc<Channels>,
    publisher: Option<Arc<Publisher>>,
    pub(super) counters: Arc<Counters>,
    pub(super) events: Arc<Events>,
    /// Of entries that L1 removes. Apart from the others: there may be as many as look-ups, and a listener that waits
    /// for a change must not miss the change for them.
    pub(super) l1_events: Arc<Events>,
    pub(super) metrics: Arc<Metrics>,
    /// Held while the engine is built anew, switched on or off, or closed: each of these is done to all engines.
    pub(super) changing: Mutex<()>,
}

impl Instance {
    /// The state of a partition, in a namespace of this many.
    fn context(
        &self,
        partition: PartitionNumber,
        partitions: u16,
        switch: &Switch,
        other_partitions: &Arc<watch::Sender<u16>>,
        outages: &Arc<Outages>,
    ) -> Arc<Context> {
        let has_l2 = self.has_l2;
        let weigher = self.values.weigher(self.options.l1_capacity);
        let capacity = self.partition_capacity(partitions);
        let max_deferred = self.options.max_deferred.div_ceil(usize::from(partitions));
        let advice = self.size_advice.clone();
        let l1 = Arc::new(L1::new(
            &self.options,
            capacity,
            weigher,
            advice,
            &self.l1_events,
            self.has_l2 && self.values.are_local,
        ));
        let freshness = Arc::clone(&l1.freshness);
        let (options, switch) = (Arc::clone(&self.options), Arc::new(Switch::like(switch)));
        let followed = Arc::clone(&switch);
        let on_connect: OnConnect = Box::new(move |clock| {
            // A store that no other instance shares needs no proof: no message can be missed.
            if has_l2 {
                // Before the first request, so that an instance which starts meanwhile is off from the start.
                let calls = followed.calls();
                followed.follow(clock.is_off, calls, &freshness, &options.namespace);
                freshness.connected(clock);
            } else {
                freshness.mark_unshared(clock.epoch);
            }
        });
        let namespace = self.options.namespace.as_str();
        let name = PartitionName {
            namespace,
            partition,
            type_tag: self.type_tag,
        };
        let partition = self.l2.partition(name, self.options.l2_timeout, on_connect);
        let (system, reporter) = (partition.system(), outages.join(namespace));
        let (options, counters) = (&self.options, &self.counters);
        let (events, metrics) = (&self.events, &self.metrics);
        Arc::new(Context {
            breaker: Breaker::new(
                system,
                reporter,
                other_partitions,
                options,
                counters,
                events,
                metrics,
            ),
            convert: Convert::new(&self.values, self.type_tag, options, counters, &l1),
            deferred: Deferred::new(max_deferred),
            backoff: Backoff::new(options.clock.clone()),
            instance: self.id,
            switch,
            options: Arc::clone(options),
            l1,
            partition,
            counters: Arc::clone(counters),
            events: Arc::clone(events),
            metrics: Arc::clone(metrics),
        })
    }

    /// Each partition has an equal part of L1, as keys are spread evenly.
    pub(super) fn partition_capacity(&self, partitions: u16) -> u64 {
        let capacity = self.l1_capacity.load(Ordering::Relaxed);
        capacity.div_ceil(u64::from(partitions))
    }
}

/// The user code and the L2 that an [`Engine`] is built from, besides its options.
pub(crate) struct Parts {
    pub(crate) values: TypeRules,
    /// `None` for L1 alone.
    pub(crate) l2: Option<Box<dyn L2>>,
    pub(crate) channels: Vec<Channel>,
    pub(crate) publish_to: Option<PublishTarget>,
}

impl Engine {
    /// Puts the parts together. Starts the subscribers at once if there is a runtime, otherwise at the first call.
    pub(crate) fn new(
        options: Options,
        settings: AllSettings,
        type_tag: u64,
        parts: Parts,
    ) -> Arc<Self> {
        let (options, counters) = (Arc::new(options), Arc::new(Counters::default()));
        let has_l2 = parts.l2.is_some();
        let l2 =
            (parts.l2).unwrap_or_else(|| Box::new(MemoryL2::without_values(options.clock.clone())));
        // Without an L2 there are no servers on which several could lie.
        let set = options.partitions.filter(|_| has_l2);
        let partitions = set.unwrap_or_else(|| l2.default_partitions());
        let switch = Switch::new(options.enabled, options.enabled_for);
        let values = Arc::new(parts.values);
        let capacity = options.l1_capacity;
        let size_advice = options.size_advice.then(|| {
            let is_weighed = values.weigher(capacity).is_some();
            Arc::new(SizeAdvisor::new(capacity.number(), is_weighed, &counters))
        });
        let instance = Arc::new(Instance {
            id: random(),
            settings,
            type_tag,
            values,
            l2,
            has_l2,
            l1_capacity: AtomicU64::new(capacity.number()),
            hot_keys: Arc::new(HotKeys::new(options.track_hot_keys)),
            mismatches: Arc::default(),
            #[cfg(feature = "macros")]
            functions: Mutex::default(),
            size_advice,
            permits: Arc::new(Permits::new(&options)),
            channels: Arc::new(Channels::new(parts.channels, &counters)),
            publisher: parts.publish_to.map(|to| Arc::new(Publisher::new(to))),
            events: Arc::default(),
            l1_events: Arc::default(),
            metrics: Arc::new(Metrics::new(&options.namespace)),
            changing: Mutex::default(),
            options,
            counters,
        });
        let engine = Self::with_partitions(&instance, partitions, &switch);
        engine.start_if_possible();
        let options = &*instance.options;
        let (share, mode) = (options.enabled_for, options.tuned().mode);
        if !options.enabled || share < 1.0 || mode == Mode::Shadow {
            info!(
                namespace = options.namespace.as_str(),
                is_enabled = options.enabled,
                share,
                ?mode,
                "the cache was built to be off, on for a share of its keys, or in shadow mode"
            );
        }
        engine
    }

    fn with_partitions(instance: &Arc<Instance>, partitions: u16, switch: &Switch) -> Arc<Self> {
        let of = &**instance;
        let other_partitions = Arc::new(watch::Sender::new(0));
        let outages = of.l2.outages();
        let contexts = Partitions::new(partitions, |partition| {
            of.context(partition, partitions, switch, &other_partitions, &outages)
        });
        let contexts = Arc::new(contexts);
        // In this order: each part is given those that it calls, and no part calls one that is made later.
        let reads =
            contexts.map(|partition, ctx| Arc::new(Reads::new(partition, ctx, &of.hot_keys)));
        let writes = reads.map(|partition, reads| {
            Arc::new(Writes::new(partition, contexts.at(partition), reads))
        });
        let loads = writes.map(|partition, writes| {
            let (ctx, reads) = (contexts.at(partition), reads.at(partition));
            let (permits, mismatches) = (&of.permits, &of.mismatches);
            Arc::new(Loads::new(ctx, reads, writes, permits, mismatches))
        });
        let writes = Arc::new(writes);
        Arc::new_cyclic(|engine: &Weak<Self>| {
            let engine = Weak::clone(engine);
            let on_other_partitions: OnOtherPartitions = Box::new(move |partitions| {
                if let Some(engine) = engine.upgrade() {
                    engine.go_on_with(partitions);
                }
            });
            let (channels, mismatches) = (&of.channels, &of.mismatches);
            let instance_tasks = InstanceTasks::new(
                &contexts,
                &writes,
                channels,
                mismatches,
                on_other_partitions,
            );
            let mut instance_tasks = Some(instance_tasks);
            let subscribers = writes.map(|partition, writes| {
                // The first partition has it: they are made in their order.
                let (ctx, instance_tasks) = (contexts.at(partition), instance_tasks.take());
                let publisher = of.publisher.clone();
                Arc::new(Subscriber::new(ctx, writes, publisher, instance_tasks))
            });
            Self {
                recording: Mutex::default(),
                sweeper: Sweeper::default(),
                contexts: Arc::clone(&contexts),
                reads,
                loads: Arc::new(loads),
                subscribers,
                next: OnceLock::new(),
                goes_on: AtomicBool::new(false),
                instance: Arc::clone(instance),
                writes: Arc::clone(&writes),
            }
        })
    }

    /// A cache may be built before there is a runtime, as in a static. Then the first call starts the tasks.
    fn start_if_possible(&self) {
        if Handle::try_current().is_ok() {
            self.ensure_started();
        }
    }

    /// Tells instances apart: the id that this one has as a member.
    pub(crate) fn id(&self) -> u64 {
        self.instance.id
    }

    /// The last values that were not those of their source, the oldest first; and the present time.
    pub(crate) fn mismatches(&self) -> (Vec<Mismatch>, Tick) {
        let now = self.instance.options.clock.now();
        (self.instance.mismatches.all(), now)
    }

    /// The name of this process, for people.
    pub(crate) fn instance_name(&self) -> &str {
        &self.instance.options.instance_name
    }

    /// Takes note of a function by the form of its keys. Returns another function with that form, if there is one.
    #[cfg(feature = "macros")]
    pub(crate) fn note_function(
        &self,
        form: &'static str,
        function: &'static str,
    ) -> Option<&'static str> {
        let mut functions = lock(&self.instance.functions);
        if let Some((_, known)) = functions.iter().find(|(known, _)| *known == form) {
            return Some(*known).filter(|known| *known != function);
        }
        functions.push((form, function));
        None
    }

    /// Returns the engine that carries out calls now.
    #[inline]
    pub(crate) fn latest(this: &Arc<Self>) -> &Arc<Self> {
        // One atomic load in the common case.
        this.next.get().map_or(this, Self::last)
    }

    #[cold]
    fn last(mut this: &Arc<Self>) -> &Arc<Self> {
        while let Some(next) = this.next.get() {
            this = next;
        }
        this
    }

    pub(super) fn current(&self) -> &Self {
        self.next.get().map_or(self, |next| Self::last(next))
    }

    /// This one, and those that have taken its place.
    pub(super) fn all(&self) -> impl Iterator<Item = &Self> + Clone {
        successors(Some(self), |engine| engine.next.get().map(|next| &**next))
    }

    /// Goes on with another number of partitions, and an empty L1 (rule 27: only the partitions of one number are
    /// used).
    fn go_on_with(&self, partitions: u16) {
        if self.goes_on.swap(true, Ordering::Relaxed) {
            return;
        }
        let switch = &*self.contexts.first().switch;
        // Without the lock, as the store may be a user's.
        let next = Self::with_partitions(&self.instance, partitions, switch);
        let changing = lock(&self.instance.changing);
        if self.subscribers.first().stop.is_cancelled() {
            return;
        }
        // Both may have been changed meanwhile.
        let capacity = self.instance.partition_capacity(partitions);
        for ctx in next.contexts.iter() {
            ctx.switch.become_like(switch);
            ctx.l1.set_capacity(capacity);
        }
        let flushes = self.contexts.flushes();
        let contexts = Arc::clone(&next.contexts);
        // Calls that begin from here on are carried out there.
        let _ = self.next.set(Arc::clone(&next));
        self.stop();
        for ctx in self.contexts.iter() {
            let _ = ctx.deferred.next.set(Arc::clone(&contexts));
        }
        let recording = lock(&self.recording).take();
        // When these partitions are not counted any more: what is counted twice stays in the metrics, which only grow.
        self.instance.counters.l1_flushes.add(flushes);
        drop(changing);
        drop(recording);
        // Without the lock, as they drop values of users.
        for ctx in self.contexts.iter() {
            ctx.hand_over();
            ctx.l1.flush_and_keep_proof();
        }
        next.start_if_possible();
        let options = &self.instance.options;
        info!(
            namespace = options.namespace.as_str(),
            told = self.contexts.count(),
            partitions,
            "the namespace has another number of partitions than this instance was told, and the instance goes on with that"
        );
    }

    /// How long a load may take.
    pub(crate) fn load_timeout(&self) -> Duration {
        self.instance.options.tuned().load_timeout
    }

    /// Starts the tasks that are not running and should be. Called by each call that L1 alone does not answer.
    pub(crate) fn ensure_started(&self) {
        // A cache without an L2 may be used without a runtime.
        if !self.sweeper.is_running() && Handle::try_current().is_ok() {
            let partitions = self.contexts.iter().map(|ctx| Arc::downgrade(&ctx.l1));
            let (clock, counters) = (&self.instance.options.clock, &self.instance.counters);
            self.sweeper.start(partitions.collect(), clock, counters);
            // The former task is aborted when its handle is replaced, so that there is one at a time.
            let started = recording::start(&self.loads);
            let former = mem::replace(&mut *lock(&self.recording), started);
            drop(former);
        }
        // Its proof does not run out, and to read the clock takes as long as half a hit.
        if self.contexts.first().l1.freshness.is_unshared() {
            return;
        }
        let now = self.now();
        // One atomic load for a partition in the common case. A subscriber that ends takes its proof with it, so a proof
        // shows that there is one.
        let are_live = (self.contexts.iter()).all(|ctx| ctx.l1.freshness.is_live_at(now));
        if !are_live {
            for subscriber in self.subscribers.iter() {
                subscriber.start();
            }
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Tick {
        self.contexts.first().now()
    }

    pub(crate) fn events(&self) -> &Events {
        &self.contexts.first().events
    }

    pub(crate) fn l1_events(&self) -> &Events {
        &self.instance.l1_events
    }

    /// Looks a key up in L1. No subscriber need run for that.
    // The whole path of a hit, compiled with this crate: not inline, as the code of callers would only become larger.
    #[inline(never)]
    pub(crate) fn get_local(this: &Arc<Self>, key: &str) -> Option<AnyEntry> {
        let reads = Self::latest(this).reads.for_key(key);
        reads.get_local(key, reads.now())
    }

    /// Looks a key up in L1 while L2 does not answer, see [`Mode`](crate::Mode).
    pub(crate) fn get_instead(&self, key: &str) -> Option<AnyEntry> {
        self.reads.for_key(key).get_instead(key)
    }

    /// Looks a key up in L2 that L1 does not have.
    pub(crate) fn get_from_l2(&self, key: Result<Key, KeyTooLong>) -> FirstStep<Option<AnyEntry>> {
        match self.accept(key) {
            Some(key) => FirstStep::Wait(self.reads().get_from_l2(key)),
            None => FirstStep::Done(None),
        }
    }

    /// Looks a key up in L2 that L1 does not have, and otherwise loads it; or has the entry that was found in L1
    /// refreshed, or compared with its source.
    pub(crate) fn get_or_load(
        &self,
        key: Result<Key, KeyTooLong>,
        found: Option<AnyEntry>,
        loader_source: LoaderSource,
    ) -> FirstStep<Result<AnyEntry, LoadError>> {
        let key = match key {
            Ok(key) => key,
            Err(error) => return FirstStep::Done(Err(error.into())),
        };
        let loads = self.loads().for_key(&key);
        let Some(entry) = found else {
            return FirstStep::Wait(loads.get_or_load(key, loader_source));
        };
        match loads.refresh_stale(key, &entry, loader_source) {
            Some(current) => FirstStep::Wait(current),
            None => FirstStep::Done(Ok(entry)),
        }
    }

    /// Looks the next key of a call up in L1.
    pub(crate) fn get_next(&self, key: Result<&str, KeyTooLong>, into: &mut LookedUp) {
        let Some(key) = self.accept(key) else {
            return into.entries.push(None);
        };
        let entry = self.reads.for_key(key).get_local(key, into.now);
        let entry = entry.or_else(|| self.get_instead(key));
        let is_enough = entry.is_some();
        into.push(key, entry, is_enough);
    }

    /// Looks the next key of a call that has a loader up in L1.
    pub(crate) fn get_next_or_due(&self, key: &str, into: &mut LookedUp) {
        let entry = self.reads.for_key(key).get_local(key, into.now);
        let is_enough = entry.as_ref().is_some_and(|entry| !entry.is_due());
        into.push(key, entry, is_enough);
    }

    /// Look-ups in L1, for which no subscriber need run.
    pub(crate) fn unsubscribed_reads(&self) -> &PartitionReads {
        &self.reads
    }

    /// Look-ups in both levels.
    pub(crate) fn reads(&self) -> &PartitionReads {
        self.ensure_started();
        &self.reads
    }

    /// Changes of both levels.
    pub(crate) fn writes(&self) -> &Arc<PartitionWrites> {
        self.ensure_started();
        &self.writes
    }

    /// Calls that may run a loader.
    pub(crate) fn loads(&self) -> &PartitionLoads {
        self.ensure_started();
        &self.loads
    }

    /// The loads of a key, unless this is closed.
    pub(crate) fn loads_if_open(&self, key: &Key) -> Option<Arc<Loads>> {
        let is_closed = self.subscribers.first().stop.is_cancelled();
        (!is_closed).then(|| Arc::clone(self.loads().for_key(key)))
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
            ctx.l1.freshness.end_proof();
        }
    }

    /// Ends the deliveries of deferred invalidations. Returns how many are lost.
    pub(super) fn close_deferred(&self) -> usize {
        self.contexts.iter().map(|ctx| ctx.deferred.close()).sum()
    }
}

impl Drop for Engine {
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
        warn!(
            namespaces = few_names(with_losses.map(|(namespace, _)| *namespace)),
            lost,
            "closed before deferred invalidations could be sent to L2; it may keep old values until they expire"
        );
    }
}
