//! Fills the cache before anybody asks for its values: a load of keys that have none, for no caller.
//!
//! As for any load, the leases come first, and the source is read after that (rule 23: the lease comes first). A key
//! that has a value, is held or is loaded elsewhere is left alone. Callers do not join this load: to them it is the
//! load of another instance, so they get its value from L2, and load by themselves if it fails.

use std::iter::{self, Peekable};
use std::sync::Arc;
#[cfg(larder_ablation)]
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::Loads;
use super::cycles::Waiting;
use super::fill::{self, ReplacedValue, StoreResult};
use super::lease::{self, LeaseOutcome, MISSING};
use super::loader::{AnyKey, LoadKey, Loader, LoaderForKeys};
use super::loader_call::{LoadId, QueuedLoads};
use super::partitions::PartitionLoads;
#[cfg(larder_ablation)]
use crate::ablation::{Rule, without};
use crate::engine::local_values;
use crate::error::LoadError;
use crate::key::{Key, KeyTooLong};
use crate::l1::Op;
use crate::l2::{AcceptedValue, Lease};
use crate::stats::Warming;
#[cfg(larder_ablation)]
use crate::util::lock::lock;
use crate::util::time_slice::SharedTimeSlice;

/// How many keys have leases at a time: callers elsewhere wait for these.
const WARM_BATCH: usize = 256;
/// How many lease requests or fills are under way at a time.
const KEYS_AT_ONCE: usize = 64;

/// A key of a user, and its text.
pub(crate) type WarmKey = (Result<Key, KeyTooLong>, AnyKey);

/// The number of a key in its batch, its operation, and its lease.
type LeasedKey = (usize, Op, Lease);

/// What became of a key.
enum Ended {
    Stored,
    Present,
    Absent,
    Changed,
    Refused,
}

impl Ended {
    fn count(self, warming: &mut Warming) {
        warming.done += 1;
        *match self {
            Self::Stored => &mut warming.stored,
            Self::Present => &mut warming.present,
            Self::Absent => &mut warming.absent,
            Self::Changed => &mut warming.changed,
            Self::Refused => &mut warming.refused,
        } += 1;
    }
}

impl PartitionLoads {
    /// How many keys a step of a warm-up takes: about a batch for each partition.
    pub(crate) fn warm_at_a_time(&self) -> usize {
        WARM_BATCH * usize::from(self.count())
    }

    /// Loads the keys that have no value, by one call of the loader for each batch. Returns how many keys were dealt
    /// with, and how. The batch that is under way goes on if the caller is cancelled.
    pub(crate) fn warm<'a>(
        &'a self,
        keys: Vec<WarmKey>,
        loader_for: &'a LoaderForKeys,
    ) -> BoxFuture<'a, Result<Warming, LoadError>> {
        Box::pin(async move {
            let mut warming = Warming::default();
            let mut named = Vec::with_capacity(keys.len());
            for (text, key) in keys {
                match text {
                    Ok(text) => named.push((text, key)),
                    Err(_) => Ended::Refused.count(&mut warming),
                }
            }
            for (partition, mut keys) in self.split(named, |(text, _)| text) {
                while !keys.is_empty() {
                    let rest = keys.split_off(keys.len().min(WARM_BATCH));
                    let (texts, keys_of_batch) = keys.into_iter().unzip();
                    let batch = partition.warm(texts, loader_for(keys_of_batch));
                    warming = warming.and(batch.await?);
                    keys = rest;
                }
            }
            Ok(warming)
        })
    }
}

impl Loads {
    /// Loads a batch in a task of its own, so that its leases are used, or given back, whatever becomes of the caller.
    async fn warm(self: &Arc<Self>, keys: Vec<Key>, loader: Loader) -> Result<Warming, LoadError> {
        // As for any load: a loader that calls this may wait for itself.
        let id = LoadId::anew();
        let waiting = keys
            .iter()
            .map(|key| Waiting::begin(&self.ctx, key, || id.clone()));
        let waiting: Vec<_> = waiting.collect::<Result<_, _>>()?;
        let loads = Arc::clone(self);
        let task = async move {
            local_values::await_proof(&loads.ctx).await;
            loads.warm_batch(keys, &loader, &id).await
        };
        let warmed = tokio::spawn(task.instrument(Span::current())).await;
        drop(waiting);
        // The loader's panic is caught, so a task without a result has ended with its runtime.
        warmed.unwrap_or_else(|_| Err(LoadError::stopped()))
    }

    async fn warm_batch(
        &self,
        keys: Vec<Key>,
        loader: &Loader,
        id: &LoadId,
    ) -> Result<Warming, LoadError> {
        #[cfg(larder_ablation)]
        let read;
        #[cfg(larder_ablation)]
        let loader = if without(Rule::LeaseFirst) {
            read = self.read_first(&keys, loader).await;
            &read
        } else {
            loader
        };
        let mut warming = Warming::default();
        let mut keys = keys.into_iter().enumerate().peekable();
        while keys.peek().is_some() {
            self.warm_part(&mut keys, loader, id, &mut warming).await?;
        }
        debug_assert_eq!(
            warming.done,
            warming.stored + warming.present + warming.absent + warming.changed + warming.refused,
            "each key is counted once"
        );
        Ok(warming)
    }

