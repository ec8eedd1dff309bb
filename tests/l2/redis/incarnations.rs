//! A server that forgets, restarts, or brings back what was deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use futures::StreamExt;
#[cfg(feature = "write-behind")]
use larder::l2::{Append, Partition, Waiting, Written};
use larder::l2::{Event, Fill, Kind, KnownHistory, MemberInfo, NewLifetime, Step, Ttls, Version};
use larder_store_tests::steps::Steps;

use super::{end, own_key, partition, run, value_key, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::redis_server::RedisServer;

/// The clock goes, values stay: the worst of both.
#[tokio::test]
async fn a_lost_clock_starts_a_new_epoch() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let mut old = insert(&*partition, "k", b"old").await;
    for _ in 0..5 {
        old = insert(&*partition, "k", b"old").await;
    }
    let lease = granted(&*partition, "led").await;
    let _: i64 = run(&mut raw, &["DEL", &own_key("clock")]).await;

    assert_eq!(usable(&*partition, "k").await, None);
    assert!(
        get(&*partition, "k").await.is_some(),
        "the value itself is left"
    );
    let rejected = fill(&*partition, "led", lease, b"stale").await;
    assert_eq!(rejected, Fill::Rejected(None));
    let new = granted(&*partition, "k").await;
    assert_ne!(new.epoch, old.epoch);
    let stamp = filled(&*partition, "k", new, b"new").await;
    assert_eq!(stamp.epoch, new.epoch);
    assert!(usable(&*partition, "k").await.is_some());
}

/// By a random number of its caller: of two epochs with one number, the second would have the values of the first.
#[tokio::test]
async fn each_step_that_finds_the_clock_lost_begins_an_epoch_of_its_own() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let (payload, absent) = (payload_of(Kind::Insert, &["k"]), Version::ABSENT);
    let (value, ttls) = (sealed(b"v"), Ttls::new(LONG));
    let steps = [
        "acquire_lease",
        "fill",
        "revalidate",
        "insert",
        "insert_if",
        "expire",
        "touch",
        "invalidate",
        "invalidate_tags",
        "switch on",
        "switch off",
        "clear",
        "end_leases",
        "subscribe",
        #[cfg(feature = "write-behind")]
        "append",
        #[cfg(feature = "write-behind")]
        "append in the place of one",
        #[cfg(feature = "write-behind")]
        "settle",
    ];
    let (mut epochs, mut lists) = (BTreeSet::new(), BTreeSet::new());
    for step in steps {
        // All else is the same the second time.
        for _ in 0..2 {
            invalidate(partition, &["k"]).await;
            let lease = granted(partition, "k").await;
            let old = insert(partition, "k", b"old").await;
            #[cfg(feature = "write-behind")]
            let taken = taken(partition).await;
            let _: i64 = run(&mut raw, &["DEL", &own_key("clock"), &own_key("live")]).await;
            match step {
                "acquire_lease" => _ = granted(partition, "other").await,
                "fill" => _ = fill(partition, "k", lease, b"v").await,
                "revalidate" => {
                    let again = partition.revalidate("k", lease, old.ver, ttls, &[]);
                    _ = again.await.unwrap();
                }
                "insert" => _ = insert(partition, "k", b"v").await,
                "insert_if" => {
                    let inserted = partition.insert_if("k", &value, absent, &payload, None);
                    assert!(inserted.await.unwrap().is_some());
                }
                "expire" => _ = partition.expire(&["k"], &payload).await.unwrap(),
                "touch" => {
                    let touched = partition.touch("k", NewLifetime::Renewed(ttls), &payload, None);
                    assert_eq!(touched.await.unwrap(), None, "it is of another epoch");
                }
                "invalidate" => {
                    let (hold, is_awaited) = (Duration::ZERO, true);
                    let payload = payload_of(Kind::InvalidateAwaited, &["k"]);
                    let step = Step::Invalidate { hold, is_awaited };
                    let ack = partition.ack(step, &["k"], &payload).await.unwrap();
                    assert!((1..1 << 53).contains(&ack.generation), "{ack:?}");
                    assert!(lists.insert(ack.generation), "the list is a new one, too");
                }
                "invalidate_tags" => _ = invalidate_tags(partition, &["t"]).await,
                "switch on" => partition.switch(false, None).await.unwrap(),
                "switch off" => partition.switch(true, None).await.unwrap(),
                "clear" => _ = clear(partition).await,
                "end_leases" => _ = partition.end_leases().await.unwrap(),
                #[cfg(feature = "write-behind")]
                "append" => append(partition, None).await,
                #[cfg(feature = "write-behind")]
                "append in the place of one" => append(partition, Some(absent)).await,
                #[cfg(feature = "write-behind")]
                "settle" => assert!(settle_writes(partition, &taken, Ok(&[])).await),
                _ => drop(subscribe(partition).await),
            }
            let at: Vec<u8> = run(&mut raw, &["HGET", &own_key("clock"), "at"]).await;
            assert_eq!(at.len(), 32, "{step} has left no clock");
            let epoch = u64::from_be_bytes(at[..8].try_into().unwrap());
            assert!((1..1 << 53).contains(&epoch), "{step}: {epoch}");
            assert!(epochs.insert(epoch), "{step} has begun {epoch} again");
        }
    }
}

