//! Write-behind: a write is acknowledged when Redis has it, and reaches its source a moment later, together with other
//! writes.
//!
//! Change a counter, or any value that is made from the value before, by [`WriteBehind::update`]: a look-up and an
//! [`insert`](WriteBehind::insert) lose a write of another caller in between. `insert` is for values that do not depend
//! on the value before.
//!
//! Both calls store a value in the cache and append it to a stream in Redis, in one step. A worker takes writes from
//! the stream, in batches, and calls [`store`](WriteBehindBuilder::store), which writes them to the source. The value
//! stays in the cache. Each instance has a worker; one worker at a time works.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use larder::Cache;
//! use larder::write_behind::{Write, WriteBehind};
//!
//! # async fn upsert(_: Vec<Write<String, u64>>) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn select(_: &str) -> Result<u64, std::io::Error> { Ok(0) }
//! let views: Cache<String, u64> = Cache::builder("shop:views").redis("redis://127.0.0.1:6379").build()?;
//! // Once in each instance, for as long as it runs.
//! let views = WriteBehind::builder(views)
//!     .store(|batch: Vec<Write<String, u64>>| upsert(batch))
//!     .build()?;
//! views.update("tea", || select("tea"), |views| views + 1).await?;
//! # Ok(()) }
//! ```
//!
//! # Guarantees
//!
//! - *Acknowledged*: when `insert` or `update` has returned `Ok`, value and entry are in Redis. `store` is given such a
//!   write at least once, if Redis keeps it: see below.
//! - *Newest wins.* A batch has each key once, with its newest value. Writes of one key come in their order.
//! - *Twice, and late.* If a worker dies between `store` and the end of its batch, or is paused for longer than
//!   [`claim_after`](WriteBehindBuilder::claim_after), another worker takes the same writes. The paused worker may
//!   still be in `store` then, with values that are older by now. [`Write::version`] rises for each key: a `store` that
//!   compares the version in its writing statement refuses a late write: `… WHERE version < $3`.
//! - *While a write waits*, look-ups return its value from the cache. If the value is gone there, as after a restart of
//!   Redis or when its TTL ends, loaded values are returned to callers and not stored: the source has an older value.
//!   An `invalidate` or `clear` of the cache meanwhile removes the value from the cache, and the write still reaches
//!   the source.
//! - *When a write has reached the source*, the cache keeps its value in both levels, for the rest of its TTL, as the
//!   source has this value, too. The key is invalidated instead if `store` has [changed](Stored::Changed) the value; if
//!   another call has put another value in its place; or if an earlier attempt took longer than
//!   [`store_timeout`](WriteBehindBuilder::store_timeout) or panicked, and may still arrive.
//! - *A failure of `store`* is retried with growing pauses, up to [`attempts`](WriteBehindBuilder::attempts) times.
//!   Then each write of the batch is tried by itself, and writes that fail become dead letters. Their keys are
//!   invalidated, so the cache has the values of the source.
//! - *One way to write a key.* A write that waits overwrites in the source a value that
//!   [`insert`](crate::Cache::insert) or [`write_through`](crate::Cache::write_through) has written meanwhile: these
//!   calls know nothing of the order of the write.
//! - *Full.* If as many writes wait, dead letters included, as [`capacity`](WriteBehindBuilder::capacity) says,
//!   `insert` returns an error, and nothing was changed.
//! - *Losses of Redis are losses*: with `appendfsync everysec` a crash of the server may lose the last second of
//!   writes, and without persistence all writes that wait. Use `appendfsync always`, and a policy that does not evict
//!   keys without a TTL (`noeviction` or `volatile-*`). A failover loses writes that the replica has not received.
//!
//! One worker at a time is enough for the order of a key, and its writes stay at the head of the stream until they are
//! written: so there is no consumer group, and nothing to claim. A worker that is silent for
//! [`claim_after`](WriteBehindBuilder::claim_after) loses its fence, and the next one begins at the head.
//!
//! # In Redis
//!
//! For a cache `shop:views`: the streams `{shop:views.0}!writes` and `{shop:views.0}!dead`, and
//! `{shop:views.0}!worker`, which names the worker. While a write waits, `{shop:views.0}!hold:KEY` has no TTL. To drop
//! all that waits, or all dead letters, delete the stream; the batch of a worker is written all the same. A user with
//! few rights also needs `+xlen +xdel +xrevrange +exists`, and for `update` `+getrange`.