    /// Loads the next keys of a batch: all of them, or as many as get a lease in a part of its TTL.
    async fn warm_part(
        &self,
        keys: &mut Peekable<impl Iterator<Item = (usize, Key)>>,
        loader: &Loader,
        id: &LoadId,
        warming: &mut Warming,
    ) -> Result<(), LoadError> {
        let ctx = &*self.ctx;
        // `lease::renew_while` renews the leases from a third of the TTL after the last request on. So the requests end after
        // a third of the TTL, however far or busy L2 is, or the first lease would end before it is renewed.
        let until = Instant::now() + ctx.options.lease_ttl / 3;
        let first = keys.next();
        let in_time = iter::from_fn(|| keys.next_if(|_| Instant::now() < until));
        let slice = &SharedTimeSlice::begin();
        let asked = first
            .into_iter()
            .chain(in_time)
            .map(|(number, key)| async move {
                // Where L2 has no values, it has no lease that another load would wait for.
                let is_loading = ctx.l1.is_only_level() && ctx.l1.in_flight.is_loading(&key);
                let op = ctx.l1.in_flight.begin(&key);
                if is_loading {
                    return (number, op, LeaseOutcome::Wait(Duration::ZERO));
                }
                let mut request = lease::request(ctx, AcceptedValue::Any);
                let until = Instant::now() + ctx.options.l2_timeout;
                let acquired =
                    lease::acquire(ctx, &op, MISSING, Some(&mut request), until, slice).await;
                (number, op, acquired)
            });
        let asked: Vec<_> = stream::iter(asked).buffered(KEYS_AT_ONCE).collect().await;
        let (mut leased, mut failed) = (Vec::new(), None);
        for (number, op, acquired) in asked {
            match acquired {
                LeaseOutcome::Lease(lease, _) => leased.push((number, op, lease)),
                LeaseOutcome::Found(..) | LeaseOutcome::Wait(_) => Ended::Present.count(warming),
                LeaseOutcome::NotAsked | LeaseOutcome::Refused => Ended::Changed.count(warming),
                LeaseOutcome::Unreadable => Ended::Refused.count(warming),
                LeaseOutcome::Failed(error) => {
                    failed = failed.or(Some(error));
                    Ended::Refused.count(warming);
                }
            }
        }
        if !leased.is_empty() {
            self.load_leased(leased, loader, id, warming).await?;
        }
        failed.map_or(Ok(()), |error| Err(LoadError::interrupted(error)))
    }

    /// Calls the loader for keys that have leases, and stores the values that it returns.
    async fn load_leased(
        &self,
        leased: Vec<LeasedKey>,
        loader: &Loader,
        id: &LoadId,
        warming: &mut Warming,
    ) -> Result<(), LoadError> {
        let ctx = &*self.ctx;
        let asked = leased.iter().map(|(number, op, _)| LoadKey {
            loader_index: *number,
            key: op.key.clone(),
            previous: None,
        });
        let loading = loader.load(asked.collect());
        let leases = leased.iter().map(|(_, op, lease)| (&op.key, Some(*lease)));
        let leases: Vec<_> = leases.collect();
        // A caller that waits for one of the leases waits no longer than for the lease of an instance that is gone.
        let mut limit = ctx.options.tuned().load_timeout;
        if !ctx.l1.are_values_local {
            limit = limit.min(ctx.options.lease_ttl);
        }
        let ids = vec![id.clone(); leases.len()];
        let called = self.call_within(limit, loading, &leases, ids, QueuedLoads::default());
        let loaded: Vec<_> = match called.await {
            Ok(values) => values.into_iter().map(Ok).collect(),
            Err(error) => leased.iter().map(|_| Err(error.clone())).collect(),
        };
        let fills = leased.into_iter().zip(loaded);
        let fills = fills.map(|((_, op, lease), loaded)| async move {
            fill::fill_or_give_back(ctx, &op, Some(lease), loaded, ReplacedValue::Nothing).await
        });
        // To the end, also if one fails: each lease is used or given back.
        let fills = stream::iter(fills).buffer_unordered(KEYS_AT_ONCE);
        let fills: Vec<_> = fills.collect().await;
        let mut failed = Ok(());
        for filled in fills {
            let ended = match filled {
                Ok(None) => Ended::Absent,
                Ok(Some(filled)) => match filled.store_result {
                    StoreResult::Stored => Ended::Stored,
                    StoreResult::Overtaken => Ended::Changed,
                    StoreResult::NotStored | StoreResult::Unstorable => Ended::Refused,
                },
                Err(error) => {
                    failed = failed.and(Err(error));
                    continue;
                }
            };
            ended.count(warming);
        }
        failed
    }

    /// Without the rule: the source is read first, and the leases are asked for afterwards. Returns a loader of the
    /// values that were read.
    #[cfg(larder_ablation)]
    async fn read_first(&self, keys: &[Key], loader: &Loader) -> Loader {
        let asked = keys.iter().enumerate().map(|(loader_index, key)| LoadKey {
            loader_index,
            key: key.clone(),
            previous: None,
        });
        let loading = loader.load(asked.collect());
        let leases: Vec<_> = keys.iter().map(|key| (key, None)).collect();
        let ids = vec![LoadId::anew(); keys.len()];
        let loaded = self.call(loading, &leases, ids, QueuedLoads::default());
        let values = loaded.await.unwrap_or_default();
        let read: Vec<_> = keys.iter().cloned().zip(values).collect();
        let read = Mutex::new(read);
        Loader::of_many(Arc::new(move |asked| {
            let mut read = lock(&read);
            let take = |(number, _): (usize, _)| {
                let (key, value) = read.get_mut(number)?;
                Some((key.clone(), value.take()?))
            };
            let values: Vec<_> = asked.into_iter().filter_map(take).collect();
            Box::pin(std::future::ready(Ok(values)))
        }))
    }
}
