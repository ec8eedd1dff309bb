//! Look-ups with the token of a write: none answers with what is older, before the instance has heard of the write.

use std::io;
use std::time::Duration;

use larder::{Cache, Entry, LoadError, Loaded, Mode, Source as Level, Token};
use proptest::prelude::*;
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, HOUR, Source, Texts, over_both_stores, pair, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

over_both_stores!(
    a_write_is_seen_before_its_message,
    what_was_changed_before_that_write_is_seen_too,
    the_tags_of_a_value_are_asked_for,
    what_a_write_has_stored_is_taken_from_l1,
    once_it_is_applied_a_look_up_is_like_any_other,
    a_load_that_began_before_is_not_enough,
    a_stored_load_that_began_before_is,
    the_error_of_a_load_that_began_before_is_not_handed_out,
    what_others_find_in_l1_is_not_enough,
    what_others_find_in_l2_is_compared_with_its_tags,
    callers_share_what_one_of_them_finds_in_l2,
    a_stale_value_is_refreshed_and_not_waited_for,
    a_fallback_is_looked_up_in_l2,
    without_l2_what_may_be_older_is_not_returned,
    a_token_that_was_made_up_costs_one_request,
);

async fn put(cache: &Texts, key: &str, value: &str) -> Token {
    cache.insert(key, value.to_owned()).await.unwrap()
}

fn text(entry: Option<Entry<String>>) -> Option<String> {
    entry.map(|entry| entry.to_string())
}

/// Two instances that have `old` in L1, for some keys with the tag `t`. From now on the second one receives no
/// messages.
async fn apart(fleet: &Fleet, keys: &[&str]) -> ((Texts, Network), (Texts, Network)) {
    let ((a, to_a), (b, to_b)) = pair(fleet).await;
    for key in keys {
        let old = Loaded::new("old".to_owned()).tags(["t"]);
        a.insert(*key, old).await.unwrap();
        eventually("b keeps it", || async {
            b.get(*key).await;
            b.get_local(*key).is_some()
        })
        .await;
    }
    to_b.drop_messages(true);
    ((a, to_a), (b, to_b))
}

async fn through(
    cache: &Texts,
    token: &Token,
    key: &str,
    source: &Source,
) -> Result<Entry<String>, LoadError> {
    let source = source.clone();
    let load = move || source.load();
    cache.at_least(token).get_or_load(key, load).await
}

fn spawn(
    cache: &Texts,
    token: &Token,
    source: &Source,
) -> JoinHandle<Result<Entry<String>, LoadError>> {
    let (cache, token, source) = (cache.clone(), token.clone(), source.clone());
    tokio::spawn(async move { through(&cache, &token, "k", &source).await })
}

async fn a_write_is_seen_before_its_message(fleet: Fleet) {
    type Change = fn(Texts) -> futures::future::BoxFuture<'static, Token>;
    const NEW: &str = "new";
    let changes: [(Option<&str>, Change); 12] = [
        (Some(NEW), |a| {
            Box::pin(async move { put(&a, "k", NEW).await })
        }),
        (Some(NEW), |a| {
            let new = Loaded::new(NEW.to_owned());
            Box::pin(async move { a.insert("k", new).await.unwrap() })
        }),
        (Some(NEW), |a| {
            let new = [("k", NEW.to_owned()), ("l", NEW.to_owned())];
            Box::pin(async move { a.insert_many(new).await.unwrap() })
        }),
        (Some(NEW), |a| {
            let new = [("k", Loaded::new(NEW.to_owned()))];
            Box::pin(async move { a.insert_many(new).await.unwrap() })
        }),
        (Some(NEW), |a| {
            let store = |_: &String| async { Ok::<_, io::Error>(()) };
            let new = NEW.to_owned();
            Box::pin(async move { a.write_through("k", new, store).await.unwrap() })
        }),
        (Some(NEW), |a| {
            Box::pin(async move {
                let seen = a.get("k").await.unwrap().meta().version().unwrap();
                let stored = a.insert_if("k", NEW.to_owned(), seen).await;
                stored.unwrap().unwrap()
            })
        }),
        (None, |a| {
            Box::pin(async move { a.invalidate("k").await.unwrap() })
        }),
        (None, |a| {
            Box::pin(async move { a.invalidate_many(["l", "k"]).await.unwrap() })
        }),
        (None, |a| {
            Box::pin(async move { a.invalidate_and_hold("k", HOUR).await.unwrap() })
        }),
        (None, |a| {
            Box::pin(async move { a.invalidate_tag("t").await.unwrap() })
        }),
        (None, |a| {
            Box::pin(async move { a.invalidate_tags(["u", "t"]).await.unwrap() })
        }),
        (None, |a| Box::pin(async move { a.clear().await.unwrap() })),
    ];
    for (n, (expected, change)) in changes.into_iter().enumerate() {
        let ((a, _), (b, _)) = apart(&fleet, &["k"]).await;
        let token = change(a.clone()).await;
        assert_eq!(text(b.get_local("k")).as_deref(), Some("old"), "{n}");

        let b = b.at_least(&token);
        assert_eq!(text(b.get("k").await).as_deref(), expected, "{n}");
        let found = b.get_many(["none", "k", "k"]).await;
        let found: Vec<_> = found.into_iter().map(text).collect();
        let expected = expected.map(str::to_owned);
        assert_eq!(found, [None, expected.clone(), expected], "{n}");
        let loaded = b.get_or_load("k", || Source::new(NEW).load()).await;
        assert_eq!(*loaded.unwrap(), NEW, "{n}");
        a.clear().await.unwrap();
    }
}