#[cfg(feature = "write-behind")]
async fn append(partition: &dyn Partition, version: Option<Version>) {
    // No lease is granted where a write waits.
    let key = "written";
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &[key]));
    let append = Append {
        encoded_key: key.into(),
        most: u64::MAX,
        version,
    };
    let appended = partition.append(key, &value, append, &payload, None).await;
    assert!(matches!(appended, Ok(Written::Done(_))), "{appended:?}");
}

/// All writes that wait, of which there is one at least.
#[cfg(feature = "write-behind")]
async fn taken(partition: &dyn Partition) -> Vec<Waiting> {
    append(partition, None).await;
    take_writes(partition).await
}

/// The log outlives its clock, and holds higher numbers than the new one will give for a while.
#[tokio::test]
async fn a_lost_clock_does_not_break_the_log() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    for _ in 0..5 {
        invalidate(&*partition, &["k"]).await;
    }
    let _: i64 = run(&mut raw, &["DEL", &own_key("clock")]).await;
    let (clock, mut subscription) = subscribe(&*partition).await;
    assert_eq!(clock.seq, 0);
    let inserted = insert(&*partition, "k", b"v").await;
    let invalidated = invalidate(&*partition, &["k"]).await;
    assert_eq!((inserted.ver, invalidated.ver), (1, 2));
    for seq in 1..=2 {
        let received = message(&mut *subscription).await;
        assert_eq!((received.epoch, received.seq), (clock.epoch, seq));
    }
    let log: Vec<(String, Vec<Vec<u8>>)> =
        run(&mut raw, &["XRANGE", &own_key("log"), "-", "+"]).await;
    let ids: Vec<&str> = log.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["1-0", "2-0"]);
}

/// The epoch of a message in the log shows whether it is of an epoch that has ended.
#[tokio::test]
async fn a_log_of_another_epoch_is_recognized() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let mut old = invalidate(&*partition, &["k"]).await;
    for _ in 0..2 {
        old = invalidate(&*partition, &["k"]).await;
    }
    // An entry that this crate did not write leaves a hole.
    let _: String = run(&mut raw, &["XADD", &own_key("log"), "4-0", "m", "junk"]).await;
    let _: i64 = run(&mut raw, &["DEL", &own_key("clock")]).await;
    let (clock, _subscription) = subscribe(&*partition).await;
    let replayed = partition.replay(1).await.unwrap();
    assert_eq!(replayed.len(), 3);
    assert!(replayed.iter().all(|message| message.epoch == old.epoch));
    invalidate(&*partition, &["k"]).await;
    let replayed = partition.replay(1).await.unwrap();
    assert_eq!((replayed.len(), replayed[0].epoch), (1, clock.epoch));
    let _: i64 = run(&mut raw, &["DEL", &own_key("log")]).await;
    assert_eq!(partition.replay(1).await.unwrap(), []);
}

