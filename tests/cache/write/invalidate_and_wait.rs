//! G3: `invalidate_and_wait` returns when the old value is gone from every instance.

use std::slice;
use std::time::Duration;

use larder::l2::deadpool_redis::redis::cmd;
use larder::l2::{Applied, KnownHistory, L2, MemberInfo, Partition, PartitionClock, Subscription};
use larder::{Cache, Token, WriteError};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, over_both_stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::local::{Local, Snapshot};
use crate::support::network::{Gate, Network, Step, Way};

const LIMIT: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);
const LIVE: &str = "{test:text.0}!live";

over_both_stores!(
    it_returns_when_the_others_have_applied_it,
    a_closed_instance_is_not_waited_for,
    an_instance_that_subscribes_again_is_waited_for_until_it_has_caught_up,
    a_cancelled_wait_still_invalidates,
    a_deferred_invalidation_is_not_waited_for,
    many_keys_take_one_wait,
);

/// In a task of its own, so that the test can go on.
fn wait(cache: &Texts, key: &'static str) -> JoinHandle<Result<Token, WriteError>> {
    let cache = cache.clone();
    tokio::spawn(async move { cache.invalidate_and_wait(key).await })
}

/// The end of a wait that nothing stands in the way of.
async fn ends(waiting: JoinHandle<Result<Token, WriteError>>) -> Result<Token, WriteError> {
    let ended = timeout(LIMIT, waiting).await;
    ended.expect("the wait has an end").unwrap()
}

/// Lets it ask a few times more, and sees that it goes on waiting.
async fn still_waits(waiting: &JoinHandle<Result<Token, WriteError>>, wire: &Network) {
    let asked = wire.asked(Step::Members);
    eventually("it asks again", || async {
        wire.asked(Step::Members) > asked + 2
    })
    .await;
    assert!(!waiting.is_finished(), "it did not wait");
}

/// Makes the list of members an old one: while it is young, it may have lost members of the incarnation before.
async fn of_long_ago(fleet: &Fleet) {
    if let Fleet::Redis { server, .. } = fleet {
        let mut redis = server.connection().await;
        let script = r"
            local generation = string.match(redis.call('HGET', KEYS[1], 'list'), '%d+')
            redis.call('HSET', KEYS[1], 'list', generation .. ':1000000000')";
        let mut eval = cmd("EVAL");
        eval.arg(script).arg(1).arg(LIVE);
        let () = eval.query_async(&mut redis).await.unwrap();
    }
}