mod error;
mod stats;
mod worker;
mod write;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use self::error::Reason;
pub use self::error::WriteBehindError;
use self::stats::Counters;
pub use self::stats::WriteBehindStats;
use self::worker::{Worker, WorkerOptions};
use self::write::{AnyWrite, DecodeKey, Store, decode_key};
pub use self::write::{Stored, Write};
use crate::cache::Cache;
use crate::engine::{Context, Engine, Partitions};
use crate::error::WriteError;
use crate::key::{CacheKey, Key, key_text};
use crate::l2::{Append, Kind, Pending, Waiting, WriteStream, Written};
use crate::loaded::Loaded;
use crate::lookup_by::KeyFrom;
use crate::token::Token;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;
use crate::util::retry_delays::retry_delays;
use crate::util::throttle::Throttle;
use crate::vocabulary::{AnyValue, Version};
use crate::wire::codec::{Codec, Postcard, SharedValue};

/// How long an update waits until it looks again whether the source has the writes that wait.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How many writes share a batch at most: as many keys as a message names.
const MAX_IN_A_BATCH: usize = 256;

/// A write that could not be written to the source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter<K, V> {
    /// The write; `None` if it cannot be read, as when it has the type of another release.
    pub write: Option<Write<K, V>>,
    /// The text of its key.
    pub key: String,
    /// Why the write failed: whether `store` returned an error, panicked or took too long, or that the write cannot be
    /// read. Redis does not keep the text of an error, as it may quote the value, which the codec may encrypt; the log
    /// has the text, at DEBUG.
    pub reason: String,
}

/// Entries that are dead letters, each with its write if that can be read.
type DeadLetters = Vec<(Waiting, Option<AnyWrite>)>;

/// The writes of one partition that wait, and the way to their worker.
struct Stream {
    ctx: Arc<Context>,
    wake: Arc<Notify>,
}

/// Writes values to the cache now, and to their source a moment later. See the [module](self). To share a
/// `WriteBehind`, put it in an `Arc`.
///
/// Dropping it ends its worker, at whatever step the worker is; the worker of another instance, or the next worker,
/// goes on within [`claim_after`](WriteBehindBuilder::claim_after).
#[must_use = "its worker ends when it is dropped"]
pub struct WriteBehind<K, V: Send + Sync + 'static> {
    cache: Cache<K, V>,
    streams: Streams,
}

/// The streams of all partitions and their workers, without the types of keys and values.
struct Streams {
    /// The partitions of the streams. Once the namespace has others, these take no writes: no worker would find those that
    /// the others take.
    engine: Arc<Engine>,
    capacity: u64,
    counters: Arc<Counters>,
    partitions: Partitions<Stream>,
    _workers: Partitions<AbortOnDropHandle<()>>,
}

