//! What a simulated cluster is relied on for: a seed has one history, and after all faults its nodes agree.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{AsyncConnectionConfig, RedisConnectionInfo, cmd};
use simulated_redis::{
    ClusterSettings, Direct, Failover, Reply, SimulatedCluster, SimulatedRedis, Snapshot,
};
use tokio::time::sleep;

use crate::support::eventually::eventually;

const PRIMARIES: usize = 3;
const NODES: usize = 9;
const FAULTS: usize = 20;

fn request(connection: &Direct, words: &[&str]) -> Reply {
    let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    connection.request(&words)
}

fn ask(node: &SimulatedRedis, words: &[&str]) -> String {
    match request(&node.direct(), words) {
        Reply::Bulk(text) => String::from_utf8(text).unwrap(),
        other => format!("{other:?}"),
    }
}

/// Three primaries with two replicas each, and what is drawn beside.
fn start(seed: u64) -> (SimulatedCluster, Rng) {
    fastrand::seed(seed);
    let mut rng = Rng::with_seed(seed);
    let cluster = SimulatedCluster::with(ClusterSettings {
        primaries: PRIMARIES,
        replicas_each: NODES / PRIMARIES - 1,
        delay: Duration::ZERO..Duration::from_millis(rng.u64(1..200)),
        rng: rng.fork(),
        ..ClusterSettings::default()
    });
    (cluster, rng)
}

/// Something happens to a node, and may last. Nobody votes for some of it, unless all do.
fn happen(cluster: &SimulatedCluster, all_vote: bool, rng: &mut Rng) {
    let node = rng.usize(..NODES);
    match rng.u8(..12) {
        0 => cluster.kill(node),
        1 | 2 => cluster.restart(node, &Snapshot::default()),
        3 => cluster.pause(node),
        4 | 5 => cluster.resume(node),
        6 => cluster.isolate(node),
        7 | 8 => cluster.rejoin(node),
        9 if cluster.followed(node).is_some() => cluster.elect_nobody(node),
        10 if !all_vote => move_slot(cluster, node, rng),
        _ => {
            let how = [Failover::Graceful, Failover::Force, Failover::Takeover];
            let how = how[rng.usize(..if all_vote { 2 } else { 3 })];
            if cluster.followed(node).is_none() {
                _ = cluster.fail_over(node, how);
            }
        }
    }
}

/// Those that take part have to agree about it.
fn move_slot(cluster: &SimulatedCluster, to: usize, rng: &mut Rng) {
    let slot = rng.u16(..16_384);
    if cluster.is_settled() && cluster.has_slots(to) && cluster.named(to, slot) != Some(to) {
        let moving = cluster.begin_move(slot, to);
        cluster.move_keys(moving);
        cluster.finish_move(moving);
    }
}

/// Two nodes that each say a slot to be their own since the same epoch would be believed both.
fn assert_no_epoch_has_two_owners(cluster: &SimulatedCluster) {
    for slot in [0, 5000, 8000, 12_000, 16_383] {
        let mut owners = BTreeMap::new();
        for node in 0..NODES {
            if cluster.named(node, slot) == Some(node) {
                let (_, since) = cluster.epochs(node);
                assert_eq!(owners.insert(since, node), None, "slot {slot}: {owners:?}");
            }
        }
    }
}

/// What a seed does to the nodes, as they see it.
async fn history(seed: u64) -> Vec<String> {
    let (cluster, mut rng) = start(seed);
    let all_vote = seed.is_multiple_of(2);
    let mut history = Vec::new();
    for _ in 0..FAULTS {
        happen(&cluster, all_vote, &mut rng);
        sleep(Duration::from_millis(rng.u64(..3000))).await;
        if all_vote {
            assert_no_epoch_has_two_owners(&cluster);
        }
        for node in cluster.nodes() {
            history.push(ask(node, &["CLUSTER", "NODES"]));
            history.push(ask(node, &["CLUSTER", "INFO"]));
            history.push(ask(node, &["INFO", "replication"]));
        }
    }
    for node in 0..NODES {
        cluster.rejoin(node);
        cluster.resume(node);
        cluster.restart(node, &Snapshot::default());
    }
    settle(&cluster).await;
    for node in 0..NODES {
        // A slot has one owner, which knows it.
        for slot in [0, 5000, 8000, 12_000, 16_383] {
            let owner = cluster.named(node, slot).unwrap();
            assert_eq!(cluster.named(owner, slot), Some(owner));
        }
        history.push(ask(cluster.node(node), &["CLUSTER", "NODES"]));
    }
    history
}

