//! Where the store lies: on one server, which others replace, behind an address or sentinels; or on the nodes of a
//! cluster.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use larder::RedisL2;
use larder::l2::deadpool_redis::redis::ConnectionAddr;
use larder::l2::{Dialer, Server};
use simulated_redis::{
    Changes, ClusterSettings, Failover, SimulatedCluster, SimulatedRedis, Snapshot,
};
use tokio::io::DuplexStream;
use tokio::time::sleep;

use crate::config::{Config, ServerKind};
use crate::faults::Fault;

/// As many as a side of a cluster needs, with one of three primaries, for a majority of its own.
const SPARES: usize = 2;
/// How the sentinels name the primary.
const NAME: &str = "simulated";
const SENTINELS: usize = 3;
/// By when a majority of them has heard of a new primary, in ms. The first one may take longer.
const HEARD_OF: u64 = 500;
/// The names of hosts, where a port is the number of a server.
const SENTINEL: &str = "sentinel";
const SERVER: &str = "server";
/// The URL that leads to the primary, whichever it is.
const PRIMARY: &str = "redis://primary";

/// The time of the servers.
pub(crate) type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

pub(crate) enum Servers {
    Single(Arc<Single>),
    Cluster(SimulatedCluster),
}

/// One primary after the other.
pub(crate) struct Single {
    /// All that were the primary, the present one last. Each has an address.
    servers: Mutex<Vec<SimulatedRedis>>,
    /// None in a world where an address leads to the primary.
    sentinels: Vec<SimulatedRedis>,
    clock: Clock,
    is_unnamed: bool,
}

/// A primary that another server has replaced.
pub(crate) struct Old {
    pub(crate) number: usize,
    pub(crate) redis: SimulatedRedis,
    /// What takes its place, if it is a server that was not there before.
    pub(crate) new: Option<SimulatedRedis>,
}

impl Servers {
    pub(crate) fn new(config: &Config, clock: Clock) -> Self {
        if config.servers > 1 {
            let grows = |(fault, _): &(Fault, u32)| *fault == Fault::CutAndGrown;
            let cluster = SimulatedCluster::with(ClusterSettings {
                primaries: config.servers,
                spares: if config.faults.iter().any(grows) {
                    SPARES
                } else {
                    0
                },
                ..ClusterSettings::default()
            });
            for node in cluster.nodes() {
                let clock = Arc::clone(&clock);
                node.set_clock(move || clock());
            }
            return Self::Cluster(cluster);
        }
        let has_sentinels = config.server == ServerKind::BehindSentinels;
        let sentinels = if has_sentinels { SENTINELS } else { 0 };
        let single = Single {
            servers: Mutex::default(),
            sentinels: (0..sentinels).map(|_| SimulatedRedis::default()).collect(),
            clock,
            is_unnamed: config.server == ServerKind::Unnamed,
        };
        let first = single.start();
        single.servers.lock().unwrap().push(first);
        for sentinel in &single.sentinels {
            sentinel.name_primary(NAME, SERVER, 0);
        }
        Self::Single(Arc::new(single))
    }

    /// The store as an instance has it.
    pub(crate) fn l2(&self, dialer: &Arc<dyn Dialer>) -> RedisL2 {
        let dialed = |url: &str| Server::from(url).dialed_by(Arc::clone(dialer));
        match self {
            Self::Single(single) if single.sentinels.is_empty() => {
                RedisL2::open(dialed(PRIMARY)).unwrap()
            }
            Self::Single(single) => {
                let urls = (0..single.sentinels.len()).map(|n| format!("redis://{SENTINEL}:{n}"));
                let l2 = RedisL2::sentinel(NAME, urls.map(|url| dialed(&url))).unwrap();
                l2.primary_like(dialed(PRIMARY)).unwrap()
            }
            Self::Cluster(cluster) => {
                let seeds = [0, 1].map(|node| dialed(&cluster.url(node)));
                RedisL2::cluster(seeds).unwrap()
            }
        }
    }

    /// A connection to a server at an address, and the number of that server if it is one with keys.
    pub(crate) fn connect(
        &self,
        address: &ConnectionAddr,
    ) -> io::Result<(DuplexStream, Option<usize>)> {
        match self {
            Self::Single(single) => single.connect(address),
            Self::Cluster(cluster) => {
                let which = cluster.at(address).unwrap();
                Ok((cluster.node(which).connect()?, Some(which)))
            }
        }
    }

    /// All servers, with the sentinels.
    pub(crate) fn all(&self) -> Vec<SimulatedRedis> {
        match self {
            Self::Single(single) => {
                let servers = single.servers.lock().unwrap();
                servers.iter().chain(&single.sentinels).cloned().collect()
            }
            Self::Cluster(cluster) => cluster.nodes().to_vec(),
        }
    }

    pub(crate) fn cluster(&self) -> &SimulatedCluster {
        match self {
            Self::Cluster(cluster) => cluster,
            Self::Single(_) => panic!("there is no cluster"),
        }
    }

