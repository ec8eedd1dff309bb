//! The errors that users get: opaque, so that they can grow, and cheap to clone.

mod commit;
mod l2;
mod or_deferred;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;

pub use self::commit::CommitError;
pub use self::l2::L2Error;
pub use self::or_deferred::OrDeferred;
use crate::key::{CacheKey, Key, KeyTooLong, KeyWriter};
use crate::vocabulary::ByteSize;
use crate::wire::codec::CodecError;

/// What a panic says, for the error that it becomes.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> Arc<str> {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("its message is not a string").into()
}

/// The results of several writes, or the error that says most.
///
/// # Errors
///
/// One that is not deferred, if there is any; otherwise a deferred one.
pub fn all_done<T>(writes: Vec<Result<T, WriteError>>) -> Result<Vec<T>, WriteError> {
    let (mut done, mut worst) = (Vec::with_capacity(writes.len()), None);
    for write in writes {
        match write {
            Ok(one) => done.push(one),
            // A caller that takes a deferred write for a done one must not miss the other kind.
            Err(error) if worst.as_ref().is_none_or(WriteError::is_deferred) => worst = Some(error),
            Err(_) => {}
        }
    }
    worst.map_or(Ok(done), Err)
}

/// A mistake of the caller's code. The text says what to do instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misuse {
    #[error(
        "the loader returned Loaded::unchanged() for a key of which it was given no previous value; return Loaded::new()"
    )]
    NothingPrevious,
    #[error(
        "the TTL of a value is zero; a loader returns no_store() with a value that must not be kept"
    )]
    ZeroTtl,
    #[error(
        "touch gives a value a TTL, which cannot be zero; expire makes it stale, and invalidate removes it"
    )]
    TouchedToZero,
    #[error("a tag is longer than {max} bytes", max = crate::key::MAX_KEY_BYTES)]
    TagTooLong,
    #[error("a value has more than {max} tags, or tags of more than 64 KiB in all", max = crate::wire::envelope::MAX_TAGS)]
    TooManyTags,
    #[error("ttl_of panicked")]
    TtlOfPanicked,
    #[error("tags_of panicked")]
    TagsOfPanicked,
    #[error("an insert stores a value: unchanged() and no_store() are for loaders")]
    NothingToInsert,
    #[cfg(feature = "macros")]
    #[error(
        "two functions have the same keys in this cache, and would return each other's values: {one} and {other}; begin the key of each with a name, as in key = \"(\\\"net\\\", id)\", or write shares_keys = true for one of them"
    )]
    SharedKeys {
        one: &'static str,
        other: &'static str,
    },
    #[error("1000 keys and prefixes are bypassed; switch the cache off, or call end_bypass first")]
    TooManyBypassed,
}

/// A loader's error that concerns only its caller: the loader of another caller may have a value at once.
#[derive(Debug, thiserror::Error)]
#[error("the load of one caller has failed")]
pub struct OfOneCaller;

/// Why [`Builder::build`](crate::Builder::build) refused to build a cache: all options that cannot work, by their
/// names, and values that would. Never shows a URL or a password.
///
/// ```
/// use std::time::Duration;
/// use larder::Cache;
///
/// let cache: Result<Cache<u64, String>, _> = Cache::builder("catalog:product")
///     .soft_ttl(Duration::from_secs(60))
///     .l2_ttl(Duration::from_secs(30))
///     .jitter(2.0)
///     .build();
/// let error = cache.err().ok_or("it was built")?;
/// assert_eq!(error.mistakes().count(), 2);
/// let said = "cannot build the cache \"catalog:product\": \
///     (1) soft_ttl (60s) must be shorter than l2_ttl (30s): a value turns stale before it expires \
///     (2) jitter must be from 0.0 to 0.5, as a share of the TTL, and not 2";
/// assert_eq!(error.to_string(), said);
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot build the cache {:?}: {}", .0.namespace, .0.listed())]
pub struct BuildError(Arc<Mistakes>);

#[derive(Debug)]
struct Mistakes {
    namespace: String,
    all: Vec<String>,
    /// The last of them, if it is one of the store.
    l2: Option<L2Error>,
}