impl<K, V> WriteBehind<K, V>
where
    K: CacheKey + Serialize + DeserializeOwned + Send + 'static,
    V: Send + Sync + 'static,
{
    /// Starts to build write-behind for a cache. The L2 of the cache has to be Redis or, in tests, a
    /// [`MemoryL2`](crate::MemoryL2), whose writes are lost with the process.
    ///
    /// The writes wait as bytes, so a cache of [`Local`](crate::Local) values does not compile here:
    ///
    /// ```compile_fail,E0277
    /// use larder::{Cache, Local};
    /// use larder::write_behind::WriteBehind;
    ///
    /// fn behind(views: Cache<String, Local<u64>>) {
    ///     let _ = WriteBehind::builder(views);
    /// }
    /// ```
    pub fn builder(cache: Cache<K, V>) -> WriteBehindBuilder<K, V>
    where
        V: SharedValue,
    {
        WriteBehindBuilder {
            cache,
            store: None,
            capacity: 100_000,
            options: WorkerOptions {
                batch: MAX_IN_A_BATCH,
                attempts: 20,
                claim_after: Duration::from_secs(10),
                store_timeout: Duration::from_secs(30),
                interval: Duration::from_millis(200),
            },
        }
    }

    /// Stores a value, or a [`Loaded`] with TTLs and tags of its own, in both levels, and writes the value to its
    /// source later. Other instances evict the key from L1. For a counter use [`update`](Self::update).
    ///
    /// Cost: one round trip, which no other write shares. A call that is dropped is carried out, or its key is
    /// invalidated.
    ///
    /// # Errors
    ///
    /// - [`WriteBehindError::is_full`]: too many writes wait. Nothing was changed.
    /// - [`WriteBehindError::is_unknown`]: Redis did not answer. The write may reach the source or not; the key is
    ///   invalidated as soon as Redis answers.
    /// - Otherwise nothing was changed: Redis refused the write or was not asked ([`WriteBehindError::is_refused`]), or
    ///   the key or value cannot be written.
    pub async fn insert<Q, M>(
        &self,
        key: &Q,
        value: impl Into<Loaded<V>>,
    ) -> Result<Token, WriteBehindError>
    where
        K: KeyFrom<Q, M>,
        Q: CacheKey + ?Sized,
    {
        // Before anything is sent: a key that cannot be written changes nothing.
        let (text, encoded) = named::<K, _, _>(key)?;
        let value = value.into().without_type();
        let appended = self.streams.append(text, encoded, value, None).await?;
        // Without a version there is no other one.
        appended.ok_or_else(|| Reason::Write(WriteError::contended()).into())
    }

    /// Replaces a value by the value that `change` makes of it, and writes the new value to its source later. No change
    /// is lost, however many callers in however many instances change the key at once: for counters and lists, for
    /// which [`insert`](Self::insert) is not safe.
    ///
    /// `change` returns the new value, or a [`Loaded`] with TTLs and tags of its own. `change` is called again when
    /// another writer was faster, so it must have no other effect. A value that is in neither level is loaded first, as
    /// by [`get_or_load`](Cache::get_or_load): `load` is called at each attempt, and the returned future is polled if
    /// the value is missing. While a write of the key still has to reach the source, the call does not use a loaded
    /// value: it waits until the source has that write.
    ///
    /// Calls for one key in one instance come one after the other. So for a counter that every request adds to, add up
    /// in the process, and call `update` with the sum now and then.
    ///
    /// Cost: two round trips, and two more for each attempt. A call that is dropped is carried out, or its key is
    /// invalidated, or nothing was changed.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert), and nothing was changed with these:
    ///
    /// - [`WriteBehindError::is_load`]: the value is in neither level and could not be loaded.
    /// - [`WriteBehindError::is_contended`]: 256 attempts have failed, which took several seconds; half a minute if the
    ///   source did not take the writes that wait.
    /// - [`WriteBehindError::is_refused`]: Redis was not asked, as while the circuit breaker is open; or the cache is
    ///   switched off. The source is not asked, either.
    ///
    /// ```no_run
    /// # async fn demo(views: larder::write_behind::WriteBehind<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn select(_: &str) -> Result<u64, std::io::Error> { Ok(0) }
    /// views.update("tea", || select("tea"), |views| views + 1).await?;
    /// # Ok(()) }
    /// ```
    pub async fn update<Q, M, T, Fut, E>(
        &self,
        key: &Q,
        mut load: impl FnMut() -> Fut,
        mut change: impl FnMut(&V) -> T,
    ) -> Result<Token, WriteBehindError>
    where
        K: KeyFrom<Q, M>,
        Q: CacheKey + ?Sized,
        T: Into<Loaded<V>>,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let (text, encoded) = named::<K, _, _>(key)?;
        // One call for a key at a time, or the calls of this instance would fail each other's attempts.
        let mut update = self
            .streams
            .engine
            .writes()
            .begin_update(text.clone())
            .await;
        loop {
            update.next().await.map_err(Reason::from)?;
            let loading = load();
            let stored = self.cache.get_or_load(key, move || loading).await;
            let stored = stored.map_err(Reason::Load)?;
            // No lease is granted while a write waits, and without one no version.
            let Some(version) = stored.meta().version() else {
                self.streams.partitions.for_key(&text).wake.notify_one();
                sleep(LOOK_AGAIN).await;
                continue;
            };
            let changed = change(&stored).into().without_type();
            // Not held over the request: L1 may let the old value go meanwhile.
            drop(stored);
            let (text, encoded) = (text.clone(), encoded.clone());
            let appended = self.streams.append(text, encoded, changed, Some(version));
            if let Some(token) = appended.await? {
                return Ok(token);
            }
        }
    }

    /// Waits until all writes that were acknowledged before the call, in any instance, have reached the source or are
    /// dead letters. The call waits for as long as that takes, also while the source fails: put a time limit on it.
    ///
    /// Cost: a round trip, and one more every now and then. Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// - [`WriteBehindError::is_dead_letter`]: meanwhile some writes became dead letters.
    /// - [`WriteBehindError::is_lost`]: meanwhile the stream was lost or deleted, or Redis was restarted or replaced,
    ///   and may have lost some writes; another call waits for the writes that Redis still has. The call does not
    ///   notice an earlier loss.
    /// - Redis does not answer, or refuses.
    pub async fn flush(&self) -> Result<(), WriteBehindError> {
        self.streams.flush().await
    }

    /// Returns the first dead letters, the oldest first: no more than `most`, and no more once their values have 1 MiB
    /// together.
    ///
    /// Cost: one round trip.
    ///
    /// # Errors
    ///
    /// Redis does not answer, or refuses.
    pub async fn dead_letters(
        &self,
        most: usize,
    ) -> Result<Vec<DeadLetter<K, V>>, WriteBehindError> {
        let letters = self.streams.dead_letters(most, decode_key::<K>).await?;
        let letters = letters.into_iter().map(|(letter, write)| DeadLetter {
            write: write.map(AnyWrite::typed),
            reason: letter.reason.unwrap_or_default(),
            key: letter.key,
        });
        Ok(letters.collect())
    }

    /// Puts all dead letters back into the stream, to wait for the source again with the versions that they had. A dead
    /// letter is removed instead if a newer write of its key waits. If `store` compares no versions, this call puts
    /// older values back into the source. Returns how many writes wait again.
    ///
    /// Cost: one round trip for each dead letter. A call that is dropped leaves the remaining dead letters as they are.
    ///
    /// # Errors
    ///
    /// Redis does not answer, or refuses. Some letters may wait again.
    pub async fn replay_dead_letters(&self) -> Result<u64, WriteBehindError> {
        self.streams.replay_dead_letters().await
    }

    /// Returns the number of writes that wait, and the counters of this instance's worker.
    ///
    /// Cost: one round trip.
    ///
    /// # Errors
    ///
    /// Redis does not answer, or refuses.
    pub async fn stats(&self) -> Result<WriteBehindStats, WriteBehindError> {
        self.streams.stats().await
    }
}

