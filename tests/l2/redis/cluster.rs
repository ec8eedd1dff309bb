//! Partitions on a Redis Cluster: found, followed when their slots move, and believed by a majority of the primaries only.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use futures::future::{join, join_all};
use larder::l2::{
    Kind, L2, Partition, PartitionClock, PartitionName, PartitionNumber, Subscription,
};
use larder::{Cache, RedisL2};

use super::heartbeats::{computed, received};
use super::members::answer;
use super::{RELIES_FOR_LONG, calls, end, partition, run, shown, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::redis_cluster::{Failover, RedisCluster};
use crate::support::redis_server::RedisServer;
use larder_store_tests::steps::Steps;

fn l2(cluster: &RedisCluster) -> RedisL2 {
    home::cluster(cluster.urls())
}

/// The slot of the partition, and the node that has it.
pub(super) async fn place(cluster: &RedisCluster) -> (u16, usize) {
    let slot = cluster.slot_of(&super::value_key("")).await;
    (slot, cluster.owner_of(slot).await)
}

/// Waits until requests are answered, as on a busy machine the first one may be late.
pub(super) async fn reach(partition: &dyn Partition) {
    eventually("the partition can be reached", async || {
        partition.members(&[]).await.is_ok()
    })
    .await;
}

/// A subscription after the last one has ended, on whatever node.
pub(super) async fn resubscribe(
    partition: &dyn Partition,
) -> (PartitionClock, Box<dyn Subscription>) {
    let mut subscribed = None;
    while subscribed.is_none() {
        reach(partition).await;
        subscribed = partition.subscribe(RELIES_FOR_LONG, NEWCOMER).await.ok();
    }
    subscribed.unwrap()
}

/// A slot that moves, key by key or in one step, and replicas that are promoted: each is another incarnation of the
/// server. A slot that moves begins a new epoch.
#[tokio::test]
async fn a_partition_follows_its_slot() {
    let cluster = RedisCluster::start().await;
    let l2 = l2(&cluster);
    let (partition, met) = watched_partition(&l2, LIMIT);
    let (slot, mut owner) = place(&cluster).await;
    let (mut before, mut subscription) = subscribe(&*partition).await;
    for step in ["moves", "migrates", "fails over", "fails over"] {
        if step == "migrates" && !cluster.can_migrate().await {
            continue;
        }
        let fails_over = step == "fails over";
        insert(&*partition, "k", b"old").await;
        message(&mut *subscription).await;
        answer(&mut *subscription).await.unwrap();
        let next = (owner + 1) % 3;
        match step {
            "moves" => cluster.move_slot(slot, next).await,
            "migrates" => cluster.migrate_slot(slot, next).await,
            _ => {}
        }
        owner = match step {
            "fails over" => cluster.fail_over(owner, Failover::Graceful).await,
            _ => next,
        };
        // The first request already, and also one that writes.
        assert_eq!(
            usable(&*partition, "k").await.is_some(),
            fails_over,
            "{step}"
        );
        insert(&*partition, "k", b"new").await;
        subscription.heartbeat(NOTHING);
        end(&mut *subscription).await;
        let (after, next) = resubscribe(&*partition).await;
        assert_ne!(after.incarnation, before.incarnation);
        assert_eq!(after.epoch == before.epoch, fails_over, "{step}");
        assert_eq!(met.last().incarnation, after.incarnation);
        (before, subscription) = (after, next);
        cluster.wait_until_in_step().await;
    }
    let raw = cluster.node(owner).connection().await;
    let stored: bool = run(&mut raw.clone(), &["EXISTS", &super::value_key("k")]).await;
    assert!(stored, "it is on the node that has the slot");
}

/// Values, leases, messages and members are kept, whichever connection is the first with the new primary.
#[tokio::test]
async fn a_planned_failover_keeps_the_epoch() {
    let cluster = RedisCluster::start().await;
    let (listener, writer) = (partition(&l2(&cluster)), partition(&l2(&cluster)));
    let (slot, _) = place(&cluster).await;
    for (is_subscription_first, led) in [(true, "a"), (false, "b")] {
        let (before, mut subscription) =
            listener.subscribe(RELIES_FOR_LONG, NEWCOMER).await.unwrap();
        let members = writer.members(&[]).await.unwrap();
        insert(&*writer, "k", b"v").await;
        let lease = granted(&*writer, led).await;
        let owner = cluster.owner_of(slot).await;
        cluster.fail_over(owner, Failover::Graceful).await;

        let (newcomer, met) = watched_partition(&l2(&cluster), LIMIT);
        if !is_subscription_first {
            assert!(usable(&*newcomer, "k").await.is_some());
            assert_eq!(met.last().epoch, before.epoch);
        }
        subscription.heartbeat(NOTHING);
        end(&mut *subscription).await;
        let subscribed = listener.subscribe(RELIES_FOR_LONG, NEWCOMER).await;
        let (after, _subscription) = subscribed.expect("it is the first request");
        assert_eq!((after.epoch, after.seq), (before.epoch, before.seq + 1));
        let missed = listener.replay(after.seq).await.unwrap();
        assert_eq!((missed[0].epoch, missed[0].seq), (after.epoch, after.seq));
        let now = writer.members(&[]).await.unwrap();
        assert_eq!(now.generation, members.generation);
        assert!(usable(&*writer, "k").await.is_some());
        let stamp = filled(&*writer, led, lease, b"v").await;
        assert_eq!(stamp.epoch, before.epoch);
        cluster.wait_until_in_step().await;
    }
}

/// Nobody can say that it was the former primary.
#[tokio::test]
async fn nodes_that_hide_their_processes_hand_nothing_over() {
    let cluster = RedisCluster::start_anonymous(3, 1).await;
    let (partition, met) = watched_partition(&l2(&cluster), LIMIT);
    reach(&*partition).await;
    let before = insert(&*partition, "k", b"v").await;
    let (_, owner) = place(&cluster).await;
    cluster.wait_until_in_step().await;
    cluster.fail_over(owner, Failover::Graceful).await;
    reach(&*partition).await;
    assert_eq!(usable(&*partition, "k").await, None);
    assert_ne!(met.last().epoch, before.epoch);
    let (_, mut subscription) = resubscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    answer(&mut *subscription).await.unwrap();
    assert!(usable(&*partition, "k").await.is_some());
}

/// The former primary says that the new one has all, or it does not: also if it begins anew with what it had saved
/// before the write that was lost, and goes on from there.
#[tokio::test]
#[ignore = "restarts many servers: sh tests/proof.sh cluster"]
async fn an_epoch_goes_on_only_if_nothing_was_lost() {
    // A full resync does not replace what was saved.
    let mut cluster = RedisCluster::start_behind(3, 1, &["--repl-diskless-load", "swapdb"]).await;
    let (slot, mut owner) = place(&cluster).await;
    let first = partition(&l2(&cluster));
    reach(&*first).await;
    let mut epoch = insert(&*first, "k", b"v").await.epoch;
    for (is_lost, restarts) in [(false, false), (true, false), (true, true)] {
        cluster.wait_until_in_step().await;
        let mut raw = cluster.node(owner).connection().await;
        cluster.node(owner).save().await;
        cluster.isolate(owner).await;
        let next = cluster.wait_until_taken_from(slot, owner).await;
        if is_lost {
            let set = ["SET", &super::value_key("lost"), "v"];
            let _: () = run(&mut raw, &set).await;
        }
        cluster.rejoin(owner).await;
        cluster.wait_until_in_step().await;
        if restarts {
            cluster.kill(owner);
            cluster.restart(owner).await;
            cluster.wait_until_in_step().await;
        }
        let (partition, met) = watched_partition(&l2(&cluster), LIMIT);
        reach(&*partition).await;
        assert_eq!(usable(&*partition, "k").await.is_some(), !is_lost);
        assert_eq!(met.last().epoch == epoch, !is_lost);
        epoch = insert(&*partition, "k", b"v").await.epoch;
        owner = next;
    }
}

/// It hears of its successor when it was asked already. A slow machine may take longer than it is asked for.
#[tokio::test]
async fn an_old_primary_is_asked_until_it_follows() {
    let mut cluster = RedisCluster::start_behind(3, 1, &[]).await;
    let (slot, mut owner) = place(&cluster).await;
    for _ in 0..5 {
        let writer = partition(&l2(&cluster));
        reach(&*writer).await;
        let before = insert(&*writer, "k", b"v").await;
        cluster.wait_until_in_step().await;
        cluster.isolate(owner).await;
        let next = cluster.wait_until_taken_from(slot, owner).await;
        let (newcomer, met) = watched_partition(&l2(&cluster), LIMIT);
        let raw = cluster.node(owner).connection().await;
        let is_over = Cell::new(false);
        let rejoin = async {
            eventually("it is asked, or was", async || {
                let clients: String = run(&mut raw.clone(), &["CLIENT", "LIST"]).await;
                clients.contains("cmd=info ") || is_over.get()
            })
            .await;
            cluster.rejoin(owner).await;
        };
        let look_up = async {
            reach(&*newcomer).await;
            let value = usable(&*newcomer, "k").await;
            is_over.set(true);
            value
        };
        let (value, ()) = tokio::join!(look_up, rejoin);
        assert_eq!(value.is_some(), met.last().epoch == before.epoch);
        if value.is_some() {
            return;
        }
        owner = next;
    }
    panic!("the epoch never goes on");
}

/// Whatever its replica has, it cannot say.
#[tokio::test]
#[ignore = "restarts many servers: sh tests/proof.sh cluster"]
async fn a_primary_that_has_gone_hands_nothing_over() {
    let mut cluster = RedisCluster::start().await;
    let (slot, mut owner) = place(&cluster).await;
    for way in ["stopped", "restarted", "dead"] {
        let (before, met) = watched_partition(&l2(&cluster), LIMIT);
        insert(&*before, "k", b"v").await;
        cluster.wait_until_in_step().await;
        let next = match way {
            "stopped" => {
                cluster.pause(owner);
                cluster.fail_over(owner, Failover::Force).await
            }
            _ => {
                cluster.kill(owner);
                cluster.wait_until_taken_from(slot, owner).await
            }
        };
        if way == "restarted" {
            cluster.restart(owner).await;
            cluster.wait_until_in_step().await;
        }
        let (after, met_then) = watched_partition(&l2(&cluster), LIMIT);
        assert_eq!(usable(&*after, "k").await, None, "{way}");
        assert_ne!(met_then.last().epoch, met.last().epoch, "{way}");
        if way == "stopped" {
            cluster.resume(owner);
            cluster.wait_until_in_step().await;
        }
        owner = next;
    }
}

/// It does not hear that its replica was promoted, and goes on answering.
#[tokio::test]
async fn an_old_primary_is_not_believed() {
    let mut cluster = RedisCluster::start_behind(3, 1, &[]).await;
    let l2 = l2(&cluster);
    let partition = partition(&l2);
    let (slot, owner) = place(&cluster).await;
    let (before, mut subscription) = partition
        .subscribe(RELIES_FOR_LONG, NEWCOMER)
        .await
        .unwrap();
    insert(&*partition, "k", b"old").await;
    answer(&mut *subscription).await.unwrap();
    cluster.isolate(owner).await;
    cluster.wait_until_taken_from(slot, owner).await;
    let error = shown(&answer(&mut *subscription).await.unwrap_err());
    assert!(error.contains("on another node"), "{error}");
    // Nor is what it stores.
    let raw = cluster.node(owner).connection().await;
    let set = ["SET", &super::value_key("there"), "v"];
    let _: () = run(&mut raw.clone(), &set).await;
    let (after, mut subscription) = resubscribe(&*partition).await;
    assert_ne!(after.incarnation, before.incarnation);
    assert_eq!(get(&*partition, "there").await, None);
    answer(&mut *subscription).await.unwrap();
}

/// Between the first of its keys and the word that the slot has moved, no node executes a step of the partition.
#[tokio::test]
async fn a_partition_is_off_while_its_slot_moves() {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let l2 = l2(&cluster);
    let partition = partition(&l2);
    let (slot, owner) = place(&cluster).await;
    let (_, mut subscription) = partition
        .subscribe(RELIES_FOR_LONG, NEWCOMER)
        .await
        .unwrap();
    insert(&*partition, "k", b"old").await;
    let moving = cluster.begin_move(slot, (owner + 1) % 3).await;
    cluster.move_keys(moving).await;
    let payload = payload_of(Kind::Invalidate, &["k"]);
    let refused = partition.invalidate(&["k"], &payload, Duration::ZERO).await;
    let refused = refused.unwrap_err();
    assert!(refused.is_unreachable(), "it is sent again later");
    assert!(shown(&refused).contains("is moving"), "{}", shown(&refused));
    subscription.heartbeat(NOTHING);
    end(&mut *subscription).await;
    assert!(
        partition
            .subscribe(RELIES_FOR_LONG, NEWCOMER)
            .await
            .is_err()
    );
    assert!(partition.get("k").await.is_err());

    cluster.finish_move(moving).await;
    let (_, mut subscription) = resubscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
    partition
        .invalidate(&["k"], &payload, Duration::ZERO)
        .await
        .unwrap();
    message(&mut *subscription).await;
}

/// Two witnesses are left, of which one is the primary itself.
#[tokio::test]
async fn a_primary_that_is_away_costs_the_partitions_of_others_nothing() {
    let whatever = ["--cluster-require-full-coverage", "no"];
    let mut cluster = RedisCluster::start_with(3, 0, &whatever).await;
    let l2 = l2(&cluster);
    let partition = partition(&l2);
    let (_, owner) = place(&cluster).await;
    let (_, mut subscription) = partition
        .subscribe(RELIES_FOR_LONG, NEWCOMER)
        .await
        .unwrap();
    cluster.pause((owner + 1) % 3);
    answer(&mut *subscription).await.unwrap();
    insert(&*partition, "k", b"v").await;
    // One that connects anew, and has to ask the node that is away.
    let other = self::partition(&self::l2(&cluster));
    assert!(get(&*other, "k").await.is_some());

    cluster.pause((owner + 2) % 3);
    let error = shown(&answer(&mut *subscription).await.unwrap_err());
    assert!(error.contains("no majority of the primaries"), "{error}");
    let third = self::partition(&self::l2(&cluster));
    let error = shown(&third.members(&[]).await.unwrap_err());
    assert!(error.contains("no majority of the primaries"), "{error}");
    cluster.resume((owner + 2) % 3);
    let (_, mut subscription) = resubscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
}

/// Nodes are learnt from one that answers, and remembered when that is gone.
#[tokio::test]
async fn one_node_leads_to_the_others() {
    let mut cluster = RedisCluster::start().await;
    let (_, owner) = place(&cluster).await;
    let seed = (owner + 1) % 3;
    let gone = "redis://127.0.0.1:1".to_owned();
    let l2 = home::cluster(vec![gone, cluster.urls().swap_remove(seed)]);
    let partition = partition(&l2);
    let (_, mut subscription) = partition
        .subscribe(RELIES_FOR_LONG, NEWCOMER)
        .await
        .unwrap();
    insert(&*partition, "k", b"v").await;
    answer(&mut *subscription).await.unwrap();
    cluster.kill(seed);
    let its_slot = u16::try_from(seed * 16_384 / 3 + 1).unwrap();
    cluster.wait_until_taken_from(its_slot, seed).await;
    assert!(
        get(&*partition, "k").await.is_some(),
        "the partition was not moved"
    );
    let (_, mut subscription) = resubscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
}

#[tokio::test]
async fn partitions_on_a_node_share_its_connections() {
    const BEATS: u64 = 10;
    let cluster = RedisCluster::start_with(1, 0, &[]).await;
    let l2 = l2(&cluster);
    let (first, second) = (partition(&l2), partition_of(&l2, "other"));
    let (_, mut one) = subscribe(&*first).await;
    let (_, mut other) = subscribe(&*second).await;
    insert(&*first, "k", b"v").await;
    insert(&*second, "k", b"v").await;
    for _ in 0..BEATS {
        answer(&mut *one).await.unwrap();
        answer(&mut *other).await.unwrap();
    }
    let clients = async || {
        let mut raw = cluster.node(0).connection().await;
        let clients: String = run(&mut raw, &["CLIENT", "LIST"]).await;
        let named = clients.lines().filter(|line| line.contains("name=larder"));
        (named.count(), clients.matches("cmd=cluster").count())
    };
    // For requests and for messages, and the one over which the node is asked.
    assert_eq!(clients().await, (2, 1));
    drop((one, other, first, second));
    eventually("they end with the last partition", async || {
        clients().await == (0, 0)
    })
    .await;
}

/// When a service starts, each partition of each of its caches connects twice, and finds a clock that names no number. The
/// partitions of a cache find out together how many they are, from the clocks of all partitions that it could have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_start_together_ask_together() {
    const CACHES: u64 = 32;
    /// Of a cache: a question is a script on each node. They ask twice, and once more for partitions that come meanwhile.
    /// Each for itself sends 19.
    const MOST: u64 = 16;
    if home::is_simulated("on several threads, time passes while scripts are executed") {
        return;
    }
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let l2 = l2(&cluster);
    let build = |n| {
        let builder = Cache::builder(format!("test:start{n}"));
        // What is counted does not depend on how busy the machine is.
        builder.l2(l2.clone()).l2_timeout(LONG).build().unwrap()
    };
    let caches: Vec<Cache<u64, u64>> = (0..CACHES).map(build).collect();
    let start = async |cache: &Cache<u64, u64>| {
        for key in 0..8 {
            let load = move || async move { Ok::<_, Infallible>(key) };
            assert_eq!(*cache.get_or_load(&key, load).await.unwrap(), key);
            cache.insert(&key, key).await.unwrap();
            cache.invalidate(&key).await.unwrap();
        }
        cache.ready().await;
        assert_eq!(cache.stats().l2_errors, 0);
    };
    join_all(caches.iter().map(start)).await;
    let mut scripts = 0;
    for node in 0..3 {
        let calls = calls(&mut cluster.node(node).connection().await).await;
        let mut reading = calls.iter().filter(|(name, _)| name == "evalsha_ro");
        scripts += reading.next().map_or(0, |(_, count)| *count);
    }
    println!("{} scripts for each cache", scripts / CACHES);
    assert!(scripts <= MOST * CACHES, "{scripts}");
}

