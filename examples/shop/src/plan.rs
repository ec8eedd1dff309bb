//! Which services there are, how many instances of each, and where they listen.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A service of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    Gateway,
    User,
    Product,
    Inventory,
    Order,
    Payment,
    Recommendation,
}

impl Name {
    pub(crate) const ALL: [Self; 7] = [
        Self::Gateway,
        Self::User,
        Self::Product,
        Self::Inventory,
        Self::Order,
        Self::Payment,
        Self::Recommendation,
    ];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::User => "user",
            Self::Product => "product",
            Self::Inventory => "inventory",
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Recommendation => "recommendation",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// One instance of a service, by its number.
pub(crate) type Instance = (Name, u16);

/// The instances of the shop. Each process works out by it where all others listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// That of the first gateway.
    pub(crate) port: u16,
    /// How many there are of each service that has several.
    pub(crate) instances: u16,
}

/// As many ports as a service has.
const EACH: u16 = 10;

impl Plan {
    pub(crate) fn instances(self, name: Name) -> u16 {
        match name {
            // A second one would show nothing that the others do not.
            Name::Order | Name::Payment | Name::Recommendation => 1,
            Name::Gateway | Name::User | Name::Product | Name::Inventory => self.instances,
        }
    }

    pub(crate) fn all(self) -> impl Iterator<Item = Instance> {
        let each = move |name| (0..self.instances(name)).map(move |instance| (name, instance));
        Name::ALL.into_iter().flat_map(each)
    }

    pub(crate) fn address(self, (name, instance): Instance) -> SocketAddr {
        let block = Name::ALL.iter().position(|other| *other == name);
        let block = u16::try_from(block.unwrap_or(0)).unwrap_or(0);
        let port = self.port + block * EACH + instance;
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// How far in front of the port of a node is that for the other nodes of its cluster.
    pub(crate) const BUS: u16 = EACH;

    /// The port of the Redis that the shop starts; the other nodes of a cluster follow.
    pub(crate) fn redis_port(self) -> u16 {
        self.port + 9 * EACH
    }
}
