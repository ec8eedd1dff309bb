//! The second level: a store that all instances share.
//!
//! [`RedisL2`] and [`MemoryL2`] implement the same traits and pass the same tests: the package `larder-store-tests`,
//! which also tests a store of your own. An [`L2`] opens the [`Partition`]s of a cache's namespace. Every step of a
//! partition that changes something is atomic. On Redis a step is one round trip, but for a read of more keys than fit a
//! request, a script that the server has to load first, and a request that is sent again.
//!
//! Architecture invariant: an L2 stores values, orders changes and publishes them. It knows nothing of L1, of loads in
//! flight, or of loaders.

mod inbox;
mod memory;
mod outages;
pub(crate) mod redis;
#[cfg(feature = "write-behind")]
mod write_stream;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use futures::{FutureExt, Stream};
use tokio::time::Instant;
use twox_hash::XxHash3_64;

use crate::util::retry_delays::retry_delays;

pub use self::memory::{MemoryL2, MemorySnapshot};
pub use self::outages::{Outages, Reporter, Trouble};
#[doc(hidden)]
pub use self::redis::{DialedStream, Dialer};
pub use self::redis::{RedisL2, Server};
#[cfg(feature = "write-behind")]
#[cfg_attr(docsrs, doc(cfg(feature = "write-behind")))]
pub use self::write_stream::{Append, Pending, Settled, StreamId, Waiting, WriteStream};
use crate::clock::Clock;
pub use crate::error::L2Error;
pub use crate::key::Key;
pub(crate) use crate::util::random::random;
pub use crate::vocabulary::{PartitionClock, PartitionNumber, Version, Want};
pub use crate::wire::envelope::{Lifetime, Stamp, Ttls};
pub use crate::wire::message::{Kind, Message};

/// The crate deadpool-redis that larder is built with. Its module `redis` is the crate redis.
///
/// For [`RedisL2::with_pool`], and for the two other calls that take types of these crates. Rely on the items that
/// these calls need, and on no others:
///
/// - [`RedisL2::with_pool`]: `Pool` with its builder, `Manager`, `Config`, `Runtime`, and their errors;
/// - [`RedisL2::open`] and other calls that take a [`Server`]: of `redis`, the types `ConnectionInfo`,
///   `IntoConnectionInfo`, `ConnectionAddr`, `RedisConnectionInfo`, `io::tcp::TcpSettings`, `Client`, `TlsCertificates`
///   and `ClientTlsConfig`, and their errors;
/// - [`RedisL2::credentials`]: of `redis`, the types `StreamingCredentialsProvider`, `BasicAuth` and `RedisResult`.
///
/// deadpool-redis has not reached 1.0. **A minor release of larder may move to another minor version of it**, and with
/// it to another version of redis. The items above may change then; all else in larder follows larder's own version.
///
/// A service that sends commands of its own depends on deadpool-redis or redis directly. `with_pool` takes the pool of
/// such a dependency if Cargo resolves it to the version of this module.
///
/// ```no_run
/// use larder::RedisL2;
/// use larder::l2::deadpool_redis::redis::IntoConnectionInfo;
/// use larder::l2::deadpool_redis::redis::io::tcp::TcpSettings;
/// use larder::l2::deadpool_redis::{Manager, Pool, Runtime};
///
/// let url = "redis://127.0.0.1:6379";
/// let info = url.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true));
/// let pool = Pool::builder(Manager::new(info)?).runtime(Runtime::Tokio1).build()?;
/// let l2 = RedisL2::with_pool(pool, url)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// A module, as rustdoc does not show the documentation of `pub use deadpool_redis`.
pub mod deadpool_redis {
    #[doc(no_inline)]
    pub use ::deadpool_redis::*;
}

/// The answer of a partition, within its time limit.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, L2Error>>;

/// The stored bytes of a key, unchecked, or why they could not be read.
pub type ReadResult = Result<Option<Bytes>, L2Error>;