impl Streams {
    /// Stores a value, and appends it to the stream of its partition. `None` if another version is stored.
    fn append(
        &self,
        key: Key,
        encoded_key: Vec<u8>,
        value: Loaded<AnyValue>,
        version: Option<Version>,
    ) -> BoxFuture<'_, Result<Option<Token>, WriteBehindError>> {
        Box::pin(async move {
            let append = Append {
                encoded_key,
                most: self.capacity,
                version,
            };
            let writes = self.engine.writes().for_key(&key);
            let wake = &self.partitions.for_key(&key).wake;
            let appended = writes.append(key, value, append).await;
            match appended.map_err(Reason::from)? {
                Written::Full => Err(Reason::Full(self.capacity).into()),
                // The worker of this instance may have the fence: then the write does not wait for its interval.
                written => Ok(written.version().map(|version| {
                    wake.notify_one();
                    writes.token(version)
                })),
            }
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), WriteBehindError>> {
        Box::pin(async {
            let flushed = try_join_all(self.partitions.iter().map(Stream::flush));
            flushed.await.map(drop)
        })
    }

    /// Dead letters, each with its write if that can be read.
    fn dead_letters(
        &self,
        most: usize,
        decode: DecodeKey,
    ) -> BoxFuture<'_, Result<DeadLetters, WriteBehindError>> {
        Box::pin(async move {
            let mut all = Vec::new();
            for stream in self.partitions.iter() {
                let letters = stream.get()?.dead_letters(most - all.len()).await;
                for letter in letters.map_err(Reason::L2)? {
                    let write = AnyWrite::read(&stream.ctx, &letter, decode).ok();
                    all.push((letter, write));
                }
            }
            Ok(all)
        })
    }

