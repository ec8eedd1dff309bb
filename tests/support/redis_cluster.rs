//! A Redis Cluster that belongs to one test. What its nodes tell each other on the cluster bus passes through the test,
//! which can so cut a node off that goes on answering clients.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;

use futures::future::join_all;
use larder::l2::deadpool_redis::redis::{FromRedisValue, cmd};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::eventually::eventually;
use super::proxy::Proxy;
use super::redis_server::{RedisServer, ReservedPort};

const SLOTS: usize = 16_384;
/// So many milliseconds after its last word, a node is suspected by the others.
const TIMEOUT: &str = "cluster-node-timeout";
/// Longer than a test takes.
const PATIENT: &str = "600000";

/// How a replica takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failover {
    /// Once it has all that the primary has, and a majority has voted for it.
    Graceful,
    /// With what it has. A majority votes for it.
    Force,
    /// With what it has, and nobody votes.
    Takeover,
}

/// How clients reach the nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    /// Each node behind a proxy, whose port it announces to clients and to its replicas.
    Proxied,
    /// Like the nodes among each other, by TLS. The test itself is a client without it.
    Tls,
    /// As [`Way::Direct`], and no node shows its process.
    Anonymous,
}

/// A slot on its way from one primary to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) slot: u16,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// Primaries, which come first, and their replicas: first those of primary 0.
pub(crate) struct RedisCluster {
    nodes: Vec<Node>,
    primaries: usize,
    /// The ids of the nodes that the bus does not reach.
    isolated: watch::Sender<HashSet<String>>,
}

impl RedisCluster {
    /// Three primaries with a replica each.
    pub(crate) async fn start() -> Self {
        Self::start_with(3, 1, &[]).await
    }

    /// With more arguments of every node, e.g. `&["--cluster-replica-no-failover", "yes"]`; they come last, so they
    /// win.
    pub(crate) async fn start_with(primaries: usize, replicas_each: usize, extra: &[&str]) -> Self {
        Self::start_as(primaries, replicas_each, extra, Way::Direct).await
    }

    /// With TLS, for which `extra` has the certificates.
    pub(crate) async fn start_with_tls(
        primaries: usize,
        replicas_each: usize,
        extra: &[&str],
    ) -> Self {
        Self::start_as(primaries, replicas_each, extra, Way::Tls).await
    }

    /// Whose nodes do not show their processes.
    pub(crate) async fn start_anonymous(primaries: usize, replicas_each: usize) -> Self {
        Self::start_as(primaries, replicas_each, &[], Way::Anonymous).await
    }

    /// Each node behind a proxy, whose port it announces to clients and to its replicas.
    pub(crate) async fn start_behind(
        primaries: usize,
        replicas_each: usize,
        extra: &[&str],
    ) -> Self {
        Self::start_as(primaries, replicas_each, extra, Way::Proxied).await
    }

    async fn start_as(primaries: usize, replicas_each: usize, extra: &[&str], way: Way) -> Self {
        let isolated = watch::Sender::default();
        let nodes =
            (0..primaries * (1 + replicas_each)).map(|_| Node::start(extra, way, &isolated));
        let cluster = Self {
            nodes: join_all(nodes).await,
            primaries,
            isolated,
        };
        cluster.join(replicas_each).await;
        cluster
    }