impl Mistakes {
    fn listed(&self) -> String {
        if let [mistake] = self.all.as_slice() {
            return mistake.clone();
        }
        let numbered = (1..).zip(&self.all);
        let numbered = numbered.map(|(number, mistake)| format!("({number}) {mistake}"));
        numbered.collect::<Vec<_>>().join(" ")
    }
}

impl BuildError {
    /// For a cache whose options, or whose store, cannot work.
    pub(crate) fn new(namespace: &str, mut mistakes: Vec<String>, l2: Option<L2Error>) -> Self {
        mistakes.extend(l2.iter().map(ToString::to_string));
        Self(Arc::new(Mistakes {
            namespace: namespace.to_owned(),
            all: mistakes,
            l2,
        }))
    }

    /// The options that cannot work, one by one.
    pub fn mistakes(&self) -> impl Iterator<Item = &str> {
        self.0.all.iter().map(String::as_str)
    }

    /// Whether one of the mistakes is the Redis server: its URL is malformed or asks for TLS that is not built in, or
    /// its certificates cannot be used. That no server answers is no mistake.
    #[must_use]
    pub fn is_bad_l2_config(&self) -> bool {
        self.0.l2.is_some()
    }
}

/// Why [`Cache::get_or_load`](crate::Cache::get_or_load) has no value. Cheap to clone: all callers that waited for
/// the load share one.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io;
/// use larder::Cache;
///
/// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
/// let load = || async { Err(io::Error::from(io::ErrorKind::NotFound)) };
/// let Err(error) = prices.get_or_load("tea", load).await else {
///     return Err("it is not there".into());
/// };
/// let cause = error.downcast_ref::<io::Error>().ok_or("it is the loader's own")?;
/// assert_eq!(cause.kind(), io::ErrorKind::NotFound);
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
// A pointer alone: a look-up returns this or an entry, which is moved several times on its way to the caller. With a
// kind in it, whose first byte names the variant, the entry was moved in parts that overlap words, which the processor
// waits for: a hit of `get_or_load` took 1.4 times as long.
#[derive(Clone, Debug)]
pub struct LoadError(Arc<FailedLoad>);

#[derive(Debug)]
struct FailedLoad {
    kind: LoadKind,
    key: Option<Box<str>>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.kind.fmt(f)
    }
}

impl Error for LoadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.kind.source()
    }
}

impl From<LoadKind> for LoadError {
    fn from(kind: LoadKind) -> Self {
        let key = None;
        Self(Arc::new(FailedLoad { kind, key }))
    }
}

#[derive(Clone, Debug, thiserror::Error)]
enum LoadKind {
    #[error("the loader failed")]
    Loader(#[source] Arc<dyn Error + Send + Sync>),
    #[error("the loader panicked: {0}")]
    Panicked(Arc<str>),
    #[error(
        "the load took longer than {0:?}, which is load_timeout, or lease_ttl if that is shorter and warm has called the loader; raise it if the loader may take longer, and look for a loader that waits for its own load, by a task that it has spawned or in another instance"
    )]
    TimedOut(Duration),
    #[error(
        "the loader looks up a key whose load waits for the loader; read the source in the loader; LoadError::cycle names the keys"
    )]
    Cycle(Arc<str>),
    #[error("the runtime that ran the load was shut down; the next call loads again")]
    Stopped,
    #[error(
        "warming up was interrupted, as L2 did not answer; the values that are stored stay, and another call goes on"
    )]
    Interrupted(#[source] L2Error),
    #[error("the loader of many keys returned no value for this one")]
    NotFound,
    #[error(transparent)]
    NotBuilt(BuildError),
    #[error(transparent)]
    Misuse(Misuse),
    #[error(transparent)]
    Key(KeyTooLong),
}

impl LoadError {
    pub(crate) fn loader(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::from(LoadKind::Loader(error.into().into()))
    }

    pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Self {
        Self::from(LoadKind::Panicked(panic_message(payload)))
    }

    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::from(LoadKind::TimedOut(after))
    }

    pub(crate) fn stopped() -> Self {
        Self::from(LoadKind::Stopped)
    }

    pub(crate) fn interrupted(error: L2Error) -> Self {
        Self::from(LoadKind::Interrupted(error))
    }

    pub(crate) fn in_cycle(names: &str) -> Self {
        Self::from(LoadKind::Cycle(names.into()))
    }

    pub(crate) fn not_found() -> Self {
        Self::from(LoadKind::NotFound)
    }

    pub(crate) fn misuse(misuse: Misuse) -> Self {
        Self::from(LoadKind::Misuse(misuse))
    }

    /// With the key, to tell it from others of one call.
    pub(crate) fn of_key<Q: CacheKey + ?Sized>(self, key: &Q) -> Self {
        let mut text = KeyWriter::new();
        let (key, kind) = (text.write(key).ok().map(Box::from), self.0.kind.clone());
        Self(Arc::new(FailedLoad { kind, key }))
    }

    /// The loader's own error, or one in its chain of sources, if it has this type.
    ///
    /// Callers that pass loaders with different error types can share one load. So the type is named here, and not in
    /// the signature.
    ///
    /// # Loaders that return `anyhow::Error`
    ///
    /// An `anyhow::Error` becomes a boxed error of a private type, which hides the type of the error that it was made
    /// from. The sources of that error are found; so is the error itself if `context` was added to it. To have it
    /// found in all cases, convert it in the loader:
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io;
    /// use larder::Cache;
    ///
    /// async fn read_price(_id: &str) -> anyhow::Result<u32> {
    ///     Err(io::Error::from(io::ErrorKind::NotFound))?
    /// }
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// let load = || async {
    ///     let price = read_price("tea").await;
    ///     price.map_err(anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace)
    /// };
    /// let error = prices.get_or_load("tea", load).await.err().ok_or("it is not there")?;
    /// let cause = error.downcast_ref::<io::Error>().ok_or("it is the loader's own")?;
    /// assert_eq!(cause.kind(), io::ErrorKind::NotFound);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        let LoadKind::Loader(error) = &self.0.kind else {
            return None;
        };
        let first: &(dyn Error + 'static) = &**error;
        let mut chain = successors(Some(first), |&error| error.source());
        chain.find_map(|error| error.downcast_ref())
    }

    /// The key that has no value, if many were asked for by
    /// [`LoadingCache::get_many_or_load`](crate::LoadingCache::get_many_or_load): as Redis shows it after the namespace.
    /// Not a part of the text, so that keys do not reach logs.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The loads that would wait for each other, such as `shop:order:7 -> shop:customer:3 -> shop:order:7`, each by its
    /// namespace and its key: a loader has looked up a key whose load waits, directly or by other loads, for that
    /// loader. Also for the errors of the loaders that have passed the error on. Not a part of the text, so that keys
    /// do not reach logs.
    ///
    /// The caches of a process find such a cycle at once, whether its look-ups are single or of many keys. A load of a
    /// key that was changed meanwhile is another one than the load that began before. They do not find a cycle where a
    /// loader waits for a task that it has spawned, or where loads of several instances are in it: then the loads end by
    /// [`load_timeout`](crate::Builder::load_timeout). A load that waits for the lease of a
    /// [`refresh`](crate::Cache::refresh) whose loader waits for it by other loads goes on after
    /// [`lease_wait`](crate::Builder::lease_wait).
    #[must_use]
    pub fn cycle(&self) -> Option<&str> {
        match &self.0.kind {
            LoadKind::Cycle(names) => Some(names),
            LoadKind::Loader(_) => self.downcast_ref::<Self>()?.cycle(),
            _ => None,
        }
    }

    /// Whether it says nothing about the loads of other callers.
    pub(crate) fn is_of_one_caller(&self) -> bool {
        self.downcast_ref::<OfOneCaller>().is_some()
    }

    /// Whether the loader returned an error.
    #[must_use]
    pub fn is_loader(&self) -> bool {
        matches!(&self.0.kind, LoadKind::Loader(_))
    }

    /// Whether the loader panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(&self.0.kind, LoadKind::Panicked(_))
    }

    /// Whether the load took longer than [`load_timeout`](crate::Builder::load_timeout); of a
    /// [`warm`](crate::Cache::warm), than [`lease_ttl`](crate::Builder::lease_ttl).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(&self.0.kind, LoadKind::TimedOut(_))
    }

    /// Whether a [`warm`](crate::Cache::warm) came to no end as L2 did not answer. The values that are stored stay.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(&self.0.kind, LoadKind::Interrupted(_))
    }

    /// Whether the loader of many keys returned no value for this one, see
    /// [`read_through_many`](crate::Builder::read_through_many).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(&self.0.kind, LoadKind::NotFound)
    }

    /// Whether the loader returned [`Loaded::unchanged`](crate::Loaded::unchanged) without a previous value, or looked
    /// up a key whose load waits for the loader, see [`cycle`](Self::cycle); or the cache of a function could not be
    /// built. The error says which.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        let kind = &self.0.kind;
        matches!(
            kind,
            LoadKind::Misuse(_) | LoadKind::Cycle(_) | LoadKind::NotBuilt(_)
        )
    }

    /// Whether the key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES). The loader was not called.
    #[must_use]
    pub fn is_key_too_long(&self) -> bool {
        matches!(&self.0.kind, LoadKind::Key(_))
    }
}

