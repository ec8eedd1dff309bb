//! What a node does with a message, and from time to time: it suspects others, votes, and takes over from its primary.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::messages::{Header, Kind, Message};
use super::node::{Effect, Health, Node};
use super::slots::each;

/// How long a failover may take that a command has begun.
const HANDOVER: Duration = Duration::from_secs(5);
/// Before a replica asks for votes, so that all have heard that its primary has failed; and of how much it draws a part
/// in addition.
const BEFORE_ELECTION: Duration = Duration::from_millis(500);
/// A replica waits so much longer for each other one that has more of the history.
const EACH_RANK: Duration = Duration::from_secs(1);
/// How long an election takes at least.
const ELECTION: Duration = Duration::from_secs(2);

/// An election in which the node stands.
pub(crate) struct Election {
    begins: Instant,
    /// Once it has asked for votes.
    epoch: Option<u64>,
    votes: BTreeSet<usize>,
}

/// A failover that a command has begun, on the replica.
pub(crate) struct Manual {
    ends: Instant,
    /// How much its primary had when it began to hold writes back.
    wanted: Option<u64>,
    can_begin: bool,
}

/// How a replica takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Once it has all that the primary has, and a majority has voted for it.
    Graceful,
    /// With what it has. A majority votes for it.
    Force,
    /// With what it has, and nobody votes.
    Takeover,
}

impl Node {
    /// Begins a failover to this replica.
    pub(crate) fn fail_over(&mut self, how: Failover) {
        let Some(primary) = self.follows() else {
            return;
        };
        self.end_handover();
        if how == Failover::Takeover {
            self.bump_epoch();
            self.promote(0);
            return;
        }
        self.manual = Some(Manual {
            ends: Instant::now() + HANDOVER,
            wanted: None,
            can_begin: how == Failover::Force,
        });
        match how {
            Failover::Graceful => self.tell(primary, Kind::FailoverStart),
            _ => self.stand(),
        }
    }

    /// It asks for votes as for an election, and would not hear the answers.
    pub(super) fn stand_in_vain(&mut self) {
        self.epoch += 1;
        self.tell_all(&Kind::VoteRequest { is_forced: true });
    }

