//! L2 on Redis, through a deadpool pool.
//!
//! - [`server`]: where a server is, and how connections to it are made
//! - [`primary`]: whether a server is believed to be the primary, by what sentinels or the nodes of a cluster say
//! - [`connections`]: those for requests, and the server of each partition
//! - [`steps`]: the requests of a partition; [`scripts`]: those of the folder `lua`; [`script_call`]: one call of a script
//! - [`subscription`]: messages and heartbeats, over a connection of their own
//! - [`servers`]: the parts that the clones of a [`RedisL2`] share
//! - [`members`]: how a member is written down; [`names`]: the names of a partition's keys, and of its connections
//! - `inspect`: what tools read
//! - [`error`]: the client's errors as errors of the crate; `failure_modes.md`: the effect of each on a cache
//!
//! Knows nothing of L1, nor of payloads: the scripts look at the heads of values (stamp, times, lengths and type tag) and at
//! their tags.

mod connections;
mod error;
#[cfg(feature = "inspect")]
pub(crate) mod inspect;
pub(crate) mod members;
pub(crate) mod names;
mod primary;
mod script_call;
mod scripts;
mod server;
mod servers;
mod steps;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::Pool;
use deadpool_redis::redis::StreamingCredentialsProvider;

use self::connections::server_connections::ServerConnections;
#[cfg(feature = "cluster")]
use self::connections::topology::Nodes;
use self::connections::topology::Topology;
use self::primary::Primary;
#[cfg(feature = "cluster")]
use self::primary::cluster::Cluster;
#[cfg(feature = "cluster")]
use self::primary::not_named;
use self::primary::sentinel::Sentinels;
#[cfg(feature = "cluster")]
use self::server::Connector;
use self::server::Credentials;
pub use self::server::{DialedStream, Dialer, Server};
use self::servers::Servers;
use self::steps::partition::RedisPartition;
use super::{L2, L2Error, OnConnect, Outages, Partition, PartitionName};
use crate::options::mistake_in_name;
use crate::util::partial_debug::partial_debug;

/// The second level on a Redis server, version 7.0 or later, or Valkey.
///
/// Clones are for several caches of a process: their requests share one connection of the pool, and single keys that
/// are read at about the same time share a request, of whatever cache they are. When that connection is busy for the
/// first time, they take a second one for reads, so that a large value does not delay the reads behind it. So a pool of
/// your own needs two connections to spare, however many caches are on it; with one, they work without the second.
/// Another connection, outside the pool, subscribes for all of them, and carries their heartbeats.
///
/// A cache that gives up on a connection, as after several requests in a row that were not answered in time, takes a
/// new one; the others keep theirs. After one timeout on an idle connection, all caches leave it. Caches on different
/// runtimes share none, as a connection ends with its runtime.
///
/// In `CLIENT LIST` a connection has the name `larder:NAMESPACE`, of the cache that has made it.
#[doc = include_str!("failure_modes.md")]
#[derive(Clone)]
pub struct RedisL2(Arc<Servers>);

/// So that each of a few primaries has a part of a namespace.
#[cfg(feature = "cluster")]
const PARTITIONS_IN_A_CLUSTER: u16 = 4;

impl RedisL2 {
    /// A store on this server, with connections of its own. [`Server`] lists the forms of an address: a URL such as
    /// `redis://[user][:password@]host[:port][/db]`, a `ConnectionInfo` or a `Client` of the redis crate.
    ///
    /// Does not connect: that happens at the first use.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_config`] when connections to it cannot work. The error does not show the URL.
    pub fn open(server: impl Into<Server>) -> Result<Self, L2Error> {
        Self::new(server.into().connector()?.into(), None)
    }

    /// A store on this server, with this [prefix](Self::key_prefix) and with connections that all callers with this URL
    /// and prefix share.
    pub(crate) fn shared(server: Server, prefix: &str) -> Result<Self, L2Error> {
        let url = server.url.clone();
        let new = || Self::new(server.connector()?.into(), None)?.key_prefix(prefix);
        let Some(url) = url else {
            return new();
        };
        Ok(Self(Servers::by_name((url, prefix.into()), || {
            Ok(new()?.0)
        })?))
    }

    /// Puts a text before the names of all keys and channels of the caches on this store: `svc:` makes
    /// `svc:{NAMESPACE.0}:KEY` of `{NAMESPACE.0}:KEY`. For a Redis that several teams share, where the ACL of each allows
    /// the keys that begin with its own text: `~svc:* &svc:*`. The channels of
    /// [`listen_to`](crate::Builder::listen_to) and [`publish_changes`](crate::Builder::publish_changes) are named in full.
    ///
    /// All instances that share values have one prefix: those with another prefix are another fleet, which receives no
    /// invalidations of this one. A change of the prefix is like a change of the namespace, with an L2 that is empty.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_config`] if the text is over 256 bytes, or has a space, other white space, a control character or
    /// a brace (`{`, `}`), by which Redis Cluster would find other slots.
    ///
    /// ```
    /// use larder::RedisL2;
    ///
    /// let l2 = RedisL2::open("redis://127.0.0.1:6379")?.key_prefix("svc:")?;
    /// # Ok::<(), larder::L2Error>(())
    /// ```
    pub fn key_prefix(self, prefix: &str) -> Result<Self, L2Error> {
        if let Some(mistake) = mistake_in_name(prefix) {
            return Err(L2Error::bad_config(format!("the prefix of keys {mistake}")));
        }
        // The connections stay: names of keys are no part of them. All that is known of partitions is of the prefix.
        let topology = Arc::clone(&self.0.topology);
        Ok(Self(Servers::new(topology, prefix.into())))
    }