/// A store that all instances of a service share.
///
/// Use [`RedisL2`], or [`MemoryL2`] where there is no server. Another implementation has to pass the tests that
/// those two pass: the package `larder-store-tests` (`tests/store_tests` in the repository) makes them from one macro,
/// and lists the faults of real servers that need tests of their own.
pub trait L2: Send + Sync + 'static {
    /// Opens a partition of the store. Neither waits nor connects.
    ///
    /// `timeout` is for each step of the partition, connecting included. The partition calls `on_connect` with its clock
    /// whenever it has made a connection for requests, before that connection is used: the store may have restarted,
    /// gone back in time, or be another one.
    ///
    /// Only the partitions of one number are used, of the largest that any instance was given. The steps of all others have
    /// the error [`L2Error::other_partitions`], and the instance goes on with those that it names.
    fn partition(
        &self,
        name: PartitionName<'_>,
        timeout: Duration,
        on_connect: OnConnect,
    ) -> Box<dyn Partition>;

    /// The clock by which the store's values expire, if it has one that a test can set.
    fn clock(&self) -> Option<Clock> {
        None
    }

    /// The outages of the server, which all caches on it log together. By default each cache logs its own.
    fn outages(&self) -> Arc<Outages> {
        Arc::default()
    }

    /// How many partitions a namespace has unless [`partitions`](crate::Builder::partitions) says so.
    fn default_partitions(&self) -> u16 {
        1
    }

    /// Whether there are channels of other programs: [`Subscription::listen`] and [`Partition::publish`] work.
    fn has_channels(&self) -> bool {
        false
    }
}

/// Names a partition: the keys of a namespace that share a clock.
///
/// Complete: a store heeds every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionName<'a> {
    /// The namespace of the cache.
    pub namespace: &'a str,
    /// Which of its partitions.
    pub partition: PartitionNumber,
    /// The type tag of the cache's values. Instances with another type tag, as before and after a change of
    /// [`schema_version`](crate::Builder::schema_version), have values and leases of their own under each key. A partition
    /// reads and fills values with this type tag, and its changes remove values with any.
    pub type_tag: u64,
}

impl<'a> From<&'a str> for PartitionName<'a> {
    /// The partition of a namespace that has no other, for values with the type tag 0.
    fn from(namespace: &'a str) -> Self {
        Self {
            namespace,
            partition: PartitionNumber::ONLY,
            type_tag: 0,
        }
    }
}

/// Called with the clock that a new connection found.
pub type OnConnect = Box<dyn Fn(&PartitionClock) + Send + Sync>;

/// Called with the payload of a message on a channel of other programs, and the index of the channel in the list of
/// those that are subscribed to. Must not wait.
pub type OnHeard = Arc<dyn Fn(usize, Vec<u8>) + Send + Sync>;

/// One cache's part of a store: the keys that share a clock.
///
/// `payload` is the sender's part of the message to publish. A step may be sent again when its connection is lost, so
/// a copy of it may arrive late: each method says how that does no harm.
pub trait Partition: Send + Sync + fmt::Debug {
    /// Reads the stored bytes of a key, unchecked.
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>>;

    /// Reads the stored bytes of some keys, in as few requests as is sensible. Each key has an answer of its own, in
    /// their order.
    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>>;

    /// Asks for the right to fill a key, unless the store has a usable value.
    ///
    /// A partition that sends the request again gives each copy a token of its own. Otherwise a copy that arrives late
    /// could bring a lease back that an invalidation has ended.
    ///
    /// After an answer of [`LeaseReply::Wait`], all subscriptions receive [`Event::LeaseEnded`] when that lease is
    /// used or given back.
    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply>;

