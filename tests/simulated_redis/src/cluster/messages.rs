//! What nodes tell each other on the cluster bus.

use super::slots::Ranges;

/// A message, and what each says of its sender.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) from: Header,
    pub(crate) kind: Kind,
}

/// What a node says of itself.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) node: usize,
    /// The newest epoch that it knows.
    pub(crate) epoch: u64,
    /// Since which its slots are its own; of a replica, those of its primary.
    pub(crate) config_epoch: u64,
    pub(crate) slots: Ranges,
    pub(crate) follows: Option<usize>,
    /// How much of its history a replica has, and a primary has made.
    pub(crate) offset: u64,
    /// It holds writes back, for a replica that takes over.
    pub(crate) is_held: bool,
    /// Nodes that have not answered it for too long.
    pub(crate) suspects: Vec<usize>,
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// Nothing but the header.
    Ping,
    /// A replica wants to take over. If it was told to, its primary need not have failed.
    VoteRequest {
        is_forced: bool,
    },
    Vote,
    /// A replica asks its primary to hold writes back.
    FailoverStart,
    /// A majority of the primaries suspects a node.
    Failed(usize),
    /// Of slots that the receiver claims, and another node has since a newer epoch.
    Update {
        node: usize,
        config_epoch: u64,
        slots: Ranges,
    },
    Publish {
        is_of_shard: bool,
        channel: Vec<u8>,
        text: Vec<u8>,
    },
}
