//! Rule 9: what was missed is read from the log, and if the log does not have it, all of L1 goes.

use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::l2::{self, Batch, L2, Partition};

use crate::fleet::{Fleet, Set, Source, Texts, over_both_stores, received, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

/// Missed messages that a partition returns in several steps.
const STEPS: usize = 2500;
/// More than a log keeps: 10 000, and what has come since it was trimmed last.
const BEYOND_THE_LOG: usize = 10_300;
const LIMIT: Duration = Duration::from_secs(10);
const LOG: &str = "{test:text.0}!log";

/// As `XRANGE` answers: numbers, and the fields of each message.
type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;

over_both_stores!(
    what_is_missed_while_cut_off_is_replayed,
    what_a_full_queue_drops_is_replayed,
    many_missed_messages_are_replayed_in_steps,
    what_the_log_does_not_hold_is_one_flush,
    a_replay_that_fails_is_one_flush,
    a_replay_waits_for_the_connection_of_requests,
    messages_that_come_during_a_replay_are_applied_once,
    a_fill_overtaken_by_a_replay_stays_out_of_l1,
    no_caller_joins_a_load_that_a_replay_has_overtaken,
    a_message_of_an_unknown_kind_is_one_flush,
    a_replayed_message_of_an_unknown_kind_is_one_flush,
);

/// One that writes, and one that holds copies of what it may miss and of what it must not lose.
struct Pair {
    a: Texts,
    b: Texts,
    wire: Network,
    flushes: u64,
}

async fn pair(fleet: &Fleet) -> Pair {
    // A crowd of requests to a busy server takes its time.
    let patient = |b: Set| without_heartbeats(b).l2_timeout(LIMIT);
    let (a, _) = fleet.instance_with(patient).await;
    let (b, wire) = fleet.instance_with(patient).await;
    // So that there is a last message, and it is in the log.
    a.invalidate("first").await.unwrap();
    received(&b, 1).await;
    let truth = Source::new("old");
    for key in ["missed", "kept"] {
        truth.through(&b, key).await.unwrap();
    }
    let flushes = b.stats().l1_flushes;
    Pair {
        a,
        b,
        wire,
        flushes,
    }
}

impl Pair {
    /// Cuts `b` off until the gate is opened.
    async fn cut_off(&self) -> Gate {
        self.wire.cut_off().await
    }

    async fn back(&self, gate: &Gate) {
        gate.open();
        self.b.ready().await;
    }

    #[track_caller]
    fn assert_replayed(&self) {
        let stats = self.b.stats();
        assert_eq!((stats.replays, stats.l1_flushes), (1, self.flushes));
        assert!(self.b.get_local("missed").is_none());
        assert!(self.b.get_local("kept").is_some(), "no write touched it");
    }

    #[track_caller]
    fn assert_flushed_once(&self) {
        let stats = self.b.stats();
        assert_eq!((stats.replays, stats.l1_flushes), (0, self.flushes + 1));
        assert!(self.b.get_local("missed").is_none());
        assert!(self.b.get_local("kept").is_none());
    }

    /// All is as if nothing had happened: messages come, and no flush is needed.
    async fn assert_goes_on(&self) {
        let (before, truth) = (self.b.stats(), Source::new("new"));
        for key in ["missed", "kept"] {
            assert!(truth.through(&self.b, key).await.is_ok());
            assert!(self.b.get_local(key).is_some());
        }
        self.a.invalidate("missed").await.unwrap();
        received(&self.b, before.invalidations_received + 1).await;
        assert!(self.b.get_local("missed").is_none());
        assert!(self.b.get_local("kept").is_some());
        let after = self.b.stats();
        assert_eq!(
            (after.replays, after.l1_flushes),
            (before.replays, before.l1_flushes)
        );
    }
}

async fn what_is_missed_while_cut_off_is_replayed(fleet: Fleet) {
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    pair.a.invalidate("missed").await.unwrap();
    pair.a.insert("other", "new".to_owned()).await.unwrap();
    pair.back(&gate).await;
    pair.assert_replayed();
    assert_eq!(pair.b.stats().invalidations_received, 3);
    pair.assert_goes_on().await;
}

async fn what_a_full_queue_drops_is_replayed(fleet: Fleet) {
    let pair = pair(&fleet).await;
    pair.wire.drop_messages(true);
    pair.a.invalidate("missed").await.unwrap();
    pair.a.invalidate("other").await.unwrap();
    eventually("they are lost", || async { pair.wire.dropped() == 2 }).await;
    pair.wire.drop_messages(false);
    pair.a.invalidate("next").await.unwrap();
    received(&pair.b, 4).await;
    pair.assert_replayed();
    pair.assert_goes_on().await;
}

async fn invalidate_often(cache: &Texts, n: usize) {
    // One after the other: at once, they would share messages.
    for _ in 0..n {
        cache.invalidate("missed").await.unwrap();
    }
}

async fn many_missed_messages_are_replayed_in_steps(fleet: Fleet) {
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    invalidate_often(&pair.a, STEPS).await;
    pair.back(&gate).await;
    pair.assert_replayed();
    pair.assert_goes_on().await;
}

async fn what_the_log_does_not_hold_is_one_flush(fleet: Fleet) {
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    invalidate_often(&pair.a, BEYOND_THE_LOG).await;
    pair.back(&gate).await;
    pair.assert_flushed_once();
    pair.assert_goes_on().await;
}

async fn a_replay_that_fails_is_one_flush(fleet: Fleet) {
    let pair = pair(&fleet).await;
    pair.wire.lose(Step::Replay, Way::Reply, 1);
    let gate = pair.cut_off().await;
    pair.a.invalidate("missed").await.unwrap();
    pair.back(&gate).await;
    pair.assert_flushed_once();
    pair.assert_goes_on().await;
}

/// When both were lost, the subscriber's may be back first.
async fn a_replay_waits_for_the_connection_of_requests(fleet: Fleet) {
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    pair.wire.disconnect(Step::Replay, 2);
    pair.a.invalidate("missed").await.unwrap();
    pair.back(&gate).await;
    pair.assert_replayed();
    pair.assert_goes_on().await;

    pair.wire.drop_messages(true);
    pair.a.invalidate("lost").await.unwrap();
    eventually("it is lost", || async { pair.wire.dropped() == 1 }).await;
    pair.wire.drop_messages(false);
    pair.wire.disconnect(Step::Replay, 1);
    let before = pair.b.stats();
    pair.a.invalidate("missed").await.unwrap();
    received(&pair.b, before.invalidations_received + 2).await;
    pair.b.ready().await;
    let after = pair.b.stats();
    assert_eq!(
        (after.replays, after.l1_flushes),
        (before.replays + 1, before.l1_flushes)
    );
    assert!(pair.b.get_local("kept").is_some(), "no write touched it");
}

/// Whether the log already had them or not.
async fn messages_that_come_during_a_replay_are_applied_once(fleet: Fleet) {
    for way in [Way::Request, Way::Reply] {
        let pair = pair(&fleet).await;
        let truth = Source::new("old");
        truth.through(&pair.b, "later").await.unwrap();
        pair.wire.drop_messages(true);
        pair.a.invalidate("missed").await.unwrap();
        eventually("it is lost", || async { pair.wire.dropped() == 1 }).await;
        pair.wire.drop_messages(false);
        let gate = pair.wire.close(Step::Replay, way);
        pair.a.invalidate("next").await.unwrap();
        gate.arrived(1).await;
        pair.a.invalidate("later").await.unwrap();
        assert!(
            pair.b.get_local("later").is_some(),
            "its message has not come yet"
        );
        gate.open();
        received(&pair.b, 4).await;
        assert!(pair.b.get_local("later").is_none());
        pair.a.invalidate("last").await.unwrap();
        received(&pair.b, 5).await;
        assert_eq!(pair.b.stats().invalidations_received, 5);
        pair.assert_replayed();
    }
}

/// Loses the message of an invalidation, and has the next one show it.
async fn invalidate_by_replay(pair: &Pair, key: &str) {
    pair.wire.drop_messages(true);
    pair.a.invalidate(key).await.unwrap();
    eventually("it is lost", || async { pair.wire.dropped() == 1 }).await;
    pair.wire.drop_messages(false);
    pair.a.invalidate("next").await.unwrap();
    received(&pair.b, 3).await;
    assert_eq!(pair.b.stats().replays, 1);
}

async fn a_fill_overtaken_by_a_replay_stays_out_of_l1(fleet: Fleet) {
    let pair = pair(&fleet).await;
    let gate = pair.wire.close(Step::Fill, Way::Reply);
    let loading = Source::new("old").spawn(&pair.b, "k");
    gate.arrived(1).await;
    invalidate_by_replay(&pair, "k").await;
    gate.open();
    assert_eq!(*loading.await.unwrap().unwrap(), "old", "it began before");
    assert!(pair.b.get_local("k").is_none());
    assert!(pair.b.get("k").await.is_none());
}

async fn no_caller_joins_a_load_that_a_replay_has_overtaken(fleet: Fleet) {
    let pair = pair(&fleet).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let early = truth.behind(&gate).spawn(&pair.b, "k");
    gate.arrived(1).await;
    truth.set("new");
    invalidate_by_replay(&pair, "k").await;
    assert_eq!(*truth.through(&pair.b, "k").await.unwrap(), "new");
    gate.open();
    early.await.unwrap().unwrap();
    assert_eq!(*pair.b.get_local("k").unwrap(), "new");
}

#[tokio::test]
async fn a_log_that_is_gone_is_one_flush() {
    let mut fleet = Fleet::redis().await;
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    pair.a.invalidate("missed").await.unwrap();
    let mut redis = fleet.server().connection().await;
    let () = redis.del(LOG).await.unwrap();
    // The message that is published now is all that the log has.
    pair.a.invalidate("other").await.unwrap();
    pair.back(&gate).await;
    pair.assert_flushed_once();
    pair.assert_goes_on().await;
}

/// It has the right numbers, and is of another epoch.
#[tokio::test]
async fn a_log_of_another_incarnation_is_one_flush() {
    let mut fleet = Fleet::redis().await;
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    pair.a.invalidate("missed").await.unwrap();
    let mut redis = fleet.server().connection().await;
    let mut range = cmd("XRANGE");
    range.arg(LOG).arg("-").arg("+");
    let entries: Entries = range.query_async(&mut redis).await.unwrap();
    let () = redis.del(LOG).await.unwrap();
    for (id, fields) in entries {
        let mut message = fields[0].1.clone();
        message[10] ^= 1;
        let mut add = cmd("XADD");
        add.arg(LOG).arg(id).arg("m").arg(message);
        let _: String = add.query_async(&mut redis).await.unwrap();
    }
    pair.back(&gate).await;
    pair.assert_flushed_once();
    pair.assert_goes_on().await;
}

/// The epoch is another one, whatever the log says.
#[tokio::test]
async fn a_lost_clock_is_one_flush() {
    let mut fleet = Fleet::redis().await;
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    let mut redis = fleet.server().connection().await;
    let () = redis.del("{test:text.0}!clock").await.unwrap();
    pair.a.invalidate("missed").await.unwrap();
    pair.back(&gate).await;
    pair.assert_flushed_once();
    pair.a.ready().await;
    pair.assert_goes_on().await;
}

/// Publishes a message as another release would: of a kind that this one does not know, with a body of another form.
async fn publish_unknown(fleet: &Fleet) {
    let partition: Box<dyn Partition> =
        fleet
            .l2()
            .partition("test:text".into(), LIMIT, Box::new(|_| ()));
    let payload = [&[200], &7_u64.to_be_bytes()[..], b"?"].concat();
    let batch = Batch {
        keys: &["unnamed"],
        payload: &payload,
        ..Batch::default()
    };
    partition.write(&l2::Step::INVALIDATE, batch).await.unwrap();
}

/// Its numbers count: the next heartbeat and the next message need no replay.
async fn assert_flushed_once_and_goes_on(pair: &Pair, replays: u64) {
    let stats = pair.b.stats();
    assert_eq!(
        (stats.replays, stats.l1_flushes),
        (replays, pair.flushes + 1)
    );
    assert!(pair.b.get_local("kept").is_none());
    assert!(pair.b.health().is_ok());
    let found = pair.b.get("kept").await.unwrap();
    assert_eq!(found.meta().source(), larder::Source::L2);
    assert!(pair.b.get_local("kept").is_some());
    // Each has `b` send a heartbeat, the second when the first was answered.
    for _ in 0..2 {
        let heartbeats = pair.wire.asked(Step::Heartbeat);
        let a = pair.a.clone();
        let awaited = tokio::spawn(async move { a.invalidate_and_wait("other").await });
        eventually("it sends a heartbeat", || async {
            pair.wire.asked(Step::Heartbeat) > heartbeats
        })
        .await;
        awaited.abort();
    }
    assert!(pair.b.get_local("kept").is_some());
    pair.assert_goes_on().await;
}

async fn a_message_of_an_unknown_kind_is_one_flush(fleet: Fleet) {
    let pair = pair(&fleet).await;
    publish_unknown(&fleet).await;
    eventually("it is received", || async {
        pair.b.get_local("kept").is_none()
    })
    .await;
    assert_flushed_once_and_goes_on(&pair, 0).await;
}

async fn a_replayed_message_of_an_unknown_kind_is_one_flush(fleet: Fleet) {
    let pair = pair(&fleet).await;
    let gate = pair.cut_off().await;
    pair.a.invalidate("missed").await.unwrap();
    publish_unknown(&fleet).await;
    pair.back(&gate).await;
    assert!(pair.b.get_local("missed").is_none());
    assert_flushed_once_and_goes_on(&pair, 1).await;
}
