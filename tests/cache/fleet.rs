//! Several instances over one store, and a source of truth to load from.

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Builder, Cache, Clock, Entry, LoadError, Loaded, RedisL2};
use tokio::time::Instant;

use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::local::{Local, Snapshot};
use crate::support::network::{Gate, Network};
use crate::support::redis_cluster::RedisCluster;
use crate::support::redis_server::RedisServer;
use crate::support::unlocked::{self, Unlocked, check};

pub(crate) type Texts = Cache<String, String>;
pub(crate) type Set = Builder<String, String>;

/// Longer than any test.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// How long a request to Redis may take, unless a test sets its own limit: a busy machine is no reason to fail.
pub(crate) const UNHURRIED: Duration = Duration::from_secs(5);

/// No heartbeat is sent after the first, unless a proof is requested.
pub(crate) fn without_heartbeats(builder: Set) -> Set {
    builder.max_staleness(HOUR)
}

/// A store, and the instances on it.
pub(crate) enum Fleet {
    Local(Local),
    Redis {
        server: RedisServer,
        url: String,
        l2: RedisL2,
    },
    /// Three primaries.
    Cluster(RedisCluster),
}

impl Fleet {
    /// On the store in the process, where time passes only when the test says so.
    pub(crate) fn memory() -> Self {
        Self::Local(Local::new())
    }

    pub(crate) async fn redis() -> Self {
        let server = home::start_with(&[]).await;
        let url = server.url();
        Self::on(server, url)
    }

    pub(crate) async fn cluster() -> Self {
        Self::Cluster(RedisCluster::start_with(3, 0, &[]).await)
    }

    /// On a server that was started, behind this URL.
    pub(crate) fn on(server: RedisServer, url: String) -> Self {
        let l2 = home::open(&url);
        Self::Redis { server, url, l2 }
    }

    pub(crate) fn advance(&self, by: Duration) {
        match self {
            Self::Local(store) => store.advance(by),
            _ => panic!("a test cannot advance the time of a Redis"),
        }
    }

    /// Waits until what is stored with this TTL has expired, at the server and at each instance. An instance takes it
    /// for expired earlier than the server, by as much as its requests take.
    pub(crate) async fn pass(&self, ttl: Duration) {
        if self.is_local() {
            return self.advance(ttl);
        }
        // The server is on this machine, and counts in milliseconds.
        let stored = Instant::now();
        let has_passed = || async { stored.elapsed() > ttl + Duration::from_millis(2) };
        eventually("the time passes", has_passed).await;
    }

    /// Restarts the store with all that it holds.
    pub(crate) fn restart(&self) {
        self.restore(&self.snapshot());
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        match self {
            Self::Local(store) => store.snapshot(),
            _ => panic!("its server saves what it holds"),
        }
    }

    /// Restarts the store with what it held before.
    pub(crate) fn restore(&self, snapshot: &Snapshot) {
        match self {
            Self::Local(store) => store.restore(snapshot),
            _ => panic!("its server is killed, and started again"),
        }
    }

    /// Whether time passes only when the test says so.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// The clock of the instances, where time passes only when the test says so.
    pub(crate) fn clock(&self) -> Clock {
        match self {
            Self::Local(store) => store.clock(),
            _ => panic!("instances on Redis have the clock of the system"),
        }
    }

    /// The store, as another instance has it.
    pub(crate) fn l2(&self) -> Network {
        match self {
            Self::Local(store) => Network::new(store.open()),
            // As in one process.
            Self::Redis { l2, .. } if env::var_os("LARDER_SHARED").is_some() => {
                Network::new(l2.clone())
            }
            Self::Redis { url, .. } => Network::new(home::open(url)),
            Self::Cluster(nodes) => Network::new(home::cluster(nodes.urls())),
        }
    }

    pub(crate) fn server(&mut self) -> &mut RedisServer {
        match self {
            Self::Redis { server, .. } => server,
            _ => panic!("there is no server, or several"),
        }
    }

    /// An instance that has subscribed, and has the answer to its first heartbeat.
    pub(crate) async fn instance(&self) -> (Texts, Network) {
        self.instance_with(|builder| builder).await
    }

    pub(crate) async fn instance_with(&self, set: impl FnOnce(Set) -> Set) -> (Texts, Network) {
        let (cache, network) = self.build(set);
        cache.ready().await;
        network.heartbeat_answered().await;
        (cache, network)
    }

    /// An instance whose values have another shape, on the store in memory: neither reads the values of the others.
    pub(crate) async fn of_another_shape(&self) -> Cache<String, u64> {
        let builder = Cache::builder("test:text").l2(self.l2());
        let cache = builder.clock(self.clock()).build().unwrap();
        cache.ready().await;
        cache
    }