    /// What it does from time to time.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        for node in self.others() {
            let peer = &mut self.peers[node];
            let is_silent = now - peer.heard > self.rules.timeout;
            if peer.health == Health::Fine && is_silent && !self.rules.is_patient {
                peer.health = Health::Suspected;
            }
            // What others have said may be old: with them, their next word decides.
            if self.majority() == 1 {
                self.count_reports(node);
            }
        }
        let is_late = |ends: Instant| now > ends;
        if self.manual.as_ref().is_some_and(|one| is_late(one.ends))
            || self.handing.is_some_and(|(_, ends)| is_late(ends))
        {
            self.end_handover();
        }
        self.stand();
        self.update_state();
        self.tell_all(&Kind::Ping);
    }

    pub(super) fn receive(&mut self, message: Message) {
        let Message { from, kind } = message;
        self.hear(&from);
        let sender = from.node;
        match kind {
            Kind::Ping => {}
            Kind::VoteRequest { is_forced } => self.vote(&from, is_forced),
            Kind::Vote => self.count_vote(&from),
            Kind::FailoverStart => self.hand_over(sender),
            Kind::Failed(node) => {
                if node != self.me && !self.peers[node].has_failed() {
                    self.peers[node].health = Health::Failed(Instant::now());
                }
            }
            Kind::Update {
                node,
                config_epoch,
                slots,
            } => {
                if self.peers[node].config_epoch < config_epoch {
                    self.peers[node].config_epoch = config_epoch;
                    self.peers[node].follows = None;
                    self.hear_claim(node, config_epoch, &slots);
                }
            }
            Kind::Publish {
                is_of_shard,
                channel,
                text,
            } => {
                self.effects.push(Effect::Deliver {
                    is_of_shard,
                    channel,
                    text,
                });
            }
        }
        self.stand();
        self.update_state();
    }

    /// What each message says of its sender.
    fn hear(&mut self, from: &Header) {
        let (now, sender) = (Instant::now(), from.node);
        self.epoch = self.epoch.max(from.epoch);
        let timeout = self.rules.timeout;
        let has_slots = self.owners.count(sender) > 0;
        let peer = &mut self.peers[sender];
        peer.heard = now;
        peer.config_epoch = peer.config_epoch.max(from.config_epoch);
        peer.offset = from.offset;
        match peer.health {
            // Its slots may be about to change their owner.
            Health::Failed(at)
                if has_slots && peer.follows.is_none() && now - at <= 2 * timeout => {}
            _ => peer.health = Health::Fine,
        }
        self.hear_role(from);
        if from.follows.is_none() {
            if self.owners.ranges(sender) != from.slots {
                self.hear_claim(sender, from.config_epoch, &from.slots);
            }
            self.avoid_epoch(from);
        }
        self.correct(from);
        self.hear_suspects(from);
        if from.is_held
            && self.follows() == Some(sender)
            && let Some(manual) = &mut self.manual
        {
            manual.wanted.get_or_insert(from.offset);
        }
    }

    fn hear_role(&mut self, from: &Header) {
        let sender = from.node;
        if from.follows.is_some() && self.is_primary(sender) {
            for slot in each(&self.owners.ranges(sender)) {
                self.give(slot, None);
            }
        }
        self.peers[sender].follows = from.follows;
    }

    /// Two primaries have the same epoch: that with the smaller id takes another one.
    fn avoid_epoch(&mut self, from: &Header) {
        let (mine, other) = (self.myself(), &self.peers[from.node]);
        let is_same = self.follows().is_none() && mine.config_epoch == from.config_epoch;
        if is_same && other.id > mine.id {
            self.epoch += 1;
            self.peers[self.me].config_epoch = self.epoch;
        }
    }

    /// The sender claims slots of a node with a newer epoch, of which it has not heard.
    fn correct(&mut self, from: &Header) {
        let primary = from.follows.unwrap_or(from.node);
        if self.owners.ranges(primary) == from.slots {
            return;
        }
        let is_newer = |owner: &usize| {
            *owner != from.node && self.peers[*owner].config_epoch > from.config_epoch
        };
        let mut owners = each(&from.slots).filter_map(|slot| self.owners.of(slot));
        if let Some(node) = owners.find(is_newer) {
            let update = Kind::Update {
                node,
                config_epoch: self.peers[node].config_epoch,
                slots: self.owners.ranges(node),
            };
            self.tell(from.node, update);
        }
    }

    fn hear_suspects(&mut self, from: &Header) {
        if !self.has_vote(from.node) {
            return;
        }
        let now = Instant::now();
        for node in self.others() {
            if from.suspects.contains(&node) {
                self.peers[node].reports.insert(from.node, now);
                self.count_reports(node);
            } else {
                self.peers[node].reports.remove(&from.node);
            }
        }
    }

    /// A node has failed once a majority of the primaries suspects it.
    fn count_reports(&mut self, node: usize) {
        if self.peers[node].health != Health::Suspected {
            return;
        }
        let now = Instant::now();
        let limit = 2 * self.rules.timeout;
        let reports = &mut self.peers[node].reports;
        reports.retain(|_, at| now - *at <= limit);
        let count = reports.len() + usize::from(self.follows().is_none());
        if count >= self.majority() {
            self.peers[node].health = Health::Failed(now);
            self.tell_all(&Kind::Failed(node));
        }
    }

    fn vote(&mut self, from: &Header, is_forced: bool) {
        let now = Instant::now();
        let Some(primary) = self.peers[from.node].follows else {
            return;
        };
        let is_late = from.epoch < self.epoch || self.voted == self.epoch;
        let voted_at = self.peers[primary].voted_at;
        let has_just_voted = voted_at.is_some_and(|at| now - at < 2 * self.rules.timeout);
        let is_wanted = is_forced || self.peers[primary].has_failed();
        // Of slots that belong to another one by now.
        let is_old = each(&from.slots)
            .filter_map(|slot| self.owners.of(slot))
            .any(|owner| self.peers[owner].config_epoch > from.config_epoch);
        if !self.has_vote(self.me) || is_late || has_just_voted || !is_wanted || is_old {
            return;
        }
        self.peers[primary].voted_at = Some(now);
        self.voted = self.epoch;
        self.tell(from.node, Kind::Vote);
    }

    fn count_vote(&mut self, from: &Header) {
        let has_vote = self.has_vote(from.node);
        if let Some(election) = &mut self.election
            && has_vote
            && election.epoch.is_some_and(|epoch| from.epoch >= epoch)
        {
            election.votes.insert(from.node);
        }
    }

    /// A replica takes over: the primary holds writes back until then.
    fn hand_over(&mut self, replica: usize) {
        if self.peers[replica].follows == Some(self.me) {
            self.end_handover();
            self.handing = Some((replica, Instant::now() + HANDOVER));
            self.tell(replica, Kind::Ping);
        }
    }

    /// Asks for votes if it is time to, and takes over if there are enough.
    pub(super) fn stand(&mut self) {
        let Some(primary) = self.follows() else {
            return;
        };
        let now = Instant::now();
        if let Some(manual) = &mut self.manual {
            manual.can_begin |= manual.wanted == Some(self.offset);
        }
        let is_told = self.manual.as_ref().is_some_and(|manual| manual.can_begin);
        let is_needed = self.rules.fails_over && self.peers[primary].has_failed();
        if !(is_told || is_needed) || self.owners.count(primary) == 0 {
            return;
        }
        let lasts = (2 * self.rules.timeout).max(ELECTION);
        let is_over = |election: &Election| now > election.begins + 2 * lasts;
        if self.election.as_ref().is_none_or(is_over) {
            let waits = if is_told {
                Duration::ZERO
            } else {
                BEFORE_ELECTION + BEFORE_ELECTION.mul_f64(self.rng.f64()) + self.rank(primary)
            };
            self.election = Some(Election {
                begins: now + waits,
                epoch: None,
                votes: BTreeSet::new(),
            });
        }
        let majority = self.majority();
        let Some(election) = &mut self.election else {
            return;
        };
        if now < election.begins || now > election.begins + lasts {
            return;
        }
        match election.epoch {
            None => {
                self.epoch += 1;
                election.epoch = Some(self.epoch);
                self.tell_all(&Kind::VoteRequest { is_forced: is_told });
            }
            Some(epoch) if election.votes.len() >= majority => self.promote(epoch),
            Some(_) => {}
        }
    }

    /// How long it leaves others the precedence that have more of the history.
    fn rank(&self, primary: usize) -> Duration {
        let is_before = |node: &usize| {
            let peer = &self.peers[*node];
            peer.follows == Some(primary) && peer.offset > self.offset
        };
        let before = self.others().filter(is_before).count();
        EACH_RANK * u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// It takes the place of its primary, with this epoch.
    fn promote(&mut self, epoch: u64) {
        let Some(former) = self.peers[self.me].follows.take() else {
            return;
        };
        let mine = &mut self.peers[self.me].config_epoch;
        *mine = (*mine).max(epoch);
        for slot in each(&self.owners.ranges(former)) {
            self.give(slot, Some(self.me));
        }
        self.election = None;
        self.end_handover();
        self.effects.push(Effect::Promote);
        self.update_state();
        self.tell_all(&Kind::Ping);
    }
}
