//! What a node knows of its cluster: what it was told, and no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::election::{Election, Manual};
use super::messages::{Header, Kind, Message};
use super::slots::{Owners, Ranges, SLOTS, each};

/// How long a primary that has started takes no requests: the others may have elected another one meanwhile.
const FIRST: Duration = Duration::from_secs(2);
/// How long a primary takes none that was cut off, at least and at most.
const REJOIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// A node as it knows it.
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) config_epoch: u64,
    pub(crate) follows: Option<usize>,
    pub(crate) health: Health,
    /// How much of its history it has had then.
    pub(super) offset: u64,
    /// When it was heard last.
    pub(super) heard: Instant,
    /// The primaries that suspect it, and when they have said so last.
    pub(super) reports: BTreeMap<usize, Instant>,
    /// When this node has voted last for a replica of it.
    pub(super) voted_at: Option<Instant>,
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Health {
    Fine,
    Suspected,
    /// A majority of the primaries has said so by this time.
    Failed(Instant),
}

/// What a change of what a node knows means for its data and its clients.
pub(crate) enum Effect {
    /// It is a primary from now on.
    Promote,
    /// Its shard does not have the slot any more.
    Leave(u16),
    /// It has keys of a slot that another one has.
    Drop(u16),
    /// Another node was sent a message.
    Deliver {
        is_of_shard: bool,
        channel: Vec<u8>,
        text: Vec<u8>,
    },
}

/// What its operator has set.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// How long it waits for a word of another node until it suspects it.
    pub(super) timeout: Duration,
    /// Whether it takes over from a primary that has failed.
    pub(super) fails_over: bool,
    /// Whether it takes no requests while a slot has no primary that answers.
    pub(super) needs_all_slots: bool,
    /// Whether it takes all others to be fine.
    pub(super) is_patient: bool,
}

/// A node: itself, the others, and how it goes on.
pub(crate) struct Node {
    pub(crate) me: usize,
    /// All nodes, with itself.
    pub(crate) peers: Vec<Peer>,
    pub(crate) owners: Owners,
    /// The newest epoch that it knows.
    pub(crate) epoch: u64,
    /// The last epoch in which it has voted.
    pub(super) voted: u64,
    /// Slots that leave for another node, and slots that come from one.
    pub(crate) migrating: BTreeMap<u16, usize>,
    pub(crate) importing: BTreeMap<u16, usize>,
    /// Whether it takes requests.
    pub(crate) is_ok: bool,
    /// When it has started, unless it has run for long when the cluster was made.
    started: Option<Instant>,
    /// When it was among a minority last.
    cut_off: Option<Instant>,
    pub(super) rules: Rules,
    pub(super) election: Option<Election>,
    pub(super) manual: Option<Manual>,
    /// The replica for which it holds writes back, and until when.
    pub(super) handing: Option<(usize, Instant)>,
    /// Whether an operator has it hold writes back.
    is_told_to_hold: bool,
    /// Wakes those that wait until writes are not held back any more.
    pub(crate) released: Arc<Notify>,
    /// How much of its history it has.
    pub(crate) offset: u64,
    pub(super) rng: Rng,
    pub(super) effects: Vec<Effect>,
    /// Messages that were not sent yet, and to whom.
    pub(super) outbox: VecDeque<(usize, Message)>,
    /// Wakes the bus.
    pub(super) wake: Arc<Notify>,
    /// How often it has started.
    pub(super) starts: u64,
}

impl Peer {
    pub(super) fn new(id: String, host: String, port: u16, config_epoch: u64) -> Self {
        Self {
            id,
            host,
            port,
            config_epoch,
            follows: None,
            health: Health::Fine,
            offset: 0,
            heard: Instant::now(),
            reports: BTreeMap::new(),
            voted_at: None,
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.health, Health::Failed(_))
    }
}

impl Node {
    pub(super) fn new(
        me: usize,
        peers: Vec<Peer>,
        owners: Owners,
        rules: Rules,
        wake: Arc<Notify>,
        rng: Rng,
    ) -> Self {
        let epochs = peers.iter().map(|peer| peer.config_epoch);
        Self {
            me,
            owners,
            epoch: epochs.max().unwrap_or(0),
            peers,
            voted: 0,
            migrating: BTreeMap::new(),
            importing: BTreeMap::new(),
            is_ok: true,
            started: None,
            cut_off: None,
            rules,
            election: None,
            manual: None,
            handing: None,
            is_told_to_hold: false,
            released: Arc::default(),
            offset: 0,
            rng,
            effects: Vec::new(),
            outbox: VecDeque::new(),
            wake,
            starts: 0,
        }
    }

    pub(crate) fn myself(&self) -> &Peer {
        &self.peers[self.me]
    }