/// The table of the guide: what idle caches of a process cost each of three primaries. Prints a row for each case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: sh tests/proof.sh cluster"]
async fn what_idle_caches_cost_a_primary() {
    const SECONDS: u64 = 20;
    for caches in [1, 20] {
        let cluster = RedisCluster::start_with(3, 0, &[]).await;
        let l2 = l2(&cluster);
        let mut all = Vec::new();
        for n in 0..caches {
            let builder: larder::Builder<String, u32> = Cache::builder(format!("test:{n}"));
            let cache = builder.l2(l2.clone()).build().unwrap();
            cache.ready().await;
            all.push(cache);
        }
        let mut costs = [0; 5];
        let mut raws = Vec::new();
        for node in 0..3 {
            let mut raw = cluster.node(node).connection().await;
            let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
            costs[3] -= i64::try_from(received(&mut raw).await).unwrap();
            costs[4] -= i64::try_from(computed(&mut raw).await).unwrap();
            raws.push(raw);
        }
        // Not for something to happen: the time is a part of what is measured.
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        for raw in &mut raws {
            costs[3] += i64::try_from(received(raw).await).unwrap();
            costs[4] += i64::try_from(computed(raw).await).unwrap();
            for (name, count) in calls(raw).await {
                let count = i64::try_from(count).unwrap();
                costs[1] += if name.starts_with("eval") {
                    60 * count
                } else {
                    0
                };
                costs[2] += if name == "cluster|nodes" {
                    60 * count
                } else {
                    0
                };
            }
            let list: String = run(raw, &["CLIENT", "LIST"]).await;
            costs[0] += i64::try_from(list.matches(" name=larder:").count()).unwrap();
        }
        let [connections, scripts, views, bytes, cpu] = costs;
        let each = |total: i64| total / 3 / i64::try_from(SECONDS).unwrap();
        println!(
            "{caches} caches: {} connections, {} scripts and {} views a minute, {} bytes and {} µs of CPU a second",
            connections / 3,
            each(scripts),
            each(views),
            each(bytes),
            each(cpu)
        );
        assert!(connections <= 6 && each(scripts) <= 600 && each(views) <= 400);
    }
}

