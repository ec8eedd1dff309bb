//! Where the partitions of a cache are: on one server, or on the nodes of a cluster.

#[cfg(all(feature = "cluster", feature = "inspect"))]
use std::collections::BTreeSet;
#[cfg(feature = "cluster")]
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
#[cfg(feature = "cluster")]
use std::sync::{Mutex, Weak};

use deadpool_redis::redis::aio::MultiplexedConnection;
#[cfg(feature = "cluster")]
use futures::future::try_join_all;

use super::server_connections::{Purpose, ServerConnections};
use crate::l2::L2Error;
#[cfg(any(feature = "cluster", feature = "inspect"))]
use crate::l2::redis::primary::Primary;
#[cfg(feature = "cluster")]
use crate::l2::redis::primary::cluster::Cluster;
#[cfg(feature = "cluster")]
use crate::l2::redis::server::Address;
#[cfg(all(feature = "cluster", feature = "inspect"))]
use crate::util::crc16::SLOTS;
#[cfg(feature = "cluster")]
use crate::util::lock::lock;

/// The servers of a [`RedisL2`](crate::RedisL2).
pub(crate) enum Topology {
    Server(Arc<ServerConnections>),
    #[cfg(feature = "cluster")]
    Cluster(Nodes),
}

/// The nodes of a cluster with which there are connections.
#[cfg(feature = "cluster")]
pub(crate) struct Nodes {
    pub(crate) cluster: Arc<Cluster>,
    each: Mutex<HashMap<Address, Weak<ServerConnections>>>,
}

impl Topology {
    /// The server of a partition with this slot, asked for after this call.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unused_async, reason = "nobody is asked for one server")
    )]
    pub(crate) async fn find(&self, slot: Option<u16>) -> Result<Arc<ServerConnections>, L2Error> {
        match (self, slot) {
            (Self::Server(server), _) => Ok(Arc::clone(server)),
            #[cfg(feature = "cluster")]
            (Self::Cluster(nodes), Some(slot)) => nodes.at(nodes.cluster.find(slot).await?),
            #[cfg(feature = "cluster")]
            (Self::Cluster(_), None) => Err(L2Error::closed()),
        }
    }

    /// All servers that have keys: in a cluster the primaries, each once.
    #[cfg(feature = "inspect")]
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unused_async, reason = "nobody is asked for one server")
    )]
    pub(crate) async fn all(&self) -> Result<Vec<Primary>, L2Error> {
        match self {
            Self::Server(server) => Ok(vec![server.primary.clone()]),
            #[cfg(feature = "cluster")]
            Self::Cluster(Nodes { cluster, .. }) => {
                // A slot without an owner is an error: its keys could not be seen.
                let slots: Vec<_> = (0..SLOTS).collect();
                let owners = cluster.find_all(&slots).await?;
                let owners: BTreeSet<_> = owners.into_iter().collect();
                let nodes = owners.iter().map(|at| Primary::node(cluster, at));
                nodes.map(|node| node.ok_or_else(L2Error::closed)).collect()
            }
        }
    }

    /// A connection for requests of another partition of a namespace than that which uses this one.
    pub(super) async fn connection(
        &self,
        slot: Option<u16>,
        this: &MultiplexedConnection,
    ) -> Result<MultiplexedConnection, L2Error> {
        if matches!(self, Self::Server(_)) {
            return Ok(this.clone());
        }
        let server = self.find(slot).await?;
        let pooled = server.pooled(server.shared_for(Purpose::Requests));
        let (connection, ..) = server.connect(&pooled, true).await?;
        Ok(connection)
    }

    /// The connections for requests of other partitions of a namespace, of these slots: one to each server, with the places
    /// of its slots in the list.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unused_async, reason = "there is one server")
    )]
    pub(super) async fn connections(
        &self,
        slots: &[Option<u16>],
        this: &MultiplexedConnection,
    ) -> Result<Vec<(MultiplexedConnection, Vec<usize>)>, L2Error> {
        match self {
            Self::Server(_) => Ok(vec![(this.clone(), (0..slots.len()).collect())]),
            #[cfg(feature = "cluster")]
            Self::Cluster(nodes) => nodes.connections(slots).await,
        }
    }

    /// Whether callers wait for a connection of a pool that has no more to give. The pools of a cluster's nodes are
    /// too large for that.
    pub(super) fn is_pool_exhausted(&self) -> bool {
        match self {
            Self::Server(server) => {
                let status = server.pool().status();
                status.waiting > 0 && status.available == 0 && status.size >= status.max_size
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => false,
        }
    }

    /// The database; a cluster has none.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unnecessary_wraps, reason = "there is no cluster")
    )]
    pub(crate) fn database(&self) -> Option<i64> {
        match self {
            Self::Server(server) => Some(server.primary.connector.database()),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => None,
        }
    }
}

#[cfg(feature = "cluster")]
impl Nodes {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster: Arc::new(cluster),
            each: Mutex::default(),
        }
    }

    async fn connections(
        &self,
        slots: &[Option<u16>],
    ) -> Result<Vec<(MultiplexedConnection, Vec<usize>)>, L2Error> {
        let slots: Option<Vec<_>> = slots.iter().copied().collect();
        let slots = slots.ok_or_else(L2Error::closed)?;
        // In an order that does not depend on hashes: they are asked in it.
        let mut nodes = BTreeMap::<Address, Vec<usize>>::new();
        for (place, address) in self.cluster.find_all(&slots).await?.into_iter().enumerate() {
            nodes.entry(address).or_default().push(place);
        }
        // No async closure: the compiler ends in a fault at this one when it compiles the crate again.
        let connections = nodes.into_iter().map(|(address, places)| async move {
            let server = self.at(address)?;
            let pooled = server.pooled(server.shared_for(Purpose::Requests));
            let (connection, ..) = server.connect(&pooled, true).await?;
            Ok((connection, places))
        });
        try_join_all(connections).await
    }

    /// The connections to a node, which all partitions on it share.
    fn at(&self, address: Address) -> Result<Arc<ServerConnections>, L2Error> {
        let mut each = lock(&self.each);
        if let Some(server) = each.get(&address).and_then(Weak::upgrade) {
            return Ok(server);
        }
        let node = Primary::node(&self.cluster, &address).ok_or_else(L2Error::closed)?;
        let server = Arc::new(ServerConnections::new(node, None)?);
        each.retain(|_, server| server.strong_count() > 0);
        each.insert(address, Arc::downgrade(&server));
        Ok(server)
    }
}