/// By another instance, to another key.
async fn what_was_changed_before_that_write_is_seen_too(fleet: Fleet) {
    let ((a, _), (b, _)) = apart(&fleet, &["k"]).await;
    let (c, _) = fleet.instance_with(without_heartbeats).await;
    c.invalidate("k").await.unwrap();
    let token = put(&a, "other", "v").await;
    assert!(b.get_local("k").is_some());
    assert!(b.at_least(&token).get("k").await.is_none());
}

async fn the_tags_of_a_value_are_asked_for(fleet: Fleet) {
    let ((a, _), (b, wire)) = apart(&fleet, &["k"]).await;
    let asked = wire.asked(Step::TagVersions);
    let token = a.invalidate_tag("t").await.unwrap();
    assert!(b.at_least(&token).get("k").await.is_none());
    assert_eq!(wire.asked(Step::TagVersions), asked + 1);
    let loaded = through(&b, &token, "k", &Source::new("new")).await.unwrap();
    assert_eq!(*loaded, "new");
}

async fn what_a_write_has_stored_is_taken_from_l1(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let token = put(&a, "k", "v").await;
    let asked = wire.asked(Step::AcquireLease);
    let entry = a.at_least(&token).get("k").await.unwrap();
    assert_eq!((entry.as_str(), entry.meta().source()), ("v", Level::L1));
    assert_eq!(wire.asked(Step::AcquireLease), asked);
    // Once it is there, in the other instance, too.
    eventually("b keeps it", || async {
        b.get("k").await;
        b.get_local("k").is_some()
    })
    .await;
    let entry = b.at_least(&token).get("k").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L1);
}

async fn once_it_is_applied_a_look_up_is_like_any_other(fleet: Fleet) {
    let ((a, _), (b, wire)) = apart(&fleet, &["k", "l"]).await;
    let token = put(&a, "k", "new").await;
    let entry = b.at_least(&token).get("l").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L2, "it may be older");
    wire.drop_messages(false);
    wire.cut();
    eventually("b has applied it", || async {
        b.ready().await;
        b.get_local("k").is_none()
    })
    .await;
    b.get("l").await;
    let asked = wire.asked(Step::AcquireLease);
    let entry = b.at_least(&token).get("l").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L1);
    assert_eq!(text(b.at_least(&token).get("k").await).unwrap(), "new");
    assert_eq!(wire.asked(Step::AcquireLease), asked);
    // A token of another epoch says nothing of this one.
    let other = "1.77.1".parse().unwrap();
    let entry = b.at_least(&other).get("l").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L2);
    // Not by what messages say, which anybody may publish.
    // A heartbeat of the new subscription, whose answer would prove it, may still be under way.
    wire.delay_heartbeats(true);
    let token = put(&a, "other", "v").await;
    eventually("the message is applied", || async {
        b.stats().invalidations_received >= 2
    })
    .await;
    let entry = b.at_least(&token).get("l").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L2);
}

async fn a_load_that_began_before_is_not_enough(fleet: Fleet) {
    let ((a, _), (b, _)) = apart(&fleet, &[]).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let old = truth.behind(&gate).spawn(&b, "k");
    gate.arrived(1).await;
    truth.set("new");
    let token = a.invalidate("k").await.unwrap();
    let informed: Vec<_> = (0..10).map(|_| spawn(&b, &token, &truth)).collect();
    // They wait for the load that is under way.
    tokio::task::yield_now().await;
    assert_eq!(truth.loads(), 1);
    gate.open();
    assert_eq!(*old.await.unwrap().unwrap(), "old");
    for caller in informed {
        assert_eq!(*caller.await.unwrap().unwrap(), "new");
    }
    assert_eq!(truth.loads(), 2, "they share one");
}

