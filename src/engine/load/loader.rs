//! A user's loader without its types, and the limits that it runs in: how many at once, for how long, under which
//! leases.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::Empty;
use tracing::{Instrument, debug, debug_span};

use super::Loads;
use super::cycles;
use super::lease::{self, Leased};
use super::loader_call::{LoadId, LoaderCall, QueuedLoads};
use crate::engine::spans::enabled;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::events::CacheEvent;
use crate::key::Key;
use crate::loaded::Loaded;
use crate::util::lock::lock;
use crate::vocabulary::AnyValue;

/// Loads some of the keys that it was made for. A key that was loaded is not loaded again.
///
/// Clones are one loader: a key that one of them was asked for is not loaded by another.
#[derive(Clone)]
pub(crate) struct Loader(UserLoader);

#[derive(Clone)]
enum UserLoader {
    /// Of one key. `None` once it was called.
    One(Arc<Mutex<Option<OneKeyLoader>>>),
    Many(Arc<ManyKeysLoader>),
}

/// The user's loader of one key, which is given the previous value. The user's code begins when the future is polled.
pub(crate) type OneKeyLoader = Box<dyn FnOnce(Option<AnyEntry>) -> OneKeyFuture + Send>;
type OneKeyFuture = BoxFuture<'static, Result<Loaded<AnyValue>, BoxError>>;

/// The user's loader of many keys, which are named by their numbers and given with their previous values. Returns the
/// texts of keys with their values.
pub(crate) type ManyKeysLoader =
    dyn Fn(Vec<(usize, Option<AnyEntry>)>) -> ManyKeysFuture + Send + Sync;
type ManyKeysFuture = BoxFuture<'static, Result<NamedValues, BoxError>>;
type NamedValues = Vec<(Key, Loaded<AnyValue>)>;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A key without its type, for the loader of its cache.
pub(crate) type AnyKey = Box<dyn Any + Send>;

/// Makes the loader of a key.
pub(crate) type LoaderForKey = Arc<dyn Fn(AnyKey) -> Loader + Send + Sync>;

/// Makes the loader of some keys.
pub(crate) type LoaderForKeys = Arc<dyn Fn(Vec<AnyKey>) -> Loader + Send + Sync>;

/// Makes the loader for keys of a call, by their indexes in it.
pub(crate) type LoaderForIndexes<'a> = dyn Fn(&[usize]) -> Loader + Send + Sync + 'a;

/// A key of a call of a loader.
pub(crate) struct LoadKey {
    /// The index of the key among those that the loader was made for.
    pub(crate) loader_index: usize,
    pub(crate) key: Key,
    /// The value before the load: stale, kept past its TTL, or `None`.
    pub(crate) previous: Option<AnyEntry>,
}

/// The values of a load, in the order of its keys. `None` for a key that the user's loader does not know.
pub(crate) type LoadedValues = Vec<Option<Loaded<AnyValue>>>;

/// A call of a loader, which begins when this is polled.
pub(crate) type LoaderFuture = BoxFuture<'static, Result<LoadedValues, BoxError>>;

impl Loader {
    /// Calls the loader. The user's code begins when the call is polled.
    pub(crate) fn load(&self, keys: Vec<LoadKey>) -> LoaderFuture {
        match &self.0 {
            UserLoader::One(load) => {
                let load = lock(load).take();
                Box::pin(async move {
                    let (Some(load), Some(key)) = (load, keys.into_iter().next()) else {
                        return Ok(Vec::new());
                    };
                    Ok(vec![Some(load(key.previous).await?)])
                })
            }
            UserLoader::Many(load) => {
                // By their texts, as keys need not be comparable.
                let texts = keys.iter().enumerate();
                let indexes: HashMap<Key, usize> =
                    texts.map(|(index, key)| (key.key.clone(), index)).collect();
                let mut values: Vec<_> = keys.iter().map(|_| None).collect();
                let asked = keys.into_iter().map(|key| (key.loader_index, key.previous));
                let loading = load(asked.collect());
                Box::pin(async move {
                    for (key, value) in loading.await? {
                        let index = indexes.get(&key);
                        if let Some(found) = index.and_then(|&index| values.get_mut(index)) {
                            *found = Some(value);
                        }
                    }
                    Ok(values)
                })
            }
        }
    }

    /// Whether it is a loader of one key that has not run.
    pub(super) fn is_unused(&self) -> bool {
        match &self.0 {
            UserLoader::One(load) => lock(load).is_some(),
            UserLoader::Many(_) => false,
        }
    }

    /// Drops a loader of one key that will not be called any more, so that its caller may use what it was given.
    pub(super) fn forget(&self) {
        if let UserLoader::One(load) = &self.0 {
            let unused = lock(load).take();
            // Not under the lock, as that may run the user's code.
            drop(unused);
        }
    }

