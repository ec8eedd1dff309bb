//! The caches of a service: built alike, and handled together.
//!
//! [`Caches::iter`] returns each cache as an [`AnyCache`], for code that handles caches whatever their types are: admin
//! endpoints, exporters, shutdown.

#[cfg(feature = "macros")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use tracing::warn;

pub use crate::any_cache::AnyCache;
use crate::builder::Builder;
use crate::cache::Cache;
use crate::engine::report_losses;
use crate::error::{BuildError, L2Error, WriteError, all_done};
use crate::key::CacheKey;
use crate::l2::{L2, RedisL2};
use crate::settings::{AppliedSettings, ServiceSettings, Settings};
use crate::util::later::Later;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;
use crate::wire::codec::{BoxedCodec, CacheValue, CodecStack, DefaultCodec, SharedValue};

/// The caches of a service: they share an L2 and the settings of the operator, and are handled together.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use larder::{Cache, Caches, MemoryL2, ServiceSettings};
///
/// let settings: ServiceSettings = serde_json::from_str(r#"{ "product": { "l2_ttl": "5m" } }"#)?;
/// // In a service: `Caches::new("shop", settings)?`, with the Redis server of the settings.
/// let caches = Caches::with_l2("shop", settings, MemoryL2::new());
/// let products: Cache<u64, String> = caches.cache("product").l2_ttl(Duration::from_secs(60)).build()?;
/// let prices: Cache<u64, u32> = caches.cache("price").build()?;
/// caches.check_settings()?;
///
/// products.insert(&7, "tea".to_owned()).await?;
/// prices.insert(&7, 450).await?;
/// for cache in caches.iter() {
///     println!("{}: {} hits, ok: {}", cache.namespace(), cache.stats().l1_hits, cache.health().is_ok());
/// }
/// caches.clear().await?;
/// assert!(products.get(&7).await.is_none() && prices.get(&7).await.is_none());
/// caches.close().await;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// A handle: clones are cheap and share everything. It keeps its caches until the last clone is dropped.
///
/// # Which option counts
///
/// From the weakest: the code, then the settings for all caches, then those for one. For settings from a file and
/// from the environment, `file.overridden_by(&environment)` has both: see [`ServiceSettings::overridden_by`].
#[derive(Clone)]
pub struct Caches(Arc<CachesState>);

/// Gives each cache a handle of the same L2.
type L2Of = Box<dyn Fn() -> Box<dyn L2> + Send + Sync>;

struct CachesState {
    service: String,
    settings: Mutex<ServiceSettings>,
    l2: Option<L2Of>,
    built: Mutex<Vec<AnyCache>>,
    /// Whether [`Caches::check_settings`] has succeeded, so that all caches are built.
    are_all_built: AtomicBool,
}

/// The caches of the process.
#[cfg(feature = "macros")]
static GLOBAL: OnceLock<Caches> = OnceLock::new();

/// # The caches of the process
///
/// Functions with `#[cached(namespace = "…")]` have their caches among these: such a function is given no cache.
#[cfg(feature = "macros")]
impl Caches {
    /// Makes these the caches of the process, for as long as it runs. To be called once, before the first call of such
    /// a function.
    ///
    /// # Errors
    ///
    /// Returns these caches if the process has others already.
    ///
    /// ```
    /// use larder::{Caches, MemoryL2, ServiceSettings};
    ///
    /// // In a service: `Caches::new("shop", ServiceSettings::from_env("CACHE_")?)?`.
    /// let caches = Caches::with_l2("shop", ServiceSettings::default(), MemoryL2::new());
    /// caches.set_global().map_err(|_| "there are others")?;
    /// assert!(Caches::global().is_some());
    /// # Ok::<(), &str>(())
    /// ```
    pub fn set_global(self) -> Result<(), Self> {
        GLOBAL.set(self)
    }