    /// Stores a loaded value if the lease still stands, and ends the lease. With a `payload` it also publishes that,
    /// for a load that replaces a value which other instances may hold.
    fn fill<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        value: &'a EncodedValue,
        payload: Option<&'a [u8]>,
    ) -> Reply<'a, Fill>;

    /// Stores the value again that it holds in the version `seen`, with a new stamp and new TTLs, if the lease still
    /// stands; and ends the lease. For a load which found that the source has not changed: the value is not sent.
    ///
    /// `tags` are the tags of the value. `None` if the lease stands, and the store does not hold that version.
    fn revalidate<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &'a [Key],
    ) -> Reply<'a, Option<Fill>>;

    /// Keeps a lease for another `ttl`, or gives it back if that is zero. `false` if there is no lease with this
    /// token.
    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool>;

    /// Changes the keys of a batch, and publishes that.
    fn write<'a>(&'a self, step: &'a Step, batch: Batch<'a>) -> Reply<'a, Written>;

    /// Changes the lifetime of the usable value of a key. Publishes that if the lifetime is shorter than before: then
    /// instances read the value anew. `None` if there is no usable value.
    ///
    /// After `deadline` it is refused, and once this has answered every copy of the request is, as with
    /// [`Step::Insert`]: it could undo a later change.
    fn touch<'a>(
        &'a self,
        key: &'a str,
        lifetime: NewLifetime,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Touched>>;

    /// The version of the last invalidation of each tag, in the present epoch. `None` if the store does not know it:
    /// then values with the tag are misses. It knows it for as long as it holds a value with the tag, unless it has lost
    /// it.
    fn tag_versions<'a>(&'a self, tags: &'a [&'a str]) -> Reply<'a, Vec<Option<TagVersion>>>;

    /// Removes the values whose key begins with one of these prefixes, byte by byte, and whose version is below the
    /// version of the prefix's stamp, in the same epoch. Returns for each prefix how many of the removed values were
    /// usable; a value with several of the prefixes counts for one prefix. A value that was stored later stays; a value
    /// that is not usable may be removed, too, and is not counted.
    ///
    /// In one pass over all keys, however many prefixes there are.
    /// In as many steps as there have to be, one after the other, each with the time limit of a step. A value that is
    /// there from the beginning to the end is not missed. A late copy of a step finds nothing to remove: no value gets
    /// such a version again.
    fn remove_prefixes<'a>(&'a self, prefixes: &'a [(&'a str, Stamp)]) -> Reply<'a, Vec<u64>>;

    /// The messages from number `first` on, as far as the partition still has them and as many as it gives at a time.
    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>>;

    /// The instances that are subscribed, and those that ended without leaving, until they are forgotten. With `ids`
    /// the list has these members only, and is as cheap as it is short.
    fn members<'a>(&'a self, ids: &'a [u64]) -> Reply<'a, Members>;

    /// All members, if this instance is the one that looks for silent ones: it becomes so, for `ttl`, if no other one
    /// is, and remains so if it is already. That is not exact, as the partition's clock may be stepped: several instances
    /// may look, or none for a while.
    fn sweep(&self, id: u64, ttl: Duration) -> Reply<'_, Option<Members>>;

    /// Removes a member if its entry is exactly this one, so not if it has noted something since. The partition itself does
    /// not decide which members are silent: if its clock were stepped, all of them would look so.
    fn forget(&self, member: Member) -> Reply<'_, ()>;

    /// Removes this instance from the members.
    fn leave(&self, id: u64) -> Reply<'_, ()>;

    /// Waits until requests can be sent. A store whose requests and subscriptions have connections of their own may
    /// refuse the one and not the other. By default there is nothing to wait for.
    fn connected(&self) -> Reply<'_, ()> {
        ready(Ok(())).boxed()
    }

    /// Discards each connection for requests that found another [incarnation](PartitionClock::incarnation) than this one,
    /// which the instance's subscription has found. `false` if there was one: values that were read over it may be
    /// older than those that the subscription has received.
    ///
    /// An address can move while connections stay with the old server. As a replica of the new one it answers reads,
    /// and its data lags behind. No request that begins after this has returned goes over a connection of another
    /// incarnation that was made before. For each that is made later, `on_connect` is called.
    fn keep_only(&self, incarnation: u64) -> bool;

    /// Subscribes to the partition's messages, and only then reads its clock.
    ///
    /// Before it reads the clock, or in the same step, it makes this instance a member that has applied nothing: only a
    /// heartbeat says how far it is.
    fn subscribe(&self, me: MemberInfo) -> Reply<'_, (PartitionClock, Box<dyn Subscription>)>;

    /// Sets [`PartitionClock::is_off`], which each later clock of the partition has: all instances switch themselves off or
    /// on when they next read the clock. A clock that is lost loses it.
    ///
    /// After `deadline` it is refused, and once this has answered every copy of the request is, as with
    /// [`Step::Insert`]: it could undo a later switch.
    fn switch(&self, _is_off: bool, _deadline: Option<u64>) -> Reply<'_, ()> {
        ready(Err(L2Error::unexpected(
            "this store cannot switch all instances",
        )))
        .boxed()
    }

    /// The name of the database system, as OpenTelemetry has it in `db.system.name`.
    fn system(&self) -> &'static str {
        "other"
    }

    /// Keeps the counters of an instance, in the place of those that it stored before. Answers which keys operators have
    /// switched the cache off for, in all instances.
    fn store_counts<'a>(&'a self, _counts: StoredCounts<'a>) -> Reply<'a, FleetBypass> {
        ready(Ok(FleetBypass::default())).boxed()
    }

    /// The counters that instances have stored, with their ids. Counters of instances that have ended may be added up
    /// under the id zero.
    fn counts(&self) -> Reply<'_, Vec<(u64, String)>> {
        ready(Ok(Vec::new())).boxed()
    }

    /// The stream of writes for write-behind, if the store has one.
    #[cfg(feature = "write-behind")]
    fn write_stream(&self) -> Option<&dyn WriteStream> {
        None
    }

    /// Publishes on a channel of other programs, which is none of the partition's. Whether anybody hears it is not known. A
    /// copy may be published, too, late.
    fn publish<'a>(&'a self, _channel: &'a str, _payload: &'a [u8]) -> Reply<'a, ()> {
        ready(Err(no_channels())).boxed()
    }
}

