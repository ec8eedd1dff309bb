//! Which requests a node executes, and where it sends clients with the others.

use std::sync::Arc;

use tokio::sync::Notify;

use super::messages::Message;
use super::node::{Effect, Node};
use super::slots::slot_of;
use crate::commands::{Command, Keys};
use crate::reply::Reply;
use crate::server::{Channel, Server, SessionId};

/// What a node of a cluster knows of a connection.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asks {
    /// The next request is for a slot that comes here.
    pub(crate) is_asking: bool,
    /// It reads from replicas.
    pub(crate) reads_replicas: bool,
    /// The slot of the request that is being executed.
    pub(crate) slot: Option<u16>,
}

/// Why a request is not executed here.
enum Elsewhere {
    CrossSlot,
    TryAgain,
    Down,
    NoOwner,
    Moved(u16, usize),
    Ask(u16, usize),
}

impl Elsewhere {
    fn reply(&self, node: &Node) -> Reply {
        let to = |code: &str, slot: u16, to: usize| {
            let peer = &node.peers[to];
            format!("{code} {slot} {}:{}", peer.host, peer.port)
        };
        Reply::error(match *self {
            Self::CrossSlot => "CROSSSLOT Keys in request don't hash to the same slot".to_owned(),
            Self::TryAgain => "TRYAGAIN Multiple keys request during rehashing of slot".to_owned(),
            Self::Down => "CLUSTERDOWN The cluster is down".to_owned(),
            Self::NoOwner => "CLUSTERDOWN Hash slot not served".to_owned(),
            Self::Moved(slot, owner) => to("MOVED", slot, owner),
            Self::Ask(slot, owner) => to("ASK", slot, owner),
        })
    }
}