#[tokio::test]
async fn a_user_and_its_rights() {
    if home::is_simulated("it has one user") {
        return;
    }
    let cluster = RedisCluster::start_with(1, 0, &[]).await;
    let mut raw = cluster.node(0).connection().await;
    let mut set_rights = async |rights: &str| {
        let words = format!(
            "ACL SETUSER app on >pw resetkeys resetchannels ~{{test:values.0}}* &{{test:values.0}}* {rights}"
        );
        let words: Vec<&str> = words.split(' ').collect();
        let _: () = run(&mut raw, &words).await;
    };
    set_rights("+@all -cluster").await;
    let url = cluster.urls()[0].replace("//", "//app:pw@");
    let partition = partition(&home::cluster(vec![url]));
    let error = shown(&partition.get("k").await.unwrap_err());
    assert!(error.contains("may not run cluster"), "{error}");
    // As the guide has them.
    set_rights(
        "-@all +evalsha +evalsha_ro +script|load +get +mget +set +setrange +rename +exists +del +hmget +hget +hgetall +hset +hdel +xadd +xtrim +xrange +time +type +info +pttl +pexpire +client|setname +ssubscribe +sunsubscribe +spublish +cluster|nodes +cluster|info",
    )
    .await;
    let (_, mut subscription) = resubscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    message(&mut *subscription).await;
    answer(&mut *subscription).await.unwrap();
    assert!(get(&*partition, "k").await.is_some());
}