/// A clock that has lost a part is a lost clock.
#[tokio::test]
async fn a_damaged_clock_starts_a_new_epoch() {
    for damage in [&["HDEL", "at"][..], &["HSET", "at", "cut"]] {
        let store = Redis::start().await;
        let (partition, mut raw) = (store.partition(), store.server.connection().await);
        let old = insert(&*partition, "k", b"old").await;
        let clock = own_key("clock");
        let _: i64 = run(&mut raw, &[&[damage[0], &clock], &damage[1..]].concat()).await;
        assert_eq!(usable(&*partition, "k").await, None, "after {damage:?}");
        assert_ne!(invalidate(&*partition, &["k"]).await.epoch, old.epoch);
    }
}

#[tokio::test]
async fn flushall_starts_a_new_epoch() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (_, mut subscription) = subscribe(&*partition).await;
    let old = insert(&*partition, "k", b"old").await;
    message(&mut *subscription).await;
    let lease = granted(&*partition, "led").await;
    let _: () = run(&mut raw, &["FLUSHALL"]).await;
    // The subscriber learns that this is not the epoch that it joined.
    subscription.heartbeat(NOTHING);
    let received = subscription.next().await;
    assert!(matches!(received, Some(Err(_))), "{received:?}");

    assert_eq!(get(&*partition, "k").await, None);
    let rejected = fill(&*partition, "led", lease, b"stale").await;
    assert_eq!(rejected, Fill::Rejected(None));
    let (clock, mut subscription) = subscribe(&*partition).await;
    assert_eq!(clock.seq, 0);
    let new = insert(&*partition, "k", b"new").await;
    assert_ne!(new.epoch, old.epoch);
    assert_eq!((new.epoch, new.ver), (clock.epoch, 1));
    assert_eq!(message(&mut *subscription).await.seq, 1);
    heartbeat(&mut *subscription).await;
}

#[tokio::test]
async fn every_step_survives_forgotten_scripts() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    macro_rules! forgotten {
        ($step:expr) => {{
            let _: () = run(&mut raw, &["SCRIPT", "FLUSH"]).await;
            $step.await
        }};
    }
    // Twice, since the first time loads them.
    for _ in 0..2 {
        let (_, mut subscription) = forgotten!(subscribe(&*partition));
        let lease = forgotten!(granted(&*partition, "k"));
        assert!(forgotten!(renewed(&*partition, "k", lease)));
        forgotten!(filled(&*partition, "k", lease, b"v"));
        forgotten!(insert(&*partition, "k", b"v"));
        forgotten!(invalidate(&*partition, &["k"]));
        forgotten!(clear(&*partition));
        let (messages, _) = forgotten!(heartbeat(&mut *subscription));
        assert_eq!(messages.len(), 3, "each was published once");
    }
}