/// The changes that a partition publishes, in their order.
///
/// The partition may drop messages rather than keep them without bound; a hole in their numbers shows it.
pub trait Subscription: Stream<Item = Result<Event, L2Error>> + Send + Unpin {
    /// Asks for an [`Event::Heartbeat`]. It comes after all messages that the partition published before it.
    ///
    /// Before the partition answers, it notes that this instance has applied all messages up to `applied`, if that is news
    /// or if nothing was noted for twice its `max_staleness`. The answer is an error if that could not be noted, or if
    /// this instance is not in the list of members any more, or the list has another generation than the one that it
    /// has joined.
    fn heartbeat(&mut self, applied: Applied);

    /// When to ask for a heartbeat that comes once in an interval, and is due at `by`: then or up to an interval
    /// earlier, so that subscriptions that share a connection ask together.
    fn next_heartbeat(&self, by: Instant, _interval: Duration) -> Instant {
        by
    }

    /// Listens to channels of other programs, until the subscription ends. Called once at most. Their messages take no
    /// room among the partition's messages, so it cannot cause the loss of any.
    fn listen<'a>(&'a mut self, _channels: &'a [Arc<str>], _on_heard: OnHeard) -> Reply<'a, ()> {
        ready(Err(no_channels())).boxed()
    }
}

fn no_channels() -> L2Error {
    L2Error::unexpected("this store has no channels of other programs")
}

/// The counters of one instance, for [`Partition::store_counts`].
///
/// Complete: a store heeds every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug)]
pub struct StoredCounts<'a> {
    /// The id of the instance.
    pub instance: u64,
    /// When they were read, in milliseconds by a clock of the instance: later ones are not replaced, as by a late copy
    /// of the request.
    pub at: u64,
    /// `name=number`, separated by spaces; and `name:text`, which is not added up.
    pub text: &'a str,
    /// Whether counters that were stored a day ago or earlier are added up.
    pub folds: bool,
}

/// The keys that all instances leave out of the cache, as the answer to [`Partition::store_counts`].
///
/// Complete: a store sets every field, so a new field is a breaking change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetBypass {
    /// Milliseconds of the store's own time.
    pub now: u64,
    /// What the keys begin with, and when that ends, by the store's own time.
    pub prefixes: BTreeMap<Key, u64>,
}

impl FleetBypass {
    /// Tells lists apart, for those who ask whether an instance follows the present one. `None` of an empty list.
    pub(crate) fn id(&self) -> Option<u64> {
        let texts = self
            .prefixes
            .iter()
            .map(|(prefix, till)| format!("{till} {prefix} "));
        let text: String = texts.collect();
        (!text.is_empty()).then(|| XxHash3_64::oneshot(text.as_bytes()))
    }
}