    /// As `redis-cli --cluster create` does it, except that every node meets every other one at once.
    async fn join(&self, replicas_each: usize) {
        for (index, node) in self.nodes.iter().enumerate() {
            node.tell(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])
                .await;
            if index < self.primaries {
                let bound = |primary: usize| SLOTS * primary / self.primaries;
                let (first, last) = (bound(index).to_string(), (bound(index + 1) - 1).to_string());
                node.tell(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])
                    .await;
            }
            for other in &self.nodes[..index] {
                let (port, bus) = (other.port().to_string(), other.bus_port.to_string());
                node.tell(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
                    .await;
            }
        }
        self.wait_until_all("a node knows all others", async |node| {
            let view = node.view().await;
            view.len() == self.nodes.len() && view.iter().all(|seen| seen.is_connected)
        })
        .await;
        let replicas = &self.nodes[self.primaries..];
        for (index, replica) in replicas.iter().enumerate() {
            let primary = &self.nodes[index / replicas_each].id;
            replica.tell(&["CLUSTER", "REPLICATE", primary]).await;
        }
        self.wait_until_all("a node says that the cluster is whole", async |node| {
            let info: String = node.ask(&["CLUSTER", "INFO"]).await;
            let view = node.view().await;
            let known = view.iter().filter(|seen| seen.primary.is_some());
            info.contains("cluster_state:ok") && known.count() == replicas.len()
        })
        .await;
        self.wait_until_in_step().await;
    }

    /// Waits until the live replicas have what their primaries have, and could take over.
    pub(crate) async fn wait_until_in_step(&self) {
        eventually("all replicas are in step", async || {
            let all = self
                .live()
                .map(|node| node.ask::<String>(&["INFO", "replication"]));
            let all = join_all(all).await.concat();
            let count = |what: &str| all.matches(what).count();
            let replicas = count("role:slave");
            count("master_link_status:up") == replicas && count("state=online") == replicas
        })
        .await;
        self.wait_until_roles_are_known().await;
    }

    async fn wait_until_roles_are_known(&self) {
        eventually("all nodes know the same primary of each", async || {
            let views = self.views().await.into_iter();
            let role = |seen: Seen| (seen.id, seen.primary);
            let known: Vec<HashMap<_, _>> = views
                .map(|view| view.into_iter().map(role).collect())
                .collect();
            known.windows(2).all(|two| two[0] == two[1])
        })
        .await;
    }

    /// How clients reach each node.
    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |node: &Node| {
            let scheme = node.tls.as_ref().map_or("redis", |_| "rediss");
            format!("{scheme}://127.0.0.1:{}", node.port())
        };
        self.nodes.iter().map(url).collect()
    }

    pub(crate) fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index].server
    }

    /// The one before a node, if the cluster was started behind proxies.
    pub(crate) fn proxy(&self, index: usize) -> &Proxy {
        let proxy = self.nodes[index].proxy.as_ref();
        proxy.expect("the nodes are behind proxies")
    }

    pub(crate) async fn slot_of(&self, key: &str) -> u16 {
        let node = self.live().next().expect("a node lives");
        node.ask(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// The node that a majority of the primaries names as the slot's owner.
    pub(crate) async fn owner_of(&self, slot: u16) -> usize {
        let owner = Cell::new(None);
        eventually("a majority names an owner", async || {
            let views = self.views().await;
            let primaries = views.iter().filter(|view| view.iter().any(Seen::is_voter));
            let named: Vec<_> = primaries
                .filter_map(|view| self.named(view, slot))
                .collect();
            let votes = |node: &usize| named.iter().filter(|named| *named == node).count();
            let chosen = named.iter().find(|node| votes(node) > self.primaries / 2);
            owner.set(chosen.copied());
            chosen.is_some()
        })
        .await;
        owner.get().expect("it was named")
    }

    /// Waits until every live node names it.
    pub(crate) async fn wait_until_all_name(&self, slot: u16, owner: usize) {
        self.wait_until_all("a node names the owner", async |node| {
            self.named(&node.view().await, slot) == Some(owner)
        })
        .await;
    }

    /// Waits until every live node names the same other owner of the slot, which takes requests, and says which.
    pub(crate) async fn wait_until_taken_from(&self, slot: u16, old: usize) -> usize {
        let new = Cell::new(None);
        eventually("all nodes name the same new owner", async || {
            let views = self.views().await;
            let mut named = views.iter().map(|view| self.named(view, slot));
            new.set(named.next().flatten().filter(|new| *new != old));
            new.get().is_some() && named.all(|other| other == new.get())
        })
        .await;
        let new = new.get().expect("it was named");
        // For a moment it still holds the cluster for down.
        eventually("the new owner takes requests", async || {
            let info: String = self.nodes[new].ask(&["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok")
        })
        .await;
        new
    }

    /// Has a replica take over, and waits until all live nodes name it; says which it is.
    ///
    /// Within twice the node timeout a majority does not vote twice about one primary.
    pub(crate) async fn fail_over(&self, primary: usize, kind: Failover) -> usize {
        // Nobody votes for a replica that it does not know as one.
        self.wait_until_roles_are_known().await;
        let id = &self.nodes[primary].id;
        let view = self.live().next().expect("a node lives").view().await;
        let old = view.iter().find(|seen| seen.id == *id);
        let (slot, _) = old.expect("it is known").slots[0];
        let is_replica = |node: &&Node| {
            view.iter()
                .any(|seen| seen.id == node.id && seen.primary.as_ref() == Some(id))
        };
        let replica = self.live().find(is_replica);
        let how: &[&str] = match kind {
            Failover::Graceful => &[],
            Failover::Force => &["FORCE"],
            Failover::Takeover => &["TAKEOVER"],
        };
        let command = [&["CLUSTER", "FAILOVER"], how].concat();
        replica.expect("it has a live replica").tell(&command).await;
        self.wait_until_taken_from(slot, primary).await
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].server.kill();
        self.nodes[index].is_live = false;
    }

    /// Where it was, with what it knew of the cluster.
    pub(crate) async fn restart(&mut self, index: usize) {
        self.nodes[index].server.restart().await;
        self.nodes[index].is_live = true;
    }

    pub(crate) fn pause(&mut self, index: usize) {
        self.nodes[index].server.pause();
        self.nodes[index].is_live = false;
    }

    pub(crate) fn resume(&mut self, index: usize) {
        self.nodes[index].server.resume();
        self.nodes[index].is_live = true;
    }

    /// Cuts it off the bus: others elect its replica, and it goes on answering clients, as it suspects nobody. Its data
    /// still reaches its replica until then.
    pub(crate) async fn isolate(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.is_live = false;
        node.tell(&["CONFIG", "SET", TIMEOUT, PATIENT]).await;
        self.isolated
            .send_modify(|isolated| _ = isolated.insert(node.id.clone()));
    }

    pub(crate) async fn rejoin(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.is_live = true;
        self.isolated
            .send_modify(|isolated| _ = isolated.remove(&node.id));
        node.tell(&["CONFIG", "SET", TIMEOUT, &node.timeout]).await;
    }

    /// Moves a slot with its keys, and waits until all live nodes name the new owner.
    pub(crate) async fn move_slot(&self, slot: u16, to: usize) {
        let moving = self.begin_move(slot, to).await;
        self.move_keys(moving).await;
        self.finish_move(moving).await;
    }

    pub(crate) async fn begin_move(&self, slot: u16, to: usize) -> Move {
        let from = self.owner_of(slot).await;
        let (source, target, name) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        target
            .tell(&["CLUSTER", "SETSLOT", &name, "IMPORTING", &source.id])
            .await;
        source
            .tell(&["CLUSTER", "SETSLOT", &name, "MIGRATING", &target.id])
            .await;
        Move { slot, from, to }
    }

    /// Moves the keys that the slot has now.
    pub(crate) async fn move_keys(&self, moving: Move) {
        let source = &self.nodes[moving.from];
        let (slot, count) = (moving.slot.to_string(), i32::MAX.to_string());
        let keys: Vec<String> = source
            .ask(&["CLUSTER", "GETKEYSINSLOT", &slot, &count])
            .await;
        if keys.is_empty() {
            return;
        }
        let port = self.nodes[moving.to].server.port().to_string();
        let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
        let keys = keys.iter().map(String::as_str);
        source
            .tell(&migrate.into_iter().chain(keys).collect::<Vec<_>>())
            .await;
    }

    /// The target is told first, so that at any time a node claims the slot.
    pub(crate) async fn finish_move(&self, Move { slot, from, to }: Move) {
        let (source, target, name) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        let set = ["CLUSTER", "SETSLOT", &name, "NODE", &target.id];
        target.tell(&set).await;
        source.tell(&set).await;
        for node in self
            .live()
            .filter(|node| node.id != target.id && node.id != source.id)
        {
            if node.view().await.iter().any(Seen::is_voter) {
                node.tell(&set).await;
            }
        }
        self.wait_until_all_name(slot, to).await;
    }

    /// Whether a slot can go in one step, as with Valkey 9. If not, that is said.
    pub(crate) async fn can_migrate(&self) -> bool {
        let help: Vec<String> = self.nodes[0].ask(&["CLUSTER", "HELP"]).await;
        let can = help.iter().any(|line| line.starts_with("MIGRATESLOTS"));
        if !can {
            eprintln!("skipped: the server has no CLUSTER MIGRATESLOTS; Valkey 9 has it");
        }
        can
    }

    /// Moves a slot with its keys in one step, and waits until all live nodes name the new owner.
    pub(crate) async fn migrate_slot(&self, slot: u16, to: usize) {
        let (source, target) = (&self.nodes[self.owner_of(slot).await], &self.nodes[to]);
        let name = slot.to_string();
        let migrate = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &name, &name];
        source
            .tell(&[&migrate, &["NODE", &target.id][..]].concat())
            .await;
        self.wait_until_all_name(slot, to).await;
    }

    fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_live)
    }

    async fn views(&self) -> Vec<Vec<Seen>> {
        join_all(self.live().map(Node::view)).await
    }

    /// The owner of a slot by this view.
    fn named(&self, view: &[Seen], slot: u16) -> Option<usize> {
        let owns = |seen: &&Seen| {
            seen.slots
                .iter()
                .any(|(from, to)| (*from..=*to).contains(&slot))
        };
        let owner = view.iter().find(owns)?;
        self.nodes.iter().position(|node| node.id == owner.id)
    }

    async fn wait_until_all(&self, what: &str, holds: impl AsyncFn(&Node) -> bool) {
        for node in self.live() {
            eventually(what, async || holds(node).await).await;
        }
    }
}