    fn replay_dead_letters(&self) -> BoxFuture<'_, Result<u64, WriteBehindError>> {
        Box::pin(replay_all(&self.partitions))
    }

    fn stats(&self) -> BoxFuture<'_, Result<WriteBehindStats, WriteBehindError>> {
        Box::pin(async {
            let all = try_join_all(self.partitions.iter().map(Stream::pending)).await?;
            // An id begins with the time of Redis, so the clock of this machine does not count.
            let waits = |one: &Pending| {
                one.first
                    .map_or(0, |first| one.now.saturating_sub(first.ms))
            };
            Ok(WriteBehindStats {
                pending: all.iter().map(|one| one.length).sum(),
                lag: Duration::from_millis(all.iter().map(waits).max().unwrap_or(0)),
                dead_letters: all.iter().map(|one| one.dead_letters).sum(),
                has_worker: all.iter().all(|one| one.has_worker),
                ..*lock(&self.counters)
            })
        })
    }
}

impl Stream {
    fn get(&self) -> Result<&dyn WriteStream, WriteBehindError> {
        Ok(self
            .ctx
            .partition
            .write_stream()
            .ok_or(Reason::Unsupported)?)
    }

    async fn pending(&self) -> Result<Pending, WriteBehindError> {
        Ok(self.get()?.pending().await.map_err(Reason::L2)?)
    }

    async fn flush(&self) -> Result<(), WriteBehindError> {
        let before = self.pending().await?;
        let Some(last) = before.last else {
            return Ok(());
        };
        self.wake.notify_one();
        // Polled, as writes of other instances count, too, and Redis tells nobody when one is settled.
        let mut pauses = retry_delays(Duration::from_millis(5), Duration::from_millis(200));
        loop {
            let now = self.pending().await?;
            // The ids of another stream do not compare with these.
            if now.history != before.history {
                return Err(Reason::Lost.into());
            }
            if now.first.is_none_or(|first| first > last) {
                if now.last_dead > before.last_dead {
                    return Err(Reason::DeadLetters.into());
                }
                return Ok(());
            }
            sleep(pauses.next().unwrap_or(Duration::from_millis(200))).await;
        }
    }

    async fn replay_dead_letters(&self) -> Result<u64, WriteBehindError> {
        // Up to here: letters that die again meanwhile are left, or the call would never end.
        let last = self.pending().await?.last_dead;
        let (stream, mut replayed) = (self.get()?, 0);
        loop {
            let letters = stream.dead_letters(MAX_IN_A_BATCH).await;
            let mut letters = letters.map_err(Reason::L2)?;
            letters.retain(|letter| Some(letter.id) <= last);
            if letters.is_empty() {
                self.wake.notify_one();
                return Ok(replayed);
            }
            for letter in &letters {
                let payload = self.ctx.message(Kind::Invalidate, &[&letter.key]);
                let waits = stream.requeue(letter, &payload).await;
                replayed += u64::from(waits.map_err(Reason::L2)?);
            }
        }
    }
}

/// Puts all dead letters of a cache back into its stream, as [`WriteBehind::replay_dead_letters`] does, and starts no
/// worker: for tools that have neither the types of the values nor a `store`. The workers of the service take the
/// writes. Returns how many writes wait again.
///
/// The cache may have any types of keys and values: none are read. Do not build a [`WriteBehind`] on such a cache: its
/// worker could read no write, and would make each a dead letter.
///
/// Cost: one round trip for each dead letter. A call that is dropped leaves the remaining dead letters as they are.
///
/// # Errors
///
/// As [`WriteBehind::replay_dead_letters`]; and [`WriteBehindError::is_unsupported`] if the cache has no L2, or an L2
/// without streams.
///
/// ```no_run
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, write_behind};
///
/// // With the number of partitions that the service has.
/// let views: Cache<String, ()> = Cache::builder("shop:views").redis("redis://127.0.0.1:6379").build()?;
/// let waiting = write_behind::replay_dead_letters(&views).await?;
/// println!("{waiting} writes wait again");
/// views.close().await;
/// # Ok(()) }
/// ```
pub async fn replay_dead_letters<K, V>(cache: &Cache<K, V>) -> Result<u64, WriteBehindError>
where
    V: Send + Sync + 'static,
{
    let streams = cache.engine().contexts.map(|_, ctx| Stream {
        ctx: Arc::clone(ctx),
        // No worker of this instance listens to it: the workers of the service look at the stream by themselves.
        wake: Arc::new(Notify::new()),
    });
    replay_all(&streams).await
}

