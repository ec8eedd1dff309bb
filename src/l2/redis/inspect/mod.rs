//! What a namespace has in Redis, read by tools. Nothing is changed, but by `forget` and `bypass`: no member joins, no
//! epoch begins, and no number of partitions is settled. So none of this goes over the connections of a partition, which
//! begin with IDENTIFY.
//!
//! - `connections`: how long they and answers may take, and which are kept
//! - `stored`: what a key has
//! - `audit`: what a partition keeps for itself
//! - `rights`: what a user of Redis may not do
//! - `bypass`: which keys all instances leave out of the cache
//! - `changes`: messages as they come
//! - `log`: the last messages that there were
//! - `fleet`: which namespaces there are, and what their fleets do
//! - `writes`: what write-behind has not written yet
//! - `forget`: removes what is left when no instance uses it

mod audit;
mod bypass;
mod changes;
mod connections;
mod fleet;
mod forget;
mod log;
mod rights;
mod stored;
#[cfg(feature = "write-behind")]
mod writes;

use std::sync::Arc;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;

pub use self::audit::{LogState, PartitionAudit};
pub use self::bypass::{BypassList, LONGEST_BYPASS};
pub use self::changes::ChangeStream;
use self::connections::{CONNECT_TIMEOUT, KeptConnections, at_most, connect, in_time};
pub use self::fleet::{FleetState, NamespaceScan, StoredCounters, Watch};
pub use self::forget::{ForgetResult, Remains};
pub use self::log::LoggedChange;
pub use self::rights::{MissingRights, RightsFor};
pub use self::stored::{
    DamagedValue, EncodedPayload, PendingWrite, StoredKey, StoredLease, StoredValue, UnusableReason,
};
#[cfg(feature = "write-behind")]
#[cfg_attr(docsrs, doc(cfg(feature = "write-behind")))]
pub use self::writes::{StoredDeadLetter, StoredWrites};
use crate::l2::redis::RedisL2;
use crate::l2::redis::connections::topology::Topology;
use crate::l2::redis::names::{CLOCK, KeySpace, Names};
use crate::l2::redis::primary::PrimaryAt;
use crate::l2::redis::script_call::clock;
use crate::l2::{L2Error, PartitionClock, PartitionName, PartitionNumber};
use crate::util::partial_debug::partial_debug;
use crate::vocabulary::MAX_PARTITIONS;

/// Keys that a step of a SCAN looks at, or about as many.
const SCAN_COUNT: usize = 1000;

/// A namespace in Redis, to be looked at. No call but [`forget`](Self::forget) and [`bypass`](Self::bypass) changes
/// anything there.
///
/// Each call makes a connection of its own. A user needs the rights that a cache needs; of these
/// `+evalsha_ro +script|load +mget +pttl +type +hget +xrange +time +info` for [`key`](Self::key), also `+hgetall` for
/// [`audit`](Self::audit) and a [`Watch`], `+subscribe` with the channel for [`changes`](Self::changes), and
/// `+evalsha +hgetall +exists +del` for `forget`, and `+evalsha +hgetall +hset +hdel +pexpire` for `bypass`.
pub struct Namespace {
    topology: Arc<Topology>,
    space: KeySpace,
    name: String,
    partitions: u16,
    is_known: bool,
    /// The connections that its calls share with others; without them each call makes its own.
    kept: Option<Arc<KeptConnections>>,
}

/// One partition of a namespace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionState {
    /// The number of the partition.
    pub partition: PartitionNumber,
    /// The server that has it: host and port, or the path of a socket.
    pub node: String,
    /// Its clock. If that is missing or damaged, the epoch is 0, and the next instance begins a new one.
    pub clock: PartitionClock,
    /// Whether the server has started again, or taken over, since an instance used the partition last: then the next
    /// instance begins a new epoch, unless it can prove that nothing was lost (rules 13: a new incarnation is a new
    /// epoch and 28: a handover is proven by the old primary).
    pub has_restarted: bool,
}

impl Namespace {
    /// Reads how many partitions a namespace has, from its first clock.
    ///
    /// Cost: a connection, and one round trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::RedisL2;
    /// use larder::inspect::Namespace;
    ///
    /// let l2 = RedisL2::open("redis://127.0.0.1:6379")?;
    /// let prices = Namespace::find(&l2, "shop:price").await?;
    /// let tea = prices.key("tea").await?;
    /// for value in tea.values.iter().flatten() {
    ///     println!("version {}: {:?}", value.stamp.ver, tea.why_not(value));
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn find(l2: &RedisL2, namespace: &str) -> Result<Self, L2Error> {
        Self::find_over(None, l2, namespace).await
    }

