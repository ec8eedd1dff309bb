//! A Redis Cluster in the process of a test: nodes with slots, which know what they have told each other on a bus that
//! takes its time.
//!
//! - [`slots`]: that of a key, and who has them; [`node`]: what a node knows; [`redirect`]: which requests it executes
//! - [`messages`], [`bus`]: what nodes tell each other, and when that arrives
//! - [`election`]: what a node does with a message: it suspects others, votes, and takes over
//! - [`keys`]: keys of a slot, and how they leave a node

mod bus;
mod election;
mod keys;
mod messages;
mod node;
mod redirect;
mod slots;

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use futures::future::BoxFuture;
use larder::l2::deadpool_redis::redis::ConnectionAddr;
use larder::l2::{DialedStream, Dialer};
use tokio::sync::Notify;

use self::bus::Bus;
pub use self::election::Failover;
pub(crate) use self::node::Node;
use self::node::{Peer, Rules};
pub(crate) use self::redirect::Asks;
use self::slots::Owners;
pub(crate) use self::slots::{SLOTS, slot_of};
use crate::reply::Reply;
use crate::serve::lock;
use crate::server::Settings;
use crate::{SimulatedRedis, Snapshot};

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// How many primaries there are. They come first, with the slots in equal parts.
    pub primaries: usize,
    /// How many replicas each has: first come those of primary 0.
    pub replicas_each: usize,
    /// How many nodes have no slots, and follow none. They come last.
    pub spares: usize,
    /// How long a message takes from one node to another.
    pub delay: Range<Duration>,
    /// How often a node tells the others of itself.
    pub gossip: Duration,
    /// So long after its last word, a node is suspected by the others.
    pub node_timeout: Duration,
    /// Whether replicas take over from a primary that has failed, without a command.
    pub fails_over: bool,
    /// Whether no node takes requests while a slot has no primary that answers.
    pub needs_all_slots: bool,
    /// The port of the first node. The others have the next ones.
    pub port: u16,
    /// What delays and ids are drawn from.
    pub rng: Rng,
    /// Of each node.
    pub node: Settings,
}

impl Default for ClusterSettings {
    /// Three primaries with a replica each. What is drawn comes from the generator of the thread.
    fn default() -> Self {
        Self {
            primaries: 3,
            replicas_each: 1,
            spares: 0,
            delay: Duration::from_micros(200)..Duration::from_millis(5),
            gossip: Duration::from_millis(100),
            node_timeout: Duration::from_secs(1),
            fails_over: true,
            needs_all_slots: true,
            port: 7000,
            rng: Rng::new(),
            node: Settings::default(),
        }
    }
}

/// A slot on its way from one primary to another.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// The slot.
    pub slot: u16,
    /// Who has it.
    pub from: usize,
    /// Who will have it.
    pub to: usize,
}

/// A cluster. Clones are of the same one, which ends with the last of them.
#[derive(Clone)]
pub struct SimulatedCluster {
    bus: Arc<Mutex<Bus>>,
    nodes: Arc<[SimulatedRedis]>,
    ids: Arc<[String]>,
    port: u16,
}

impl Dialer for SimulatedCluster {
    fn dial(
        &self,
        address: &ConnectionAddr,
    ) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>> {
        let stream = self.at(address).map(|node| self.nodes[node].connect());
        async move {
            let stream = stream.ok_or(io::ErrorKind::NotFound)??;
            Ok(Box::new(stream) as Box<dyn DialedStream>)
        }
        .boxed()
    }
}

impl SimulatedCluster {
    /// A cluster of so many primaries, with so many replicas each. Needs a tokio runtime, whose time it has.
    #[must_use]
    pub fn new(primaries: usize, replicas_each: usize) -> Self {
        Self::with(ClusterSettings {
            primaries,
            replicas_each,
            ..ClusterSettings::default()
        })
    }

