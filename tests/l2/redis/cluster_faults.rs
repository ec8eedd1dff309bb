//! Faults of a cluster one after the other, while callers of several instances go on: what was invalidated stays gone.

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use fastrand::Rng;
use larder::RedisL2;
use tokio::time::sleep;

use super::callers::{Callers, MAX_STALENESS};
use super::run;
use crate::store::NAMESPACE;
use crate::support::redis_cluster::{Failover, RedisCluster};

const INSTANCES: usize = 4;
const KEYS: usize = 512;
const PARTITIONS: usize = 4;
const PRIMARIES: usize = 3;
const ROUNDS: usize = 3;
/// Twice the node timeout: within that, a majority votes only once about a primary.
const BETWEEN: Duration = Duration::from_secs(2);

/// What happens to the primary of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Graceful,
    Force,
    Takeover,
    /// It stands still until its replica has taken over.
    Paused,
    /// The others do not hear it until its replica has taken over, and some time longer.
    Isolated,
    Killed,
    /// The slot of the partition goes to another primary, key by key, and back.
    Moved,
    /// The same in one step, with servers that can.
    Migrated,
    /// All connections with all nodes are cut.
    Cut,
}

const FAULTS: [Fault; 9] = [
    Fault::Graceful,
    Fault::Force,
    Fault::Takeover,
    Fault::Paused,
    Fault::Isolated,
    Fault::Killed,
    Fault::Moved,
    Fault::Migrated,
    Fault::Cut,
];

/// With a seed in `LARDER_SEED`, and the faults in `LARDER_FAULTS`, such as `Moved,Cut`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes: sh tests/proof.sh cluster"]
async fn what_was_invalidated_stays_gone_whatever_fails() {
    let seed =
        env::var("LARDER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("LARDER_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let named = env::var("LARDER_FAULTS").unwrap_or_default();
    let is_named = |fault: &Fault| {
        named.is_empty() || named.split(',').any(|name| name == format!("{fault:?}"))
    };
    let mut cluster = RedisCluster::start_behind(PRIMARIES, 1, &[]).await;
    let can_migrate = cluster.can_migrate().await;
    let can_happen = |fault: &Fault| *fault != Fault::Migrated || can_migrate;
    let faults = FAULTS.into_iter().filter(is_named).filter(can_happen);
    let faults: Vec<_> = faults.collect();
    let callers = Callers::start(INSTANCES, KEYS, || l2(&cluster)).await;
    let mut partitions = BTreeMap::<usize, usize>::new();
    for key in callers.keys() {
        *partitions
            .entry(usize::from(cluster.slot_of(key).await) % PARTITIONS)
            .or_default() += 1;
    }
    assert!(
        partitions.len() == PARTITIONS,
        "each partition has keys: {partitions:?}"
    );
    let slots = slots(&cluster).await;
    callers.recover().await;
    let mut counts = BTreeMap::<Fault, usize>::new();
    for _ in 0..ROUNDS {
        let mut order = faults.clone();
        rng.shuffle(&mut order);
        for fault in order {
            let slot = slots[rng.usize(..slots.len())];
            let began = callers.now();
            happen(&mut cluster, &callers, fault, slot).await;
            let ended = callers.now();
            cluster.wait_until_in_step().await;
            let in_step = callers.now();
            callers.recover().await;
            let recovered = callers.now();
            println!(
                "{fault:?} of slot {slot}: {began:?} to {ended:?}, in step at {in_step:?}, well at {recovered:?}"
            );
            sleep(BETWEEN).await;
            *counts.entry(fault).or_default() += 1;
        }
    }
    let counted = callers.stop().await;
    println!("{counts:?}; {counted:?}");
    assert!(
        (counted.reads > 1_000_000 || !named.is_empty()) && counted.from_l1 * 2 > counted.reads,
        "{counted:?}"
    );
}

fn l2(cluster: &RedisCluster) -> RedisL2 {
    RedisL2::cluster(cluster.urls()).unwrap()
}

/// Those of the partitions, as their names show.
async fn slots(cluster: &RedisCluster) -> Vec<u16> {
    let mut slots = Vec::new();
    for node in 0..PRIMARIES {
        let mut raw = cluster.node(node).connection().await;
        let pattern = format!("{{{NAMESPACE}.*of{PARTITIONS}.*}}!clock");
        for clock in run::<Vec<String>>(&mut raw, &["KEYS", &pattern]).await {
            slots.push(cluster.slot_of(&clock).await);
        }
    }
    assert_eq!(slots.len(), PARTITIONS);
    slots
}

async fn happen(cluster: &mut RedisCluster, callers: &Callers, fault: Fault, slot: u16) {
    let owner = cluster.owner_of(slot).await;
    match fault {
        Fault::Graceful => _ = cluster.fail_over(owner, Failover::Graceful).await,
        Fault::Force => _ = cluster.fail_over(owner, Failover::Force).await,
        Fault::Takeover => _ = cluster.fail_over(owner, Failover::Takeover).await,
        Fault::Paused => {
            cluster.pause(owner);
            cluster.wait_until_taken_from(slot, owner).await;
            cluster.resume(owner);
        }
        Fault::Isolated => {
            // What an old primary accepts after its successor is named is lost (rule 26).
            let mut quiet = callers.no_writes().await;
            cluster.isolate(owner).await;
            cluster.wait_until_taken_from(slot, owner).await;
            callers.renew(l2(cluster)).await;
            quiet.remove(0);
            sleep(2 * MAX_STALENESS).await;
            drop(quiet);
            cluster.rejoin(owner).await;
        }
        Fault::Killed => {
            cluster.kill(owner);
            cluster.wait_until_taken_from(slot, owner).await;
            cluster.restart(owner).await;
        }
        Fault::Moved => {
            let to = other_primary(cluster, owner).await;
            cluster.move_slot(slot, to).await;
            sleep(2 * MAX_STALENESS).await;
            cluster.move_slot(slot, owner).await;
        }
        Fault::Migrated => {
            let to = other_primary(cluster, owner).await;
            cluster.migrate_slot(slot, to).await;
            sleep(2 * MAX_STALENESS).await;
            cluster.migrate_slot(slot, owner).await;
        }
        Fault::Cut => {
            for _ in 0..5 {
                for node in 0..cluster.urls().len() {
                    cluster.proxy(node).cut();
                }
                sleep(MAX_STALENESS / 4).await;
            }
        }
    }
}

/// One that has the last slot, or else the first one.
async fn other_primary(cluster: &RedisCluster, than: usize) -> usize {
    let mut owners = Vec::new();
    for slot in [0, 8000, 16_383] {
        owners.push(cluster.owner_of(slot).await);
    }
    let other = owners.into_iter().find(|owner| *owner != than);
    other.expect("another one has slots")
}
