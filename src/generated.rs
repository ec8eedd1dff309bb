//! What the code calls that `#[cached]` of `larder-macros` generates. Only that code names it: it changes with the
//! macro.

use std::cell::Cell;
use std::error::Error;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tracing::warn;

use crate::builder::Builder;
use crate::cache::Cache;
use crate::cache::typed::loader_of_one;
use crate::caches::Caches;
use crate::clock::Clock;
use crate::engine::{Engine, Loader, LoaderSource};
use crate::entry::Entry;
use crate::error::{BuildError, LoadError, Misuse, WriteError};
use crate::key::{CacheKey, key_text};
use crate::loaded::{Loaded, OwnTags, with_tags};
use crate::lookup_by::LookupBy;
use crate::settings;
use crate::token::Token;
use crate::util::lock::lock;
use crate::util::throttle::Throttle;
use crate::wire::codec::{CacheValue, DefaultCodec};

/// The duration that a text names, as in the settings.
#[must_use]
pub const fn duration(text: &str) -> Option<Duration> {
    settings::duration(text)
}

/// The error of a cached function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a `#[cached]` function",
    label = "no `From<larder::LoadError>`, or no error that is `Send` and `Sync`",
    note = "a load can fail although the function has not: it panics or takes longer than `load_timeout`",
    note = "return `larder::LoadError`, or an error of your own with a variant for it, as by `#[from] larder::LoadError` of thiserror",
    note = "an error of another crate, as of `sqlx::Result`, is a variant of your own error, too: its crate alone could write the `impl`"
)]
pub trait CachedError: From<LoadError> + Into<AnyError> {}

#[diagnostic::do_not_recommend]
impl<E: From<LoadError> + Into<AnyError>> CachedError for E {}

pub type AnyError = Box<dyn Error + Send + Sync>;

/// The result of a cached function that can fail, also by another name, such as `std::io::Result`.
pub trait Fallible {
    type Error;
}

impl<T, E> Fallible for Result<T, E> {
    type Error = E;
}

/// How the error of a load becomes the error of the function. Callers share a load, so each can get the function's own
/// error only if the error can be cloned: the compiler takes [`OwnError`] if the error is `Clone`, and
/// [`ConvertedError`] otherwise, as it borrows once more.
pub struct ErrorOf<E>(PhantomData<E>);

impl<E> ErrorOf<E> {
    pub const NEW: Self = Self(PhantomData);
}

pub struct Cloned;
pub struct Converted;

pub trait OwnError {
    fn way(&self) -> Cloned {
        Cloned
    }
}

impl<E: Clone + Error + 'static> OwnError for ErrorOf<E> {}

pub trait ConvertedError {
    fn way(&self) -> Converted {
        Converted
    }
}

impl<E> ConvertedError for &ErrorOf<E> {}

impl Cloned {
    #[must_use]
    pub fn error<E: CachedError + Clone + Error + 'static>(self, error: LoadError) -> E {
        // The error of the load holds the body's own error, and all callers of the load share it.
        match error.downcast_ref::<E>() {
            Some(own) => own.clone(),
            None => error.into(),
        }
    }
}

impl Converted {
    #[must_use]
    pub fn error<E: CachedError>(self, error: LoadError) -> E {
        error.into()
    }
}

/// The error of a body, for the load.
pub fn boxed<E: Into<AnyError>>(error: E) -> AnyError {
    error.into()
}

/// Whether a type is a `Result`, also by another name: [`NotResult`] is for types that are none.
pub struct IsResult<T>(PhantomData<T>);

impl<T, E> IsResult<Result<T, E>> {
    pub const VALUE: bool = true;
}

pub trait NotResult {
    const VALUE: bool = false;
}

impl<T> NotResult for IsResult<T> {}

/// A function that has its values in a cache.
pub struct Function {
    /// The form of its keys, as far as its code says: two functions with one form have the same keys. `None` if it may
    /// have the keys of others.
    form: Option<&'static str>,
    name: &'static str,
    /// The number of the cache that knows it.
    known_to: AtomicU64,
}

impl Function {
    #[must_use]
    pub const fn new(form: Option<&'static str>, name: &'static str) -> Self {
        let known_to = AtomicU64::new(0);
        Self {
            form,
            name,
            known_to,
        }
    }

