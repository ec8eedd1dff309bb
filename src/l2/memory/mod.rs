//! An L2 inside the process: the same steps as on Redis, each under one lock. Knows no network.
//!
//! - here: the store, how it restarts, and its outages
//! - [`partition`]: one instance's connections to it
//! - [`state`]: the data of one namespace; [`tags`]: when tags were invalidated; [`expiring`]: the map that these are
//!   in
//! - `write_stream`: the steps of write-behind; `writes`: the writes that wait

mod expiring;
mod partition;
mod state;
mod tags;
#[cfg(feature = "write-behind")]
mod write_stream;
#[cfg(feature = "write-behind")]
mod writes;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use self::state::{Now, PartitionState};
use super::{Bytes, L2Error, OnHeard, PartitionNumber, random};
use crate::clock::Clock;
use crate::options::LONGEST;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;

/// A second level inside this process, for trying the crate out and for tests.
///
/// Clones share the stored values: give one to each of several caches, and they behave as instances that
/// share a Redis do. It holds at most 100 000 values per namespace. Caches of one name need the same number of
/// [partitions](crate::Builder::partitions): unlike in Redis, caches with different numbers do not see each other's values.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, MemoryL2};
///
/// let l2 = MemoryL2::new();
/// let a: Cache<u64, String> = Cache::builder("docs:shared").l2(l2.clone()).build()?;
/// let b: Cache<u64, String> = Cache::builder("docs:shared").l2(l2).build()?;
/// a.insert(&1, "one".to_owned()).await?;
/// assert_eq!(b.get(&1).await.as_deref().map(String::as_str), Some("one"));
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryL2 {
    clock: Clock,
    server: Arc<Mutex<MemoryServer>>,
}

struct MemoryServer {
    /// The time of the last step.
    now: Now,
    is_reachable: bool,
    /// The partitions, by their names.
    partitions: BTreeMap<String, PartitionState>,
    /// Who listens to channels of other programs. Belongs to the subscription, and ends with it.
    listening: Vec<Weak<Listening>>,
}

/// The channels of other programs that a subscription listens to.
struct Listening {
    channels: Vec<Arc<str>>,
    on_heard: OnHeard,
}

/// The data of a [`MemoryL2`] at some time, like a server's snapshot on disk. The default is empty.
#[derive(Clone, Default)]
pub struct MemorySnapshot(BTreeMap<String, PartitionState>);

impl MemoryL2 {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    /// An empty store that goes by `clock`.
    #[must_use]
    pub fn with_clock(clock: Clock) -> Self {
        Self::with(clock, false)
    }

    /// For a cache that has no L2, so that its calls take the same way through the code as any other's: numbers
    /// changes, grants leases and keeps holds, but stores no values and publishes nothing. Its epoch never changes.
    pub(crate) fn without_values(clock: Clock) -> Self {
        Self::with(clock, true)
    }

    fn with(clock: Clock, is_private: bool) -> Self {
        let mut now = Now {
            is_private,
            // Before the first incarnation there were no members to lose.
            age_of_list: Duration::MAX,
            ..Now::default()
        };
        now.link.run = random();
        let server = Arc::new(Mutex::new(MemoryServer {
            now,
            is_reachable: true,
            partitions: BTreeMap::new(),
            listening: Vec::new(),
        }));
        Self { clock, server }
    }