async fn replay_all(partitions: &Partitions<Stream>) -> Result<u64, WriteBehindError> {
    let replayed = try_join_all(partitions.iter().map(Stream::replay_dead_letters));
    Ok(replayed.await?.into_iter().sum())
}

/// The text of a key, by which the cache finds it, and the key itself, which `store` gets.
fn named<K: KeyFrom<Q, M> + Serialize, Q: CacheKey + ?Sized, M>(
    key: &Q,
) -> Result<(Key, Vec<u8>), WriteBehindError> {
    let text = key_text(key).map_err(|error| Reason::Write(error.into()))?;
    let mut encoded = Vec::new();
    (Postcard.encode(&K::key_from(key), &mut encoded)).map_err(Reason::Key)?;
    Ok((text, encoded))
}

partial_debug!([K, V: Send + Sync + 'static] WriteBehind<K, V>, "WriteBehind", this => cache: &this.cache);

/// Sets up a [`WriteBehind`].
#[must_use = "nothing is written before `build` is called"]
pub struct WriteBehindBuilder<K, V: Send + Sync + 'static> {
    cache: Cache<K, V>,
    store: Option<Store>,
    capacity: u64,
    options: WorkerOptions,
}

impl<K, V> WriteBehindBuilder<K, V>
where
    K: CacheKey + Serialize + DeserializeOwned + Send + 'static,
    V: Send + Sync + 'static,
{
    /// Sets the function that writes a batch to the source. It writes the whole batch, or returns an error. Each key is
    /// in a batch once. A batch may come again, so writing it twice must do no harm; see the [module](self) for late
    /// writes.
    ///
    /// After `Ok(())` the cache keeps the values, as the source has them. If the source may have other values for some
    /// keys, return [`Stored::Changed`] with these keys:
    ///
    /// ```
    /// use larder::write_behind::{Stored, Write};
    ///
    /// // INSERT INTO view VALUES ($1, $2, $3) ON CONFLICT (key) DO UPDATE SET value = $2, version = $3
    /// // WHERE view.version < $3
    /// # async fn upsert(_: &Write<String, u64>) -> Result<u64, std::io::Error> { Ok(1) }
    /// async fn store(batch: Vec<Write<String, u64>>) -> Result<Stored<String>, std::io::Error> {
    ///     let mut changed = Vec::new();
    ///     for write in batch {
    ///         let rows_affected = upsert(&write).await?;
    ///         if rows_affected == 0 {
    ///             // The source has a newer value, which is not this one.
    ///             changed.push(write.key);
    ///         }
    ///     }
    ///     Ok(Stored::Changed(changed))
    /// }
    /// ```
    ///
    /// A panic is an error like any other.
    pub fn store<F, Fut, S, E>(mut self, store: F) -> Self
    where
        F: Fn(Vec<Write<K, V>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<S, E>> + Send + 'static,
        S: Into<Stored<K>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.store = Some(Arc::new(move |batch| {
            let batch = batch.into_iter().map(AnyWrite::typed).collect();
            let storing = store(batch);
            Box::pin(async move {
                match storing.await.map(Into::into) {
                    Ok(Stored::AsGiven) => Ok(Vec::new()),
                    // A key whose text is too long is not of the batch.
                    Ok(Stored::Changed(keys)) => {
                        Ok(keys.iter().filter_map(|key| key_text(key).ok()).collect())
                    }
                    Err(error) => Err(error.into()),
                }
            })
        }));
        self
    }

    /// How many writes a worker takes from the stream at a time; fewer once their values have 1 MiB together. Default:
    /// 256, which is the most.
    pub fn batch(mut self, most: usize) -> Self {
        self.options.batch = most;
        self
    }

    /// How many writes may wait, dead letters included. Default: 100 000.
    pub fn capacity(mut self, writes: u64) -> Self {
        self.capacity = writes;
        self
    }

    /// How often a batch is tried before each write is tried by itself, and becomes a dead letter if it fails. Default:
    /// 20, which is two to four minutes: the pauses grow to 10 s, and are random. With `u32::MAX` there are no dead
    /// letters, however long the source is down; and a write that `store` always refuses stops all other writes.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.options.attempts = attempts;
        self
    }

    /// How long after its last sign of life a worker counts as dead, so that another worker continues with its writes.
    /// Default: 10 s. From 100 ms to 1 hour.
    pub fn claim_after(mut self, silence: Duration) -> Self {
        self.options.claim_after = silence;
        self
    }

    /// How long a call of `store` may take. After that its future is dropped, and the call counts as failed. Default:
    /// 30 s.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.options.store_timeout = limit;
        self
    }

    /// How often a worker looks for writes of other instances; it takes writes of its own instance at once. Default:
    /// 200 ms. At least 1 ms. Give all instances the same: a worker leaves writes of another
    /// [release](crate::guide::deploys#with-write-behind) for twice as long.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.options.interval = interval;
        self
    }

    /// Starts the worker as a task on the current Tokio runtime, with which it ends.
    ///
    /// # Errors
    ///
    /// - [`WriteBehindError::is_unsupported`]: the cache has no L2, or an L2 without streams.
    /// - [`WriteBehindError::is_misuse`]: there is no `store`, an option cannot work, or there is no runtime.
    pub fn build(self) -> Result<WriteBehind<K, V>, WriteBehindError> {
        let engine = Arc::clone(self.cache.engine());
        let streams = self
            .options
            .start(engine, self.store, decode_key::<K>, self.capacity)?;
        Ok(WriteBehind {
            cache: self.cache,
            streams,
        })
    }
}