async fn a_stored_load_that_began_before_is(fleet: Fleet) {
    let ((a, _), (b, _)) = apart(&fleet, &[]).await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let first = truth.behind(&gate).spawn(&b, "k");
    gate.arrived(1).await;
    let token = put(&a, "other", "v").await;
    let informed = spawn(&b, &token, &truth);
    tokio::task::yield_now().await;
    gate.open();
    assert_eq!(*first.await.unwrap().unwrap(), "v");
    assert_eq!(*informed.await.unwrap().unwrap(), "v");
    assert_eq!(truth.loads(), 1);
}

/// Neither that of one which failed a moment ago, nor that of one which is under way.
async fn the_error_of_a_load_that_began_before_is_not_handed_out(fleet: Fleet) {
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    let set = |b| without_heartbeats(b).error_ttl(HOUR);
    let (b, wire) = fleet.instance_with(set).await;
    wire.drop_messages(true);
    let truth = Source::new("new");
    let down = || async { Err::<String, _>(io::Error::other("down")) };
    assert!(b.get_or_load("k", down).await.is_err());
    let token = a.invalidate("k").await.unwrap();
    assert!(
        truth.through(&b, "k").await.is_err(),
        "it has not heard of it"
    );
    let loaded = through(&b, &token, "k", &truth).await;
    assert_eq!(*loaded.unwrap(), "new");

    a.invalidate("k").await.unwrap();
    b.clear().await.unwrap();
    b.ready().await;
    let gate = Gate::new();
    let failing = tokio::spawn({
        let (b, gate) = (b.clone(), gate.clone());
        async move {
            let down = || async move {
                gate.pass().await;
                Err::<String, _>(io::Error::other("down"))
            };
            b.get_or_load("k", down).await
        }
    });
    gate.arrived(1).await;
    let token = a.invalidate("k").await.unwrap();
    let mut late = Box::pin(through(&b, &token, "k", &truth));
    for _ in 0..1000 {
        // To the point where it waits for the load.
        assert!(futures::poll!(&mut late).is_pending());
        tokio::task::yield_now().await;
    }
    gate.open();
    assert!(failing.await.unwrap().is_err());
    assert_eq!(*late.await.unwrap(), "new");
}

/// An entry that L1 gets after L2 was asked, and before the load asks for the lease.
async fn what_others_find_in_l1_is_not_enough(fleet: Fleet) {
    let ((a, _), (b, wire)) = apart(&fleet, &[]).await;
    put(&a, "k", "old").await;
    // A read that has its answer, which is on its way.
    let reply = wire.close(Step::Get, Way::Reply);
    let reading = tokio::spawn({
        let b = b.clone();
        async move { b.get("k").await }
    });
    reply.arrived(1).await;
    let token = a.invalidate("k").await.unwrap();
    let lease = wire.close(Step::AcquireLease, Way::Reply);
    let truth = Source::new("new");
    let informed = spawn(&b, &token, &truth);
    lease.arrived(1).await;
    reply.open();
    assert_eq!(text(reading.await.unwrap()).unwrap(), "old");
    assert!(b.get_local("k").is_some());
    lease.open();
    assert_eq!(*informed.await.unwrap().unwrap(), "new");
}

/// A value with a tag, of an epoch that this instance does not know yet.
async fn what_others_find_in_l2_is_compared_with_its_tags(fleet: Fleet) {
    let ((a, _), (b, wire)) = apart(&fleet, &["knows the tag"]).await;
    a.clear().await.unwrap();
    let old = Loaded::new("old".to_owned()).tags(["t"]);
    a.insert("k", old).await.unwrap();
    let token = a.invalidate_tag("t").await.unwrap();
    let truth = Source::new("new");
    let tags = wire.close(Step::TagVersions, Way::Reply);
    let informed = spawn(&b, &token, &truth);
    tags.arrived(1).await;
    let lease = wire.close(Step::AcquireLease, Way::Request);
    let other = truth.spawn(&b, "k");
    lease.arrived(1).await;
    tags.open();
    // It joins the load of the other caller.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    lease.open();
    assert_eq!(*informed.await.unwrap().unwrap(), "new");
    other.await.unwrap().unwrap();
}

