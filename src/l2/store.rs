//! The traits of a store: what it can do for a cache.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use futures::{FutureExt, Stream};
use tokio::time::Instant;

#[cfg(feature = "write-behind")]
use super::WriteStream;
use super::{
    Applied, Batch, EncodedValue, Fill, FleetBypass, KnownHistory, L2Error, Lease, LeaseReply,
    LeaseRequest, Member, MemberInfo, Members, Message, NewLifetime, Outages, PartitionClock,
    PartitionNumber, Stamp, Step, StoredCounts, TagVersion, Touched, Ttls, Written,
};
use crate::clock::Clock;
use crate::key::Key;

/// The answer of a partition, within its time limit.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, L2Error>>;

/// The stored bytes of a key, unchecked, or why they could not be read.
pub type ReadResult = Result<Option<Bytes>, L2Error>;

/// A store that all instances of a service share.
///
/// Use [`RedisL2`](super::RedisL2), or [`MemoryL2`](super::MemoryL2) where there is no server. A store of another crate
/// needs the feature `unstable-store`, and has to pass the tests that those two pass: the package `larder-store-tests`
/// (`tests/store_tests` in the repository) makes them from one macro, and lists the faults of real servers that need tests
/// of their own.
pub trait L2: Send + Sync + 'static {
    /// Opens a partition of the store. Neither waits nor connects.
    ///
    /// `timeout` is for each step of the partition, connecting included. The partition calls `on_connect` with its clock
    /// whenever it has made a connection for requests, before that connection is used: the store may have restarted,
    /// gone back in time, or be another one.
    ///
    /// Only the partitions of one number are used, of the largest that any instance was given. The steps of all others have
    /// the error [`L2Error::other_partitions`], and the instance goes on with those that it names.
    #[cfg_attr(not(feature = "unstable-store"), doc(hidden))]
    fn partition(
        &self,
        name: PartitionName<'_>,
        timeout: Duration,
        on_connect: OnConnect,
    ) -> Box<dyn Partition>;

    /// The clock by which the store's values expire, if it has one that a test can set.
    #[cfg_attr(not(feature = "unstable-store"), doc(hidden))]
    fn clock(&self) -> Option<Clock> {
        None
    }

    /// The outages of the server, which all caches on it log together. By default each cache logs its own.
    #[cfg_attr(not(feature = "unstable-store"), doc(hidden))]
    fn outages(&self) -> Arc<Outages> {
        Arc::default()
    }

    /// How many partitions a namespace has unless [`partitions`](crate::Builder::partitions) says so.
    #[cfg_attr(not(feature = "unstable-store"), doc(hidden))]
    fn default_partitions(&self) -> u16 {
        1
    }

    /// Whether there are channels of other programs: [`Subscription::listen`] and [`Partition::publish`] work.
    #[cfg_attr(not(feature = "unstable-store"), doc(hidden))]
    fn has_channels(&self) -> bool {
        false
    }
}

/// Names a partition: the keys of a namespace that share a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionName<'a> {
    /// The namespace of the cache.
    pub namespace: &'a str,
    /// The number of the partition.
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
    /// One pass over all keys serves all prefixes. It takes as many steps as there have to be, one after the other, each
    /// with the time limit of a step. A value that is
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
    ///
    /// If the clock has an epoch that the known history contradicts, it begins a new epoch and a new list of members, in the
    /// step in which it reads the clock.
    fn subscribe(
        &self,
        me: MemberInfo,
        history: KnownHistory,
    ) -> Reply<'_, (PartitionClock, Box<dyn Subscription>)>;

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
    /// Before the partition answers, it notes that this instance has applied all messages up to `applied`, if that has
    /// changed or if nothing was noted for twice its `max_staleness`. The answer is an error if that could not be noted, or
    /// if this instance is not in the list of members any more, or the list has another generation than the one that it has
    /// joined.
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