#[tokio::test]
async fn mistakes_are_named() {
    let server = RedisServer::start().await;
    let single = partition(&home::cluster(vec![server.url()]));
    let error = shown(&single.get("k").await.unwrap_err());
    assert!(error.contains("no node of a cluster"), "{error}");

    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let (_, owner) = place(&cluster).await;
    let other = cluster.node((owner + 1) % 3).url();
    let direct = partition(&home::open(other));
    let error = shown(&direct.get("k").await.unwrap_err());
    assert!(error.contains("use RedisL2::cluster"), "{error}");

    for (nodes, means) in [
        (vec![], "needs the address"),
        (vec!["redis://a/1"], "no databases"),
        (vec!["redis+unix:///run/a.sock"], "no unix sockets"),
        (vec!["redis://a,b"], "several hosts"),
    ] {
        let error = RedisL2::cluster(nodes).map(drop).unwrap_err();
        assert!(error.is_bad_config());
        assert!(error.to_string().contains(means), "{error}");
    }
    let cluster = RedisL2::cluster(["redis://a"]).unwrap();
    assert!(cluster.primary_like("redis://b").is_err());
}

/// An instance that was told this number of partitions.
fn told(cluster: &RedisCluster, partitions: u16) -> Cache<String, String> {
    let builder = Cache::builder("test:parts").l2(l2(cluster));
    builder.partitions(partitions).build().unwrap()
}