    /// If other servers take themselves for the primary of a key that this one has changed: whether one of them is newer.
    /// The server itself is not asked, as it is locked while its changes are told.
    pub(crate) fn beside(&self, number: usize, changes: &Changes) -> Option<bool> {
        match self {
            Self::Single(single) => (number < single.primary().0).then_some(true),
            Self::Cluster(cluster) => {
                let keys = changes.keys.iter().map(|change| &change.key);
                let streams = changes.entries.iter().map(|entry| &entry.stream);
                let slot = SimulatedCluster::slot_of(keys.chain(streams).next()?);
                let nodes = (0..cluster.nodes().len()).filter(|node| *node != number);
                let others = nodes.filter(|node| cluster.named(*node, slot) == Some(*node));
                others.map(|node| cluster.is_newer(node, number)).max()
            }
        }
    }

    /// The primary, or one of them, and its number.
    pub(crate) fn primary(&self, rng: &mut Rng) -> (usize, SimulatedRedis) {
        match self {
            Self::Single(single) => single.primary(),
            Self::Cluster(cluster) => {
                let which = rng.choice(primaries(cluster)).unwrap();
                (which, cluster.node(which).clone())
            }
        }
    }

    /// What is stored on each server that may be restarted, by its number.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        match self {
            Self::Single(single) => vec![single.primary().1.snapshot()],
            Self::Cluster(cluster) => {
                (cluster.nodes().iter().map(SimulatedRedis::snapshot)).collect()
            }
        }
    }

    /// Has another server take the place of a primary, which is there for so long. `None` if that cannot be now.
    pub(crate) fn replace(
        &self,
        fault: Fault,
        lag: Duration,
        lasts: Duration,
        rng: &mut Rng,
    ) -> Option<Old> {
        match self {
            Self::Single(single) => {
                let old = single.replace(fault, lag, rng);
                single.announce(lasts, rng);
                Some(old)
            }
            Self::Cluster(cluster) => replace_node(cluster, fault, lag, lasts, rng),
        }
    }
}

impl Single {
    fn start(&self) -> SimulatedRedis {
        let (redis, clock) = (SimulatedRedis::default(), Arc::clone(&self.clock));
        redis.set_clock(move || clock());
        if self.is_unnamed {
            redis.set(|settings| _ = settings.hidden.insert("master_replid".to_owned()));
        }
        redis
    }

    fn primary(&self) -> (usize, SimulatedRedis) {
        let servers = self.servers.lock().unwrap();
        (servers.len() - 1, servers.last().unwrap().clone())
    }

    fn connect(&self, address: &ConnectionAddr) -> io::Result<(DuplexStream, Option<usize>)> {
        let ConnectionAddr::Tcp(host, port) = address else {
            panic!("{address}");
        };
        let port = usize::from(*port);
        if host == SENTINEL {
            return Ok((self.sentinels[port].connect()?, None));
        }
        let servers = self.servers.lock().unwrap();
        let which = if host == SERVER {
            port
        } else {
            servers.len() - 1
        };
        Ok((servers[which].connect()?, Some(which)))
    }

    fn replace(&self, fault: Fault, lag: Duration, rng: &mut Rng) -> Old {
        let ((number, redis), new) = (self.primary(), self.start());
        redis.set_lag(lag);
        new.take_over_from(&redis);
        match fault {
            Fault::Isolated => isolate(&redis),
            Fault::SplitBrain => {}
            _ => {
                redis.serve_stale_data(rng.u8(0..4) > 0);
                redis.follow(&new);
            }
        }
        self.servers.lock().unwrap().push(new.clone());
        let new = Some(new);
        Old { number, redis, new }
    }

    /// Has the sentinels hear of the primary, each at a time of its own; the first one may take so long.
    fn announce(self: &Arc<Self>, lasts: Duration, rng: &mut Rng) {
        for (which, sentinel) in self.sentinels.iter().enumerate() {
            let within = match which {
                0 => u64::try_from(lasts.as_millis()).unwrap(),
                _ => HEARD_OF,
            };
            let after = Duration::from_millis(rng.u64(0..within));
            let (this, sentinel) = (Arc::clone(self), sentinel.clone());
            tokio::spawn(async move {
                sleep(after).await;
                // Another one may have taken over since.
                let port = u16::try_from(this.primary().0).unwrap();
                sentinel.name_primary(NAME, SERVER, port);
            });
        }
    }
}

/// It knows of no other primary, and refuses writes, as its replicas are away. Heartbeats do not show that.
fn isolate(redis: &SimulatedRedis) {
    redis.set(|settings| {
        settings.replicas = Some((1, 0));
        settings.hidden.insert("min_slaves_good_slaves".to_owned());
    });
}

/// It takes its writes again, if it takes any.
fn reconnect(redis: &SimulatedRedis) {
    redis.set(|settings| {
        settings.replicas = None;
        settings.hidden.clear();
    });
}