/// Long before the next heartbeat is due.
async fn it_returns_when_the_others_have_applied_it(fleet: Fleet) {
    if fleet.is_local() && home::is_simulated("its list of members is young") {
        return;
    }
    let ((a, wire), (b, _), (c, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    of_long_ago(&fleet).await;
    let truth = Source::new("old");
    for round in 1..=3 {
        for cache in [&a, &b, &c] {
            truth.through(cache, "k").await.unwrap();
        }
        ends(wait(&a, "k")).await.unwrap();
        for cache in [&a, &b, &c] {
            assert!(cache.get_local("k").is_none(), "in round {round}");
        }
    }
    assert_eq!(wire.asked(Step::Invalidate), 3);
    assert_eq!(a.stats().invalidations_sent, 3);
}

async fn a_closed_instance_is_not_waited_for(fleet: Fleet) {
    if fleet.is_local() && home::is_simulated("its list of members is young") {
        return;
    }
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    let (b, wire) = fleet.instance_with(without_heartbeats).await;
    of_long_ago(&fleet).await;
    wire.silence(true);
    b.close().await;
    ends(wait(&a, "k")).await.unwrap();
}

/// It subscribes again, and does not know yet what it has missed.
async fn an_instance_that_subscribes_again_is_waited_for_until_it_has_caught_up(fleet: Fleet) {
    if fleet.is_local() && home::is_simulated("its list of members is young") {
        return;
    }
    let ((a, asks), (b, wire)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    of_long_ago(&fleet).await;
    let (truth, load) = (Source::new("old"), Gate::new());
    let early = truth.behind(&load).spawn(&b, "k");
    load.arrived(1).await;
    let subscribe = wire.close(Step::Subscribe, Way::Request);
    let replay = wire.close(Step::Replay, Way::Reply);
    wire.cut();
    wire.subscribers(0).await;
    truth.set("new");
    let waiting = wait(&a, "k");
    still_waits(&waiting, &asks).await;

    subscribe.open();
    replay.arrived(1).await;
    // A caller that comes now joins the load that began before.
    still_waits(&waiting, &asks).await;
    replay.open();
    ends(waiting).await.unwrap();
    assert_eq!(*truth.through(&b, "k").await.unwrap(), "new");
    load.open();
    early.await.unwrap().unwrap();
    assert_eq!(*b.get_local("k").unwrap(), "new");
}

async fn a_cancelled_wait_still_invalidates(fleet: Fleet) {
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    Source::new("old").through(&b, "k").await.unwrap();
    let gate = wire.close(Step::Invalidate, Way::Request);
    let cancelled = wait(&a, "k");
    gate.arrived(1).await;
    cancelled.abort();
    assert!(cancelled.await.is_err());
    gate.open();
    eventually("b receives it", || async { b.get_local("k").is_none() }).await;
}

async fn a_deferred_invalidation_is_not_waited_for(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance_with(without_heartbeats).await;
    Source::new("old").through(&b, "k").await.unwrap();
    wire.lose(Step::Invalidate, Way::Request, 1);
    let error = ends(wait(&a, "k")).await.unwrap_err();
    assert!(error.is_deferred());
    assert_eq!(wire.asked(Step::Members), 0);
    eventually("b receives it", || async { b.get_local("k").is_none() }).await;
}

async fn many_keys_take_one_wait(fleet: Fleet) {
    const KEYS: [&str; 4] = ["k", "l", "m", "n"];
    if fleet.is_local() && home::is_simulated("its list of members is young") {
        return;
    }
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    of_long_ago(&fleet).await;
    for key in KEYS {
        Source::new("old").through(&b, key).await.unwrap();
    }
    let waiting = tokio::spawn({
        let a = a.clone();
        async move { a.invalidate_many_and_wait(KEYS).await }
    });
    let token = ends(waiting).await.unwrap();
    for key in KEYS {
        assert!(b.get_local(key).is_none(), "{key}");
    }
    assert_eq!(wire.asked(Step::Invalidate), 1);
    assert!(b.at_least(&token).get("k").await.is_none());

    // Of those that are accepted: one that is deferred, or too long, is an error beside them.
    Source::new("old").through(&b, "k").await.unwrap();
    let long = "l".repeat(10_000);
    let error = a.invalidate_many_and_wait(["k", &long]).await.unwrap_err();
    assert!(error.is_key_too_long() && b.get_local("k").is_none());
}

async fn with_bound(fleet: &Fleet, bound: Duration) -> (Texts, Network) {
    fleet.instance_with(|b: Set| b.max_staleness(bound)).await
}

/// An instance that sends no heartbeat does not use its L1 after its `max_staleness`.
#[tokio::test]
async fn a_silent_instance_is_waited_for_until_it_has_no_proof() {
    if home::is_simulated("its list of members is young") {
        return;
    }
    let fleet = Fleet::memory();
    let ((a, asks), (b, wire)) = (
        with_bound(&fleet, HOUR).await,
        with_bound(&fleet, MINUTE).await,
    );
    Source::new("old").through(&b, "k").await.unwrap();
    wire.silence(true);
    let waiting = wait(&a, "k");
    still_waits(&waiting, &asks).await;
    fleet.advance(MINUTE.saturating_sub(MS));
    assert!(b.get_local("k").is_some(), "it cannot know");
    still_waits(&waiting, &asks).await;
    fleet.advance(2 * MS);
    ends(waiting).await.unwrap();
    assert!(b.get_local("k").is_none());
}

/// A step of the store's clock makes no member look silent: it still answers from L1 until its proof ends.
#[tokio::test]
async fn a_step_of_the_stores_clock_does_not_shorten_the_wait() {
    let (store, advance_its_clock) = Local::apart();
    let fleet = Fleet::Local(store);
    let ((a, asks), (b, wire)) = (
        with_bound(&fleet, MINUTE).await,
        with_bound(&fleet, MINUTE).await,
    );
    Source::new("old").through(&b, "k").await.unwrap();
    // It receives everything too late.
    wire.silence(true);
    for step in [HOUR, 24 * HOUR] {
        advance_its_clock(step);
        let waiting = wait(&a, "k");
        still_waits(&waiting, &asks).await;
        assert!(b.get_local("k").is_some(), "it cannot know");
        waiting.abort();
    }
    let waiting = wait(&a, "k");
    still_waits(&waiting, &asks).await;
    fleet.advance(MINUTE + MS);
    ends(waiting).await.unwrap();
    assert!(b.get_local("k").is_none());
}

/// The clocks stand still until the test advances them, and an instance looks at the members every ten of these.
const BRIEF: Duration = Duration::from_millis(10);

/// The partition of the instances, as another instance opens it.
fn partition(fleet: &Fleet) -> Box<dyn Partition> {
    fleet
        .l2()
        .partition("test:text".into(), LIMIT, Box::new(|_| {}))
}

/// Waits until one of the instances has looked at the members twice more, and returns which.
async fn sweeper(wires: [&Network; 2]) -> usize {
    let before = wires.map(|wire| wire.asked(Step::Sweep));
    let looks = || [0, 1].map(|at| wires[at].asked(Step::Sweep) - before[at]);
    eventually("one looks", || async { looks().iter().any(|n| *n >= 2) }).await;
    let looks = looks();
    assert!(looks.contains(&0), "{looks:?}");
    usize::from(looks[0] == 0)
}

/// By one of the others, which then goes on to look. It is waited for until then.
#[tokio::test]
async fn an_instance_that_crashed_is_forgotten() {
    if home::is_simulated("its list of members is young") {
        return;
    }
    let fleet = Fleet::memory();
    let ((a, first), (b, second)) = (
        with_bound(&fleet, BRIEF).await,
        with_bound(&fleet, BRIEF).await,
    );
    let (wires, partition) = ([&first, &second], partition(&fleet));
    let crashed = MemberInfo {
        id: 77,
        max_staleness: BRIEF,
    };
    drop(
        partition
            .subscribe(crashed, KnownHistory::Fits)
            .await
            .unwrap(),
    );
    let who = sweeper(wires).await;
    assert_eq!(sweeper(wires).await, who);
    assert_eq!(
        partition.members(&[crashed.id]).await.unwrap().list.len(),
        1
    );

    fleet.advance(10 * BRIEF + MS);
    eventually("the others are listed", || async {
        let list = partition.members(&[]).await.unwrap().list;
        list.len() == 2 && !list.iter().any(|member| member.info == crashed)
    })
    .await;
    assert_eq!(sweeper(wires).await, who);

    // When it has ended, its part is taken by the other one.
    [&a, &b][who].close().await;
    fleet.advance(25 * BRIEF);
    assert_eq!(sweeper(wires).await, 1 - who);
}

/// It reads few members at a time, and ends when the last one has applied it.
#[tokio::test]
async fn a_wait_for_many_instances_reads_little() {
    const MANY: u64 = 1000;
    if home::is_simulated("its list of members is young") {
        return;
    }
    let fleet = Fleet::memory();
    let (a, asks) = fleet.instance_with(without_heartbeats).await;
    let partition = partition(&fleet);
    let mut others = Vec::new();
    for id in 1..=MANY {
        let max_staleness = MINUTE;
        let me = MemberInfo { id, max_staleness };
        others.push(partition.subscribe(me, KnownHistory::Fits).await.unwrap());
    }
    let waiting = wait(&a, "k");
    let apply = |others: &mut [(PartitionClock, Box<dyn Subscription>)]| {
        for (clock, other) in others {
            let epoch = clock.epoch;
            // That of the invalidation, the only message.
            other.heartbeat(Applied { epoch, seq: 1 });
        }
    };
    still_waits(&waiting, &asks).await;
    let (last, others) = others.split_last_mut().unwrap();
    apply(others);
    let asked = asks.asked(Step::Members);
    eventually("it has read the others, and more", || async {
        asks.asked(Step::Members) > asked + 30
    })
    .await;
    assert!(!waiting.is_finished(), "one is behind");
    // One that has joined meanwhile is waited for, too.
    let (id, max_staleness) = (MANY + 1, MINUTE);
    let newcomer = MemberInfo { id, max_staleness };
    let mut newcomer = partition
        .subscribe(newcomer, KnownHistory::Fits)
        .await
        .unwrap();
    apply(slice::from_mut(last));
    still_waits(&waiting, &asks).await;
    apply(slice::from_mut(&mut newcomer));
    ends(waiting).await.unwrap();
    // All of them at the beginning and in the end, and few in between.
    let all = usize::try_from(MANY).unwrap() + 2;
    let (read, asked) = (asks.members_read(), asks.asked(Step::Members));
    assert!(read <= 3 * all + 32 * asked, "{read} in {asked}");
}

/// The longest of the members that are behind, and of no others.
#[tokio::test]
async fn each_is_waited_for_as_long_as_its_own_bound() {
    if home::is_simulated("its list of members is young") {
        return;
    }
    let fleet = Fleet::memory();
    let ((a, asks), (_b, short), (_c, long)) = (
        with_bound(&fleet, HOUR).await,
        with_bound(&fleet, MINUTE).await,
        with_bound(&fleet, HOUR / 2).await,
    );
    short.silence(true);
    let waiting = wait(&a, "k");
    still_waits(&waiting, &asks).await;
    fleet.advance(MINUTE + MS);
    ends(waiting).await.unwrap();

    long.silence(true);
    let waiting = wait(&a, "k");
    still_waits(&waiting, &asks).await;
    fleet.advance(MINUTE + MS);
    still_waits(&waiting, &asks).await;
    fleet.advance(HOUR / 2);
    ends(waiting).await.unwrap();
}

/// L2 has accepted the invalidation, and cannot list the members: the call takes the longest time.
#[tokio::test]
async fn when_l2_fails_during_the_wait_it_takes_the_longest_time() {
    if home::is_simulated("its list of members is young") {
        return;
    }
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        with_bound(&fleet, MINUTE).await,
        with_bound(&fleet, HOUR).await,
    );
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    wire.lose(Step::Members, Way::Reply, usize::MAX);
    let waiting = wait(&a, "k");
    eventually("b receives it", || async { b.get_local("k").is_none() }).await;
    still_waits(&waiting, &wire).await;
    fleet.advance(MINUTE + MS);
    still_waits(&waiting, &wire).await;
    fleet.advance(HOUR);
    ends(waiting).await.unwrap();

    wire.lose(Step::Members, Way::Reply, 0);
    eventually("L2 answers a probe", || async { a.health().is_l2_up() }).await;
    wire.lose(Step::Members, Way::Reply, 2);
    ends(wait(&a, "k")).await.unwrap();
}

/// The same before the wait: a store that has forgotten its members does not say that there are none.
#[tokio::test]
async fn an_instance_that_the_store_has_lost_is_waited_for() {
    let fleet = Fleet::memory();
    let (a, asks) = with_bound(&fleet, MINUTE).await;
    let before = fleet.snapshot();
    let (b, wire) = with_bound(&fleet, MINUTE).await;
    Source::new("old").through(&b, "k").await.unwrap();
    wire.silence(true);
    fleet.restore(&before);
    assert!(a.get("k").await.is_none(), "it meets the new incarnation");
    let newcomer = with_bound(&fleet, MINUTE).await.0;
    let waits = [wait(&a, "k"), wait(&newcomer, "k")];
    still_waits(&waits[0], &asks).await;
    assert!(!waits[1].is_finished(), "it did not wait");
    assert!(b.get_local("k").is_some(), "it cannot know");
    fleet.advance(MINUTE + MS);
    for waiting in waits {
        ends(waiting).await.unwrap();
    }
    assert!(b.get_local("k").is_none());
}

/// A store that has restarted knows no members, and instances that have not noticed yet go on using L1.
#[tokio::test]
async fn a_list_of_another_incarnation_ends_no_wait() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, deaf)) = (
        with_bound(&fleet, MINUTE).await,
        with_bound(&fleet, MINUTE).await,
    );
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    deaf.silence(true);
    let asking = wire.close(Step::Members, Way::Request);
    let waiting = wait(&a, "k");
    asking.arrived(1).await;
    fleet.restore(&Snapshot::default());
    asking.open();
    still_waits(&waiting, &wire).await;
    assert!(b.get_local("k").is_some(), "it does not know");
    fleet.advance(MINUTE + MS);
    ends(waiting).await.unwrap();
    assert!(b.get_local("k").is_none());
}