struct Node {
    server: RedisServer,
    proxy: Option<Proxy>,
    tls: Option<ReservedPort>,
    id: String,
    timeout: String,
    /// It is not killed, paused or isolated.
    is_live: bool,
    /// Where the others reach its bus.
    bus_port: u16,
    bus: JoinHandle<()>,
}

impl Node {
    async fn start(extra: &[&str], way: Way, isolated: &watch::Sender<HashSet<String>>) -> Self {
        let bus = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port is free");
        let bus_port = bus.local_addr().expect("it has an address").port();
        let own_bus_port = ReservedPort::new();
        // It leads to the server as soon as that has a port.
        let proxy = match way {
            Way::Proxied => Some(Proxy::start(0).await),
            _ => None,
        };
        let tls = (way == Way::Tls).then(ReservedPort::new);
        let tls_port = tls.as_ref().map_or(0, |port| port.number).to_string();
        let announced = proxy.as_ref().map_or(0, Proxy::port).to_string();
        let (bus_name, own_bus_name) = (bus_port.to_string(), own_bus_port.number.to_string());
        let arguments = [
            ["--cluster-enabled", "yes"],
            ["--cluster-node-timeout", "1000"],
            ["--cluster-replica-validity-factor", "0"],
            ["--cluster-port", &own_bus_name],
            ["--cluster-announce-bus-port", &bus_name],
            ["--cluster-announce-port", &announced],
            ["--repl-diskless-sync-delay", "0"],
        ];
        // A server that was built without TLS knows none of these.
        let with_tls = tls.as_ref().map_or(vec![], |_| {
            let more = ["--tls-cluster", "yes", "--tls-replication", "yes"];
            [&["--tls-port", &tls_port], &more[..]].concat()
        });
        let arguments = [arguments.as_flattened(), &with_tls, extra].concat();
        let mut server = match way {
            Way::Anonymous => RedisServer::start_without(&["run_id"], &arguments).await,
            _ => RedisServer::start_with(&arguments).await,
        };
        if let Some(proxy) = &proxy {
            proxy.lead_to(server.port());
        }
        let id: String = ask(&server, &["CLUSTER", "MYID"]).await;
        let (_, timeout): (String, String) = ask(&server, &["CONFIG", "GET", TIMEOUT]).await;
        let link = Link {
            to: own_bus_port.number,
            owner: id.clone(),
            isolated: isolated.subscribe(),
        };
        server.reserve(own_bus_port);
        Self {
            server,
            proxy,
            tls,
            id,
            timeout,
            is_live: true,
            bus_port,
            bus: tokio::spawn(accept(bus, link)),
        }
    }