    /// A cluster made so: all nodes know each other, and each replica has followed its primary.
    #[must_use]
    pub fn with(settings: ClusterSettings) -> Self {
        let ClusterSettings { mut rng, port, .. } = settings;
        let with_replicas = settings.primaries * (1 + settings.replicas_each);
        let many = with_replicas + settings.spares;
        let ids: Vec<_> = (0..many).map(|_| id(&mut rng)).collect();
        let mut owners = Owners::new(many);
        for slot in 0..SLOTS {
            // The last slot of each is that before the first one of the next.
            let is_of =
                |primary: &usize| usize::from(slot) < bound(primary + 1, settings.primaries);
            owners.set(slot, (0..settings.primaries).find(is_of));
        }
        let rules = Rules {
            timeout: settings.node_timeout,
            fails_over: settings.fails_over,
            needs_all_slots: settings.needs_all_slots,
            is_patient: false,
        };
        let wake = Arc::<Notify>::default();
        let nodes = (0..many).map(|me| {
            let peers = ids.iter().enumerate().map(|(index, id)| {
                // As an operator gives each its own first epoch.
                let epoch = u64::try_from(index + 1).expect("a number");
                let port = port + u16::try_from(index).expect("a port");
                let mut peer = Peer::new(id.clone(), format!("node-{index}"), port, epoch);
                let replica = index.checked_sub(settings.primaries);
                let replica = replica.filter(|_| index < with_replicas);
                peer.follows = replica.map(|replica| replica / settings.replicas_each);
                peer
            });
            let redis = SimulatedRedis::new(settings.node.clone());
            let node = Node::new(
                me,
                peers.collect(),
                owners.clone(),
                rules,
                Arc::clone(&wake),
                rng.fork(),
            );
            lock(&redis.0.server).cluster = Some(node);
            redis
        });
        let nodes: Vec<_> = nodes.collect();
        let bus = Bus::new(nodes.clone(), settings.delay, settings.gossip, rng);
        let bus = Arc::new(Mutex::new(bus));
        tokio::spawn(bus::run(Arc::downgrade(&bus), wake));
        Self {
            bus,
            nodes: nodes.into(),
            ids: ids.into(),
            port,
        }
    }

    /// A node, for its own settings, connections and data.
    #[must_use]
    pub fn node(&self, node: usize) -> &SimulatedRedis {
        &self.nodes[node]
    }

    /// All nodes: first the primaries at the beginning.
    #[must_use]
    pub fn nodes(&self) -> &[SimulatedRedis] {
        &self.nodes
    }

    /// The id of a node.
    #[must_use]
    pub fn id(&self, node: usize) -> &str {
        &self.ids[node]
    }

    /// As clients are given it.
    #[must_use]
    pub fn url(&self, node: usize) -> String {
        format!("redis://node-{node}:{}", usize::from(self.port) + node)
    }

    /// The node at an address.
    #[must_use]
    pub fn at(&self, address: &ConnectionAddr) -> Option<usize> {
        let ConnectionAddr::Tcp(_, port) = address else {
            return None;
        };
        let node = usize::from(port.checked_sub(self.port)?);
        (node < self.nodes.len()).then_some(node)
    }