    pub(crate) fn of_one(load: OneKeyLoader) -> Self {
        Self(UserLoader::One(Arc::new(Mutex::new(Some(load)))))
    }

    pub(crate) fn of_many(load: Arc<ManyKeysLoader>) -> Self {
        Self(UserLoader::Many(load))
    }
}

impl Loads {
    /// How many loaders run, or wait for their permit.
    pub(crate) fn pending(&self) -> usize {
        // No counter has to follow cancelled loads.
        Arc::strong_count(&self.permits.loads) - 1
    }

    /// What is kept of loaders although none runs, in all partitions.
    pub(crate) fn left_over(&self) -> Vec<&'static str> {
        let left = [
            (self.pending() > 0, "a loader that runs"),
            (!self.permits.loads.is_at_rest(), "a permit of a loader"),
            (
                cycles::is_any_waiting(self.ctx.instance),
                "a wait for a load",
            ),
        ];
        left.into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, what)| what)
            .collect()
    }

    /// Runs a call of a loader for these keys, and renews their leases meanwhile. Returns a value for each key, if the
    /// loader has one. By the ids of the loads, and of those behind them, the look-ups of the loader find out whether
    /// they would wait for it.
    pub(super) async fn call(
        &self,
        loading: LoaderFuture,
        keys: &[Leased<'_>],
        ids: Vec<LoadId>,
        queued: QueuedLoads,
    ) -> Result<LoadedValues, LoadError> {
        let limit = self.ctx.options.tuned().load_timeout;
        self.call_within(limit, loading, keys, ids, queued).await
    }

    /// As [`call`](Self::call), with this limit to the time that the call may take.
    pub(super) async fn call_within(
        &self,
        limit: Duration,
        loading: LoaderFuture,
        keys: &[Leased<'_>],
        ids: Vec<LoadId>,
        queued: QueuedLoads,
    ) -> Result<LoadedValues, LoadError> {
        debug_assert_eq!(keys.len(), ids.len(), "each key has a load");
        let ctx = &*self.ctx;
        let counters = Arc::clone(&ctx.counters);
        let clock = ctx.options.clock.clone();
        let called_at = Instant::now();
        let namespace = ctx.options.namespace.as_str();
        let span = debug_span!(
            "larder.load",
            namespace,
            keys = keys.len(),
            otel.status_code = Empty,
            error.type = Empty,
        );
        let loads = keys.iter().map(|(key, _)| (*key).clone()).zip(ids);
        let permits = Arc::clone(&self.permits.loads);
        let call = LoaderCall::new(ctx.instance, loads.collect(), queued, permits);
        let running = call.run(async move {
            counters.loads.bump();
            let started_at = clock.now();
            let loaded = loading.await;
            (loaded, clock.now().saturating_sub(started_at))
        });
        // In a task of its own, which is aborted when this ends: a loader that blocks its thread does not block the
        // callers that wait for it.
        let task = tokio::spawn(running.instrument(enabled(span.clone())));
        let in_time = timeout(limit, AbortOnDropHandle::new(task));
        let loaded = match lease::renew_while(ctx, keys, in_time).await {
            Ok(Ok((loaded, took))) => {
                (loaded.map(|values| (values, took))).map_err(LoadError::loader)
            }
            Ok(Err(ended)) => Err(match ended.try_into_panic() {
                Ok(panic) => LoadError::panicked(&*panic),
                // With its runtime.
                Err(_) => LoadError::stopped(),
            }),
            Err(_) => Err(LoadError::timed_out(limit)),
        };
        ctx.metrics.record_load(called_at, loaded.is_err());
        let error = match loaded {
            Ok((mut values, took)) => {
                ctx.convert.ahead.loaded_in(took);
                ctx.events.emit(|| CacheEvent::Loaded {
                    keys: texts(keys),
                    took: called_at.elapsed(),
                });
                // A loader of one key that has run before returns nothing: then the key has no value.
                values.resize_with(keys.len(), || None);
                return Ok(values);
            }
            Err(error) => error,
        };
        // Counted and traced here, for all callers: they only get clones of the error.
        span.record("otel.status_code", "ERROR");
        span.record("error.type", error_type(&error));
        ctx.counters.load_failures.bump();
        ctx.events.emit(|| CacheEvent::LoadFailed {
            keys: texts(keys),
            error: error.clone(),
        });
        debug!(
            namespace,
            keys = keys.len(),
            error = &error as &dyn Error,
            "a load failed"
        );
        Err(error)
    }
}

fn texts(keys: &[Leased<'_>]) -> Vec<String> {
    keys.iter().map(|(key, _)| key.to_string()).collect()
}

/// A word for the span of a load that failed.
fn error_type(error: &LoadError) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else if error.is_panic() {
        "panic"
    } else {
        "loader"
    }
}