async fn callers_share_what_one_of_them_finds_in_l2(fleet: Fleet) {
    const CALLERS: usize = 100;
    let ((a, _), (b, wire)) = apart(&fleet, &[]).await;
    let real = put(&a, "other", "v").await.to_string();
    let future = format!("{real}ffffff").parse().unwrap();
    let (truth, gate) = (Source::new("v"), Gate::new());
    let first = truth.behind(&gate).spawn(&b, "k");
    gate.arrived(1).await;
    let before = wire.asked(Step::AcquireLease);
    let informed: Vec<_> = (0..CALLERS).map(|_| spawn(&b, &future, &truth)).collect();
    eventually("all have asked L2", || async {
        wire.asked(Step::AcquireLease) == before + CALLERS
    })
    .await;
    gate.open();
    first.await.unwrap().unwrap();
    for caller in informed {
        assert_eq!(*caller.await.unwrap().unwrap(), "v");
    }
    let asked = wire.asked(Step::AcquireLease) - before - CALLERS;
    assert!(asked < CALLERS / 2, "{asked} asked again");
    assert_eq!(truth.loads(), 1);
}

async fn a_stale_value_is_refreshed_and_not_waited_for(fleet: Fleet) {
    let set = |builder| without_heartbeats(builder).stale_wait(HOUR);
    let (a, _) = fleet.instance_with(set).await;
    let (b, wire) = fleet.instance_with(set).await;
    put(&a, "k", "old").await;
    eventually("b keeps it", || async {
        b.get("k").await;
        b.get_local("k").is_some()
    })
    .await;
    wire.drop_messages(true);
    let token = a.expire("k").await.unwrap();
    let (truth, gate) = (Source::new("new"), Gate::new());
    let entry = through(&b, &token, "k", &truth.behind(&gate))
        .await
        .unwrap();
    assert_eq!((entry.as_str(), entry.meta().is_stale()), ("old", true));
    gate.arrived(1).await;
    gate.open();
    eventually("it is refreshed", || async {
        text(b.get("k").await).as_deref() == Some("new")
    })
    .await;
}

async fn a_fallback_is_looked_up_in_l2(fleet: Fleet) {
    let set = |builder| {
        let builder = without_heartbeats(builder).jitter(0.0);
        builder.stale_if_error(HOUR).fallback_throttle(HOUR)
    };
    let (a, _) = fleet.instance_with(set).await;
    let (b, wire) = fleet.instance_with(set).await;
    let ttl = Duration::from_secs(1);
    for key in ["k", "l"] {
        let old = Loaded::new("old".to_owned()).ttl(ttl);
        a.insert(key, old).await.unwrap();
        eventually("b keeps it", || async {
            b.get(key).await;
            b.get_local(key).is_some()
        })
        .await;
    }
    fleet.pass(ttl).await;
    for (cache, key) in [(&a, "k"), (&b, "k"), (&a, "l"), (&b, "l")] {
        eventually("it expires", || async { cache.get(key).await.is_none() }).await;
    }
    wire.drop_messages(true);
    let token = a.invalidate("k").await.unwrap();
    let down = || async { Err::<String, _>(io::Error::other("down")) };
    // What is new enough is handed out, again and again without a load.
    for _ in 0..2 {
        let entry = b.at_least(&token).get_or_load("l", down).await.unwrap();
        assert_eq!((entry.as_str(), entry.meta().is_fallback()), ("old", true));
    }
    assert_eq!(b.stats().load_failures, 1);
    // What was invalidated is not, though those that do not know of it get it.
    let error = b.at_least(&token).get_or_load("k", down).await;
    assert!(error.unwrap_err().is_loader());
    assert_eq!(*b.get_or_load("k", down).await.unwrap(), "old");
    let error = b.at_least(&token).get_or_load("k", down).await;
    assert!(error.unwrap_err().is_loader());
}

async fn without_l2_what_may_be_older_is_not_returned(fleet: Fleet) {
    let set = |builder| without_heartbeats(builder).mode(Mode::Available { limit: HOUR });
    let (a, _) = fleet.instance_with(set).await;
    let (b, wire) = fleet.instance_with(set).await;
    put(&a, "k", "old").await;
    assert!(b.get("k").await.is_some());
    wire.drop_messages(true);
    let token = put(&a, "k", "new").await;
    let own = put(&b, "own", "v").await;
    for step in [Step::Get, Step::AcquireLease, Step::Subscribe] {
        wire.lose(step, Way::Request, usize::MAX);
    }
    wire.cut();
    eventually("b is cut off", || async {
        let entry = b.get("k").await;
        entry.is_some_and(|entry| entry.meta().is_unproven())
    })
    .await;
    assert!(b.at_least(&token).get("k").await.is_none());
    let loaded = through(&b, &token, "k", &Source::new("new")).await.unwrap();
    assert_eq!((loaded.as_str(), loaded.meta().version()), ("new", None));
    // What is known to be new enough is.
    let entry = b.at_least(&own).get("own").await.unwrap();
    assert!(entry.meta().is_unproven());
}