#[tokio::test]
async fn a_restart_from_a_snapshot_starts_a_new_epoch() {
    let mut store = Redis::start_with(&["--save", "3600 1"]).await;
    let (partition, met) = watched_partition(&store.l2, Duration::from_secs(2));
    let old = insert(&*partition, "k", b"old").await;
    let lease = granted(&*partition, "led").await;
    store.server.save().await;
    invalidate(&*partition, &["k", "led"]).await;
    assert_eq!(met.last().epoch, old.epoch);

    store.server.restart().await;
    eventually("it connects again", async || {
        partition.get("k").await.is_ok()
    })
    .await;
    let bytes = get(&*partition, "k")
        .await
        .expect("the restart brought it back");
    assert_eq!(stamp_of(&bytes), old);
    assert_eq!(usable(&*partition, "k").await, None);
    // It brought the lease back as well, which had been ended.
    assert!(renewed(&*partition, "led", lease).await);
    let rejected = fill(&*partition, "led", lease, b"stale").await;
    assert_eq!(rejected, Fill::Rejected(None));

    // The new epoch was there with the new connection, and stays for all later ones.
    let now = met.last();
    assert_ne!(now.epoch, old.epoch);
    assert_eq!(now.seq, 1);
    let (clock, mut subscription) = subscribe(&*partition).await;
    assert_eq!((clock.epoch, clock.seq), (now.epoch, 1));
    let stamp = invalidate(&*partition, &["k"]).await;
    assert_eq!((stamp.epoch, stamp.ver), (now.epoch, old.ver + 1));
    assert_eq!(message(&mut *subscription).await.seq, 2);
    let (again, _) = subscribe(&*store.partition()).await;
    assert_eq!(again.epoch, now.epoch);
}

/// As of some services: each primary gives its history a name of its own.
#[tokio::test]
async fn a_server_that_hides_its_process_is_known_by_its_history() {
    let mut server = RedisServer::start_without(&["run_id"], &["--save", "3600 1"]).await;
    let l2 = home::open(server.url());
    let mut raw = server.connection().await;
    let info: String = run(&mut raw, &["INFO", "server"]).await;
    assert!(!info.contains("\nrun_id:"), "{info}");
    for changes in ["restarts", "was a replica"] {
        let partition = partition(&l2);
        let (clock, mut subscription) = subscribe(&*partition).await;
        let old = insert(&*partition, "k", b"old").await;
        let other = self::partition(&home::open(server.url()));
        assert!(
            usable(&*other, "k").await.is_some(),
            "also by a new connection"
        );
        message(&mut *subscription).await;
        assert_eq!(heartbeat(&mut *subscription).await.1.epoch, clock.epoch);
        if changes == "restarts" {
            server.save().await;
            server.restart().await;
            raw = server.connection().await;
        } else {
            let _: () = run(&mut raw, &["REPLICAOF", "127.0.0.1", "1"]).await;
            let _: () = run(&mut raw, &["REPLICAOF", "NO", "ONE"]).await;
        }
        subscription.heartbeat(NOTHING);
        end(&mut *subscription).await;
        eventually("it connects again", async || {
            partition.get("k").await.is_ok()
        })
        .await;
        let (after, _) = subscribe(&*partition).await;
        assert_ne!(after.epoch, old.epoch, "{changes}");
        assert!(get(&*partition, "k").await.is_some(), "it is there");
        assert_eq!(usable(&*partition, "k").await, None, "{changes}");
    }
}

/// Its process alone would not do: it may have been a replica meanwhile.
#[tokio::test]
async fn a_server_that_hides_its_history_is_asked_to_write() {
    let server = RedisServer::start_without(&["master_replid"], &[]).await;
    let partition = partition(&home::open(server.url()));
    let stamp = insert(&*partition, "k", b"v").await;
    let (clock, mut subscription) = subscribe(&*partition).await;
    // Nobody lived before: see below.
    assert_ne!(clock.epoch, stamp.epoch);
    assert_eq!(heartbeat(&mut *subscription).await.1.epoch, clock.epoch);
    // Each heartbeat writes, and so a replica answers none.
    let mut raw = server.connection().await;
    let _: i64 = run(&mut raw, &["HDEL", &own_key("clock"), "beat"]).await;
    heartbeat(&mut *subscription).await;
    let beat: Option<u64> = run(&mut raw, &["HGET", &own_key("clock"), "beat"]).await;
    assert!(beat.is_some());
    let _: () = run(&mut raw, &["REPLICAOF", "127.0.0.1", "1"]).await;
    subscription.heartbeat(NOTHING);
    end(&mut *subscription).await;
}