/// How an instance introduces itself to a partition.
///
/// Complete: a store heeds every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// A random number that no other instance has.
    pub id: u64,
    /// For how long it may use its L1 after it sent the last heartbeat that was answered.
    pub max_staleness: Duration,
}

/// How far an instance is with a partition's messages.
///
/// Complete: a store heeds every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The epoch of the partition.
    pub epoch: u64,
    /// The number of the last message that it has applied.
    pub seq: u64,
}

impl Applied {
    /// Of an instance that has just subscribed: which messages it has missed is not known yet.
    pub(crate) const NOTHING: Self = Self { epoch: 0, seq: 0 };
}

/// An instance, as a partition knows it.
///
/// Complete: a store sets every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// How it introduced itself.
    pub info: MemberInfo,
    /// How far it was when it noted that last.
    pub applied: Applied,
    /// Names that note, or the subscription if there was none since: a random number. While it stays the same, the
    /// member has noted nothing.
    pub note: u64,
}

impl Member {
    /// With a note of now.
    pub(crate) fn new(info: MemberInfo, applied: Applied) -> Self {
        Self {
            info,
            applied,
            note: random(),
        }
    }
}

/// The instances that a partition knows.
///
/// Complete: a store sets every field, so a new field is a breaking change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Names this list: a random number. A list that may have lost members gets another one.
    pub generation: u64,
    /// The members, or those that were asked for.
    pub list: Vec<Member>,
}

/// For how long a list of members exists, at least, by the monotonic clock of an instance that is in it.
#[derive(Clone, Copy)]
pub(crate) struct ListAge {
    age: Duration,
    at: Instant,
}

impl ListAge {
    /// The list had existed for so long when the answer arrived that says so. An earlier time would make it seem older.
    pub(crate) fn new(age: Duration) -> Self {
        // By tokio's clock, which the simulation sets; in a service it is the system's monotonic one.
        let at = Instant::now();
        Self { age, at }
    }

    pub(crate) fn now(self) -> Duration {
        self.age.saturating_add(self.at.elapsed())
    }
}

/// What a member has noted last, and until when that is enough.
pub(crate) struct Noted {
    applied: Applied,
    until: Instant,
}

impl Noted {
    pub(crate) fn new() -> Self {
        Self {
            applied: Applied::NOTHING,
            until: Instant::now(),
        }
    }

    /// Whether a heartbeat of now has to note this: if it is news, and else in twice `max_staleness` (rule 16), at a
    /// time that `align` makes common to several members.
    pub(crate) fn is_due(
        &mut self,
        applied: Applied,
        max_staleness: Duration,
        align: impl FnOnce(Instant, Duration) -> Instant,
    ) -> bool {
        let every = 2 * max_staleness;
        // Half the time between heartbeats: those that are sent together may be a little before or after that time.
        let soon = Instant::now() + max_staleness / 6;
        let is_due = applied != self.applied || soon >= self.until;
        if is_due {
            let until = align(soon + every, every);
            *self = Self { applied, until };
        }
        is_due
    }
}

/// An item of a [`Subscription`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Something changed.
    Message(Message),
    /// The lease on a key has ended, and some load waits for it: that load may ask again now. This event may be lost.
    LeaseEnded(Key),
    /// The answer to [`Subscription::heartbeat`].
    Heartbeat(PartitionClock),
}

