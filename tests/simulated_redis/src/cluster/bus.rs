//! The cluster bus: what nodes tell each other arrives after a delay, in the order in which it was sent.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::messages::Message;
use super::node::Node;
use crate::SimulatedRedis;
use crate::serve::lock;

pub(super) struct Bus {
    pub(super) nodes: Vec<SimulatedRedis>,
    /// The nodes that it does not reach, and which of them reach each other: each has the number of one of them.
    pub(super) isolated: BTreeMap<usize, usize>,
    /// What happens next; of what happens at the same time, first what was added first.
    queue: BTreeMap<(Instant, u64), Event>,
    added: u64,
    /// When the last message arrives from one node at another.
    last: BTreeMap<(usize, usize), Instant>,
    /// What has arrived at nodes that are paused.
    waiting: Vec<Vec<Message>>,
    /// The primary that each node follows, and how often the node had started when it began to.
    links: Vec<Option<(usize, u64)>>,
    rng: Rng,
    delay: Range<Duration>,
    every: Duration,
}

enum Event {
    Tick(usize),
    Arrival(usize, Message),
}

impl Bus {
    pub(super) fn new(
        nodes: Vec<SimulatedRedis>,
        delay: Range<Duration>,
        every: Duration,
        rng: Rng,
    ) -> Self {
        let many = nodes.len();
        let mut bus = Self {
            nodes,
            isolated: BTreeMap::new(),
            queue: BTreeMap::new(),
            added: 0,
            last: BTreeMap::new(),
            waiting: vec![Vec::new(); many],
            links: vec![None; many],
            rng,
            delay,
            every,
        };
        for node in 0..many {
            let first = bus.draw(Duration::ZERO..every);
            bus.add(Instant::now() + first, Event::Tick(node));
            bus.link(node);
        }
        bus
    }

    fn draw(&mut self, from: Range<Duration>) -> Duration {
        from.start + (from.end.saturating_sub(from.start)).mul_f64(self.rng.f64())
    }

    fn add(&mut self, at: Instant, event: Event) {
        self.added += 1;
        self.queue.insert((at, self.added), event);
    }

    /// Does all that is due, and returns when something is due next.
    fn step(&mut self) -> Instant {
        let now = Instant::now();
        for node in 0..self.nodes.len() {
            self.settle(node);
        }
        loop {
            let first = self.queue.first_entry().expect("each node ticks");
            let (at, _) = *first.key();
            if at > now {
                return at;
            }
            match first.remove() {
                Event::Tick(node) => {
                    self.tick(node);
                    self.add(now + self.every, Event::Tick(node));
                }
                Event::Arrival(node, message) => self.arrive(node, message),
            }
        }
    }

    fn is_live(&self, node: usize) -> bool {
        self.nodes[node].is_up() && !self.nodes[node].is_paused()
    }

    fn tick(&mut self, node: usize) {
        if !self.is_live(node) {
            return;
        }
        for message in mem::take(&mut self.waiting[node]) {
            self.deliver(node, message);
        }
        self.change(node, Node::tick);
        self.settle(node);
    }

    fn arrive(&mut self, node: usize, message: Message) {
        if self.isolated.get(&node) != self.isolated.get(&message.from.node) {
            return;
        }
        if self.is_live(node) {
            self.deliver(node, message);
        } else if self.nodes[node].is_up() {
            self.waiting[node].push(message);
        }
    }

    fn deliver(&mut self, node: usize, message: Message) {
        self.change(node, |node| node.receive(message));
        self.settle(node);
    }

    /// Sends what a node has to tell, and has it follow another primary if it has found one.
    fn settle(&mut self, node: usize) {
        let messages = lock(&self.nodes[node].0.server).take_outbox();
        if self.is_live(node) {
            self.link(node);
            for (to, message) in messages {
                self.send(node, to, message);
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let mut at = Instant::now() + self.draw(self.delay.clone());
        let last = self.last.entry((from, to)).or_insert(at);
        at = at.max(*last);
        *last = at;
        self.add(at, Event::Arrival(to, message));
    }

    fn change(&self, node: usize, change: impl FnOnce(&mut Node)) {
        let mut server = lock(&self.nodes[node].0.server);
        let offset = server.replication.offset();
        server.change_node(|node| {
            node.offset = offset;
            change(node);
        });
    }

    fn ask<T>(&self, node: usize, question: impl FnOnce(&Node) -> T) -> T {
        let server = lock(&self.nodes[node].0.server);
        question(server.cluster.as_ref().expect("it is a node"))
    }

    /// Has a replica follow its primary, anew if it has started since.
    fn link(&mut self, node: usize) {
        let (follows, starts) = self.ask(node, |node| (node.follows(), node.starts));
        let wanted = follows.map(|primary| (primary, starts));
        if self.links[node] != wanted
            && let Some((primary, _)) = wanted
        {
            self.nodes[node].follow(&self.nodes[primary]);
        }
        self.links[node] = wanted;
    }
}

/// Runs the bus for as long as the cluster is there.
pub(super) async fn run(bus: Weak<Mutex<Bus>>, wake: Arc<Notify>) {
    loop {
        let Some(there) = bus.upgrade() else { return };
        let next = lock(&there).step();
        drop(there);
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}