    async fn find_over(
        kept: Option<Arc<KeptConnections>>,
        l2: &RedisL2,
        namespace: &str,
    ) -> Result<Self, L2Error> {
        let mut found = Self {
            topology: Arc::clone(&l2.0.topology),
            space: l2.0.key_space(),
            name: namespace.to_owned(),
            partitions: 1,
            is_known: false,
            kept,
        };
        let mut first = found.connect(PartitionNumber::ONLY).await?;
        // All instances know this place, whatever the number is (rule 27: only the partitions of one number are used).
        let mut ask = cmd("HGET");
        ask.arg(first.names.name(CLOCK, "")).arg("partitions");
        let named: Option<Vec<u8>> = in_time(ask.query_async(&mut first.connection)).await?;
        let named = named.and_then(|named| str::from_utf8(&named).ok()?.parse().ok());
        let named = named.filter(|partitions| (1..=MAX_PARTITIONS).contains(partitions));
        // A namespace that no instance has used is looked at like one with a single partition: it has nothing.
        found.is_known = named.is_some();
        found.partitions = named.unwrap_or(1);
        Ok(found)
    }

    /// Whether its clock is there: any instance has used it, and Redis has not lost it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// How many partitions it has.
    #[must_use]
    pub fn number_of_partitions(&self) -> u16 {
        self.partitions
    }

    /// Counts the keys that begin with a prefix and have values, usable or not. Needs `+scan`. A key may be
    /// counted twice while Redis resizes its table.
    ///
    /// Cost: for each partition a connection, and a pass of SCAN over its server, of about a thousand names in a round
    /// trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request.
    pub async fn count(&self, prefix: &str) -> Result<usize, L2Error> {
        let mut many = 0;
        for partition in PartitionNumber::all(self.partitions) {
            let (mut partition, mut cursor) = (self.connect(partition).await?, 0);
            loop {
                let names;
                (cursor, names) = partition.scan(prefix, cursor).await?;
                many += names.len();
                // The server ends a pass with the cursor that begins one.
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(many)
    }

    fn names(&self, partition: PartitionNumber) -> Names {
        let namespace = &*self.name;
        let name = PartitionName {
            partition,
            ..PartitionName::from(namespace)
        };
        Names::new(name, self.space.clone())
    }

    /// Where the server of a partition is.
    async fn primary(&self, partition: PartitionNumber) -> Result<PrimaryAt, L2Error> {
        let slot = self.names(partition).slot;
        at_most(CONNECT_TIMEOUT, async {
            self.topology.find(slot).await?.primary.find().await
        })
        .await
    }

    async fn connect(&self, partition: PartitionNumber) -> Result<Connected, L2Error> {
        let connector = self.primary(partition).await?.connector;
        let node = connector.address();
        let connection = match &self.kept {
            Some(kept) => kept.connection(connector).await,
            None => connect(&connector).await,
        };
        Ok(Connected {
            partition,
            names: self.names(partition),
            node,
            connection: connection?,
        })
    }
}

partial_debug!([] Namespace, "Namespace");

/// The server of a partition.
struct Connected {
    partition: PartitionNumber,
    names: Names,
    node: String,
    connection: MultiplexedConnection,
}

impl Connected {
    /// A step of a SCAN, from a cursor to the next one: names of values whose key begins with a prefix. A pass may
    /// return a name twice.
    async fn scan(&mut self, prefix: &str, cursor: u64) -> Result<(u64, Vec<Vec<u8>>), L2Error> {
        let mut scan = cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(self.names.values_under(prefix));
        scan.arg("COUNT").arg(SCAN_COUNT);
        in_time(scan.query_async(&mut self.connection)).await
    }

    /// The state of the partition, by numbers of a script: epoch, seq, ver, nonce, the time and whether all instances are off; the
    /// incarnation of the server, and whether the clock has it.
    fn state(&self, numbers: [u64; 6], incarnation: &str, is_known: u8) -> PartitionState {
        PartitionState {
            partition: self.partition,
            node: self.node.clone(),
            clock: clock(numbers, incarnation),
            has_restarted: is_known == 0,
        }
    }
}