/// A change of a partition, for [`Partition::write`]. It is one atomic step for all keys of its [`Batch`].
///
/// Complete: a store carries out every step, so a new step is a breaking change. `Append` exists with the feature
/// `write-behind`, which any crate of a program may turn on: a store that is built without the feature needs a `_` arm
/// for it, with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stores values whatever was there, and ends all leases on the keys. All values get one version, so no key may be
    /// there twice.
    ///
    /// After the deadline it is refused. Once it is answered, every copy of the request that is still on its way must
    /// be refused: it could undo a later invalidation.
    Insert,
    /// Stores one value as [`Insert`](Self::Insert) does, if the usable value that is stored has this version, or if
    /// there is none and the version is [`Version::ABSENT`]. If the key has values of several types, it is the usable
    /// value of its own type, or else the one that was stored last.
    ///
    /// A copy of the request that is sent again has the answer of the first one.
    InsertIf(Version),
    /// Stores one value as [`Insert`](Self::Insert) does, and appends it to the [`WriteStream`].
    #[cfg(feature = "write-behind")]
    Append(Box<Append>),
    /// Removes values and leases of keys. Without keys it only publishes.
    Invalidate {
        /// For so long no load of the keys is stored; a hold that lasts longer is not cut short.
        hold: Duration,
        /// Whether the caller waits for all members.
        is_awaited: bool,
    },
    /// Makes the values of keys stale from now on, and removes their leases. The values keep their versions, and the
    /// message has the version of the answer. A late copy makes values stale that were stored since.
    Expire,
    /// Makes all values with one of these tags misses, however many they are. The keys of the batch are the tags. No
    /// load that began before and returns such a value is stored: as to its lease, the fill is rejected.
    ///
    /// A late copy does the same to values that were stored since.
    InvalidateTags,
    /// Starts a new epoch, so that every stored value is a miss. Each copy of the request starts another epoch, so that
    /// a late one cannot bring back values that were stored since.
    Clear,
    /// Ends all leases, of whatever key, and issues a version that no value gets. So a value with a higher version was
    /// stored later, and not by a load whose lease was granted before. Loads that wait for a lease find out when they
    /// ask again. The batch has no keys, and nothing is published.
    ///
    /// A late copy ends the leases of later loads, whose values are not stored then.
    EndLeases,
}

impl Step {
    /// Invalidates keys without a hold.
    pub const INVALIDATE: Self = Self::Invalidate {
        hold: Duration::ZERO,
        is_awaited: false,
    };

    /// The kind of the message that says so. `None` for a step that publishes nothing.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Insert | Self::InsertIf(_) => Some(Kind::Insert),
            #[cfg(feature = "write-behind")]
            Self::Append(_) => Some(Kind::Insert),
            Self::Invalidate { is_awaited, .. } if *is_awaited => Some(Kind::InvalidateAwaited),
            Self::Invalidate { .. } | Self::Expire => Some(Kind::Invalidate),
            Self::InvalidateTags => Some(Kind::Tags),
            Self::Clear => Some(Kind::Clear),
            Self::EndLeases => None,
        }
    }

    /// Its name in spans.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::InsertIf(_) => "insert_if",
            #[cfg(feature = "write-behind")]
            Self::Append(_) => "append",
            Self::Invalidate { .. } => "invalidate",
            Self::Expire => "expire",
            Self::InvalidateTags => "invalidate_tags",
            Self::Clear => "clear",
            Self::EndLeases => "end_leases",
        }
    }

    /// Whether it stores values.
    pub(crate) fn is_insert(&self) -> bool {
        self.kind() == Some(Kind::Insert)
    }

    /// Whether it changes nothing unless a value with a certain version is stored.
    pub(crate) fn names_version(&self) -> bool {
        let version = match self {
            Self::InsertIf(version) => Some(*version),
            #[cfg(feature = "write-behind")]
            Self::Append(append) => append.version,
            _ => None,
        };
        version.is_some_and(|version| version != Version::ABSENT)
    }

    /// Whether it stores one value, and may change nothing.
    pub(crate) fn is_conditional(&self) -> bool {
        self.is_insert() && *self != Self::Insert
    }
}

/// The keys of one [`Step`], and all else that it needs.
///
/// Complete: a store heeds every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Keys, tags or prefixes.
    pub keys: &'a [&'a str],
    /// The value of each key, if values are stored.
    pub values: &'a [&'a EncodedValue],
    /// The sender's part of the message, if the step publishes one.
    pub payload: &'a [u8],
    /// In milliseconds of the store's time: a step that stores values is refused after that.
    pub deadline: Option<u64>,
}

/// The answer to a [`Partition::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Written {
    /// It was carried out.
    Done(WriteAck),
    /// Nothing was changed: another version of the value is stored, or none.
    OtherVersion,
    /// Nothing was changed: too many writes wait for their source.
    Full,
}

impl Written {
    /// Names the write, if anything was changed.
    pub(crate) fn version(self) -> Option<Version> {
        match self {
            Self::Done(ack) => Some(ack.stamp.version()),
            Self::OtherVersion | Self::Full => None,
        }
    }
}