    /// For clients.
    fn port(&self) -> u16 {
        let tls = self.tls.as_ref().map(|port| port.number);
        let proxy = self.proxy.as_ref().map(Proxy::port);
        tls.or(proxy).unwrap_or_else(|| self.server.port())
    }

    async fn tell(&self, words: &[&str]) {
        self.ask::<()>(words).await;
    }

    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        ask(&self.server, words).await
    }

    /// The nodes as it sees them.
    async fn view(&self) -> Vec<Seen> {
        let nodes: String = self.ask(&["CLUSTER", "NODES"]).await;
        nodes.lines().map(Seen::parse).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.bus.abort();
    }
}

async fn ask<T: FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    let answer = command.query_async(&mut server.connection().await).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// A node as a node sees it.
struct Seen {
    id: String,
    is_myself: bool,
    primary: Option<String>,
    is_connected: bool,
    slots: Vec<(u16, u16)>,
}

impl Seen {
    /// A line of CLUSTER NODES: id, addresses, flags, primary, two times, epoch, link, slots.
    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let range = |word: &&str| {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            // Slots that move are told in brackets.
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        Self {
            id: words[0].to_owned(),
            is_myself: words[2].contains("myself"),
            primary: (words[3] != "-").then(|| words[3].to_owned()),
            is_connected: words[7] == "connected" && !words[2].contains("handshake"),
            slots: words[8..].iter().filter_map(range).collect(),
        }
    }

