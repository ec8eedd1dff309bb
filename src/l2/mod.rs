//! The second level: a store that all instances share.
//!
//! [`RedisL2`] and [`MemoryL2`] are the stores. Both implement the same traits and pass the same tests.
//!
//! # A store of your own
//!
//! The feature `unstable-store` makes the traits public, with the types that they name. They may change in any release. An
//! [`L2`] opens the `Partition`s of a cache's namespace. Every step of a partition that changes something is atomic. On
//! Redis a step is one round trip, but for a read of more keys than fit a request, a script that the server has to load
//! first, and a request that is sent again. The package `larder-store-tests` tests any store.
//!
//! Architecture invariant: an L2 stores values, orders changes and publishes them. It knows nothing of L1, of loads in
//! flight, or of loaders.

// `store` has the traits; `step` has changes and their answers; `lease`, `value` and `members` have what the other calls
// take and answer. `redis` and `memory` are the two stores. `outages` knows which lines about an outage the log has.
// `inbox` is the queue of a subscription; `write_stream` has the steps of write-behind.
mod inbox;
mod lease;
mod members;
mod memory;
mod outages;
pub(crate) mod redis;
mod step;
#[cfg_attr(
    not(feature = "unstable-store"),
    allow(unreachable_pub, reason = "reached with the feature")
)]
mod store;
mod value;
#[cfg(feature = "write-behind")]
mod write_stream;

use std::time::Duration;

pub(crate) use self::members::{HEARTBEATS, ListAge, Noted};
pub use self::memory::{MemoryL2, MemorySnapshot};
#[doc(hidden)]
pub use self::redis::{DialedStream, Dialer};
pub use self::redis::{RedisL2, Server};
pub use self::store::L2;
#[cfg(feature = "unstable-store")]
pub use self::store_types::*;
#[cfg(not(feature = "unstable-store"))]
pub(crate) use self::store_types::*;
pub use crate::error::L2Error;
pub(crate) use crate::util::random::random;
use crate::util::retry_delays::retry_delays;
pub(crate) use crate::vocabulary::ClockNumbers;

/// What a store is given and answers.
#[cfg_attr(
    not(feature = "unstable-store"),
    allow(unused_imports, unreachable_pub, reason = "reached with the feature")
)]
pub(crate) mod store_types {
    // A module of its own, as the feature decides for all of these at once whether users see them.
    pub use bytes::Bytes;

    pub use super::lease::{Fill, Lease, LeaseReply, LeaseRequest};
    pub use super::members::{Applied, FleetBypass, Member, MemberInfo, Members, StoredCounts};
    pub use super::outages::{Outages, Reporter, Trouble};
    pub use super::step::{Batch, Step, WriteAck, Written};
    pub use super::store::{
        Event, OnConnect, OnHeard, Partition, PartitionName, ReadResult, Reply, Subscription,
    };
    pub use super::value::{EncodedValue, NewLifetime, TagVersion, Touched};
    #[cfg(feature = "write-behind")]
    #[cfg_attr(docsrs, doc(cfg(feature = "write-behind")))]
    pub use super::write_stream::{Append, Pending, Settled, StreamId, Waiting, WriteStream};
    pub use crate::key::Key;
    pub use crate::vocabulary::{
        AcceptedValue, KnownHistory, PartitionClock, PartitionNumber, Version,
    };
    pub use crate::wire::envelope::{Lifetime, Stamp, Ttls};
    pub use crate::wire::message::{Kind, Message};
}

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

/// About how many messages the log of a partition has, for instances that have missed some. `publish.lua` trims it, too.
pub(crate) const LOG_ENTRIES: usize = 10_000;

/// The longest of the pauses between attempts to reach a server that does not answer, before jitter.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pauses between attempts to connect, to subscribe, and to find out by a probe whether L2 answers again.
pub(crate) fn reconnect_delays() -> impl Iterator<Item = Duration> {
    retry_delays(Duration::from_millis(20), LONGEST_PAUSE)
}