impl Server {
    /// Changes what a node knows, with what that means for its data and its clients.
    pub(crate) fn change_node<T>(&mut self, change: impl FnOnce(&mut Node) -> T) -> T {
        let node = self.cluster.as_mut().expect("it is a node");
        let value = change(node);
        for effect in node.take_effects() {
            self.apply(effect);
        }
        value
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Promote => self.promote(),
            Effect::Leave(slot) => self.end_subscriptions(slot),
            Effect::Drop(slot) => {
                for key in self.keys_in(slot) {
                    _ = self.remove(&key);
                }
            }
            Effect::Deliver {
                is_of_shard,
                channel,
                text,
            } => _ = self.publish(&(is_of_shard, channel), &text),
        }
    }

    /// Sends a message of a client on to other nodes.
    pub(crate) fn publish_on_bus(&mut self, channel: &Channel, text: &[u8]) {
        if let Some(node) = &mut self.cluster {
            node.publish(channel.0, &channel.1, text);
        }
    }

    /// ASKING is for the next request only.
    pub(crate) fn end_asking(&mut self, id: SessionId, request: &[Vec<u8>]) {
        let is_asking = |name: &Vec<u8>| name.eq_ignore_ascii_case(b"asking");
        if !request.first().is_some_and(is_asking)
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.asks.is_asking = false;
        }
    }

    /// The refusal of a request of a client that another node executes, or none.
    pub(crate) fn redirect(
        &mut self,
        id: SessionId,
        command: &Command,
        request: &[Vec<u8>],
    ) -> Option<Reply> {
        self.cluster.as_ref()?;
        let found = self.place(id, command, request);
        let node = self.cluster.as_ref()?;
        match found {
            Ok(slot) => {
                self.sessions.get_mut(&id)?.asks.slot = slot;
                None
            }
            Err(elsewhere) => Some(elsewhere.reply(node)),
        }
    }

    /// The refusal of a request of a script.
    pub(crate) fn redirect_script(
        &mut self,
        id: SessionId,
        command: &Command,
        request: &[Vec<u8>],
    ) -> Option<Reply> {
        self.cluster.as_ref()?;
        let slot = match self.place(id, command, request) {
            Ok(slot) => slot,
            Err(Elsewhere::Down) => {
                return Some(Reply::error(
                    "ERR Script attempted to execute a command while the cluster is down",
                ));
            }
            Err(_) => {
                return Some(Reply::error(
                    "ERR Script attempted to access a non local key in a cluster node",
                ));
            }
        };
        let flags = self.script.as_ref()?.flags;
        let crosses_slots = flags.crosses_slots || !flags.has_shebang;
        let first = &mut self.sessions.get_mut(&id)?.asks.slot;
        if slot.is_none() || crosses_slots || *first.get_or_insert(slot?) == slot? {
            return None;
        }
        Some(Reply::error(
            "ERR Script attempted to access keys that do not hash to the same slot",
        ))
    }

    /// The slot of a request that is executed here.
    fn place(
        &mut self,
        id: SessionId,
        command: &Command,
        request: &[Vec<u8>],
    ) -> Result<Option<u16>, Elsewhere> {
        let keys = command.keys(request);
        let Some(first) = keys.first() else {
            return Ok(None);
        };
        let slot = slot_of(first);
        let Some(node) = &self.cluster else {
            return Ok(None);
        };
        let owner = node.owners.of(slot).ok_or(Elsewhere::NoOwner)?;
        let (me, follows, is_ok) = (node.me, node.follows(), node.is_ok);
        let leaves_for = node.migrating.get(&slot).copied();
        let leaves_for = leaves_for.filter(|_| owner == me);
        let comes = leaves_for.is_none() && node.importing.contains_key(&slot);
        if keys.iter().any(|key| slot_of(key) != slot) {
            return Err(Elsewhere::CrossSlot);
        }
        let is_of_shard = command.is_of_shard();
        if !is_ok && !is_of_shard {
            return Err(Elsewhere::Down);
        }
        let asks = self.sessions.get(&id).map(|session| session.asks);
        let asks = asks.unwrap_or_default();
        // A message of a shard needs no key.
        let missing = if (leaves_for.is_some() || comes) && !is_of_shard {
            let db = self.first_db();
            keys.iter().filter(|key| db.entry(key).is_none()).count()
        } else {
            0
        };
        if let Some(to) = leaves_for
            && missing > 0
        {
            return Err(if missing < keys.len() {
                Elsewhere::TryAgain
            } else {
                Elsewhere::Ask(slot, to)
            });
        }
        if comes && asks.is_asking {
            let are_many = keys.iter().any(|key| key != first);
            if are_many && missing > 0 {
                return Err(Elsewhere::TryAgain);
            }
            return Ok(Some(slot));
        }
        let reads = asks.reads_replicas || is_of_shard;
        if reads && follows == Some(owner) && !self.is_write(command, request) {
            return Ok(Some(slot));
        }
        if owner == me {
            Ok(Some(slot))
        } else {
            Err(Elsewhere::Moved(slot, owner))
        }
    }

    /// Whether a request is taken to write. A script that has flags is, as none of the crate says that it does not.
    pub(crate) fn is_write(&self, command: &Command, request: &[Vec<u8>]) -> bool {
        if command.keys != Keys::Counted {
            return command.writes();
        }
        let script = request.get(1).map_or(&[][..], Vec::as_slice);
        if command.name == "eval" {
            return script.starts_with(b"#!");
        }
        let sha = String::from_utf8_lossy(script).to_ascii_lowercase();
        let script = self.scripts.get(&sha);
        script.is_some_and(|script| script.flags.has_shebang)
    }

    /// What tells that writes are not held back any more, if this request is.
    pub(crate) fn released_for(&self, request: &[Vec<u8>]) -> Option<Arc<Notify>> {
        let node = self.cluster.as_ref().filter(|node| node.holds_writes())?;
        let command = crate::commands::find(request.first()?)?;
        let is_held = command.is_replicated() || command.may_write();
        is_held.then(|| Arc::clone(&node.released))
    }

    /// What the bus has for it.
    pub(super) fn take_outbox(&mut self) -> Vec<(usize, Message)> {
        let node = self.cluster.as_mut();
        node.map_or(Vec::new(), |node| node.outbox.drain(..).collect())
    }
}