#[tokio::test]
async fn without_other_instances_nothing_is_waited_for() {
    if home::is_simulated("its list of members is young") {
        return;
    }
    let alone: Texts = Cache::builder("test:alone").build().unwrap();
    let truth = Source::new("old");
    truth.through(&alone, "k").await.unwrap();
    ends(wait(&alone, "k")).await.unwrap();
    assert!(alone.get_local("k").is_none());
    let (a, wire) = Fleet::memory().instance_with(without_heartbeats).await;
    ends(wait(&a, "k")).await.unwrap();
    assert_eq!(wire.asked(Step::Members), 1, "it does not wait for itself");
}

#[cfg(feature = "inspect")]
mod unlisted {
    use super::*;

    over_both_stores!(an_instance_that_is_not_listed_is_not_waited_for);

    /// Such as the instance of a command, which may be killed.
    async fn an_instance_that_is_not_listed_is_not_waited_for(fleet: Fleet) {
        if fleet.is_local() && home::is_simulated("its list of members is young") {
            return;
        }
        let (a, wire) = fleet.instance_with(without_heartbeats).await;
        of_long_ago(&fleet).await;
        let (tool, of_tool) = fleet.build(Set::unlisted);
        tool.ready().await;
        Source::new("old").through(&tool, "k").await.unwrap();
        assert!(tool.get_local("k").is_none(), "without a proof");
        assert_eq!(of_tool.asked(Step::Subscribe), 0);
        let members = partition(&fleet).members(&[]).await.unwrap();
        assert_eq!(members.list.len(), 1, "{members:?}");
        // As if it had been killed: it answers nothing.
        of_tool.silence(true);
        ends(wait(&a, "k")).await.unwrap();
        assert_eq!(wire.asked(Step::Members), 1);
        of_tool.silence(false);
        assert!(tool.get("k").await.is_none());

        // Its own changes reach the others, also those that are deferred.
        Source::new("old").through(&a, "k").await.unwrap();
        tool.invalidate_and_wait("k").await.unwrap();
        assert!(a.get_local("k").is_none());
        let (tool, of_tool) = fleet.build(|b| b.max_staleness(60 * MS).unlisted());
        Source::new("old").through(&a, "k").await.unwrap();
        of_tool.lose(Step::Invalidate, Way::Request, 1);
        assert!(tool.invalidate("k").await.unwrap_err().is_deferred());
        eventually("a receives it", || async { a.get_local("k").is_none() }).await;
    }
}
