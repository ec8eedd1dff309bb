//! Operation of an instance: watching it, switching it, changing its options, and closing it.

use std::iter::zip;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::time::{sleep, timeout};
use tracing::info;

use super::context::Context;
use super::engine::Engine;
use super::read::Located;
use super::report::recording;
use super::subscribe::subscriber::Subscriber;
use super::switch::{Bypassed, MAX_BYPASSED, Switch};
use super::write::Writes;
use crate::error::{BuildError, L2Error, Misuse, WriteError};
use crate::key::Key;
use crate::options::Options;
use crate::settings::{AppliedSettings, Settings};
use crate::stats::{Health, HotKey, SizeAdvice, Stats};
use crate::token::Token;
use crate::util::later::Later;
use crate::util::lock::lock;
use crate::vocabulary::Mode;

/// How often a caller of `ready` looks whether the subscribers are still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Engine {
    pub(crate) fn namespace(&self) -> &str {
        &self.contexts.first().options.namespace
    }

    pub(crate) fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // One whose place is taken meanwhile is stopped.
            for engine in self.all() {
                engine.is_ready().await;
            }
        })
    }

    pub(crate) fn health(&self) -> Health {
        let partitions = self.partition_health();
        Health {
            l2_up: partitions.iter().all(Health::is_l2_up),
            breaker_open: partitions.iter().any(Health::is_breaker_open),
            subscriber_live: partitions.iter().all(Health::is_subscriber_live),
            started: partitions.iter().all(Health::is_started),
            storing: partitions.iter().all(Health::is_storing),
        }
    }

    pub(crate) fn partition_health(&self) -> Vec<Health> {
        let engine = self.current();
        let partitions = zip(engine.contexts.iter(), engine.subscribers.iter());
        let health = partitions.map(|(ctx, subscriber)| Health {
            l2_up: ctx.breaker.is_up(),
            breaker_open: ctx.breaker.is_open(),
            subscriber_live: ctx.l1.freshness.is_live(),
            started: ctx.l1.freshness.is_unshared() || subscriber.is_started(),
            storing: ctx.convert.is_storing(),
        });
        health.collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.current().contexts.stats()
    }

    pub(crate) fn size_advice(&self) -> Option<SizeAdvice> {
        self.contexts.first().l1.entries.size_advice()
    }

    pub(crate) fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        // One sample is for all partitions.
        self.unsubscribed_reads().first().hot_keys.hottest(most)
    }

    /// The keys that L1 could answer now, up to `most`.
    pub(crate) fn local_keys(&self, most: usize) -> Vec<String> {
        let now = self.now();
        let mut keys = Vec::new();
        for ctx in self.contexts.iter() {
            let of_partition = ctx.l1.keys(most - keys.len(), now).into_iter();
            keys.extend(of_partition.map(|key| (*key).to_owned()));
        }
        keys
    }

    /// What both levels hold for a key.
    pub(crate) fn locate(&self, key: Key) -> BoxFuture<'static, Located> {
        self.current().reads().locate(key)
    }

    /// The name of the store, or `none`.
    pub(crate) fn l2_system(&self) -> &'static str {
        if self.instance.has_l2 {
            self.contexts.first().partition.system()
        } else {
            "none"
        }
    }

    pub(crate) fn options_in_effect(&self) -> Settings {
        self.instance.options.in_effect()
    }

    /// The share of all keys for which this is used while it is switched on.
    pub(crate) fn enabled_for(&self) -> f64 {
        self.contexts.first().switch.share()
    }

    pub(crate) fn is_enabled(&self) -> bool {
        !self.contexts.first().switch.is_off()
    }

    pub(crate) fn set_enabled(&self, is_enabled: bool, later: &mut Later) {
        let changing = lock(&self.instance.changing);
        let mut is_new = false;
        for ctx in self.all().flat_map(|engine| engine.contexts.iter()) {
            let was_enabled = ctx.switch.set_on(is_enabled);
            is_new |= was_enabled != is_enabled;
            if !is_enabled && was_enabled {
                // After the switch: operations that began before belong to the former generation of L1, and store
                // nothing.
                ctx.l1.flush_and_keep_proof();
            }
        }
        drop(changing);
        if is_new {
            let namespace = self.namespace().to_owned();
            later.log(move || info!(namespace, is_enabled, "the cache was switched"));
        }
    }

    /// The options with these settings of the operator, if they can work.
    pub(crate) fn options_with(&self, operator: &Settings) -> Result<Options, BuildError> {
        let (set, now) = (
            self.instance.settings.with(operator),
            &self.instance.options,
        );
        let options = Options::new(now.namespace.clone(), &set, now.clock.clone());
        let mut mistakes = options.mistakes();
        mistakes.extend(self.instance.values.mistakes(&options));
        if mistakes.is_empty() {
            return Ok(options);
        }
        Err(BuildError::new(&options.namespace, mistakes, None))
    }

    /// Applies other settings of the operator to the cache as it runs.
    pub(crate) fn apply_settings(
        &self,
        operator: &Settings,
        later: &mut Later,
    ) -> Result<AppliedSettings, BuildError> {
        let (of, settings) = (&*self.instance, &self.instance.settings);
        let mut last = lock(&settings.last);
        // Before anything is changed.
        let wanted = self.options_with(operator)?;
        let (before, after) = (settings.with(&last), settings.with(operator));
        let is_other_unit = !of.options.l1_capacity.is_of_unit(wanted.l1_capacity);
        let can_change =
            |name: &&str| Settings::is_live(name) && !(*name == "l1_capacity" && is_other_unit);
        let changed: Vec<_> = before.differing(&after).filter(can_change).collect();
        // Those with which the cache was built still count, however often other settings came since.
        let differing = settings.built.differing(&after);
        let needs_restart: Vec<_> = differing.filter(|name| !can_change(name)).collect();
        let was_shadow = of.options.tuned().mode == Mode::Shadow;
        of.options.tune(wanted.tuned());
        if wanted.tuned().mode == Mode::Shadow && !was_shadow {
            // Entries from before do not say that each hit has more to do. Values in L2 are read anew.
            let contexts = self.all().flat_map(|engine| engine.contexts.iter());
            contexts.for_each(|ctx| ctx.l1.flush_and_keep_proof());
        }
        for name in &changed {
            // A call may have set another value since: it stays, unless the settings have changed.
            match *name {
                "enabled" => self.set_enabled(wanted.enabled, later),
                "enabled_for" => self.set_enabled_for(wanted.enabled_for, later),
                "l1_capacity" => self.set_l1_capacity(wanted.l1_capacity.number(), later),
                "max_concurrent_loads" => {
                    self.set_max_concurrent_loads(wanted.max_concurrent_loads, later);
                }
                _ => {}
            }
        }
        *last = operator.clone();
        drop(last);
        let applied = AppliedSettings {
            namespace: self.namespace().to_owned(),
            changed,
            needs_restart,
        };
        let said = applied.clone();
        later.log(move || {
            info!(
                namespace = said.namespace,
                changed = said.changed.join(" "),
                needs_restart = said.needs_restart.join(" "),
                "settings were applied"
            );
        });
        Ok(applied)
    }

    /// Switches all instances off or on.
    pub(crate) fn set_enabled_everywhere(
        &self,
        is_enabled: bool,
    ) -> BoxFuture<'_, Result<(), L2Error>> {
        let current = self.current();
        current.ensure_started();
        Box::pin(async move {
            let switching = current.contexts.iter().map(|ctx| async {
                // The step carries a deadline, as a late copy of it must not undo a later switch.
                ctx.learn_clock().await?;
                let (deadline, _) = ctx.deadline();
                let switched = ctx.partition.switch(!is_enabled, deadline);
                ctx.breaker.send("switch", switched).await?;
                let freshness = &ctx.l1.freshness;
                (ctx.switch).switched(!is_enabled, freshness, &ctx.options.namespace);
                Ok(())
            });
            // All of them are sent, also if one fails.
            join_all(switching).await.into_iter().collect()
        })
    }

    /// How many keys and prefixes are bypassed.
    pub(crate) fn bypassed(&self) -> usize {
        let bypassed = self.contexts.first().switch.bypassed();
        bypassed.keys.len() + bypassed.prefixes.len()
    }

    /// How many prefixes all instances bypass.
    pub(crate) fn bypassed_everywhere(&self) -> usize {
        let everywhere = self.contexts.first().switch.bypassed_everywhere();
        everywhere.present().count()
    }

    pub(crate) fn l1_capacity(&self) -> u64 {
        self.instance.l1_capacity.load(Ordering::Relaxed)
    }

    /// Has the cache off for a key, or for the keys that begin with a prefix.
    pub(crate) fn bypass(&self, key: &Key, is_prefix: bool) -> Result<(), Misuse> {
        self.set_bypassed(|bypassed| {
            let to = if is_prefix {
                &mut bypassed.prefixes
            } else {
                &mut bypassed.keys
            };
            to.insert(key.clone());
        })?;
        // After the switch: operations that began before store nothing.
        for ctx in self.all().flat_map(|engine| engine.contexts.iter()) {
            if is_prefix {
                ctx.l1.apply_unversioned_prefix(key, ctx.now());
            } else {
                ctx.l1.apply_unversioned(key);
            }
        }
        Ok(())
    }

    pub(crate) fn end_bypass(&self) {
        // None are never too many.
        _ = self.set_bypassed(|bypassed| *bypassed = Bypassed::default());
    }

    fn set_bypassed(&self, set: impl FnOnce(&mut Bypassed)) -> Result<(), Misuse> {
        let changing = lock(&self.instance.changing);
        // A copy, as calls read the list without a lock.
        let mut bypassed = (*self.contexts.first().switch.bypassed()).clone();
        set(&mut bypassed);
        let (keys, prefixes) = (bypassed.keys.len(), bypassed.prefixes.len());
        // Each call goes over all prefixes.
        if keys + prefixes > MAX_BYPASSED {
            return Err(Misuse::TooManyBypassed);
        }
        let contexts = self.all().flat_map(|engine| engine.contexts.iter());
        Switch::bypass(contexts.map(|ctx| &*ctx.switch), bypassed);
        drop(changing);
        info!(
            namespace = self.namespace(),
            keys, prefixes, "keys are bypassed"
        );
        Ok(())
    }

    pub(crate) fn set_max_concurrent_loads(&self, most: usize, later: &mut Later) {
        self.instance.permits.set_most_loads(most);
        let namespace = self.namespace().to_owned();
        later.log(move || info!(namespace, most, "the limit of concurrent loads was set"));
    }

    pub(crate) fn set_l1_capacity(&self, capacity: u64, later: &mut Later) {
        let of = &*self.instance;
        // Held, so that an engine which is built anew meanwhile has this capacity.
        let changing = lock(&of.changing);
        of.l1_capacity.store(capacity, Ordering::Relaxed);
        // It is about the hit rates of capacities that are multiples of this one.
        if let Some(advice) = &of.size_advice {
            advice.set_capacity(capacity);
        }
        for engine in self.all() {
            let of_partition = of.partition_capacity(engine.contexts.count());
            for ctx in engine.contexts.iter() {
                ctx.l1.set_capacity(of_partition);
            }
        }
        drop(changing);
        let namespace = self.namespace().to_owned();
        later.log(move || info!(namespace, capacity, "the capacity of L1 was set"));
    }

    pub(crate) fn set_enabled_for(&self, share: f64, later: &mut Later) {
        let changing = lock(&self.instance.changing);
        for ctx in self.all().flat_map(|engine| engine.contexts.iter()) {
            if ctx.switch.set_share(share) {
                // After the switch, as in `set_enabled`: an operation on a key that has left the share stores nothing.
                // Entries of the keys that stay are read anew.
                ctx.l1.flush_and_keep_proof();
            }
        }
        drop(changing);
        let namespace = self.namespace().to_owned();
        later.log(move || {
            info!(namespace, share, "the cache is on for a share of its keys");
        });
    }

    pub(crate) fn clear(&self) -> BoxFuture<'_, Result<Token, WriteError>> {
        self.current().writes().clear()
    }

    pub(crate) fn invalidate(&self, key: Key) -> BoxFuture<'_, Result<Token, WriteError>> {
        self.current().writes().invalidate(key, Duration::ZERO)
    }

    pub(crate) fn invalidate_prefix(&self, prefix: Key) -> BoxFuture<'_, Result<u64, WriteError>> {
        self.current().writes().invalidate_prefixes(vec![prefix])
    }

    pub(crate) fn invalidate_tag(&self, tag: Key) -> BoxFuture<'_, Result<Token, WriteError>> {
        self.current().writes().invalidate_tags(vec![tag])
    }

    /// Stops all. Returns how many deferred invalidations could not be sent: they are [reported](report_losses) by the
    /// caller.
    pub(crate) fn close(&self) -> BoxFuture<'_, usize> {
        Box::pin(async {
            let engine = self.stop_all();
            let partitions = engine
                .contexts
                .iter()
                .zip(engine.writes.iter())
                .zip(engine.subscribers.iter());
            let leaving = partitions.map(|((ctx, writes), one)| Self::leave(ctx, writes, one));
            join_all(leaving).await;
            recording::record(&engine.loads);
            self.all().map(Self::close_deferred).sum()
        })
    }

    /// Waits until L2 has accepted all invalidations that were deferred.
    pub(crate) fn nothing_is_deferred(this: &Arc<Self>) -> BoxFuture<'static, ()> {
        let contexts = Arc::clone(&Self::latest(this).contexts);
        Box::pin(async move {
            for ctx in contexts.iter() {
                ctx.deferred.emptied().await;
            }
        })
    }

    /// What this instance keeps of calls and writes that have ended. For tests: empty if nothing is under way.
    pub(crate) fn left_over(&self) -> Vec<&'static str> {
        let mut left = self.loads.first().left_over();
        let contexts = || self.contexts.iter();
        if !contexts().all(|ctx| ctx.l1.in_flight.is_idle()) {
            left.push("an operation of a key");
        }
        if self
            .writes
            .iter()
            .any(|partition| partition.writer.pending() > 0)
        {
            left.push("a write");
        }
        if !self.instance.channels.is_at_rest() {
            left.push("a message of another program");
        }
        left
    }

    /// Stops the subscribers of this engine and of those that have taken its place. Returns the last of these.
    fn stop_all(&self) -> &Self {
        let _changing = lock(&self.instance.changing);
        self.all().for_each(Self::stop);
        self.current()
    }

    /// Waits until L1 is used, or this is stopped.
    async fn is_ready(&self) {
        loop {
            self.ensure_started();
            if !self.instance.options.is_listed {
                return;
            }
            let are_live = async {
                for ctx in self.contexts.iter() {
                    ctx.l1.freshness.wait_until_live().await;
                    // Afterwards: a connection that is opened before the epoch is known ends what L1 holds.
                    ctx.not_refused().await;
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
    }

    /// Stores what is left of a partition's work, and leaves it.
    async fn leave(ctx: &Context, writes: &Writes, subscriber: &Subscriber) {
        let leaving = async {
            // First: a heartbeat that came after `leave` would list this instance again.
            subscriber.ended().await;
            writes.deliver_deferred().await;
            if ctx.options.is_listed {
                // Otherwise the partition forgets this instance after a while.
                let _ = ctx.breaker.observe(ctx.partition.leave(ctx.instance).await);
            }
            // With the requests since the subscriber has stored its own.
            subscriber.store_last_counts().await;
        };
        // Bounded, since an L2 that hangs must not keep a service from stopping.
        let _ = timeout(ctx.options.l2_timeout.saturating_mul(2), leaving).await;
    }

    pub(crate) fn global_stats(&self) -> BoxFuture<'_, Result<Stats, L2Error>> {
        self.ensure_started();
        Box::pin(self.subscribers.first().global_stats())
    }
}