/// Waits until each of them reads what the other writes.
async fn meet(one: &Cache<String, String>, other: &Cache<String, String>) {
    for (writer, reader, value) in [(one, other, "a"), (other, one, "b")] {
        eventually("one reads what the other writes", async || {
            let written = writer.insert("k", value.to_owned()).await;
            written.is_ok() && reader.get("k").await.is_some_and(|entry| *entry == value)
        })
        .await;
    }
}

/// Each clock is with the node of its slot, and the instances go on with the larger number.
#[tokio::test]
async fn partitions_grow_on_a_cluster() {
    let cluster = RedisCluster::start().await;
    let one = told(&cluster, 1);
    one.ready().await;
    one.insert("k", "of one".to_owned()).await.unwrap();
    let four = told(&cluster, 4);
    four.ready().await;
    meet(&four, &one).await;
}

/// The clock of the only partition of one, and what it was at first.
const CLOCK: &str = "{test:parts.0}!clock";
const COPY: &str = "{test:parts.0}copy";

/// A cluster on which the namespace has one partition, the node of its clock, and a connection to that.
async fn with_one_partition() -> (RedisCluster, usize, MultiplexedConnection) {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    told(&cluster, 1).ready().await;
    let owner = cluster.owner_of(cluster.slot_of(CLOCK).await).await;
    let mut raw = cluster.node(owner).connection().await;
    let _: bool = run(&mut raw, &["COPY", CLOCK, COPY]).await;
    (cluster, owner, raw)
}