impl From<KeyTooLong> for LoadError {
    fn from(error: KeyTooLong) -> Self {
        LoadKind::Key(error).into()
    }
}

/// For a function whose cache is built when it is first called.
impl From<BuildError> for LoadError {
    fn from(error: BuildError) -> Self {
        LoadKind::NotBuilt(error).into()
    }
}

/// Why [`insert`](crate::Cache::insert), [`invalidate`](crate::Cache::invalidate) or [`clear`](crate::Cache::clear)
/// did not reach L2.
#[derive(Clone, Debug)]
pub struct WriteError {
    kind: WriteKind,
    key: Option<Key>,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

impl From<WriteKind> for WriteError {
    fn from(kind: WriteKind) -> Self {
        Self { kind, key: None }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
enum WriteKind {
    #[error(
        "L2 has not accepted the write; the invalidation will be retried, and this instance does not use the affected keys until then"
    )]
    Deferred(#[source] L2Error),
    #[error("the write was refused, and nothing was changed")]
    Refused(#[source] L2Error),
    #[error("L2 did not confirm the new TTL; the value has either the new one or the former one")]
    Unconfirmed(#[source] L2Error),
    #[error("the encoded value is over max_value_size, which is {0}; raise it or store less")]
    TooLarge(ByteSize),
    #[error("the value could not be encoded")]
    Encode(#[source] CodecError),
    #[error("the value was changed by others each time that it was read; nothing was changed")]
    Contended,
    #[error(
        "the stored value cannot be read, as it is of another release or type, or damaged; nothing was changed: wait for the end of the deploy, or insert or invalidate the key"
    )]
    Unreadable,
    #[error("the cache is switched off; nothing was changed")]
    SwitchedOff,
    #[error(transparent)]
    NotBuilt(BuildError),
    #[error(transparent)]
    Misuse(Misuse),
    #[error(transparent)]
    Key(KeyTooLong),
}

impl WriteError {
    pub(crate) fn deferred(error: L2Error) -> Self {
        WriteKind::Deferred(error).into()
    }

    pub(crate) fn refused(error: L2Error) -> Self {
        WriteKind::Refused(error).into()
    }

    /// Without an error of L2 if it is not known any more which keys were changed.
    pub(crate) fn contended() -> Self {
        WriteKind::Contended.into()
    }

    pub(crate) fn unreadable() -> Self {
        WriteKind::Unreadable.into()
    }

    pub(crate) fn switched_off() -> Self {
        WriteKind::SwitchedOff.into()
    }

    pub(crate) fn misuse(misuse: Misuse) -> Self {
        WriteKind::Misuse(misuse).into()
    }

    /// L2 has not done it, or not said so.
    pub(crate) fn unconfirmed(error: L2Error) -> Self {
        if error.is_refused() || error.is_skipped() {
            return Self::refused(error);
        }
        WriteKind::Unconfirmed(error).into()
    }

    pub(crate) fn not_encoded(error: CodecError) -> Self {
        let kind = match error.exceeded() {
            Some(limit) => WriteKind::TooLarge(ByteSize(limit)),
            None => WriteKind::Encode(error),
        };
        kind.into()
    }

    /// With the key whose value cannot be stored.
    pub(crate) fn of_key(self, key: Key) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// The key whose value cannot be stored, as Redis shows it after the namespace: of an
    /// [`insert_many`](crate::Cache::insert_many) or another call that stores values. Not a part of the text, so that
    /// keys do not reach logs.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Whether it was deferred because L2 has answered with an error.
    pub(crate) fn is_deferred_refusal(&self) -> bool {
        matches!(&self.kind, WriteKind::Deferred(error) if error.is_refused())
    }

    /// Whether L2 refused an [`insert_if`](crate::Cache::insert_if), an [`update`](crate::Cache::update) or a
    /// [`touch`](crate::Cache::touch), as when its memory is full, or was not asked, as when the circuit breaker is
    /// open, or for an `update` while the cache is switched off. Nothing was changed. Other writes end as
    /// [deferred](Self::is_deferred) then.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(&self.kind, WriteKind::Refused(_) | WriteKind::SwitchedOff)
    }

    /// Whether an [`update`](crate::Cache::update) gave up: each time that it had read the value, another writer, a
    /// load or an invalidation came first. Or this instance cannot read the stored value. Nothing was changed.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        matches!(&self.kind, WriteKind::Contended)
    }