    /// A store behind a pool of your own; the server is for the connection that subscribes, which a pool cannot
    /// provide. Make the pool with the types of [`l2::deadpool_redis`](crate::l2::deadpool_redis), whose version may
    /// change in a minor release of this crate.
    ///
    /// Both must lead to the same server and database, and the pool must log in and set up TLS by itself. Set
    /// `TCP_NODELAY` and TCP keepalive in the pool's manager: the client's defaults leave both off.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_config`] when connections to the server cannot work. The error does not show the URL.
    pub fn with_pool(pool: Pool, server: impl Into<Server>) -> Result<Self, L2Error> {
        Self::new(server.into().connector()?.into(), Some(pool))
    }

    /// Opens a store on the primary that these sentinels know by this name: on the server to which they lead, now and
    /// after a failover. Give the addresses of all sentinels, and the same addresses in all instances of a fleet. Users,
    /// passwords and TLS in them are for the sentinels; [`primary_like`](Self::primary_like) has user, password and TLS of
    /// the primary.
    ///
    /// The sentinels are asked whenever a connection is made, and with each heartbeat, over one connection to each of
    /// them. A server is believed while a majority of all the sentinels names it: otherwise its values are not used,
    /// neither from L1, at the latest after `max_staleness`, nor from L2. What a failover costs, and which setting of
    /// Redis closes the gap in which a write can be lost: [`redis`](crate::guide::redis#sentinel).
    ///
    /// Does not connect: that happens at the first use.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_config`] when this cannot work: without a name or sentinels, with a sentinel that is given
    /// twice, or an address that cannot be read. The error does not show the addresses.
    ///
    /// ```
    /// use larder::RedisL2;
    ///
    /// let sentinels = ["redis://sentinel-1:26379", "redis://sentinel-2:26379", "redis://sentinel-3:26379"];
    /// let l2 = RedisL2::sentinel("catalog", sentinels)?;
    /// // Caches on clones of it share connections: `Cache::builder("products").l2(l2.clone())`.
    /// # Ok::<(), larder::L2Error>(())
    /// ```
    pub fn sentinel(
        name: &str,
        sentinels: impl IntoIterator<Item = impl Into<Server>>,
    ) -> Result<Self, L2Error> {
        let sentinels = sentinels.into_iter().map(Into::into);
        let sentinels = Sentinels::new(name, sentinels)?;
        let primary = Primary::named(sentinels, Server::from("redis://primary").connector()?);
        Self::new(primary, None)
    }

    /// Connects to the primary behind sentinels as to this server: with its user, password and database, and its TLS.
    /// Its host and port are not used. Without this, the primary is asked without a login and without TLS.
    ///
    /// With TLS the certificate of each server must name the host or the IP address that the sentinels give.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_config`] when this cannot work: without sentinels, or with a unix socket.
    ///
    /// ```
    /// use larder::RedisL2;
    ///
    /// // The sentinels have a password of their own.
    /// let sentinels = [1, 2, 3].map(|n| format!("redis://:watch@sentinel-{n}:26379"));
    /// let l2 = RedisL2::sentinel("catalog", sentinels)?.primary_like("redis://user:password@primary/1")?;
    /// # Ok::<(), larder::L2Error>(())
    /// ```
    pub fn primary_like(self, server: impl Into<Server>) -> Result<Self, L2Error> {
        let connector = server.into().connector()?;
        match &*self.0.topology {
            Topology::Server(server) => {
                Self::new(server.primary.like(connector)?, None)?.like(&self)
            }
            #[cfg(feature = "cluster")]
            Topology::Cluster(_) => Err(not_named()),
        }
    }