    /// An instance that may not have subscribed yet.
    pub(crate) fn build(&self, set: impl FnOnce(Set) -> Set) -> (Texts, Network) {
        let (builder, network) = self.builder();
        (set(builder).build().unwrap(), network)
    }

    /// The options of an instance.
    pub(crate) fn builder(&self) -> (Set, Network) {
        unlocked::watch();
        let network = self.l2();
        // Tests hold few entries. To make and to empty room for ten thousand takes longer than most of them.
        let mut builder = Cache::builder("test:text")
            .l2(network.clone())
            .l1_capacity(1_000);
        builder = match self {
            Self::Local(store) => builder.clock(store.clock()),
            // Tests count what happens in one partition, also where a cluster has more by default.
            _ => home::keep_time(builder).l2_timeout(UNHURRIED).partitions(1),
        };
        (builder, network)
    }
}

/// What the values are loaded from. A load takes its value when it begins, as a query does.
#[derive(Clone)]
pub(crate) struct Source {
    value: Arc<Mutex<String>>,
    loads: Arc<AtomicUsize>,
    gate: Option<Gate>,
    /// A loader is code of users, and so is its drop.
    _unlocked: Unlocked,
}

impl Source {
    pub(crate) fn new(value: &str) -> Self {
        Self {
            value: Arc::new(Mutex::new(value.to_owned())),
            loads: Arc::default(),
            gate: None,
            _unlocked: Unlocked,
        }
    }

    /// The same source, answering only once the gate is open.
    pub(crate) fn behind(&self, gate: &Gate) -> Self {
        Self {
            gate: Some(gate.clone()),
            ..self.clone()
        }
    }

    pub(crate) fn set(&self, value: &str) {
        value.clone_into(&mut self.value.lock().unwrap());
    }

    pub(crate) fn loads(&self) -> usize {
        self.loads.load(SeqCst)
    }

    pub(crate) async fn load(self) -> Result<String, std::io::Error> {
        check("a loader");
        self.loads.fetch_add(1, SeqCst);
        let value = self.value.lock().unwrap().clone();
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        Ok(value)
    }

    pub(crate) async fn through(
        &self,
        cache: &Texts,
        key: &str,
    ) -> Result<Entry<String>, LoadError> {
        let source = self.clone();
        cache.get_or_load(key, move || source.load()).await
    }

    /// The same in a task of its own.
    pub(crate) fn spawn(
        &self,
        cache: &Texts,
        key: &'static str,
    ) -> tokio::task::JoinHandle<Result<Entry<String>, LoadError>> {
        let (source, cache) = (self.clone(), cache.clone());
        tokio::spawn(async move { source.through(&cache, key).await })
    }
}

/// Waits until an instance has applied so many changes by others.
pub(crate) async fn received(cache: &Texts, n: u64) {
    eventually("the messages are applied", || async {
        cache.stats().invalidations_received >= n
    })
    .await;
}

/// Runs each test over both stores.
macro_rules! over_both_stores {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::fleet::Fleet::memory()).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::fleet::Fleet::redis().await).await;
            })*
        }
    };
}
pub(crate) use over_both_stores;

/// Whether what is loaded for a key is stored: the instance uses it, and nothing holds it.
pub(crate) async fn stores(cache: &Texts, key: &str) -> bool {
    let loaded = Source::new("loaded").through(cache, key).await.unwrap();
    loaded.meta().version().is_some()
}

/// Which of these keys have a value in L2, or in the L1 of this instance.
pub(crate) async fn left<'k>(cache: &Texts, keys: &[&'k str]) -> Vec<&'k str> {
    let mut left = Vec::new();
    for key in keys {
        if cache.get(*key).await.is_some() {
            left.push(*key);
        }
    }
    left
}

/// Loads a key whose value has these tags.
pub(crate) async fn load_tagged(
    cache: &Texts,
    key: &str,
    source: Source,
    tags: &'static [&str],
) -> Entry<String> {
    let loader = async move |_| {
        let value = source.load().await?;
        Ok::<_, std::io::Error>(Loaded::new(value).tags(tags))
    };
    cache.get_or_load_with(key, loader).await.unwrap()
}

/// Two instances that send no heartbeats: what one hears of the other are messages.
pub(crate) async fn pair(fleet: &Fleet) -> ((Texts, Network), (Texts, Network)) {
    pair_with(fleet, without_heartbeats).await
}

/// Two instances with the same options.
pub(crate) async fn pair_with(
    fleet: &Fleet,
    set: impl Fn(Set) -> Set,
) -> ((Texts, Network), (Texts, Network)) {
    (
        fleet.instance_with(&set).await,
        fleet.instance_with(&set).await,
    )
}