/// A change that a partition has accepted and published.
///
/// Complete: a store sets every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteAck {
    /// Which version it was given, and when.
    pub stamp: Stamp,
    /// The number of its message, of an invalidation or a clear.
    pub seq: u64,
    /// If the caller waits for all members: their longest `max_staleness`.
    pub longest_staleness: Duration,
    /// If it is awaited: the generation of the list of members.
    pub generation: u64,
    /// If it is awaited: for how long that generation has existed, at least. No wall clock may take part in this.
    pub members_age: Duration,
}

impl From<Stamp> for WriteAck {
    fn from(stamp: Stamp) -> Self {
        Self {
            stamp,
            ..Self::default()
        }
    }
}

/// The parameters of [`Partition::acquire_lease`].
///
/// Complete: a store heeds every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest {
    /// How long the lease lasts unless renewed; zero asks for a usable value only.
    pub ttl: Duration,
    /// Which stored value is good enough.
    pub want: Want,
    /// In milliseconds of the store's time: after that no lease is granted, as the caller has stopped waiting for it. A
    /// request that comes so late is answered as one without a `ttl`.
    pub deadline: Option<u64>,
}

impl LeaseRequest {
    /// Asks for a usable value only, and leaves no lease.
    pub(crate) const fn read_only(want: Want) -> Self {
        Self {
            ttl: Duration::ZERO,
            want,
            deadline: None,
        }
    }
}

/// The answer to a [`Partition::acquire_lease`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseReply {
    /// A usable value, of this epoch and not expired. For [`Want::Kept`] it may have expired.
    Hit(Bytes),
    /// The lease is granted: load, then fill.
    Granted(Lease),
    /// The lease is granted to a request for [`Want::Any`], and the store keeps a value of this epoch that has expired:
    /// the answer brings that value.
    Replace(Lease, Bytes),
    /// Another load has the lease, for at most this long.
    Wait(Duration),
    /// Nothing may be stored for now: load, and do not fill.
    Hold,
    /// No usable value; no lease was asked for.
    Miss,
}

/// The right to fill a key, gone after an invalidation of it.
///
/// Complete: a store sets every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Names the lease: random, and no other lease has it.
    pub token: u64,
    /// The epoch in which it was granted; a fill in another one is refused.
    pub epoch: u64,
}

/// The answer to a [`Partition::fill`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fill {
    /// Stored.
    Stored(Stamp),
    /// The lease was gone. The value that is stored instead, if any, unchecked.
    Rejected(Option<Bytes>),
}

/// The last invalidation of a tag, as a [`Partition`] knows it.
///
/// Complete: a store sets every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagVersion {
    /// The epoch in which the store has known it since.
    pub epoch: u64,
    /// Its version: values with the tag up to that are not valid. Zero if there was none.
    pub ver: u64,
}

/// The lifetime of a value from now on.
///
/// Complete: a store carries out every variant, so a new variant is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewLifetime {
    /// So long, whatever was said before. The soft TTL and the TTL in L1 stay as they are.
    Renewed(Ttls),
    /// So long at least, but not beyond its end.
    Extended(Ttls),
}

/// The answer to a [`Partition::touch`].
///
/// Complete: a store sets every field, so a new field is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The version of the change, if it was published: the lifetime is shorter than before.
    pub change: Option<u64>,
    /// Its stamp, with the version that it had before.
    pub stamp: Stamp,
    /// Its times now.
    pub lifetime: Lifetime,
}

/// A value ready to be stored.
///
/// Complete: a store heeds every field, so a new field is a breaking change.
#[derive(Clone, Debug)]
pub struct EncodedValue {
    /// All but the stamp; the TTLs are in it, too.
    pub body: Vec<u8>,
    /// Its lifetime.
    pub ttls: Ttls,
}

/// The longest of the pauses between attempts to reach a server that does not answer, before jitter.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pauses between attempts to connect, to subscribe, and to find out by a probe whether L2 answers again.
pub(crate) fn reconnects() -> impl Iterator<Item = Duration> {
    retry_delays(Duration::from_millis(20), LONGEST_PAUSE)
}