    /// Opens a store on a Redis Cluster, or a cluster of Valkey. The first of these nodes that answers names the others.
    /// Give several, or a name that leads to all of them. User, password and TLS of the first node are for all nodes.
    ///
    /// A namespace has four partitions on it unless [`partitions`](crate::Builder::partitions) says otherwise, each with
    /// one of the primaries. The primaries are asked for the owner of each partition whenever a connection is made, and
    /// with each heartbeat: a node is believed while a majority of all primaries names it. Otherwise its values are not
    /// used, neither from L1, at the latest after `max_staleness`, nor from L2. Costs, failovers and moves of slots:
    /// [`redis`](crate::guide::redis#cluster).
    ///
    /// To a cluster that `redis-cli --cluster create` has made, send `CLUSTER BUMPEPOCH`, to one of its primaries, and
    /// again after each election that had no winner: a line at WARN asks for that. Otherwise the next failover turns all
    /// partitions off until it is over, and not only the partitions of the node that is away.
    ///
    /// Does not connect: that happens at the first use.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_config`] when this cannot work: without a node, with a database other than 0, or an address that
    /// cannot be read. The error does not show the addresses.
    ///
    /// ```
    /// use larder::RedisL2;
    ///
    /// let l2 = RedisL2::cluster(["redis://user:password@node-1:6379", "redis://node-2:6379"])?;
    /// # Ok::<(), larder::L2Error>(())
    /// ```
    #[cfg(feature = "cluster")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cluster")))]
    pub fn cluster(nodes: impl IntoIterator<Item = impl Into<Server>>) -> Result<Self, L2Error> {
        let cluster = Cluster::new(nodes.into_iter().map(Into::into))?;
        Ok(Self::on(Topology::Cluster(Nodes::new(cluster))))
    }

    /// Takes user and password from a provider, for passwords and tokens that change while the service runs.
    ///
    /// Each new connection logs in with the first credentials of a stream of its own, and again with each that follows,
    /// so a stream should begin with the current ones. If Redis refuses the first credentials, the stream is polled on
    /// for up to a second, and the credentials that follow are tried at once, up to three: a provider may fetch a token
    /// only when it is polled. These waits count as part of connecting, which may take two seconds.
    ///
    /// If Redis refuses credentials that follow on a connection with a login, the connection keeps its login, and takes
    /// no later credentials: give credentials when Redis knows them.
    ///
    /// A pool of your own is not affected: give its manager the same provider.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_config`] when the pool cannot be built.
    ///
    /// ```
    /// use std::pin::Pin;
    ///
    /// use futures::{Stream, stream};
    /// use larder::RedisL2;
    /// use larder::l2::deadpool_redis::redis::{BasicAuth, RedisResult, StreamingCredentialsProvider};
    /// use tokio::sync::watch;
    ///
    /// /// The password that another task of the service reads whenever it changes.
    /// struct Rotated(watch::Receiver<String>);
    ///
    /// impl StreamingCredentialsProvider for Rotated {
    ///     fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send>> {
    ///         let mut password = self.0.clone();
    ///         password.mark_changed();
    ///         Box::pin(stream::unfold(password, |mut password| async {
    ///             password.changed().await.ok()?;
    ///             let login = BasicAuth::new("catalog".into(), password.borrow_and_update().clone());
    ///             Some((Ok(login), password))
    ///         }))
    ///     }
    /// }
    ///
    /// let (_task, password) = watch::channel("secret".to_owned());
    /// let l2 = RedisL2::open("redis://127.0.0.1:6379")?.credentials(Rotated(password))?;
    /// # Ok::<(), larder::L2Error>(())
    /// ```
    pub fn credentials(
        self,
        provider: impl StreamingCredentialsProvider + 'static,
    ) -> Result<Self, L2Error> {
        let credentials = Some(Credentials(Arc::new(provider)));
        match &*self.0.topology {
            Topology::Server(server) => {
                let mut primary = server.primary.clone();
                primary.connector.credentials = credentials;
                // The manager of a given pool has its credentials already, and cannot be given others.
                Self::new(primary, server.is_given.then(|| server.pool()))?.like(&self)
            }
            #[cfg(feature = "cluster")]
            Topology::Cluster(nodes) => {
                let set = |node: &mut Connector| node.credentials.clone_from(&credentials);
                let cluster = nodes.cluster.map(set);
                Self::on(Topology::Cluster(Nodes::new(cluster))).like(&self)
            }
        }
    }

    /// With a pool of its own, unless one is given.
    fn new(primary: Primary, pool: Option<Pool>) -> Result<Self, L2Error> {
        let server = ServerConnections::new(primary, pool)?;
        Ok(Self::on(Topology::Server(Arc::new(server))))
    }

    fn on(topology: Topology) -> Self {
        Self(Servers::new(Arc::new(topology), "".into()))
    }

    /// Gives this store the prefix of another store.
    fn like(self, other: &Self) -> Result<Self, L2Error> {
        self.key_prefix(&other.0.key_prefix)
    }
}

partial_debug! {
    /// Never shows where the server is: a URL can hold a password.
    [] RedisL2, "RedisL2"
}

impl L2 for RedisL2 {
    fn outages(&self) -> Arc<Outages> {
        Arc::clone(&self.0.outages)
    }

    fn has_channels(&self) -> bool {
        true
    }

    fn default_partitions(&self) -> u16 {
        match &*self.0.topology {
            Topology::Server(_) => 1,
            #[cfg(feature = "cluster")]
            Topology::Cluster(_) => PARTITIONS_IN_A_CLUSTER,
        }
    }

    fn partition(
        &self,
        name: PartitionName<'_>,
        timeout: Duration,
        on_connect: OnConnect,
    ) -> Box<dyn Partition> {
        Box::new(RedisPartition::new(&self.0, name, timeout, on_connect))
    }
}
