//! Values that never leave the process. Knows nothing of caches.

use std::ops::Deref;

/// A value that is not serialized, and stays in the instance that has loaded it: a compiled template or regular
/// expression, a connection, a set of permissions.
///
/// A `Cache<K, Local<V>>` takes each `V` that is `Send`, `Sync` and `'static`, and asks nothing of serde. An invalidation
/// reaches all instances as in any cache, and a load that began before it is never stored. A hit is an
/// [`Entry`](crate::Entry), which has the methods of `V`.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, Local, MemoryL2};
///
/// /// A pattern with one `*`, taken apart. serde knows nothing of it.
/// struct Pattern { start: Box<str>, end: Box<str> }
///
/// impl Pattern {
///     fn compile(text: &str) -> Result<Self, std::io::Error> {
///         let (start, end) = text.split_once('*').ok_or(std::io::ErrorKind::InvalidInput)?;
///         Ok(Self { start: start.into(), end: end.into() })
///     }
///
///     fn is_match(&self, name: &str) -> bool {
///         name.strip_prefix(&*self.start).is_some_and(|rest| rest.ends_with(&*self.end))
///     }
/// }
///
/// // Two instances. In a service they are two processes, and L2 is Redis.
/// let l2 = MemoryL2::new();
/// let a: Cache<String, Local<Pattern>> = Cache::builder("docs:pattern").l2(l2.clone()).build()?;
/// let b: Cache<String, Local<Pattern>> = Cache::builder("docs:pattern").l2(l2).build()?;
///
/// // Each loads for itself.
/// let load = || async { Pattern::compile("*.rs").map(Local) };
/// assert!(a.get_or_load("sources", load).await?.is_match("local.rs"));
/// assert!(b.get("sources").await.is_none());
/// assert!(b.get_or_load("sources", load).await?.is_match("local.rs"));
/// assert!(b.get("sources").await.is_some_and(|pattern| !pattern.is_match("local.md")));
///
/// a.invalidate_and_wait("sources").await?;
/// assert!(b.get("sources").await.is_none());
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// A value that may not exist is a `Local<Option<V>>`.
///
/// # Calls
///
/// Redis has the versions, the messages, the members and the tags of the cache, and never a value. So the values of an
/// instance are in its L1 alone, and an entry that L1 evicts is loaded again.
///
/// | call | with local values |
/// | --- | --- |
/// | [`get_or_load`](crate::Cache::get_or_load) and the other calls with a loader, a [`LoadingCache`](crate::LoadingCache) | load for this instance, whose callers share a load. Other instances load for themselves |
/// | [`refresh`](crate::Cache::refresh) | removes the key in all instances, and then loads for this one. If the loader fails, the key stays removed |
/// | [`get`](crate::Cache::get), [`get_many`](crate::Cache::get_many) | find what this instance has |
/// | [`insert`](crate::Cache::insert), [`insert_many`](crate::Cache::insert_many) | store the value in this instance, and remove the key in all others |
/// | [`write_through`](crate::Cache::write_through) | writes to the source, and removes the key in all instances. Without an L2 it stores the value |
/// | [`invalidate`](crate::Cache::invalidate), [`invalidate_tag`](crate::Cache::invalidate_tag), [`clear`](crate::Cache::clear) and the others | remove the values of all instances |
/// | [`invalidate_prefix`](crate::Cache::invalidate_prefix) | does so, too, and counts the values of this instance |
/// | [`expire`](crate::Cache::expire) | removes the key, as `invalidate` does, if the cache has an L2; without one it makes the value stale |
/// | [`touch`](crate::Cache::touch), and reads of a cache with [`sliding`](crate::Builder::sliding) | change the lifetime in this instance |
/// | [`at_least`](crate::Cache::at_least) | takes the token of each write, in all instances |
/// | [`update`](crate::Cache::update), [`insert_if`](crate::Cache::insert_if), [`invalidate_and_hold`](crate::Cache::invalidate_and_hold), write-behind | do not compile: L2 decides on their values |
///
/// A cache with an L2 stores a value only if this instance is connected when the load begins, and so has a proof that it
/// misses no invalidation. Otherwise the value is returned and not stored. Callers without a proof wait for it, for the
/// [time limit](crate::Builder::l2_timeout) of a request at most; once one has waited in vain, the next ones do not wait
/// until there is a proof.
///
/// In one namespace some instances may have local values and others ordinary ones, as during a rolling deploy: an
/// invalidation reaches all of them. But an instance with local values sees no hold
/// ([`invalidate_and_hold`](crate::Cache::invalidate_and_hold)) and no write that waits for its source (write-behind). So
/// no other instance or program of the namespace may use these.
///
/// A load sends L2 nothing, except the first loads of a namespace that has had no write yet. An insert, an `expire` and a
/// `refresh` cost one round trip, as an invalidation does. The [version](crate::Meta::version) of an entry is that of a
/// write before its load: several values may have it.
///
/// # Options
///
/// Options of the [`Builder`](crate::Builder) that are about the bytes of values do not compile:
/// [`codec`](crate::Builder::codec), [`max_value_size`](crate::Builder::max_value_size),
/// [`schema_version`](crate::Builder::schema_version), [`type_tag`](crate::Builder::type_tag) and
/// [`also_reads`](crate::Builder::also_reads). [`Settings`](crate::Settings) may have them, without an effect.
///
/// The size of a value is not known, and two values cannot be compared. So [`build`](crate::Builder::build) refuses
///
/// - an L1 that is bounded [in bytes](crate::Builder::l1_capacity_bytes), unless there is an
///   [`l1_weigher`](crate::Builder::l1_weigher);
/// - [`verify`](crate::Builder::verify), unless there is a [`Verify::by`](crate::builder::Verify::by).
///
/// ```compile_fail,E0277
/// use larder::{Cache, Local};
///
/// let templates: Cache<String, Local<String>> =
///     Cache::builder("docs:template").schema_version(2).build().unwrap();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Local<V>(pub V);

impl<V> Local<V> {
    /// The value itself.
    #[must_use]
    pub fn into_inner(self) -> V {
        self.0
    }
}

impl<V> Deref for Local<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.0
    }
}

impl<V> From<V> for Local<V> {
    fn from(value: V) -> Self {
        Self(value)
    }
}