    /// Where its nodes are, for a `RedisL2`.
    #[must_use]
    pub fn servers(&self) -> Vec<larder::l2::Server> {
        let dialer = Arc::new(self.clone());
        let server = |node| {
            let dialer = Arc::clone(&dialer) as Arc<dyn Dialer>;
            larder::l2::Server::from(self.url(node)).dialed_by(dialer)
        };
        (0..self.nodes.len()).map(server).collect()
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot_of(key: &[u8]) -> u16 {
        slot_of(key)
    }

    fn ask<T>(&self, node: usize, question: impl FnOnce(&Node) -> T) -> T {
        let server = lock(&self.nodes[node].0.server);
        question(server.cluster.as_ref().expect("it is a node"))
    }

    fn tell<T>(&self, node: usize, change: impl FnOnce(&mut Node) -> T) -> T {
        lock(&self.nodes[node].0.server).change_node(change)
    }

    fn request(&self, node: usize, words: &[&str]) -> Reply {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        self.nodes[node].direct().request(&words)
    }

    fn command(&self, node: usize, words: &[&str]) {
        let answer = self.request(node, words);
        assert!(!matches!(answer, Reply::Error(_)), "{answer:?}");
    }

    /// Whether a node answers, and the others hear it.
    #[must_use]
    pub fn is_live(&self, node: usize) -> bool {
        let redis = &self.nodes[node];
        redis.is_up() && !redis.is_paused() && !lock(&self.bus).isolated.contains_key(&node)
    }

    /// The owner of a slot, as a node knows it.
    #[must_use]
    pub fn named(&self, node: usize, slot: u16) -> Option<usize> {
        self.ask(node, |node| node.owners.of(slot))
    }

    /// The primary that a node follows, as it knows it itself.
    #[must_use]
    pub fn followed(&self, node: usize) -> Option<usize> {
        self.ask(node, Node::follows)
    }

    /// The newest epoch that a node knows, and that of its own slots.
    #[must_use]
    pub fn epochs(&self, node: usize) -> (u64, u64) {
        self.ask(node, |node| {
            (node.epoch, node.peers[node.primary()].config_epoch)
        })
    }

    /// Whether the epoch of a node's slots is newer than that of another one, as far as the node has heard.
    #[must_use]
    pub fn is_newer(&self, node: usize, than: usize) -> bool {
        let epoch_of = |view: &Node, node: usize| view.peers[node].config_epoch;
        self.ask(node, |view| epoch_of(view, node) > epoch_of(view, than))
    }

    /// Whether a node has slots, as it knows it.
    #[must_use]
    pub fn has_slots(&self, node: usize) -> bool {
        self.ask(node, |node| node.owners.count(node.me) > 0)
    }

    /// The first slot that a primary has, as it knows it.
    #[must_use]
    pub fn first_slot(&self, primary: usize) -> u16 {
        let is_its = |node: &Node, slot| node.owners.of(slot) == Some(primary);
        let first = self.ask(primary, |node| (0..SLOTS).find(|slot| is_its(node, *slot)));
        first.expect("it has slots")
    }

    /// Whether a node is a primary, or has the history of the primary that it follows.
    #[must_use]
    pub fn has_followed(&self, node: usize) -> bool {
        let server = lock(&self.nodes[node].0.server);
        let follows = server
            .cluster
            .as_ref()
            .is_some_and(|node| node.follows().is_some());
        !follows || server.replication.is_linked()
    }

    /// Whether a node takes requests.
    #[must_use]
    pub fn is_ok(&self, node: usize) -> bool {
        self.ask(node, |node| node.is_ok)
    }

    /// Whether all live nodes take requests, and know the same owner of each slot, role of each node, and epochs.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let live = (0..self.nodes.len()).filter(|node| self.is_live(*node));
        let mut views = live.map(|node| self.ask(node, |node| node.is_ok.then(|| node.view())));
        let Some(first) = views.next() else {
            return true;
        };
        first.is_some() && views.all(|view| view == first)
    }

    /// Has a live replica take over from a primary, and says which; `None` if there is none, or if it refuses to. It is
    /// told to: when it has done so, and the others have heard of it, their views show.
    #[must_use]
    pub fn fail_over(&self, primary: usize, how: Failover) -> Option<usize> {
        let is_it = |node: &usize| self.is_live(*node) && self.followed(*node) == Some(primary);
        let replica = (0..self.nodes.len()).find(is_it)?;
        let option: &[&str] = match how {
            Failover::Graceful => &[],
            Failover::Force => &["FORCE"],
            Failover::Takeover => &["TAKEOVER"],
        };
        let answer = self.request(replica, &[&["CLUSTER", "FAILOVER"], option].concat());
        (answer == Reply::ok()).then_some(replica)
    }

