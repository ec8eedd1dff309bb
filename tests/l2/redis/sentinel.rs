//! Primaries that sentinels name: found, followed, and believed by a majority only.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::Value;
use futures::future::join_all;
use larder::RedisL2;
use larder::l2::{Kind, MemberInfo, Partition, PartitionClock, Subscription};
use tokio::time::Instant;

use super::callers::Callers;
use super::failover::replicates;
use super::members::answer;
use super::{RELIES_FOR_LONG, end, partition, run, shown, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::proxy::{KINDS, Line, Proxy, WAYS};
use crate::support::redis_server::RedisServer;
use larder_store_tests::steps::Steps;

const NAME: &str = "catalog";
const SENTINELS: usize = 3;
/// Sentinels that elect nobody by themselves in the time of a test.
const PATIENT: Duration = Duration::from_secs(600);

/// A primary, its replica, and sentinels that watch both.
struct Fleet {
    primary: RedisServer,
    replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl Fleet {
    async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    /// With these arguments of the servers, and of the sentinels.
    async fn start_with(servers: &[&str], sentinels: &[&str]) -> Self {
        let extra = [&["--repl-diskless-sync-delay", "0"], servers].concat();
        let primary = RedisServer::start_with(&extra).await;
        let port = primary.port();
        Self::around(primary, port, PATIENT, servers, sentinels).await
    }

    /// Around a primary that the others reach by this port, and hold for dead after this time.
    async fn around(
        primary: RedisServer,
        port: u16,
        down_after: Duration,
        servers: &[&str],
        extra: &[&str],
    ) -> Self {
        let link = port.to_string();
        let replicaof = ["--replicaof", "127.0.0.1", &link];
        let replica = RedisServer::start_with(&[&replicaof, servers].concat()).await;
        replicates(&replica).await;
        let down_after = down_after.as_millis();
        // Before the sentinels begin to ask: the first time they ask at once, and then every 10 s.
        let url = primary.url();
        let password = url
            .split_once("//:")
            .and_then(|(_, rest)| rest.split_once('@'));
        let login = password.map_or_else(String::new, |(password, _)| {
            format!("sentinel auth-pass {NAME} {password}\n")
        });
        let config = format!(
            "sentinel monitor {NAME} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {NAME} {down_after}\nsentinel failover-timeout {NAME} 10000\n{login}"
        );
        let sentinels = (0..SENTINELS).map(|_| RedisServer::start_sentinel(&config, extra));
        Self {
            primary,
            replica,
            sentinels: join_all(sentinels).await,
        }
    }

    fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    fn l2(&self) -> RedisL2 {
        RedisL2::sentinel(NAME, self.urls()).unwrap()
    }

    /// The port that each sentinel names.
    async fn named(&self) -> Vec<u16> {
        let named = self.sentinels.iter().map(async |sentinel| {
            let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
            let mut raw = sentinel.connection().await;
            let (_, port): (String, u16) = run(&mut raw, &ask).await;
            port
        });
        join_all(named).await
    }

    /// Has the replica take over, and waits until all sentinels say so.
    async fn fail_over(&self) {
        let mut all = Vec::new();
        for sentinel in &self.sentinels {
            all.push(sentinel.connection().await);
        }
        eventually(
            "the sentinels know one another, and the replica",
            async || {
                let known = all.iter().map(async |raw| {
                    let ask = ["SENTINEL", "MASTER", NAME];
                    let words: Vec<String> = run(&mut raw.clone(), &ask).await;
                    let is = |name: &str, count: &str| {
                        words.windows(2).any(|pair| pair == [name, count])
                    };
                    is("num-other-sentinels", "2") && is("num-slaves", "1")
                });
                join_all(known).await.into_iter().all(|knows| knows)
            },
        )
        .await;
        let _: () = run(&mut all[0], &["SENTINEL", "FAILOVER", NAME]).await;
        let to = self.replica.port();
        eventually("all sentinels name the other one", async || {
            self.named().await == [to; SENTINELS]
        })
        .await;
    }

    /// Sentinels that may not be listened to, so that heartbeats alone find out.
    async fn without_news(&self) {
        for sentinel in &self.sentinels {
            let mut raw = sentinel.connection().await;
            let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-subscribe"]).await;
        }
    }
}

async fn failure(partition: &dyn Partition) -> String {
    shown(&partition.get("k").await.unwrap_err())
}

#[tokio::test]
async fn the_sentinels_lead_to_the_primary() {
    let fleet = Fleet::start().await;
    let partition = partition(&fleet.l2());
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    message(&mut *subscription).await;
    heartbeat(&mut *subscription).await;
    let direct = RedisL2::open(fleet.primary.url()).unwrap();
    assert!(get(&*partition_of(&direct, NAMESPACE), "k").await.is_some());
}

/// All partitions ask over one connection to each.
#[tokio::test]
async fn partitions_share_one_connection_to_each_sentinel() {
    const BEATS: u64 = 10;
    let fleet = Fleet::start().await;
    let l2 = fleet.l2();
    let (first, second) = (partition(&l2), partition_of(&l2, "other"));
    let (_, mut one) = subscribe(&*first).await;
    let (_, mut other) = subscribe(&*second).await;
    for _ in 0..BEATS {
        answer(&mut *one).await.unwrap();
        answer(&mut *other).await.unwrap();
    }
    let listening = async || {
        let counts = fleet.sentinels.iter().map(async |sentinel| {
            let mut raw = sentinel.connection().await;
            let clients: String = run(&mut raw, &["CLIENT", "LIST", "TYPE", "pubsub"]).await;
            clients.lines().count()
        });
        join_all(counts).await
    };
    assert_eq!(listening().await, [1; SENTINELS]);
    drop((one, other, first, second));
    eventually("they end with the last partition", async || {
        listening().await == [0; SENTINELS]
    })
    .await;
}

#[tokio::test]
async fn the_first_sentinel_may_be_down() {
    let mut fleet = Fleet::start().await;
    fleet.sentinels[0].kill();
    let partition = partition(&fleet.l2());
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    answer(&mut *subscription).await.unwrap();
    // A connection that was lost is replaced in the heartbeat that finds out.
    fleet.sentinels[1].restart().await;
    answer(&mut *subscription).await.unwrap();
}

#[tokio::test]
async fn passwords_of_sentinels_and_of_the_primary_are_two() {
    let servers = ["--requirepass", "data", "--masterauth", "data"];
    let fleet = Fleet::start_with(&servers, &["--requirepass", "watch"]).await;
    assert!(fleet.urls()[0].contains("watch"));
    let l2 = fleet.l2().primary_like("redis://:data@primary/1").unwrap();
    let partition_in_1 = partition(&l2);
    let (_, mut subscription) = subscribe(&*partition_in_1).await;
    insert(&*partition_in_1, "k", b"v").await;
    answer(&mut *subscription).await.unwrap();

    // All that a user needs at the sentinels.
    for sentinel in &fleet.sentinels {
        let rights = "on >pw resetchannels &+switch-master -@all +sentinel|get-master-addr-by-name +subscribe";
        let set = ["ACL", "SETUSER", "watcher"]
            .into_iter()
            .chain(rights.split(' '));
        let set: Vec<&str> = set.collect();
        let _: () = run(&mut sentinel.connection().await, &set).await;
    }
    let urls = fleet.urls();
    let urls = urls.iter().map(|url| url.replace(":watch@", "watcher:pw@"));
    let l2 = RedisL2::sentinel(NAME, urls).unwrap();
    let partition_of_watcher = partition(&l2.primary_like("redis://:data@primary").unwrap());
    let (_, _subscription) = subscribe(&*partition_of_watcher).await;
    let raw = fleet.sentinels[2].connection().await;
    eventually("it listens", async || {
        let list = ["CLIENT", "LIST", "TYPE", "pubsub"];
        let clients: String = run(&mut raw.clone(), &list).await;
        clients.contains("user=watcher")
    })
    .await;

    let without_primarys = failure(&*partition(&fleet.l2())).await;
    assert!(
        without_primarys.contains("NOAUTH: it demands"),
        "{without_primarys}"
    );
    let ports = fleet.sentinels.iter().map(RedisServer::port);
    let urls = ports.map(|port| format!("redis://127.0.0.1:{port}"));
    let l2 = RedisL2::sentinel(NAME, urls).unwrap();
    let without_sentinels = failure(&*partition(&l2)).await;
    assert!(
        without_sentinels.contains("3 did not answer (NOAUTH"),
        "{without_sentinels}"
    );
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_named() {
    let fleet = Fleet::start().await;
    let l2 = RedisL2::sentinel("catalogue", fleet.urls()).unwrap();
    let error = failure(&*partition(&l2)).await;
    let means =
        "2 of 3 sentinels must name the same primary for `catalogue`: 0 do, 3 do not know the name";
    assert!(error.contains(means), "{error}");
}

/// Of the values in neither level.
#[tokio::test]
async fn without_a_majority_the_primary_is_not_believed() {
    let mut fleet = Fleet::start().await;
    let (partition, met) = watched_partition(&fleet.l2(), LIMIT);
    let (clock, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    fleet.sentinels[0].kill();
    fleet.sentinels[1].pause();
    let error = shown(&answer(&mut *subscription).await.unwrap_err());
    assert!(error.contains("2 of 3 sentinels must name"), "{error}");
    end(&mut *subscription).await;
    let error = failure(&*partition).await;
    assert!(error.contains("`catalog`: 1 do"), "{error}");
    // The one that was silent is asked over another connection.
    fleet.sentinels[1].resume();
    eventually("there is a majority", async || {
        partition.get("k").await.is_ok()
    })
    .await;
    assert_eq!(
        met.last().incarnation,
        clock.incarnation,
        "nothing was lost"
    );
    let (_, mut subscription) = subscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
}

/// Whoever does not hear from the sentinels reads no longer than L1 would be used.
#[tokio::test]
async fn a_connection_is_not_read_from_for_longer_than_values_are_believed() {
    let mut fleet = Fleet::start().await;
    let partition = partition(&fleet.l2());
    let me = MemberInfo {
        id: 5,
        max_staleness: Duration::from_millis(300),
    };
    let (_, _subscription) = partition.subscribe(me, NEWCOMER).await.unwrap();
    insert(&*partition, "k", b"v").await;
    for sentinel in &mut fleet.sentinels {
        sentinel.kill();
    }
    // Without a heartbeat.
    eventually("it is asked for again", async || {
        partition.get("k").await.is_err()
    })
    .await;
}

/// The news ends what leads to the old primary, also where that still answers.
#[tokio::test]
async fn a_switch_is_heard_of() {
    let fleet = Fleet::start().await;
    let (partition, met) = watched_partition(&fleet.l2(), LIMIT);
    let (before, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"old").await;
    fleet.fail_over().await;
    end(&mut *subscription).await;
    eventually("the new primary takes it", async || {
        let (clock, _subscription) = subscribe(&*partition).await;
        clock.incarnation != before.incarnation
    })
    .await;
    insert(&*partition, "k", b"new").await;
    assert_ne!(met.last().incarnation, before.incarnation);
    let direct = RedisL2::open(fleet.replica.url()).unwrap();
    assert!(get(&*partition_of(&direct, NAMESPACE), "k").await.is_some());
}

/// A partition that uses its connection no more does not keep others from the new primary.
#[tokio::test]
#[ignore = "ten seconds: sh tests/proof.sh sentinel"]
async fn a_partition_that_is_idle_holds_up_no_other_one() {
    let fleet = Fleet::start().await;
    let l2 = fleet.l2();
    let (partition, idle) = (partition(&l2), partition_of(&l2, "idle"));
    insert(&*partition, "k", b"old").await;
    insert(&*idle, "k", b"old").await;
    fleet.fail_over().await;
    // Without a subscription nobody has heard of it.
    eventually("the new primary takes it", async || {
        let message = payload_of(Kind::Insert, &["k"]);
        let value = sealed(b"new");
        let values = [("k", &value)];
        let inserted = partition.insert(&values, &message, None).await;
        let raw = fleet.replica.connection().await;
        let stored: Option<Vec<u8>> = run(&mut raw.clone(), &["GET", &super::value_key("k")]).await;
        inserted.is_ok() && stored.is_some_and(|bytes| bytes.ends_with(b"new"))
    })
    .await;
}

/// A partition that is subscribed to a primary which was stopped while another server took over. It goes on now, and takes
/// itself for the primary for some seconds. Nobody has heard of the other one.
async fn behind(
    fleet: &mut Fleet,
    l2: &RedisL2,
) -> (Arc<dyn Partition>, PartitionClock, Box<dyn Subscription>) {
    fleet.without_news().await;
    let partition = partition(l2);
    let (clock, mut subscription) = partition
        .subscribe(RELIES_FOR_LONG, NEWCOMER)
        .await
        .unwrap();
    insert(&*partition, "k", b"old").await;
    answer(&mut *subscription).await.unwrap();
    fleet.primary.pause();
    fleet.fail_over().await;
    fleet.primary.resume();
    let mut raw = fleet.primary.connection().await;
    let role: Vec<Value> = run(&mut raw, &["ROLE"]).await;
    assert_eq!(role[0], Value::BulkString(b"master".to_vec()));
    (partition, clock, subscription)
}

#[tokio::test]
async fn an_old_primary_that_comes_back_is_not_believed() {
    let mut fleet = Fleet::start().await;
    let l2 = fleet.l2();
    let (partition, before, mut subscription) = behind(&mut fleet, &l2).await;
    let error = shown(&answer(&mut *subscription).await.unwrap_err());
    assert!(error.contains("name another primary"), "{error}");
    end(&mut *subscription).await;
    // Nor is what it stores.
    let direct = RedisL2::open(fleet.primary.url()).unwrap();
    insert(&*partition_of(&direct, NAMESPACE), "there", b"v").await;
    assert_eq!(get(&*partition, "there").await, None);
    let (after, mut subscription) = subscribe(&*partition).await;
    assert_ne!(after.incarnation, before.incarnation);
    answer(&mut *subscription).await.unwrap();
}

/// It shares the connection of the one that is behind.
#[tokio::test]
async fn a_partition_that_joins_an_old_primary_is_told() {
    let mut fleet = Fleet::start().await;
    let l2 = fleet.l2();
    let (_partition, before, mut subscription) = behind(&mut fleet, &l2).await;
    let joining = partition_of(&l2, NAMESPACE);
    let error = joining
        .subscribe(RELIES_FOR_LONG, NEWCOMER)
        .await
        .map(drop)
        .unwrap_err();
    assert!(shown(&error).contains("name another primary"), "{error}");
    end(&mut *subscription).await;
    let (after, _subscription) = subscribe(&*joining).await;
    assert_ne!(after.incarnation, before.incarnation);
}

/// Callers of two instances while the primary changes in good order: what was invalidated stays gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_under_traffic_brings_nothing_back() {
    let fleet = Fleet::start().await;
    let callers = Callers::start(2, 4, || fleet.l2()).await;
    callers.recover().await;
    fleet.fail_over().await;
    callers.recover().await;
    let raw = fleet.replica.connection().await;
    eventually("values are stored in the new primary", async || {
        let key = super::value_key(callers.keys().next().unwrap());
        run::<bool>(&mut raw.clone(), &["EXISTS", &key]).await
    })
    .await;
    let counts = callers.stop().await;
    assert!(counts.invalidated > 0 && counts.from_l1 > 0, "{counts:?}");
}

/// So no read over them finds what the new primary has sent (rule 13).
#[tokio::test]
#[ignore = "takes ten seconds: sh tests/proof.sh sentinel"]
async fn sentinels_close_the_connections_of_a_primary_that_they_demote() {
    let mut fleet = Fleet::start().await;
    let mut raw = fleet.primary.connection().await;
    fleet.primary.pause();
    fleet.fail_over().await;
    fleet.primary.resume();
    let ended = async {
        loop {
            let role = deadpool_redis::redis::cmd("ROLE")
                .query_async(&mut raw)
                .await;
            let Ok::<Vec<Value>, _>(role) = role else {
                return;
            };
            assert_eq!(role[0], Value::BulkString(b"master".to_vec()));
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    ended.expect("the connection is closed");
    let mut raw = fleet.primary.connection().await;
    let role: Vec<Value> = run(&mut raw, &["ROLE"]).await;
    assert_eq!(role[0], Value::BulkString(b"slave".to_vec()));
}

/// How long an old primary takes writes, by the settings of Redis: the figures of the guide.
#[tokio::test]
#[ignore = "takes a minute: sh tests/proof.sh sentinel"]
async fn how_long_an_old_primary_takes_writes() {
    for replicas in ["0", "1"] {
        for is_planned in [true, false] {
            let guard = [
                "--min-replicas-to-write",
                replicas,
                "--min-replicas-max-lag",
                "1",
            ];
            let extra = [&["--repl-diskless-sync-delay", "0"], &guard[..]].concat();
            let primary = RedisServer::start_with(&extra).await;
            let around = Proxy::start(primary.port()).await;
            let down_after = if is_planned {
                PATIENT
            } else {
                Duration::from_secs(3)
            };
            let fleet = Fleet::around(primary, around.port(), down_after, &guard, &[]).await;
            let mut raw = fleet.primary.connection().await;
            let to = fleet.replica.port();
            // Until the sentinels have heard of one another, and the primary of its replica.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let began = Instant::now();
            if is_planned {
                let mut sentinel = fleet.sentinels[0].connection().await;
                let _: () = run(&mut sentinel, &["SENTINEL", "FAILOVER", NAME]).await;
            } else {
                for (kind, way) in KINDS.iter().flat_map(|kind| WAYS.map(|way| (*kind, way))) {
                    around.set(kind, way, Line::BlackHole);
                }
            }
            let (mut named, mut last) = (None, Duration::ZERO);
            while began.elapsed() < Duration::from_secs(15) {
                let mut set = deadpool_redis::redis::cmd("SET");
                let written: Result<(), _> = set.arg("k").arg("v").query_async(&mut raw).await;
                if written.is_ok() {
                    last = began.elapsed();
                }
                let count = fleet
                    .named()
                    .await
                    .into_iter()
                    .filter(|port| *port == to)
                    .count();
                if count >= 2 && named.is_none() {
                    named = Some(began.elapsed());
                }
            }
            println!(
                "planned: {is_planned}, min-replicas-to-write {replicas}: a majority names the new one after {named:?}, the old one takes writes until {last:?}"
            );
            assert!(named.is_some(), "it has failed over");
        }
    }
}