    /// The caches of the process, if they are set: to watch them, and to close them at the end of the process.
    #[must_use]
    pub fn global() -> Option<Self> {
        GLOBAL.get().cloned()
    }

    /// Starts to build a cache of the process, by its whole namespace. The caller has checked the type of the keys.
    pub(crate) fn global_cache<K, V>(namespace: &str) -> Result<Builder<K, V>, BuildError>
    where
        V: CacheValue + DefaultCodec,
    {
        let refused = |mistake| BuildError::new(namespace, vec![mistake], None);
        let Some(caches) = GLOBAL.get() else {
            return Err(refused(
                "the process has no caches: call larder::Caches::set_global at its start".into(),
            ));
        };
        let Some(name) = namespace.strip_prefix(&caches.namespace("")) else {
            let service = &caches.0.service;
            return Err(refused(format!(
                "the caches of the process are of the service {service:?}: write namespace = \"{service}:…\""
            )));
        };
        Ok(caches.start(name, V::default_codec()))
    }
}

impl Caches {
    /// The caches of a service, on the Redis server that the settings name: they share one pool of connections. If the
    /// settings name no server, each cache has L1 only and hears of no change of another instance; a line at WARN says
    /// so.
    ///
    /// # Errors
    ///
    /// The URL of the server cannot be used.
    ///
    /// ```no_run
    /// use larder::{Cache, Caches, ServiceSettings};
    ///
    /// // Such as REDIS_URL, CACHE_L2_TTL=1h and CACHE_PRODUCT_L2_TTL=5m.
    /// let caches = Caches::new("shop", ServiceSettings::from_env("CACHE_")?)?;
    /// let products: Cache<u64, String> = caches.cache("product").build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(service: impl Into<String>, settings: ServiceSettings) -> Result<Self, BuildError> {
        let service = service.into();
        let l2 = settings.all.redis.as_deref().map(RedisL2::open).transpose();
        let l2 = l2.map_err(|error| BuildError::new(&service, Vec::new(), Some(error)))?;
        if l2.is_none() {
            // With a misspelled variable the instance is healthy, and nothing else shows that it hears of no change.
            warn!(
                service,
                "no Redis server is set: each instance caches for itself"
            );
        }
        Ok(Self::over(service, settings, l2))
    }

    /// The caches of a service over this L2, whatever server the settings name: a [`RedisL2`], or a
    /// [`MemoryL2`](crate::MemoryL2) in a test.
    pub fn with_l2(
        service: impl Into<String>,
        settings: ServiceSettings,
        l2: impl L2 + Clone,
    ) -> Self {
        Self::over(service.into(), settings, Some(l2))
    }

    fn over(service: String, settings: ServiceSettings, l2: Option<impl L2 + Clone>) -> Self {
        let l2 = l2.map(|l2| -> L2Of { Box::new(move || Box::new(l2.clone())) });
        Self(Arc::new(CachesState {
            service,
            settings: Mutex::new(settings),
            l2,
            built: Mutex::default(),
            are_all_built: AtomicBool::new(false),
        }))
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}:{name}", self.0.service)
    }

    /// Starts to build a cache with the namespace `service:name`. Options that the settings have count more than those
    /// that the code sets.
    ///
    /// [`build`](Builder::build) adds it to these caches, and refuses a second one of the same name. Without the
    /// feature `bincode` use [`cache_with_codec`](Self::cache_with_codec), but for [`Local`](crate::Local) values.
    pub fn cache<K, V>(&self, name: &str) -> Builder<K, V>
    where
        K: CacheKey,
        V: CacheValue + DefaultCodec,
    {
        self.start(name, V::default_codec())
    }

    /// Starts to build a cache as [`cache`](Self::cache) does, with this codec, see [`Cache::builder_with_codec`].
    pub fn cache_with_codec<K, V>(&self, name: &str, codec: impl CodecStack) -> Builder<K, V>
    where
        K: CacheKey,
        V: SharedValue,
    {
        self.start(name, V::value_codec(codec))
    }

    fn start<K, V: CacheValue>(&self, name: &str, codec: BoxedCodec) -> Builder<K, V> {
        let shared = Arc::clone(&self.0);
        let mut builder = Cache::start(self.namespace(name), codec);
        if let Some(l2) = &shared.l2 {
            builder = builder.boxed_l2(l2());
        }
        let (settings, name) = (lock(&shared.settings).of(name), name.to_owned());
        builder.settings_last(settings.clone(), move |cache| {
            shared.add(cache, &name, &settings)
        })
    }

    /// Checks that each section of the settings is of a cache that was built: the name may be misspelled. To be called
    /// when all caches are built.
    ///
    /// # Errors
    ///
    /// Names the sections that are of no cache.
    pub fn check_settings(&self) -> Result<(), BuildError> {
        let settings = lock(&self.0.settings);
        self.check(settings.unknown(&self.names()))?;
        // Relaxed: written and read under the lock of the settings.
        self.0.are_all_built.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The names of the caches that were built.
    fn names(&self) -> Vec<String> {
        let prefix = self.namespace("");
        let name = |cache: AnyCache| Some(cache.namespace().strip_prefix(&prefix)?.to_owned());
        self.iter().filter_map(name).collect()
    }

    /// Refuses sections that are of no cache.
    fn check<'a>(&self, unknown: impl Iterator<Item = &'a str>) -> Result<(), BuildError> {
        let mistake =
            |name| format!("the settings have a section {name}, and there is no such cache");
        let mistakes: Vec<String> = unknown.map(mistake).collect();
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(BuildError::new(&self.0.service, mistakes, None))
    }

    /// Applies settings that have changed to all caches as they run, in the place of those from
    /// [`new`](Self::new): see [`Cache::apply_settings`]. Caches that are built later have the new settings, too.
    ///
    /// For SIGHUP, and for a page of operators: read the file or the environment again, and call this.
    ///
    /// ```
    /// use larder::{Cache, Caches, MemoryL2, ServiceSettings};
    ///
    /// let caches = Caches::with_l2("shop", ServiceSettings::default(), MemoryL2::new());
    /// let products: Cache<u64, String> = caches.cache("product").build()?;
    /// let file = r#"{ "jitter": 0.2, "product": { "enabled": false } }"#;
    /// for applied in caches.apply_settings(serde_json::from_str(file)?)? {
    ///     println!("{}: {:?}", applied.namespace(), applied.changed());
    /// }
    /// assert!(!products.is_enabled());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// An option of any cache cannot work, or a section is of no cache: its name may be misspelled, and the cache that it
    /// is for would go on without it. Nothing has changed then, in no cache.
    ///
    /// Until [`check_settings`](Self::check_settings) has succeeded, a cache may be built later, as by the first call of
    /// a function with `#[cached]`. So a section that is of no cache yet is accepted then, if the settings before had it.
    pub fn apply_settings(
        &self,
        settings: ServiceSettings,
    ) -> Result<Vec<AppliedSettings>, BuildError> {
        let mut later = Later::default();
        // Held, so that two calls at once do not leave caches with the settings of either.
        let mut present = lock(&self.0.settings);
        let prefix = self.namespace("");
        let all = self.iter().map(|cache| {
            let name = cache.namespace().strip_prefix(&prefix).unwrap_or_default();
            let settings = settings.of(name);
            (cache, settings)
        });
        let all: Vec<_> = all.collect();
        let names = self.names();
        let are_all_built = self.0.are_all_built.load(Ordering::Relaxed);
        let unknown = settings.unknown(&names);
        self.check(unknown.filter(|name| are_all_built || !present.has_section(name)))?;
        // All of them first: an operator who reads the error has no caches with new settings beside others with old
        // ones.
        for (cache, settings) in &all {
            cache.engine().options_with(settings)?;
        }
        let applied = all
            .iter()
            .map(|(cache, settings)| cache.engine().apply_settings(settings, &mut later));
        let applied = applied.collect();
        *present = settings;
        applied
    }

    /// All caches that were built, in that order.
    pub fn iter(&self) -> impl Iterator<Item = AnyCache> + use<> {
        lock(&self.0.built).clone().into_iter()
    }

    /// Resolves when each cache [is ready](Cache::ready). It does not resolve while L2 cannot be reached, so put a time
    /// limit on it.
    pub async fn ready(&self) {
        join_all(self.iter().map(async |cache| cache.ready().await)).await;
    }

    /// Whether [all is well](crate::Health::is_ok) with each cache. For an alert. Not for a
    /// readiness probe: see [`Cache::health`].
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.iter().all(|cache| cache.health().is_ok())
    }

    /// The cache that was built with this name, as by [`cache`](Self::cache).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<AnyCache> {
        let namespace = self.namespace(name);
        self.iter().find(|cache| cache.namespace() == namespace)
    }

    /// Switches all caches on or off, see [`Cache::set_enabled`].
    pub fn set_enabled(&self, is_enabled: bool) {
        for cache in self.iter() {
            cache.set_enabled(is_enabled);
        }
    }

    /// Switches all caches on or off in all instances, see [`Cache::set_enabled_everywhere`].
    ///
    /// # Errors
    ///
    /// As [`Cache::set_enabled_everywhere`], of any cache; the others are switched.
    pub async fn set_enabled_everywhere(&self, is_enabled: bool) -> Result<(), L2Error> {
        let switching = (self.iter())
            .map(async |cache: AnyCache| cache.set_enabled_everywhere(is_enabled).await);
        join_all(switching).await.into_iter().collect()
    }

    /// Empties all caches, see [`Cache::clear`].
    ///
    /// # Errors
    ///
    /// Of one cache; all were tried. It [is deferred](WriteError::is_deferred) if all that failed are.
    pub async fn clear(&self) -> Result<(), WriteError> {
        all_done(join_all(self.iter().map(async |cache| cache.clear().await)).await).map(drop)
    }

    /// Removes all values with a tag from all caches, see [`Cache::invalidate_tag`].
    ///
    /// # Errors
    ///
    /// As [`clear`](Self::clear).
    pub async fn invalidate_tag<T: CacheKey + ?Sized>(&self, tag: &T) -> Result<(), WriteError> {
        let invalidate = async |cache: AnyCache| cache.invalidate_tag(tag).await;
        all_done(join_all(self.iter().map(invalidate)).await).map(drop)
    }

    /// Closes all caches, all at once, see [`Cache::close`]. Writes that are lost by it are one line in the log.
    pub async fn close(&self) {
        let caches: Vec<_> = self.iter().collect();
        let closed = join_all(caches.iter().map(|cache| cache.engine().close())).await;
        let names = caches.iter().map(AnyCache::namespace);
        report_losses(&names.zip(closed).collect::<Vec<_>>());
    }
}

impl CachesState {
    /// Refuses a cache if there is one of its name already. Other settings may have come since the builder was made
    /// with these.
    fn add(&self, cache: AnyCache, name: &str, settings: &Settings) -> Result<(), BuildError> {
        let mut later = Later::default();
        // Held, so that settings which come meanwhile are applied to this cache, too.
        let present = lock(&self.settings);
        let mut built = lock(&self.built);
        let mut names = built.iter().map(AnyCache::namespace);
        if names.any(|name| name == cache.namespace()) {
            let mistake = "a cache of this name was built already: share clones of it".to_owned();
            return Err(BuildError::new(cache.namespace(), vec![mistake], None));
        }
        let present = present.of(name);
        if present != *settings {
            cache.engine().apply_settings(&present, &mut later)?;
        }
        built.push(cache);
        Ok(())
    }
}

partial_debug!([] Caches, "Caches", this =>
    service: &this.0.service,
    caches: &this.iter().collect::<Vec<_>>());