    /// It is the node itself, which has a vote.
    fn is_voter(&self) -> bool {
        self.is_myself && !self.slots.is_empty()
    }
}

/// Leads from a node's bus port, as it announces it, to its real one.
#[derive(Clone)]
struct Link {
    to: u16,
    owner: String,
    isolated: watch::Receiver<HashSet<String>>,
}

async fn accept(listener: TcpListener, link: Link) {
    // Its connections end with it.
    let mut connections = JoinSet::new();
    loop {
        if let Ok((from, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            connections.spawn(link.clone().carry(from));
        }
    }
}

impl Link {
    /// Until one of the ends is closed or isolated.
    async fn carry(mut self, mut from: TcpStream) -> io::Result<()> {
        // Each message begins with 40 bytes of numbers and the sender's id, which has 40 bytes as well.
        let mut head = [0; 80];
        from.read_exact(&mut head).await?;
        let sender = String::from_utf8_lossy(&head[40..]).into_owned();
        let pass = async {
            let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, self.to)).await?;
            to.write_all(&head).await?;
            copy_bidirectional(&mut from, &mut to).await.map(|_| ())
        };
        let ends = |isolated: &HashSet<String>| {
            [&self.owner, &sender]
                .iter()
                .any(|id| isolated.contains(*id))
        };
        tokio::select! {
            biased;
            _ = self.isolated.wait_for(ends) => Ok(()),
            passed = pass => passed,
        }
    }
}