impl WorkerOptions {
    /// Checks the options, and starts the workers.
    fn start(
        self,
        engine: Arc<Engine>,
        store: Option<Store>,
        decode_key: DecodeKey,
        capacity: u64,
    ) -> Result<Streams, WriteBehindError> {
        let misuse = |problem| Err(Reason::Misuse(problem).into());
        let Some(store) = store else {
            return misuse("store is not set");
        };
        // Now, and not at the first write, which a service may make hours later.
        let contexts = &engine.contexts;
        if contexts
            .iter()
            .any(|ctx| ctx.partition.write_stream().is_none())
        {
            return Err(Reason::Unsupported.into());
        }
        // Below, a pause of the runtime would pass for the death of the worker; above, its writes would wait for too
        // long.
        let claims = Duration::from_millis(100)..=Duration::from_secs(3600);
        if !(1..=MAX_IN_A_BATCH).contains(&self.batch) {
            return misuse("batch is from 1 to 256");
        }
        if capacity == 0 || self.attempts == 0 {
            return misuse("capacity and attempts cannot be zero");
        }
        if !claims.contains(&self.claim_after) {
            return misuse("claim_after is from 100 ms to 1 hour");
        }
        if self.store_timeout.is_zero() || self.interval < Duration::from_millis(1) {
            return misuse("store_timeout cannot be zero, and interval is at least 1 ms");
        }
        let Ok(runtime) = Handle::try_current() else {
            return misuse("there is no Tokio runtime");
        };
        let counters = Arc::new(Counters::default());
        let partitions = contexts.map(|_, ctx| Stream {
            ctx: Arc::clone(ctx),
            wake: Arc::new(Notify::new()),
        });
        let workers = partitions.map(|_, stream| {
            let worker = Worker {
                engine: Arc::clone(&engine),
                ctx: Arc::clone(&stream.ctx),
                store: Arc::clone(&store),
                decode_key,
                options: self,
                // No two workers draw the same, so none renews the fence of another.
                fence: crate::l2::random(),
                counters: Arc::clone(&counters),
                wake: Arc::clone(&stream.wake),
                dead_letters: Throttle::default(),
            };
            AbortOnDropHandle::new(runtime.spawn(worker.run()))
        });
        Ok(Streams {
            engine,
            capacity,
            counters,
            partitions,
            _workers: workers,
        })
    }
}

partial_debug!([K, V: Send + Sync + 'static] WriteBehindBuilder<K, V>, "WriteBehindBuilder", this =>
    cache: &this.cache);