/// The node loses what came since, as a replica may that is promoted.
async fn lose(raw: &mut MultiplexedConnection) {
    let _: bool = run(raw, &["COPY", COPY, CLOCK, "REPLACE"]).await;
}

async fn is_closed(raw: &mut MultiplexedConnection) -> bool {
    let at: Vec<u8> = run(raw, &["HGET", CLOCK, "at"]).await;
    at == b"PARTITIONS 4"
}

/// A server that has lost its last writes is not believed about the number of partitions, but asked together with the
/// others (rule 27).
#[tokio::test]
async fn a_tombstone_that_was_lost_is_written_again() {
    let (cluster, _, mut raw) = with_one_partition().await;
    let four = told(&cluster, 4);
    four.ready().await;
    lose(&mut raw).await;
    let _: i64 = run(&mut raw, &["HSET", CLOCK, "run", "another:incarnation"]).await;
    let one = told(&cluster, 1);
    meet(&four, &one).await;
    assert!(is_closed(&mut raw).await);
}

/// Before any other clock names the new number.
#[tokio::test]
async fn a_tombstone_that_is_lost_while_partitions_grow_is_written_again() {
    let (cluster, owner, mut raw) = with_one_partition().await;
    let others = [(owner + 1) % 3, (owner + 2) % 3];
    for other in others {
        let mut raw = cluster.node(other).connection().await;
        let _: () = run(&mut raw, &["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    }
    // Its clock is on the same node, as the slots of this namespace are.
    let partition = PartitionNumber { number: 3, of: 4 };
    let namespace = "test:parts";
    let partition = l2(&cluster).partition(
        PartitionName {
            partition,
            ..namespace.into()
        },
        LIMIT,
        Box::new(|_| ()),
    );
    let losing = async {
        eventually("the former one is closed", async || {
            is_closed(&mut raw.clone()).await
        })
        .await;
        lose(&mut raw).await;
        for other in others {
            let mut raw = cluster.node(other).connection().await;
            let _: () = run(&mut raw, &["CLIENT", "UNPAUSE"]).await;
        }
    };
    join(reach(&*partition), losing).await;
    assert!(is_closed(&mut raw).await);
}
