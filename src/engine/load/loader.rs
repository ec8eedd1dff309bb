//! A user's loader without its types, and the limits that it runs in: how many at once, for how long, under which
//! leases.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task_local;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::Empty;
use tracing::{Instrument, debug, debug_span};

use super::Loads;
use super::lease::{self, Leased};
use crate::engine::spans::enabled;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::events::CacheEvent;
use crate::key::{CacheKey, Key, KeyWriter};
use crate::loaded::Loaded;
use crate::util::lock::lock;
use crate::vocabulary::Value;

/// Loads some of the keys that it was made for, named by their numbers and given with their former values. Returns no
/// value for a key that the user's loader does not know.
///
/// Clones are one loader: a key that one of them was asked for is not loaded by another.
pub(crate) struct Loader<V>(Arc<Mutex<LoadFn<V>>>);

type LoadFn<V> = dyn FnMut(LoadKeys<V>) -> Loading<V> + Send;

/// Makes the loader of a key, or of a list of keys.
pub(crate) type LoaderOf<T, V> = Arc<dyn Fn(T) -> Loader<V> + Send + Sync>;

impl<V> Clone for Loader<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The keys of one call.
pub(crate) type LoadKeys<V> = Vec<(usize, Previous<V>)>;

/// The value of a key before its load: stale, kept past its TTL, or `None`.
pub(crate) type Previous<V> = Option<Entry<V>>;

/// A call of a loader: it begins when this is polled.
pub(crate) type Loading<V> =
    BoxFuture<'static, Result<Vec<Option<Loaded<V>>>, Box<dyn Error + Send + Sync>>>;

impl<V: Value> Loader<V> {
    /// Calls it. The user's code begins when the call is polled, without the lock.
    pub(crate) fn load(&self, keys: LoadKeys<V>) -> Loading<V> {
        (*lock(&self.0))(keys)
    }

    /// For one key, which is asked for once.
    pub(crate) fn one<F, Fut, T: Into<Loaded<V>>, E>(loader: F) -> Self
    where
        F: FnOnce(Previous<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        // Taken by the first call. Clones share it, so a refresh that was begun twice runs the user's code once.
        let mut loader = Some(loader);
        Self(Arc::new(Mutex::new(move |keys: LoadKeys<V>| {
            let loader = loader.take();
            async move {
                let (Some(loader), Some((_, previous))) = (loader, keys.into_iter().next()) else {
                    return Ok(Vec::new());
                };
                let loaded = loader(previous).await.map_err(Into::into)?;
                Ok(vec![Some(loaded.into())])
            }
            .boxed()
        })))
    }

    /// For these keys, each of which is asked for once.
    pub(crate) fn many<K, F, Fut, Values, T, E>(keys: Vec<K>, loader: Arc<F>) -> Self
    where
        K: CacheKey + Send + 'static,
        F: Fn(Vec<(K, Previous<V>)>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, T)>,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut keys: Vec<Option<K>> = keys.into_iter().map(Some).collect();
        Self(Arc::new(Mutex::new(move |asked: LoadKeys<V>| {
            let asked = asked.into_iter();
            let missing: Vec<_> = asked
                .filter_map(|(number, previous)| Some((keys.get_mut(number)?.take()?, previous)))
                .collect();
            let loader = Arc::clone(&loader);
            async move {
                // Keys need not be comparable: their texts are.
                let text = |key: &K| KeyWriter::new().write(key).ok().map(Key::from);
                let indices = missing.iter().enumerate();
                let indices = indices.filter_map(|(index, (key, _))| Some((text(key)?, index)));
                let indices: HashMap<Key, usize> = indices.collect();
                let mut values: Vec<Option<Loaded<V>>> = missing.iter().map(|_| None).collect();
                for (key, value) in loader(missing).await.map_err(Into::into)? {
                    let index = text(&key).and_then(|key| indices.get(&key));
                    if let Some(slot) = index.and_then(|&index| values.get_mut(index)) {
                        *slot = Some(value.into());
                    }
                }
                Ok(values)
            }
            .boxed()
        })))
    }
}

task_local! {
    /// The instance of the loader that runs in this task, and the keys that it loads.
    static LOADING_HERE: (u64, Vec<Key>);
}

impl<V: Value> Loads<V> {
    /// How many loaders run, or wait for their permit.
    pub(crate) fn pending(&self) -> usize {
        // Each load holds the semaphore, by its permit or to wait for it: no counter has to follow cancelled loads.
        Arc::strong_count(&self.permits.loads) - 1
    }

    /// Whether the caller is the loader of this key, which would wait for itself.
    pub(super) fn is_called_by_loader_of(&self, key: &Key) -> bool {
        LOADING_HERE
            .try_with(|(instance, keys)| *instance == self.ctx.instance && keys.contains(key))
            .unwrap_or(false)
    }

    /// Runs a call of a loader for these keys, and renews their leases meanwhile. Returns a value for each key, if the
    /// loader has one.
    pub(super) async fn call(
        &self,
        loads: Loading<V>,
        keys: &[Leased<'_>],
    ) -> Result<Vec<Option<Loaded<V>>>, LoadError> {
        let ctx = &*self.ctx;
        let limit = ctx.options.load_timeout;
        let (permits, counted) = (Arc::clone(&self.permits.loads), Arc::clone(&ctx.counters));
        let clock = ctx.options.clock.clone();
        let called = Instant::now();
        let namespace = ctx.options.namespace.as_str();
        let span = debug_span!(
            "larder.load",
            namespace,
            keys = keys.len(),
            otel.status_code = Empty,
            error.type = Empty,
        );
        let load = async move {
            // Never closed, so an error is no reason not to load. It is held until the loader has ended, also if that
            // is after the time limit.
            let _permit = permits.acquire_owned().await;
            counted.loads.bump();
            let began = clock.now();
            let loaded = loads.await;
            (loaded, clock.now().saturating_sub(began))
        };
        let loaded_here = keys.iter().map(|(key, _)| (*key).clone()).collect();
        let load = LOADING_HERE.scope((ctx.instance, loaded_here), load);
        // In a task of its own, which is aborted when this ends: a loader that blocks its thread does not block the
        // callers that wait for it.
        let load = tokio::spawn(load.instrument(enabled(span.clone())));
        let load = timeout(limit, AbortOnDropHandle::new(load));
        let loaded = match lease::keep(ctx, keys, load).await {
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
        ctx.metrics.record_load(called, loaded.is_err());
        let error = match loaded {
            Ok((mut values, took)) => {
                ctx.convert.ahead.loaded_in(took);
                ctx.events.emit(|| CacheEvent::Loaded {
                    keys: texts(keys),
                    took: called.elapsed(),
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