    pub(crate) fn find(&self, id: &[u8]) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id.as_bytes() == id)
    }

    /// The primary that it follows.
    pub(crate) fn follows(&self) -> Option<usize> {
        self.myself().follows
    }

    /// Itself, or the primary that it follows.
    pub(crate) fn primary(&self) -> usize {
        self.follows().unwrap_or(self.me)
    }

    pub(super) fn is_primary(&self, node: usize) -> bool {
        self.peers[node].follows.is_none()
    }

    /// Whether it is one of those that elect.
    pub(super) fn has_vote(&self, node: usize) -> bool {
        self.is_primary(node) && self.owners.count(node) > 0
    }

    /// How many of those that elect are more than half of them.
    pub(super) fn majority(&self) -> usize {
        let voters = (0..self.peers.len()).filter(|node| self.has_vote(*node));
        voters.count() / 2 + 1
    }

    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.peers.len()).filter(move |node| *node != me)
    }

    /// It ends and begins anew, with what it knew.
    pub(crate) fn restart(&mut self) {
        let now = Instant::now();
        for peer in &mut self.peers {
            (peer.heard, peer.health) = (now, Health::Fine);
            peer.reports.clear();
        }
        (self.is_ok, self.started, self.cut_off) = (false, Some(now), None);
        (self.election, self.manual, self.handing) = (None, None, None);
        self.is_told_to_hold = false;
        self.outbox.clear();
        self.starts += 1;
        self.released.notify_waiters();
    }

    /// A slot has another owner. What the shard of this node loses, its subscribers are told.
    pub(super) fn give(&mut self, slot: u16, owner: Option<usize>) {
        let former = self.owners.of(slot);
        if former.is_some_and(|former| former == self.primary()) {
            self.effects.push(Effect::Leave(slot));
        }
        self.owners.set(slot, owner);
    }

    /// A new epoch of its own, without the votes of others. `None` if it has the newest one.
    pub(crate) fn bump_epoch(&mut self) -> Option<u64> {
        let epochs = self.peers.iter().map(|peer| peer.config_epoch);
        let newest = epochs.max().unwrap_or(0).max(self.epoch);
        let mine = &mut self.peers[self.me].config_epoch;
        if *mine != 0 && *mine == newest {
            return None;
        }
        self.epoch += 1;
        *mine = self.epoch;
        Some(self.epoch)
    }

    /// It follows another primary.
    pub(crate) fn follow(&mut self, primary: usize) {
        if self.follows().is_none() {
            self.migrating.clear();
            self.importing.clear();
        }
        self.peers[self.me].follows = Some(primary);
        self.election = None;
        self.end_handover();
    }

    /// Ends a failover that a command has begun.
    pub(super) fn end_handover(&mut self) {
        (self.manual, self.handing) = (None, None);
        self.released.notify_waiters();
    }

    /// Whether requests that write have to wait.
    pub(crate) fn holds_writes(&self) -> bool {
        self.handing.is_some() || self.is_told_to_hold
    }

    pub(crate) fn hold_writes(&mut self, is_held: bool) {
        self.is_told_to_hold = is_held;
        self.released.notify_waiters();
    }

    /// Assigns a slot, as an operator does.
    pub(crate) fn assign(&mut self, slot: u16, to: usize, is_empty: bool) {
        if is_empty {
            self.migrating.remove(&slot);
        }
        let was_mine = self.owners.of(slot) == Some(self.me);
        self.give(slot, Some(to));
        if was_mine && to != self.me && self.owners.count(self.me) == 0 {
            self.follow(to);
        }
        if to == self.me && self.importing.remove(&slot).is_some() {
            self.bump_epoch();
            self.announce();
        }
        self.update_state();
    }

    fn header(&mut self) -> Header {
        let primary = self.primary();
        let suspects = self.others();
        let suspects = suspects.filter(|node| self.peers[*node].health != Health::Fine);
        Header {
            node: self.me,
            epoch: self.epoch,
            config_epoch: self.peers[primary].config_epoch,
            follows: self.follows(),
            offset: self.offset,
            is_held: self.handing.is_some(),
            suspects: suspects.collect(),
            slots: self.owners.ranges(primary),
        }
    }

    pub(super) fn tell(&mut self, to: usize, kind: Kind) {
        let from = self.header();
        self.outbox.push_back((to, Message { from, kind }));
        self.wake.notify_one();
    }

    pub(super) fn tell_all(&mut self, kind: &Kind) {
        for node in self.others() {
            self.tell(node, kind.clone());
        }
    }

    /// Tells all others of itself, without waiting until it is time to.
    pub(crate) fn announce(&mut self) {
        self.tell_all(&Kind::Ping);
    }

    /// Sends a message of a client on: to all nodes, or to those of its shard.
    pub(crate) fn publish(&mut self, is_of_shard: bool, channel: &[u8], text: &[u8]) {
        let kind = Kind::Publish {
            is_of_shard,
            channel: channel.to_vec(),
            text: text.to_vec(),
        };
        let primary = self.primary();
        for node in self.others() {
            let is_near = node == primary || self.peers[node].follows == Some(primary);
            if is_near || !is_of_shard {
                self.tell(node, kind.clone());
            }
        }
    }

    /// Finds out whether it takes requests.
    pub(super) fn update_state(&mut self) {
        let now = Instant::now();
        let is_primary = self.follows().is_none();
        let is_new = self.started.is_some_and(|at| now - at < FIRST);
        if is_primary && !self.is_ok && is_new {
            return;
        }
        let is_gone = |owner: usize| self.peers[owner].has_failed();
        let served = self.owners.assigned(|owner| !is_gone(owner));
        let reached = (0..self.peers.len())
            .filter(|node| self.has_vote(*node) && self.peers[*node].health == Health::Fine);
        let is_cut_off = reached.count() < self.majority();
        if is_cut_off {
            self.cut_off = Some(now);
        }
        let is_whole = served == usize::from(SLOTS) || !self.rules.needs_all_slots;
        let is_ok = is_whole && !is_cut_off;
        if is_ok && !self.is_ok && is_primary {
            let delay = self.rules.timeout.clamp(REJOIN[0], REJOIN[1]);
            if self.cut_off.is_some_and(|at| now - at < delay) {
                return;
            }
        }
        self.is_ok = is_ok;
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    /// What all nodes come to know alike: the newest epoch, who follows whom, the epochs of primaries, and their slots.
    pub(super) fn view(&self) -> (u64, Vec<(Option<usize>, u64)>, Owners) {
        // That of a replica is of no use.
        let role = |peer: &Peer| match peer.follows {
            Some(primary) => (Some(primary), 0),
            None => (None, peer.config_epoch),
        };
        let roles = self.peers.iter().map(role).collect();
        (self.epoch, roles, self.owners.clone())
    }

    /// As CLUSTER NODES has it.
    pub(crate) fn nodes_text(&mut self) -> String {
        let mut text = String::new();
        for node in 0..self.peers.len() {
            let ranges = self.owners.ranges(node);
            let peer = &self.peers[node];
            let mut flags = Vec::new();
            if node == self.me {
                flags.push("myself");
            }
            flags.push(peer.follows.map_or("master", |_| "slave"));
            match peer.health {
                Health::Fine => {}
                Health::Suspected => flags.push("fail?"),
                Health::Failed(_) => flags.push("fail"),
            }
            let primary = peer.follows.map_or("-", |primary| &self.peers[primary].id);
            let epoch = self.peers[peer.follows.unwrap_or(node)].config_epoch;
            let link = match peer.health {
                Health::Fine => "connected",
                _ => "disconnected",
            };
            let bus = u32::from(peer.port) + 10_000;
            _ = write!(
                text,
                "{} {}:{}@{bus} {} {primary} 0 0 {epoch} {link}",
                peer.id,
                peer.host,
                peer.port,
                flags.join(",")
            );
            for (first, last) in ranges.iter() {
                _ = if first == last {
                    write!(text, " {first}")
                } else {
                    write!(text, " {first}-{last}")
                };
            }
            if node == self.me {
                for (slot, to) in &self.migrating {
                    _ = write!(text, " [{slot}->-{}]", self.peers[*to].id);
                }
                for (slot, from) in &self.importing {
                    _ = write!(text, " [{slot}-<-{}]", self.peers[*from].id);
                }
            }
            text.push('\n');
        }
        text
    }

    /// As CLUSTER INFO has it.
    pub(crate) fn info_text(&self) -> String {
        let by = |is_it: &dyn Fn(Health) -> bool| {
            self.owners.assigned(|node| is_it(self.peers[node].health))
        };
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            _ = write!(text, "cluster_{name}:{value}\r\n");
        };
        line("state", &if self.is_ok { "ok" } else { "fail" });
        line("slots_assigned", &self.owners.assigned(|_| true));
        line("slots_ok", &by(&|health| health == Health::Fine));
        line("slots_pfail", &by(&|health| health == Health::Suspected));
        let has_failed = |health| matches!(health, Health::Failed(_));
        line("slots_fail", &by(&has_failed));
        line("known_nodes", &self.peers.len());
        line("size", &self.owners.owners());
        line("current_epoch", &self.epoch);
        line("my_epoch", &self.peers[self.primary()].config_epoch);
        text
    }

    /// Another primary claims slots.
    pub(super) fn hear_claim(&mut self, sender: usize, config_epoch: u64, slots: &Ranges) {
        if sender == self.me {
            return;
        }
        let primary = self.primary();
        let mut has_taken_ours = false;
        let mut lost = BTreeSet::new();
        for slot in each(slots) {
            let owner = self.owners.of(slot);
            // What comes here key by key is assigned by the operator.
            if owner == Some(sender) || self.importing.contains_key(&slot) {
                continue;
            }
            if owner.is_none_or(|owner| self.peers[owner].config_epoch < config_epoch) {
                has_taken_ours |= owner == Some(primary);
                if owner == Some(self.me) {
                    lost.insert(slot);
                }
                self.give(slot, Some(sender));
            }
        }
        if has_taken_ours && self.owners.count(primary) == 0 {
            self.follow(sender);
        } else if let Some(next) = self.next_above() {
            self.follow(next);
        } else {
            self.effects.extend(lost.into_iter().map(Effect::Drop));
        }
    }

    /// The primary of what it follows, if that is a replica itself.
    fn next_above(&self) -> Option<usize> {
        let next = self.peers[self.follows()?].follows?;
        (next != self.me).then_some(next)
    }
}