async fn a_token_that_was_made_up_costs_one_request(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    let real = put(&a, "k", "v").await.to_string();
    b.get("k").await;
    let future = format!("{real}ffffff").parse().unwrap();
    let other = "1.77.1".parse().unwrap();
    let flushes = b.stats().l1_flushes;
    let truth = Source::new("loaded");
    for token in [&future, &other] {
        assert!(b.get_local("k").is_some());
        let before = wire.asked(Step::AcquireLease);
        let entry = b.at_least(token).get("k").await.unwrap();
        assert_eq!((entry.as_str(), entry.meta().source()), ("v", Level::L2));
        let entry = through(&b, token, "k", &truth).await.unwrap();
        assert_eq!(entry.as_str(), "v");
        assert_eq!(wire.asked(Step::AcquireLease), before + 2);
        assert_eq!(truth.loads(), 0);
    }
    // What is missing is loaded once, and from then on L2 has it.
    for _ in 0..3 {
        through(&b, &future, "missing", &truth).await.unwrap();
    }
    assert_eq!(truth.loads(), 1);
    assert_eq!((b.stats().l1_flushes, b.health().is_ok()), (flushes, true));
}

/// Another program has written it: no version that the partition issues will ever exceed it.
#[tokio::test]
async fn a_version_that_was_never_issued_is_not_new_enough() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = apart(&fleet, &[]).await;
    put(&a, "k", "old").await;
    wire.forge();
    assert!(b.get("k").await.is_some() && b.get_local("k").is_some());
    let token = put(&a, "k", "new").await;
    let entry = b.at_least(&token).get("k").await.unwrap();
    assert_eq!(*entry, "new");
}

#[tokio::test]
async fn where_l1_is_alone_it_has_applied_every_write() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    let token = put(&cache, "k", "v").await;
    let entry = cache.at_least(&token).get("k").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L1);
    let cleared = cache.clear().await.unwrap();
    for token in [token, cleared, "1.77.1".parse().unwrap()] {
        assert!(cache.at_least(&token).get("k").await.is_none());
        assert!(cache.at_least(&token).get_many(["k"]).await[0].is_none());
    }
}

#[tokio::test]
async fn a_call_that_changes_nothing_names_what_every_instance_has() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = apart(&fleet, &["k"]).await;
    let nothing: [&str; 0] = [];
    let token = a.invalidate_many(nothing).await.unwrap();
    let entry = b.at_least(&token).get("k").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L1);
}

#[tokio::test]
async fn a_key_that_is_too_long_is_a_miss_or_an_error() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = apart(&fleet, &["k"]).await;
    let token = put(&a, "k", "new").await;
    let long = "x".repeat(2000);
    let found = b.at_least(&token).get_many([&*long, "k"]).await;
    assert!(found[0].is_none());
    assert_eq!(*found[1].clone().unwrap(), "new");
    assert_eq!(b.stats().keys_refused, 1);
    let error = through(&b, &token, &long, &Source::new("v")).await;
    assert!(error.unwrap_err().is_key_too_long());
}

#[test]
fn only_the_text_of_a_token_is_one() {
    for text in [
        "",
        "1",
        "1.",
        "1..",
        "1.a",
        "1.a.",
        "1..a",
        "2.a.b",
        "1.a.b.",
        "1.a.b.c",
        "1.A.b",
        "1.a.0b",
        "1.+a.b",
        "1.-1.b",
        " 1.a.b",
        "1.a.b\n",
        "1.a.1ffffffffffffffff",
        "1.é.b",
        "1.a b",
        "١.a.b",
    ] {
        let error = text.parse::<Token>().unwrap_err();
        assert!(
            error.to_string().contains("not the text of a token"),
            "{text:?}"
        );
    }
    assert!("1.0.0".parse::<Token>().is_ok());
}

proptest! {
    #[test]
    fn a_token_is_a_short_cookie(epoch: u64, ver: u64) {
        let text = format!("1.{epoch:x}.{ver:x}");
        let token: Token = text.parse().unwrap();
        prop_assert_eq!(&token.to_string(), &text);
        prop_assert!(text.len() <= 40);
        prop_assert!(text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.'));
    }

    #[test]
    fn what_parses_is_what_is_written(text in "1?\\.?[0-9a-fA-F]{0,17}\\.?[0-9a-f]{0,17}") {
        if let Ok(token) = text.parse::<Token>() {
            prop_assert_eq!(token.to_string(), text);
        }
    }
}