    /// A replica asks for votes, and would not hear the answers: the newest epoch belongs to no node then.
    pub fn elect_nobody(&self, replica: usize) {
        self.tell(replica, Node::stand_in_vain);
    }

    /// Gives a primary an epoch of its own, unless it has the newest one.
    pub fn bump_epoch(&self, primary: usize) {
        self.command(primary, &["CLUSTER", "BUMPEPOCH"]);
    }

    /// Cuts a node off the bus. It goes on answering clients, as it suspects nobody; its data reaches its replicas.
    pub fn isolate(&self, node: usize) {
        self.isolate_together(&[node]);
    }

    /// The same of several nodes, which go on reaching each other.
    pub fn isolate_together(&self, nodes: &[usize]) {
        for node in nodes {
            self.tell(*node, |node| node.rules.is_patient = true);
            lock(&self.bus).isolated.insert(*node, nodes[0]);
        }
    }

    /// The bus reaches it again.
    pub fn rejoin(&self, node: usize) {
        self.tell(node, |node| node.rules.is_patient = false);
        lock(&self.bus).isolated.remove(&node);
    }

    /// Ends a node, with its data and all connections.
    pub fn kill(&self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a node with this data, and with what it knew of the cluster.
    pub fn restart(&self, node: usize, data: &Snapshot) {
        self.nodes[node].start(data);
    }

    /// From now on it reads nothing, neither from clients nor from the bus.
    pub fn pause(&self, node: usize) {
        self.nodes[node].pause();
    }

    /// It goes on with what was sent meanwhile.
    pub fn resume(&self, node: usize) {
        self.nodes[node].resume();
    }

    /// A slot begins to move from the owner, as the target knows it.
    #[must_use]
    pub fn begin_move(&self, slot: u16, to: usize) -> Move {
        let from = self.named(to, slot).expect("it has an owner");
        let name = slot.to_string();
        let set = |node, way, other: usize| {
            self.command(node, &["CLUSTER", "SETSLOT", &name, way, &self.ids[other]]);
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
        Move { slot, from, to }
    }

    /// Moves the first key that is left. `false` if there is none.
    #[must_use]
    pub fn move_key(&self, moving: Move) -> bool {
        let from = &self.nodes[moving.from];
        let keys = lock(&from.0.server).keys_in(moving.slot);
        let Some(key) = keys.first() else {
            return false;
        };
        keys::transfer(key, from, &self.nodes[moving.to]);
        true
    }

    /// Moves all keys that the slot has now.
    pub fn move_keys(&self, moving: Move) {
        while self.move_key(moving) {}
    }

    /// The slot belongs to the target: that is told first, so that at any time a node claims the slot, then the source,
    /// and then the other primaries that are live.
    pub fn finish_move(&self, moving: Move) {
        let Move { slot, from, to } = moving;
        let others = (0..self.nodes.len()).filter(|node| {
            let is_primary = self.ask(*node, |node| node.owners.count(node.me) > 0);
            is_primary && self.is_live(*node) && ![from, to].contains(node)
        });
        let name = slot.to_string();
        for node in [to, from].into_iter().chain(others) {
            self.command(node, &["CLUSTER", "SETSLOT", &name, "NODE", &self.ids[to]]);
        }
    }

    /// A slot no longer moves. What has moved before stays there, where nobody finds it.
    pub fn give_up_move(&self, moving: Move) {
        let name = moving.slot.to_string();
        for node in [moving.from, moving.to] {
            // A replica refuses it, and moves no slot.
            _ = self.request(node, &["CLUSTER", "SETSLOT", &name, "STABLE"]);
        }
    }
}

/// The first slot of a primary.
fn bound(primary: usize, primaries: usize) -> usize {
    usize::from(SLOTS) * primary / primaries
}

/// As Redis names a node: forty hex digits.
fn id(rng: &mut Rng) -> String {
    let digit = |_| char::from_digit(rng.u32(..16), 16).expect("a digit");
    (0..40).map(digit).collect()
}
