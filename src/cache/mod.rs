//! The public handle: writes keys as text, asks L1, and passes every other call to the engine.
//!
//! - [`read`]: look-ups without a loader
//! - [`load`]: look-ups with a loader
//! - [`write`]: values that callers store
//! - [`invalidate`]: values that callers remove, or make stale
//! - [`invalidation_batch`]: keys and tags of several caches, which callers remove together
//! - [`typed`]: where the types of keys and values end
//! - [`operate`]: watching a cache, switching it off and closing it
//!
//! Knows nothing of L2 and of runtimes.

mod invalidate;
mod invalidation_batch;
mod load;
mod operate;
mod read;
pub(crate) mod typed;
mod write;

use std::sync::{Arc, Weak};

pub use self::invalidation_batch::InvalidationBatch;
use crate::engine::{Engine, PartitionLoads, PartitionWrites};
use crate::entry::AnyEntry;
use crate::key::{CacheKey, KeyWriter};
use crate::util::partial_debug::partial_debug;
use crate::vocabulary::Invariant;

/// A two-level cache of values `V` under keys `K`: L1 in this process, and L2, a store that all instances of the
/// service share.
///
/// A handle: clones are cheap and share everything. Look-ups take borrowed keys, `&str` for `String` and `&(tenant, 7)`
/// for `(String, u64)`, see [`LookupBy`](crate::key::LookupBy), and return shared values, as [`Entry`](crate::Entry).
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, MemoryL2, Source};
///
/// // Two instances. In a service they are two processes, and L2 is Redis.
/// let l2 = MemoryL2::new();
/// let a: Cache<String, u32> = Cache::builder("docs:price").l2(l2.clone()).build()?;
/// let b: Cache<String, u32> = Cache::builder("docs:price").l2(l2).build()?;
///
/// let price = a.get_or_load("tea", || async { Ok::<_, std::io::Error>(450) }).await?;
/// assert_eq!((*price, price.meta().source()), (450, Source::Loader));
/// let price = b.get("tea").await.ok_or("L2 has it")?;
/// assert_eq!((*price, price.meta().source()), (450, Source::L2));
///
/// a.invalidate("tea").await?;
/// assert!(a.get("tea").await.is_none());
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// # What writes return
///
/// A write returns the [`Token`](crate::Token) of the version that it has made, and
/// [`insert_if`](Self::insert_if), which may write nothing, an `Option` of it. [`touch`](Self::touch) and
/// [`invalidate_prefix`](Self::invalidate_prefix) make no version: they return whether there is a value, and how many
/// were removed. A token is one of one cache: calls for several caches, such as
/// [`InvalidationBatch::invalidate`](crate::InvalidationBatch::invalidate), return none.
///
/// # Runtime
///
/// The asynchronous methods need a Tokio runtime with its timer enabled. [`build`](crate::Builder::build) starts a
/// background task, the subscriber, which receives the changes of other instances. Without a runtime, the first
/// asynchronous call starts the task. The task ends with [`close`](Self::close), or when the last handle is dropped.
///
/// A cache may be used from several runtimes. The tasks that a call starts run on the runtime of that call. When a
/// runtime ends, the next call on another one starts the subscriber and the writer again; writes that were under way
/// are deferred, and callers that wait for a load on the ended runtime get a [`LoadError`](crate::LoadError). While a
/// runtime exists but is not driven, calls that depend on a task there wait.
///
/// # Cancellation
///
/// Every future can be dropped at any time. Cancelling one call does not affect other callers.
///
/// - A load runs in a task of its own: it goes on, and its value is stored.
/// - A write that was polled once is carried out. Writes of one key reach L2 in the order of their calls, so a later
///   write of the key waits for it. There is one exception: a call that is dropped while the writer's queue is full
///   has its writes deferred. An insert then becomes an invalidation of its key.
/// - If a `get` or `get_many` is dropped while it waits for L2, the value may be missing in L1 afterwards.
///
/// # Values
///
/// L1 drops a value in the thread that removes it, or in the thread of the last caller that holds its entry. That thread
/// runs a call, or a background task of the cache. The cache holds no lock meanwhile. The `Drop` of a value must not
/// panic, which would end that call or task, and should be short, as the call or task goes on after it.
pub struct Cache<K, V: Send + Sync + 'static> {
    /// Knows neither of the two types. Stopped with the last clone of a cache. Tasks hold only the parts that they
    /// need.
    engine: Arc<Engine>,
    types: Invariant<(K, V)>,
}

impl<K, V: Send + Sync + 'static> Cache<K, V> {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            types: Invariant::default(),
        }
    }

    #[inline]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        Engine::latest(&self.engine)
    }

    /// The engine, for a task that ends with the last clone of the cache.
    pub(crate) fn handle(&self) -> Weak<Engine> {
        Arc::downgrade(&self.engine)
    }

    /// Calls that change something.
    pub(crate) fn writes(&self) -> &PartitionWrites {
        self.engine().writes()
    }

    /// Calls that may run a loader.
    pub(crate) fn loads(&self) -> &PartitionLoads {
        self.engine().loads()
    }

    /// Looks a key up in L1. A key that is too long is a miss. The key is written as text on the stack; after a miss
    /// the caller writes it again.
    #[inline]
    pub(crate) fn find_local<Q: CacheKey + ?Sized>(&self, key: &Q) -> Option<AnyEntry> {
        Engine::get_local(&self.engine, KeyWriter::new().write(key).ok()?)
    }
}

impl<K, V: Send + Sync + 'static> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.engine))
    }
}

partial_debug!([K, V: Send + Sync + 'static] Cache<K, V>, "Cache", cache => namespace: &cache.engine.contexts.first().options.namespace);
