//! The primary that connections lead to: the server at an address, the one that sentinels name, or a node of a cluster.
//! Whether it is believed to be the primary, and still is (rule 26: a primary needs witnesses).

#[cfg(feature = "cluster")]
pub(super) mod cluster;
pub(super) mod sentinel;
pub(super) mod witness_links;

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cluster")]
use self::cluster::Cluster;
use self::sentinel::Sentinels;
use self::witness_links::Links;
use super::server::{Address, Connector};
use crate::ablation::{Rule, without};
use crate::l2::L2Error;

/// The way to a primary.
#[derive(Clone)]
pub(super) struct Primary {
    /// Behind sentinels only the address is another one.
    pub(super) connector: Connector,
    witnesses: Witnesses,
}

/// The servers that say whether it is the primary.
#[derive(Clone)]
enum Witnesses {
    /// None are needed: no other server can be the primary.
    None,
    Sentinels(Arc<Sentinels>),
    /// The primaries of the cluster, for the primary at this address.
    #[cfg(feature = "cluster")]
    Nodes(Arc<Cluster>, Address),
}

/// Where the primary was found.
pub(super) struct PrimaryAt {
    pub(super) connector: Connector,
    /// As a sentinel gives it. `None` for the one address that there is.
    pub(super) address: Option<Address>,
    /// The number of a term: the time in which the process believes one primary that sentinels name, without a doubt in
    /// between. The term ends when they name another primary, or no majority of them names one. Zero without sentinels.
    pub(super) term: u64,
}

/// The error of `primary_like` for what sentinels do not name.
pub(super) fn not_named() -> L2Error {
    L2Error::bad_config("primary_like is for a primary that sentinels name")
}

impl From<Connector> for Primary {
    fn from(connector: Connector) -> Self {
        Self {
            connector,
            witnesses: Witnesses::None,
        }
    }
}

impl Primary {
    /// The one that these sentinels name. It is connected to as by this connector.
    pub(super) fn named(sentinels: Sentinels, connector: Connector) -> Self {
        Self {
            connector,
            witnesses: Witnesses::Sentinels(Arc::new(sentinels)),
        }
    }

    /// A node of a cluster. `None` if the cluster is connected to by unix sockets.
    #[cfg(feature = "cluster")]
    pub(super) fn node(cluster: &Arc<Cluster>, address: &Address) -> Option<Self> {
        Some(Self {
            connector: cluster.like.at(address)?,
            witnesses: Witnesses::Nodes(Arc::clone(cluster), address.clone()),
        })
    }

    /// Connected to as by this connector, but for the address.
    pub(super) fn like(&self, mut connector: Connector) -> Result<Self, L2Error> {
        if !matches!(self.witnesses, Witnesses::Sentinels(_)) {
            return Err(not_named());
        }
        if connector.at(&Address::default()).is_none() {
            let what = "sentinels name hosts and ports, and no unix sockets";
            return Err(L2Error::bad_config(what));
        }
        // A provider is not part of a server, in whatever order both are given.
        connector
            .credentials
            .clone_from(&self.connector.credentials);
        Ok(Self {
            connector,
            witnesses: self.witnesses.clone(),
        })
    }

    /// The sentinels or nodes that have to name this primary, once it was found.
    fn witnesses(&self) -> &Witnesses {
        if without(Rule::Witnesses) {
            return &Witnesses::None;
        }
        &self.witnesses
    }

    /// Asks where the primary is.
    pub(super) async fn find(&self) -> Result<PrimaryAt, L2Error> {
        let Witnesses::Sentinels(sentinels) = &self.witnesses else {
            return Ok(PrimaryAt {
                connector: self.connector.clone(),
                address: None,
                term: 0,
            });
        };
        let (address, term) = sentinels.find().await?;
        let connector = self.connector.at(&address).ok_or_else(L2Error::closed)?;
        Ok(PrimaryAt {
            connector,
            address: Some(address),
            term,
        })
    }

    /// Fails unless a majority of the witnesses still names the primary of this term for a slot, asked after this call.
    /// Then the term is to be doubted.
    pub(super) async fn confirm(&self, term: u64, slot: Option<u16>) -> Result<(), L2Error> {
        match (self.witnesses(), slot) {
            (Witnesses::None, _) => Ok(()),
            (Witnesses::Sentinels(sentinels), _) => sentinels.confirm(term).await,
            #[cfg(feature = "cluster")]
            (Witnesses::Nodes(cluster, node), slot) => cluster.confirm(node, slot).await,
        }
    }

    /// Whether a majority has named the primary of this term for a slot, asked not longer ago than this.
    pub(super) fn is_believed(&self, term: u64, slot: Option<u16>, within: Duration) -> bool {
        match (self.witnesses(), slot) {
            (Witnesses::None, _) => true,
            (Witnesses::Sentinels(sentinels), _) => sentinels.is_believed(term, within),
            #[cfg(feature = "cluster")]
            (Witnesses::Nodes(cluster, node), slot) => cluster.is_believed(node, slot, within),
        }
    }

    /// The proof that this primary has all that the former one has executed in this incarnation, for IDENTIFY (rule 28:
    /// a handover is proven by the old primary); empty if there is none. Takes a second at most.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unused_async, reason = "nobody is asked")
    )]
    pub(super) async fn handover(&self, former: &str) -> String {
        match (&self.witnesses, former) {
            #[cfg(feature = "cluster")]
            (Witnesses::Nodes(cluster, node), former) => cluster.handover(node, former).await,
            // An old primary behind sentinels is demoted too late.
            _ => String::new(),
        }
    }

    /// Whether this term has not ended.
    pub(super) fn is_term(&self, term: u64) -> bool {
        if let Witnesses::Sentinels(sentinels) = self.witnesses() {
            return sentinels.is_term(term);
        }
        // A slot that goes to another node leaves the connections of the others as they are.
        true
    }

    /// Waits until this term has ended.
    pub(super) fn term_ends(&self, term: u64) -> Option<impl Future<Output = ()> + use<>> {
        let Witnesses::Sentinels(sentinels) = self.witnesses() else {
            return None;
        };
        Some(sentinels.term_ends(term))
    }

    /// Ends a term: no connection is believed that was made in it.
    pub(super) fn doubt(&self, term: u64) {
        if let Witnesses::Sentinels(sentinels) = &self.witnesses {
            sentinels.doubt(term);
        }
    }

    /// The connections to the witnesses, to be held while they are needed.
    pub(super) fn links(&self) -> Option<Arc<Links>> {
        match &self.witnesses {
            Witnesses::None => None,
            Witnesses::Sentinels(sentinels) => Some(sentinels.links.get()),
            #[cfg(feature = "cluster")]
            Witnesses::Nodes(cluster, _) => Some(cluster.links.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l2::redis::server::Server;

    #[test]
    fn a_primary_behind_sentinels_alone_is_like_another_server() {
        let connector = |url: &str| Server::from(url).connector().unwrap();
        let fixed = Primary::from(connector("redis://primary"));
        assert!(fixed.like(connector("redis://other")).is_err());
        let sentinels = Sentinels::new("m", [Server::from("redis://a")].into_iter()).unwrap();
        let named = Primary::named(sentinels, connector("redis://primary"));
        assert!(named.like(connector("redis://:x@other/1")).is_ok());
        assert!(named.like(connector("unix:///run/redis.sock")).is_err());
    }
}