fn replace_node(
    cluster: &SimulatedCluster,
    fault: Fault,
    lag: Duration,
    lasts: Duration,
    rng: &mut Rng,
) -> Option<Old> {
    // One failover after the other.
    if !cluster.is_settled() {
        return None;
    }
    let number = rng.choice(primaries(cluster)).unwrap();
    let mut nodes = 0..cluster.nodes().len();
    let replica = nodes.find(|node| cluster.followed(*node) == Some(number))?;
    let (old, new) = (cluster.node(number).clone(), cluster.node(replica).clone());
    let how = match fault {
        Fault::HandedOver if rng.bool() => Failover::Graceful,
        _ => Failover::Force,
    };
    match fault {
        Fault::Isolated | Fault::SplitBrain => cluster.isolate(number),
        _ if how == Failover::Force => new.set_lag(lag),
        _ => {}
    }
    if fault == Fault::Isolated {
        isolate(&old);
    }
    _ = cluster.fail_over(number, how);
    let (redis, cluster) = (old.clone(), cluster.clone());
    tokio::spawn(async move {
        sleep(lasts).await;
        new.set_lag(Duration::ZERO);
        cluster.rejoin(number);
        reconnect(&redis);
    });
    Some(Old {
        number,
        redis: old,
        new: None,
    })
}

fn primaries(cluster: &SimulatedCluster) -> Vec<usize> {
    let nodes = 0..cluster.nodes().len();
    nodes.filter(|node| cluster.has_slots(*node)).collect()
}

/// Moves the slot of some key to another primary, key by key.
pub(crate) fn move_slot(cluster: &SimulatedCluster, rng: &mut Rng) {
    /// How long a key takes at most, in ms.
    const A_KEY: u64 = 10;
    if !cluster.is_settled() {
        return;
    }
    let primaries = primaries(cluster);
    let from = rng.choice(&primaries).unwrap();
    let keys = cluster.node(*from).keys();
    let others = primaries.iter().filter(|node| *node != from);
    let to = rng.choice(others.collect::<Vec<_>>());
    let (Some(key), Some(to)) = (rng.choice(&keys), to) else {
        return;
    };
    let (from, to, slot) = (*from, *to, SimulatedCluster::slot_of(key));
    // What is left of a move that was given up is there, too.
    if cluster.named(to, slot) != Some(from) {
        return;
    }
    let moving = cluster.begin_move(slot, to);
    let (cluster, mut rng) = (cluster.clone(), rng.fork());
    tokio::spawn(async move {
        let both = |test: fn(&SimulatedCluster, usize) -> bool| {
            [from, to].iter().all(|node| test(&cluster, *node))
        };
        loop {
            while both(SimulatedCluster::is_live) && cluster.move_key(moving) {
                sleep(Duration::from_millis(rng.u64(0..=A_KEY))).await;
            }
            let is_moved = both(SimulatedCluster::is_live);
            while !both(SimulatedCluster::is_live) {
                sleep(Duration::from_millis(A_KEY)).await;
            }
            // One was replaced meanwhile: an operator ends the move where it is.
            if !both(SimulatedCluster::has_slots) {
                return cluster.give_up_move(moving);
            }
            if is_moved {
                return cluster.finish_move(moving);
            }
        }
    });
}

/// An election that nobody wins, which an operator puts right after this time.
pub(crate) fn elect_nobody(cluster: &SimulatedCluster, lasts: Duration, rng: &mut Rng) {
    let nodes = 0..cluster.nodes().len();
    let replicas = nodes.filter(|node| cluster.followed(*node).is_some());
    let Some(replica) = rng.choice(replicas.collect::<Vec<_>>()) else {
        return;
    };
    cluster.elect_nobody(replica);
    let cluster = cluster.clone();
    tokio::spawn(async move {
        sleep(lasts).await;
        let mut primaries = primaries(&cluster).into_iter();
        if let Some(primary) = primaries.find(|node| cluster.is_live(*node)) {
            cluster.bump_epoch(primary);
        }
    });
}

/// Cuts all primaries but one off, and has that one give slots to the spare nodes: so that side replaces those that were
/// cut off. Returns these, if that can be now.
pub(crate) fn cut_and_grow(
    cluster: &SimulatedCluster,
    lasts: Duration,
    rng: &mut Rng,
) -> Option<Vec<usize>> {
    let nodes = 0..cluster.nodes().len();
    let is_spare = |node: &usize| cluster.followed(*node).is_none() && !cluster.has_slots(*node);
    let spares: Vec<_> = nodes.filter(is_spare).collect();
    if spares.len() < SPARES || !cluster.is_settled() {
        return None;
    }
    let mut others = primaries(cluster);
    let grows = others.swap_remove(rng.usize(..others.len()));
    cluster.isolate_together(&others);
    let first = cluster.first_slot(grows);
    for (slot, spare) in (first..).zip(&spares) {
        let moving = cluster.begin_move(slot, *spare);
        cluster.move_keys(moving);
        cluster.finish_move(moving);
    }
    let (there, cluster) = (others.clone(), cluster.clone());
    tokio::spawn(async move {
        sleep(lasts).await;
        for node in there {
            cluster.rejoin(node);
        }
    });
    Some(others)
}
