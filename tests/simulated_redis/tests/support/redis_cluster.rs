//! A simulated cluster in the place of a Redis Cluster of a test.

use std::cell::Cell;
use std::sync::Arc;

use larder::l2::Dialer;
use simulated_redis::{ClusterSettings, SimulatedCluster};
pub(crate) use simulated_redis::{Failover, Move};

use super::eventually::eventually;
use super::redis_server::{RedisServer, listen_at, ports};

/// Primaries, which come first, and their replicas: first those of primary 0.
pub(crate) struct RedisCluster {
    pub(crate) simulated: SimulatedCluster,
    nodes: Vec<RedisServer>,
    primaries: usize,
}

impl RedisCluster {
    /// Three primaries with a replica each.
    pub(crate) async fn start() -> Self {
        Self::start_with(3, 1, &[]).await
    }

    pub(crate) async fn start_with(primaries: usize, replicas_each: usize, extra: &[&str]) -> Self {
        super::home::pause();
        super::mutants::edit();
        let many = u16::try_from(primaries * (1 + replicas_each)).unwrap();
        let mut settings = ClusterSettings {
            primaries,
            replicas_each,
            port: ports(many),
            ..ClusterSettings::default()
        };
        for option in extra.chunks(2) {
            match *option {
                ["--cluster-replica-no-failover", "yes"] => settings.fails_over = false,
                ["--cluster-require-full-coverage", "no"] => settings.needs_all_slots = false,
                // A resync does not replace what was saved.
                ["--repl-diskless-load", _] => {}
                _ => panic!("the simulated cluster has no {option:?}"),
            }
        }
        let first = settings.port;
        let simulated = SimulatedCluster::with(settings);
        let dialer: Arc<dyn Dialer> = Arc::new(simulated.clone());
        let names = listen_at(first, many, &dialer);
        let nodes = simulated.nodes().iter().cloned().zip(names);
        let nodes = nodes.map(|(redis, name)| RedisServer::node(redis, name));
        Self {
            nodes: nodes.collect(),
            primaries,
            simulated,
        }
    }

    /// Whose nodes do not show their processes.
    pub(crate) async fn start_anonymous(primaries: usize, replicas_each: usize) -> Self {
        let cluster = Self::start_with(primaries, replicas_each, &[]).await;
        for node in cluster.simulated.nodes() {
            node.set(|settings| _ = settings.hidden.insert("run_id".to_owned()));
        }
        cluster
    }

    /// There is nothing between it and its clients.
    pub(crate) async fn start_behind(
        primaries: usize,
        replicas_each: usize,
        extra: &[&str],
    ) -> Self {
        Self::start_with(primaries, replicas_each, extra).await
    }

    fn live(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|node| self.simulated.is_live(*node))
    }

    pub(crate) async fn wait_until_in_step(&self) {
        eventually("all replicas are in step", async || {
            let has_followed = |node| self.simulated.has_followed(node);
            self.live().all(has_followed)
        })
        .await;
        eventually("all nodes know the same of each", async || {
            self.simulated.is_settled()
        })
        .await;
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        let nodes = 0..self.nodes.len();
        nodes.map(|node| self.simulated.url(node)).collect()
    }

    pub(crate) fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index]
    }

    pub(crate) async fn slot_of(&self, key: &str) -> u16 {
        SimulatedCluster::slot_of(key.as_bytes())
    }

    /// The node that a majority of the primaries names as the slot's owner.
    pub(crate) async fn owner_of(&self, slot: u16) -> usize {
        let owner = Cell::new(None);
        eventually("a majority names an owner", async || {
            let voters = self.live().filter(|node| self.simulated.has_slots(*node));
            let named: Vec<_> = voters
                .filter_map(|node| self.simulated.named(node, slot))
                .collect();
            let votes = |node: &usize| named.iter().filter(|named| *named == node).count();
            let chosen = named.iter().find(|node| votes(node) > self.primaries / 2);
            owner.set(chosen.copied());
            chosen.is_some()
        })
        .await;
        owner.get().expect("it was named")
    }

    pub(crate) async fn wait_until_all_name(&self, slot: u16, owner: usize) {
        eventually("all nodes name the owner", async || {
            let mut live = self.live();
            live.all(|node| self.simulated.named(node, slot) == Some(owner))
        })
        .await;
    }

    pub(crate) async fn wait_until_taken_from(&self, slot: u16, old: usize) -> usize {
        let new = Cell::new(None);
        eventually("all nodes name the same new owner", async || {
            let mut named = self.live().map(|node| self.simulated.named(node, slot));
            new.set(named.next().flatten().filter(|new| *new != old));
            new.get().is_some() && named.all(|other| other == new.get())
        })
        .await;
        let new = new.get().expect("it was named");
        eventually("the new owner takes requests", async || {
            self.simulated.is_ok(new)
        })
        .await;
        new
    }

    pub(crate) async fn fail_over(&self, primary: usize, kind: Failover) -> usize {
        let settled = || self.simulated.followed(primary).is_none();
        assert!(settled(), "it is a primary");
        let slot = self.simulated.first_slot(primary);
        let replica = self.simulated.fail_over(primary, kind);
        replica.expect("it has a live replica");
        self.wait_until_taken_from(slot, primary).await
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.simulated.kill(index);
    }

    pub(crate) async fn restart(&mut self, index: usize) {
        self.nodes[index].restart().await;
    }

    pub(crate) fn pause(&mut self, index: usize) {
        self.simulated.pause(index);
    }

    pub(crate) fn resume(&mut self, index: usize) {
        self.simulated.resume(index);
    }

    pub(crate) async fn isolate(&mut self, index: usize) {
        self.simulated.isolate(index);
    }

    pub(crate) async fn rejoin(&mut self, index: usize) {
        self.simulated.rejoin(index);
    }

    pub(crate) async fn move_slot(&self, slot: u16, to: usize) {
        let moving = self.begin_move(slot, to).await;
        self.move_keys(moving).await;
        self.finish_move(moving).await;
    }

    pub(crate) async fn begin_move(&self, slot: u16, to: usize) -> Move {
        self.simulated.begin_move(slot, to)
    }

    pub(crate) async fn move_keys(&self, moving: Move) {
        self.simulated.move_keys(moving);
    }

    pub(crate) async fn finish_move(&self, moving: Move) {
        self.simulated.finish_move(moving);
        self.wait_until_all_name(moving.slot, moving.to).await;
    }

    /// As Redis 7.0, it cannot.
    pub(crate) async fn can_migrate(&self) -> bool {
        false
    }

    pub(crate) async fn migrate_slot(&self, _: u16, _: usize) {
        panic!("it cannot")
    }
}