async fn settle(cluster: &SimulatedCluster) {
    eventually("all know the same", async || {
        let has_followed = (0..NODES).all(|node| cluster.has_followed(node));
        has_followed && cluster.is_settled()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nodes_agree_after_all_faults() {
    for seed in crate::support::seeds::seeds().unwrap_or(0..10) {
        println!("LARDER_SEEDS={seed}..{}", seed + 1);
        history(seed).await;
    }
}

#[tokio::test]
async fn a_seed_has_one_history() {
    let mut histories = Vec::new();
    for seed in [7, 7, 8] {
        // In another thread and another runtime.
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build();
            runtime.unwrap().block_on(history(seed))
        };
        histories.push(tokio::task::spawn_blocking(run).await.unwrap());
    }
    assert!(histories[0] == histories[1]);
    assert!(histories[0] != histories[2]);
}

#[tokio::test(start_paused = true)]
async fn an_election_that_nobody_wins_leaves_an_epoch() {
    let cluster = SimulatedCluster::new(PRIMARIES, 1);
    cluster.bump_epoch(0);
    let settled = async || eventually("settled", async || cluster.is_settled()).await;
    settled().await;
    assert_eq!(cluster.epochs(0), (7, 7));
    cluster.elect_nobody(4);
    sleep(Duration::from_secs(1)).await;
    settled().await;
    for node in 0..2 * PRIMARIES {
        let (newest, own) = cluster.epochs(node);
        assert!(newest == 8 && own < 8, "{node}: {own}");
    }
    cluster.bump_epoch(1);
    assert_eq!(cluster.epochs(1), (9, 9));
}

/// What was acknowledged is on the new primary, and the former one says so.
#[tokio::test(start_paused = true)]
async fn a_planned_failover_loses_nothing() {
    let cluster = SimulatedCluster::new(PRIMARIES, 1);
    let history = |node| {
        let info = ask(cluster.node(node), &["INFO", "replication"]);
        let field = |name: &str| {
            let mut lines = info.lines();
            let line = lines.find_map(|line| line.strip_prefix(name));
            line.unwrap().to_owned()
        };
        ["master_replid:", "master_replid2:"].map(field)
    };
    let [before, _] = history(0);
    let (login, config) = (RedisConnectionInfo::default(), AsyncConnectionConfig::new());
    let stream = cluster.node(0).connect().unwrap();
    let connecting = MultiplexedConnection::new_with_config(&login, stream, config);
    let (mut writer, driver) = connecting.await.unwrap();
    tokio::spawn(driver);
    let write = async {
        let mut number = 0;
        loop {
            let set = cmd("SET").arg("{b}k").arg(number).clone();
            match set.query_async(&mut writer).await {
                Ok(()) => number += 1,
                Err(error) => return (number, error),
            }
            sleep(Duration::from_micros(50)).await;
        }
    };
    let fail_over = async {
        sleep(Duration::from_millis(20)).await;
        assert_eq!(cluster.fail_over(0, Failover::Graceful), Some(3));
    };
    let ((written, error), ()) = tokio::join!(write, fail_over);
    assert_eq!(error.code(), Some("MOVED"));
    assert!(written > 0);
    assert_eq!(
        ask(cluster.node(3), &["GET", "{b}k"]),
        (written - 1).to_string()
    );
    eventually("it follows", async || cluster.has_followed(0)).await;
    let [now, former] = history(0);
    assert_eq!([&now, &former], [&history(3)[0], &before]);
}