    /// Whether an [`update`](crate::Cache::update) has found a value that it cannot read: of another release, whose type
    /// has another shape or another [`schema_version`](crate::Builder::schema_version), or damaged. Nothing was changed.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(&self.kind, WriteKind::Unreadable)
    }

    /// Whether the write was deferred, because L2 could not be reached or refused it. This instance has evicted the
    /// old value. It invalidates the key in L2 as soon as L2 answers, and neither reads nor stores it until then;
    /// other instances may return the old value meanwhile. The value of a deferred [`insert`](crate::Cache::insert)
    /// is not stored.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        matches!(&self.kind, WriteKind::Deferred(_))
    }

    /// Whether L2 did not confirm a [`touch`](crate::Cache::touch): the value has either the new TTL or the former one.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        matches!(&self.kind, WriteKind::Unconfirmed(_))
    }

    /// Whether the value is over [`max_value_size`](crate::Builder::max_value_size). Nothing was changed.
    #[must_use]
    pub fn is_value_too_large(&self) -> bool {
        matches!(&self.kind, WriteKind::TooLarge(_))
    }

    /// Whether the [`Loaded`](crate::Loaded) makes no sense for an insert: `unchanged()`, `no_store()`, a TTL of zero,
    /// or too many or too long tags; or `ttl_of` or `tags_of` panicked; or the cache of a function could not be built.
    /// The error says which. The key was not changed.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        matches!(&self.kind, WriteKind::Misuse(_) | WriteKind::NotBuilt(_))
    }

    /// Whether the value's `Serialize` or the codec returned an error. Nothing was changed.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        matches!(&self.kind, WriteKind::Encode(_))
    }

    /// Whether a key or tag is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES). No value has it. A call for several
    /// keys or tags has changed the others, as far as L2 could be reached.
    #[must_use]
    pub fn is_key_too_long(&self) -> bool {
        matches!(&self.kind, WriteKind::Key(_))
    }
}

impl From<KeyTooLong> for WriteError {
    fn from(error: KeyTooLong) -> Self {
        WriteKind::Key(error).into()
    }
}

/// For a function whose cache is built when it is first called.
impl From<BuildError> for WriteError {
    fn from(error: BuildError) -> Self {
        WriteKind::NotBuilt(error).into()
    }
}