    /// Copies the data, for a later [`restore`](Self::restore).
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        let mut partitions = lock(&self.server).partitions.clone();
        unsubscribe_all(&mut partitions);
        MemorySnapshot(partitions)
    }

    /// Restarts from a snapshot, like a server that has lost all later writes: all connections are cut, and values that
    /// were deleted since are back. Caches notice, and answer with none of them.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        let mut server = lock(&self.server);
        // Another incarnation: connections and subscriptions of the former one end at their next step (rule 13: a new
        // incarnation is a new epoch).
        server.now.link.run = random();
        // Members of the former incarnation may be missing in the snapshot.
        server.now.age_of_list = Duration::ZERO;
        server.partitions.clone_from(&snapshot.0);
    }

    /// Writes bytes under a key of a namespace with one partition, as another program may, past all rules.
    #[doc(hidden)]
    pub fn write_by_hand(&self, namespace: &str, key: &str, bytes: Bytes) {
        let mut server = lock(&self.server);
        let at = server.now.at;
        if let Some(partition) = server.partitions.get_mut(namespace) {
            partition.values.insert(key, bytes, at, LONGEST);
        }
    }

    /// Begins or ends an outage, for all clones: while the store cannot be reached, every request fails at once, as
    /// when a Redis refuses connections. Subscriptions break. Stored values stay, and expire in their time.
    ///
    /// For tests of a service without L2. After the outage caches connect again by themselves, within about a
    /// second; [`ready`](crate::Cache::ready) waits for that.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let cache: Cache<u64, String> = Cache::builder("docs:outage").l2(l2.clone()).build()?;
    /// cache.insert(&1, "one".to_owned()).await?;
    ///
    /// l2.set_reachable(false);
    /// let error = cache.invalidate(&1).await.err().ok_or("L2 is away")?;
    /// assert!(error.is_deferred());
    /// assert!(!cache.health().is_l2_up());
    ///
    /// l2.set_reachable(true);
    /// cache.ready().await;
    /// cache.invalidate(&1).await?;
    /// assert!(cache.health().is_ok());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn set_reachable(&self, is_reachable: bool) {
        let mut server = lock(&self.server);
        server.is_reachable = is_reachable;
        if !is_reachable {
            // Connections must not survive an outage that is over before they are used again.
            server.now.link.outages += 1;
            unsubscribe_all(&mut server.partitions);
        }
    }

    /// Publishes on a channel, as `PUBLISH` does in Redis, for tests of [`listen_to`](crate::Builder::listen_to).
    /// Caches that are not subscribed do not hear it. During an outage nobody does.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, Invalidation, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let prices: Cache<String, u32> = Cache::builder("docs:heard")
    ///     .l2(l2.clone())
    ///     .listen_to("changes", |_| vec![Invalidation::all()])
    ///     .build()?;
    /// prices.ready().await;
    /// l2.publish("changes", b"the database was restored");
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn publish(&self, channel: &str, payload: &[u8]) {
        let mut server = lock(&self.server);
        if !server.is_reachable {
            return;
        }
        server.listening.retain(|one| one.strong_count() > 0);
        let listening = server.listening.clone();
        // Handlers are called when the lock is free, as they may use the store.
        drop(server);
        for one in listening.iter().filter_map(Weak::upgrade) {
            if let Some(at) = one.channels.iter().position(|known| **known == *channel) {
                (one.on_heard)(at, payload.to_vec());
            }
        }
    }

    /// Does something with the data of a partition, as one step.
    fn step<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut PartitionState) -> T,
    ) -> Result<T, L2Error> {
        // Before the lock, as a clock of users may take a lock of its own.
        let at = self.clock.now() / 1_000_000;
        let mut server = lock(&self.server);
        if !server.is_reachable {
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(L2Error::unreachable(refused));
        }
        server.now.at = at;
        let now = server.now;
        // Mostly it is there, and its name need not be copied.
        let state = match server.partitions.get_mut(name) {
            Some(state) => state,
            None => server.partitions.entry(name.to_owned()).or_default(),
        };
        state.now = now;
        Ok(act(state))
    }
}

/// The name of a partition.
fn name_of(namespace: &str, PartitionNumber { number, of }: PartitionNumber) -> String {
    if of == 1 {
        return namespace.to_owned();
    }
    // No namespace has braces.
    format!("{namespace}{{{number}of{of}}}")
}

fn unsubscribe_all(partitions: &mut BTreeMap<String, PartitionState>) {
    for state in partitions.values_mut() {
        state.subscribers.clear();
    }
}

impl Default for MemoryL2 {
    fn default() -> Self {
        Self::new()
    }
}

partial_debug!([] MemoryL2, "MemoryL2");
partial_debug!([] MemorySnapshot, "MemorySnapshot");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::MemoryL2;
    use crate::clock::Clock;
    use crate::l2::{
        AcceptedValue, Batch, EncodedValue, Fill, L2, LeaseReply, LeaseRequest, Step, Ttls, Written,
    };

    const ASK: LeaseRequest = LeaseRequest {
        ttl: Duration::from_secs(60),
        want: AcceptedValue::Any,
        deadline: None,
    };

    #[tokio::test]
    async fn without_values_only_the_last_load_that_was_not_overtaken_may_fill() {
        let store = MemoryL2::without_values(Clock::system());
        let partition = store.partition("ns".into(), Duration::ZERO, Box::new(|_| {}));
        let value = &EncodedValue {
            body: Vec::new(),
            ttls: Ttls::new(Duration::from_secs(60)),
        };
        for overtaken_by in [
            "nothing",
            "insert",
            "invalidation",
            "clear",
            "another",
            "itself",
        ] {
            let Ok(LeaseReply::Granted(lease)) = partition.acquire_lease("k", ASK).await else {
                panic!("it is granted");
            };
            assert!(
                partition
                    .renew_lease("k", lease.token, ASK.ttl)
                    .await
                    .unwrap()
            );
            let write = async |step: Step| {
                let batch = Batch {
                    keys: &["k"],
                    values: &[value],
                    ..Batch::default()
                };
                match partition.write(&step, batch).await.unwrap() {
                    Written::Done(ack) => ack.stamp.ver,
                    other => panic!("{other:?}"),
                }
            };
            let before = match overtaken_by {
                "insert" => write(Step::Insert).await,
                "invalidation" => write(Step::INVALIDATE).await,
                "clear" => write(Step::Clear).await,
                "another" => {
                    let asked = partition.acquire_lease("k", ASK).await.unwrap();
                    assert!(matches!(asked, LeaseReply::Granted(_)), "{asked:?}");
                    0
                }
                "itself" => {
                    let given_back = partition
                        .renew_lease("k", lease.token, Duration::ZERO)
                        .await;
                    assert!(given_back.unwrap());
                    0
                }
                _ => 0,
            };
            let filled = partition.fill("k", lease, value, None).await.unwrap();
            let stands = matches!(&filled, Fill::Stored(ack) if ack.stamp.ver > before);
            assert_eq!(stands, overtaken_by == "nothing", "{overtaken_by}");
            assert_eq!(
                partition.get("k").await.unwrap(),
                None,
                "no value is stored"
            );
        }
    }
}