    /// Refuses a function whose keys are those of another one: each would get the other's values.
    fn check(&self, engine: &Engine) -> Result<(), LoadError> {
        let Some(form) = self.form else {
            return Ok(());
        };
        // Relaxed: the number is all there is.
        if self.known_to.load(Ordering::Relaxed) != engine.id() {
            let other = engine.note_function(form, self.name);
            if let Some(other) = other {
                let one = self.name;
                return Err(LoadError::misuse(Misuse::SharedKeys { one, other }));
            }
            self.known_to.store(engine.id(), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The tags of a value.
#[derive(Default)]
pub struct Tags(OwnTags);

impl Tags {
    #[must_use]
    pub fn and<T: CacheKey + ?Sized>(self, tag: &T) -> Self {
        Self(Some(Box::new(with_tags(self.0, [tag]))))
    }

    pub fn of<V>(self, mut loaded: Loaded<V>) -> Loaded<V> {
        loaded.tags = self.0;
        loaded
    }
}

/// A key of a cache.
pub struct At<'a, K, V: Send + Sync + 'static, Q> {
    cache: Result<&'a Cache<K, V>, BuildError>,
    key: Q,
}

/// Checks that the cache has such keys. All companions of a function have one mistake in the type of a key: as they
/// meet it in this function alone, the compiler has one text for it, and shows it once. So the key that this returns is
/// of an opaque type, which is a key in any case, and no other function has a bound for `K`.
///
/// The key is the first argument: were it the second, the compiler would expect the cache's type of keys there, and say
/// less.
pub fn at<'a, K, V, Q, M>(
    key: &'a Q,
    cache: Result<&'a Cache<K, V>, BuildError>,
) -> At<'a, K, V, impl CacheKey>
where
    K: LookupBy<Q, M>,
    V: Send + Sync + 'static,
    Q: CacheKey + ?Sized,
{
    At { cache, key }
}

/// The load of a value, which owns copies of the arguments.
pub struct LoadOf<V>(Loader, PhantomData<V>);

impl<V: Send + Sync + 'static> LoadOf<V> {
    pub fn new(load: impl Future<Output = Result<Loaded<V>, AnyError>> + Send + 'static) -> Self {
        Self(loader_of_one(|_: Option<Entry<V>>| load), PhantomData)
    }
}

/// Looks a key up, with a load that is made if it is needed. Or refreshes the key.
pub async fn load<K, V, Q>(
    at: At<'_, K, V, Q>,
    function: &Function,
    refreshes: bool,
    load: impl FnOnce() -> LoadOf<V>,
) -> Result<Entry<V>, LoadError>
where
    V: Send + Sync + 'static,
    Q: CacheKey,
{
    // Before the arguments are copied for the load: without a cache the caller gets the error at once.
    let cache = at.cache?;
    function.check(cache.engine())?;
    if refreshes {
        let entry = (cache.loads())
            .refresh(key_text(&at.key)?, load().0)
            .await?;
        return Ok(Entry::of(entry));
    }
    // Made only on a miss, as it owns copies of the arguments.
    let load = || LoaderSource::Call(load().0);
    cache.get_or_load_by(&at.key, load).await
}

/// Looks a key up without a loader.
pub async fn get<K, V, Q>(at: At<'_, K, V, Q>) -> Option<Entry<V>>
where
    V: Send + Sync + 'static,
    Q: CacheKey,
{
    // As with a cache whose L2 is away: a look-up that has no loader is a miss.
    at.cache.ok()?.get_by(&at.key).await
}

/// Removes a key.
pub async fn invalidate<K, V, Q>(at: At<'_, K, V, Q>) -> Result<Token, WriteError>
where
    V: Send + Sync + 'static,
    Q: CacheKey,
{
    let (cache, key) = (at.cache?, key_text(&at.key)?);
    cache.writes().invalidate(key, Duration::ZERO).await
}

/// Says that a function which has no `Result` for an error of the cache runs its body instead.
pub fn runs_without_cache(function: &str, error: &LoadError) {
    // One for all functions: an outage concerns all of them. An error of one function hides no other error.
    static LINES: LazyLock<(Clock, Throttle)> =
        LazyLock::new(|| (Clock::system(), Throttle::default()));
    let (clock, throttle) = &*LINES;
    if throttle.allows_cause(clock.now(), &error.to_string()) {
        let error: &dyn Error = error;
        warn!(
            function,
            error, "a function without a Result runs without its cache, which has failed"
        );
    }
}

/// The cache of a function, among the caches of the process. Built when it is first used.
pub struct OnceCache<K, V: Send + Sync + 'static> {
    built: OnceLock<Cache<K, V>>,
    /// The thread that builds it: two caches of one namespace would be two instances, with an L1 each.
    builder: Mutex<Option<ThreadId>>,
    ended: Condvar,
}

/// The thread builds no more, also if it has panicked.
struct Building<'a, K, V: Send + Sync + 'static>(&'a OnceCache<K, V>);

thread_local! {
    /// How many caches the thread builds.
    static BUILDS: Cell<usize> = const { Cell::new(0) };
}

impl<K, V: Send + Sync + 'static> Drop for Building<'_, K, V> {
    fn drop(&mut self) {
        BUILDS.set(BUILDS.get() - 1);
        *lock(&self.0.builder) = None;
        self.0.ended.notify_all();
    }
}

impl<K, V: Send + Sync + 'static> OnceCache<K, V> {
    #[allow(clippy::new_without_default, reason = "it is for statics")]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            built: OnceLock::new(),
            builder: Mutex::new(None),
            ended: Condvar::new(),
        }
    }

    /// The cache. An error is not kept: the next call builds again.
    pub fn get(
        &self,
        namespace: &str,
        options: impl FnOnce(Builder<K, V>) -> Builder<K, V>,
    ) -> Result<&Cache<K, V>, BuildError>
    where
        V: CacheValue + DefaultCodec,
    {
        // One atomic load, for each call but the first.
        if let Some(cache) = self.built.get() {
            return Ok(cache);
        }
        let _building = self.begin(namespace)?;
        if let Some(cache) = self.built.get() {
            return Ok(cache);
        }
        // Without a lock: the store and the clock of a user are called, and a subscriber hears of the options.
        let cache = options(Caches::global_cache(namespace)?).build()?;
        Ok(self.built.get_or_init(|| cache))
    }

    /// Waits while another thread builds the cache.
    fn begin(&self, namespace: &str) -> Result<Building<'_, K, V>, BuildError> {
        let this = thread::current().id();
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(other) = *builder {
            // Also if it builds another cache: the other thread may wait for that.
            if other == this || BUILDS.get() > 0 {
                let mistake = "it is called while it is built, as by a subscriber of tracing";
                return Err(BuildError::new(namespace, vec![mistake.to_owned()], None));
            }
            builder = (self.ended.wait(builder)).unwrap_or_else(PoisonError::into_inner);
        }
        *builder = Some(this);
        BUILDS.set(BUILDS.get() + 1);
        Ok(Building(self))
    }
}