/// Rule 32: nobody remembers what the server may have lost.
#[tokio::test]
async fn whoever_finds_no_live_member_starts_an_epoch_on_a_server_that_hides_its_history() {
    let brief = MemberInfo {
        id: 7,
        max_staleness: Duration::from_secs(10),
    };
    let server = RedisServer::start_without(&["master_replid"], &[]).await;
    let (l2, mut raw) = (home::open(server.url()), server.connection().await);
    let partition = partition(&l2);
    let epoch_found = async |me, history| {
        let subscribed = partition.subscribe(me, history).await;
        subscribed.unwrap().0.epoch
    };
    let first = epoch_found(brief, NEWCOMER).await;
    // That one lives.
    assert_eq!(epoch_found(brief, NEWCOMER).await, first);
    let clock = own_key("clock");
    let set_beat = async |raw: &mut MultiplexedConnection, beat: &str| {
        let _: i64 = run(raw, &["HSET", &clock, "beat", beat]).await;
    };
    // A time that has passed, no time, and a time that the server's clock was set back from.
    for beat in ["1", "x", "99999999999999"] {
        set_beat(&mut raw, beat).await;
        let before = epoch_found(brief, KnownHistory::Fits).await;
        set_beat(&mut raw, beat).await;
        let generation = partition.members(&[]).await.unwrap().generation;
        assert_ne!(epoch_found(brief, NEWCOMER).await, before, "{beat}");
        let renewed = partition.members(&[]).await.unwrap().generation;
        assert_ne!(renewed, generation, "{beat}");
    }
    // The longest of all that live counts.
    let (second, _subscription) = partition.subscribe(PATIENT, NEWCOMER).await.unwrap();
    let beat: u64 = run(&mut raw, &["HGET", &clock, "beat"]).await;
    assert_eq!(epoch_found(brief, NEWCOMER).await, second.epoch);
    let later: u64 = run(&mut raw, &["HGET", &clock, "beat"]).await;
    assert!(later >= beat);
}

#[tokio::test]
async fn a_subscriber_is_the_first_after_a_restart() {
    let mut store = Redis::start_with(&["--save", "3600 1"]).await;
    let partition = store.partition();
    let old = insert(&*partition, "k", b"old").await;
    store.server.save().await;
    store.server.restart().await;
    let (clock, mut subscription) = subscribe(&*store.partition()).await;
    assert_ne!(clock.epoch, old.epoch);
    assert_eq!(heartbeat(&mut *subscription).await.1.epoch, clock.epoch);
}

/// Without a restart, connections come and go, and no cache turns cold.
#[tokio::test]
async fn a_new_connection_alone_keeps_the_epoch() {
    let store = Redis::start().await;
    let stamp = insert(&*store.partition(), "k", b"v").await;
    for _ in 0..10 {
        let partition = store.partition();
        assert!(usable(&*partition, "k").await.is_some());
        let (clock, mut subscription) = subscribe(&*partition).await;
        assert_eq!(clock.epoch, stamp.epoch);
        subscription.heartbeat(NOTHING);
        assert!(matches!(
            next_event(&mut *subscription).await,
            Event::Heartbeat(_)
        ));
    }
}

/// What an eviction of the clock leaves behind.
#[tokio::test]
async fn values_of_an_unknown_epoch_are_not_usable() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    insert(&*partition, "a", b"v").await;
    let bytes = get(&*partition, "a").await.expect("there is a value");
    let mut bytes = bytes.to_vec();
    let stamp = stamp_of(&bytes);
    let (epoch, sum) = (stamp.epoch ^ 1, stamp.ver + stamp.written_at);
    bytes[4..12].copy_from_slice(&epoch.to_be_bytes());
    bytes[28..36].copy_from_slice(&(epoch + sum).to_be_bytes());
    let mut set = cmd("SET");
    set.arg(value_key("b")).arg(&bytes);
    let _: () = set.query_async(&mut raw).await.unwrap();
    assert!(usable(&*partition, "a").await.is_some());
    assert_eq!(usable(&*partition, "b").await, None);
}
