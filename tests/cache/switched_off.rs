//! The kill switch: an instance that is switched off stores nothing and returns nothing that is stored, and keeps the
//! others up to date.

use std::time::Duration;

use larder::{Cache, Loaded, Mode, Version};

use crate::fleet::{Fleet, HOUR, Source, Texts, over_both_stores, pair};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    look_ups_miss_and_ask_l2_for_nothing,
    what_is_loaded_is_not_stored,
    what_is_inserted_invalidates,
    an_insert_on_a_condition_changes_nothing,
    changes_are_sent_and_applied,
    what_was_under_way_is_not_stored,
    no_fallback_is_handed_out,
    a_share_of_the_keys_is_used_and_the_others_are_as_if_it_were_off,
    a_bypassed_key_is_as_if_it_were_off_for_it,
    what_was_under_way_when_a_key_is_bypassed_is_not_stored,
    all_instances_follow_the_switch_of_the_fleet,
    an_answer_from_before_the_switch_of_the_fleet_does_not_undo_it,
);

async fn a_bypassed_key_is_as_if_it_were_off_for_it(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let truth = Source::new("v");
    let keys = ["7", "7:tea", "7:milk", "70:tea", "8:tea", "tea", "teapot"];
    for key in keys {
        for cache in [&a, &b] {
            truth.through(cache, key).await.unwrap();
        }
    }
    a.bypass("tea").unwrap();
    a.bypass_prefix("7:").unwrap();
    let mut local = a.local_keys(10);
    local.sort_unstable();
    assert_eq!(local, ["7", "70:tea", "8:tea", "teapot"]);
    let asked = (wire.asked(Step::Get), wire.asked(Step::AcquireLease));
    for key in ["tea", "7:tea", "7:milk"] {
        assert!(a.get(key).await.is_none());
        let loads = truth.loads();
        truth.through(&a, key).await.unwrap();
        assert_eq!(truth.loads(), loads + 1);
        assert!(a.get_local(key).is_none());
    }
    assert_eq!(
        (wire.asked(Step::Get), wire.asked(Step::AcquireLease)),
        asked
    );
    for key in ["7", "70:tea", "8:tea", "teapot"] {
        assert!(a.get_local(key).is_some());
        a.insert(key, "new".to_owned()).await.unwrap();
        assert!(a.get_local(key).is_some());
    }
    // Others use the key, and what is inserted here removes their value.
    assert_eq!(b.get("tea").await.unwrap().as_str(), "v");
    a.insert("tea", "new".to_owned()).await.unwrap();
    eventually("its value is gone", async || b.get("tea").await.is_none()).await;
    // A share beside it.
    a.set_enabled_for(0.0);
    a.set_enabled_for(1.0);
    assert!(a.is_enabled() && a.get("7:tea").await.is_none());
    a.end_bypass();
    assert_eq!(a.get("7:tea").await.unwrap().as_str(), "v");
    assert!(a.get_local("7:tea").is_some());
    let longest = "k".repeat(larder::key::MAX_KEY_BYTES + 1);
    assert!(a.bypass(longest.as_str()).is_err() && a.bypass_prefix(&longest).is_err());
}

async fn what_was_under_way_when_a_key_is_bypassed_is_not_stored(fleet: Fleet) {
    let ((a, wire), _) = pair(&fleet).await;
    for (key, is_prefix) in [("k", false), ("l", true)] {
        a.insert(key, "v".to_owned()).await.unwrap();
        a.set_enabled(false);
        a.set_enabled(true);
        let gate = wire.close(Step::Get, Way::Reply);
        let reading = tokio::spawn({
            let a = a.clone();
            async move { a.get(key).await }
        });
        gate.arrived(1).await;
        if is_prefix {
            a.bypass_prefix(key).unwrap();
        } else {
            a.bypass(key).unwrap();
        }
        gate.open();
        reading.await.unwrap();
        assert!(a.get_local(key).is_none());
    }
}

/// Requests and heartbeats have connections of their own, so the answer to a heartbeat may be older than the switch.
async fn an_answer_from_before_the_switch_of_the_fleet_does_not_undo_it(fleet: Fleet) {
    let (a, wire) = fleet
        .instance_with(|builder| builder.max_staleness(Duration::from_millis(600)))
        .await;
    for is_enabled in [false, true] {
        let delayed = wire.delayed();
        wire.delay_heartbeats(true);
        eventually("an answer is on its way", async || wire.delayed() > delayed).await;
        a.set_enabled_everywhere(is_enabled).await.unwrap();
        let asked = wire.asked(Step::Heartbeat);
        wire.delay_heartbeats(false);
        // Wakes the subscriber.
        wire.silence(false);
        eventually("the next heartbeat is sent", async || {
            assert_eq!(a.is_enabled(), is_enabled);
            wire.asked(Step::Heartbeat) > asked
        })
        .await;
    }
}

async fn all_instances_follow_the_switch_of_the_fleet(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let truth = Source::new("v");
    for cache in [&a, &b] {
        truth.through(cache, "k").await.unwrap();
    }
    a.set_enabled_everywhere(false).await.unwrap();
    assert!(!a.is_enabled() && a.get_local("k").is_none());
    eventually("the other one follows", async || !b.is_enabled()).await;
    assert!(b.get_local("k").is_none() && b.get("k").await.is_none());
    // An epoch that begins meanwhile changes nothing, nor does the switch of an instance.
    b.clear().await.unwrap();
    b.set_enabled(false);
    b.set_enabled(true);
    let (c, wire) = fleet.instance().await;
    assert!(!c.is_enabled() && !b.is_enabled());
    truth.through(&c, "k").await.unwrap();
    assert_eq!(wire.asked(Step::AcquireLease), 0);
    b.set_enabled(false);
    c.set_enabled_everywhere(true).await.unwrap();
    eventually("it follows", async || a.is_enabled()).await;
    truth.through(&a, "k").await.unwrap();
    assert!(a.get_local("k").is_some());
    // This one follows at its own heartbeat, and is off by itself until then and after.
    assert!(!b.is_enabled());
    b.set_enabled(true);
    eventually("it follows, too", async || b.is_enabled()).await;
    assert_eq!(b.get("k").await.unwrap().as_str(), "v");
}

/// Instances with the same share agree on the keys.
async fn a_share_of_the_keys_is_used_and_the_others_are_as_if_it_were_off(fleet: Fleet) {
    let share = |builder: larder::Builder<String, String>| builder.enabled_for(0.3);
    let ((a, _), (b, wire)) = (
        fleet.instance_with(share).await,
        fleet.instance_with(share).await,
    );
    let truth = Source::new("v");
    let keys: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let mut used = Vec::new();
    for key in &keys {
        let loads = truth.loads();
        truth.through(&a, key).await.unwrap();
        truth.through(&b, key).await.unwrap();
        match truth.loads() - loads {
            1 => used.push(key.as_str()),
            2 => assert!(a.get(key.as_str()).await.is_none()),
            loads => panic!("{key}: {loads} loads"),
        }
    }
    assert!((30..90).contains(&used.len()), "{}", used.len());
    let mut local = b.local_keys(keys.len());
    local.sort_unstable();
    used.sort_unstable();
    assert_eq!(local, used);
    // Writes of the other keys invalidate them.
    let other = keys.iter().find(|key| !used.contains(&key.as_str()));
    let other = other.unwrap().as_str();
    a.insert(other, "new".to_owned()).await.unwrap();
    let absent = larder::Version::ABSENT;
    assert!(
        a.insert_if(other, "new".to_owned(), absent)
            .await
            .unwrap()
            .is_none()
    );
    let refused = a.update(other, |_| "new".to_owned()).await;
    assert!(refused.is_err_and(|error| error.is_refused()));
    // All keys of a smaller share are in a larger one.
    b.set_enabled_for(1.0);
    assert_eq!(b.local_keys(keys.len()).len(), used.len());
    truth.through(&b, other).await.unwrap();
    assert!(b.get_local(other).is_some());
    let asked = wire.asked(Step::Get);
    b.set_enabled_for(0.0);
    assert!(!b.is_enabled() && b.local_keys(1).is_empty());
    assert!(b.get(other).await.is_none());
    assert_eq!(wire.asked(Step::Get), asked);
    b.set_enabled(false);
    b.set_enabled_for(1.0);
    assert!(!b.is_enabled());
    b.set_enabled(true);
    assert!(b.get(other).await.is_some());
}

async fn look_ups_miss_and_ask_l2_for_nothing(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    let token = a.insert("k", "v".to_owned()).await.unwrap();
    assert!(b.get("k").await.is_some());
    let clone = b.clone();
    clone.set_enabled(false);
    assert!(!b.is_enabled());
    let asked = (wire.asked(Step::Get), wire.asked(Step::AcquireLease));
    assert!(b.get_local("k").is_none());
    assert!(b.get("k").await.is_none());
    assert!(b.get_many(["k", "l"]).await.iter().all(Option::is_none));
    let view = b.at_least(&token);
    assert!(view.get("k").await.is_none());
    assert!(view.get_many(["k"]).await.iter().all(Option::is_none));
    assert!(!b.touch("k", HOUR).await.unwrap());
    assert_eq!(
        (wire.asked(Step::Get), wire.asked(Step::AcquireLease)),
        asked
    );
    // Of the other instance nothing has changed.
    assert!(a.get("k").await.is_some());
    // It is still subscribed.
    assert!(b.health().is_ok());
    clone.set_enabled(true);
    assert_eq!(b.get("k").await.unwrap().as_str(), "v");
    assert!(b.get_local("k").is_some());
}

async fn what_is_loaded_is_not_stored(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(|b| b.enabled(false)).await;
    let truth = Source::new("v");
    for n in 1..=3 {
        let entry = truth.through(&a, "k").await.unwrap();
        assert_eq!(entry.as_str(), "v");
        assert!(entry.meta().version().is_none());
        assert_eq!(truth.loads(), n);
    }
    let load = |keys: Vec<String>| async move {
        let values = keys.into_iter().map(|key| (key, "many".to_owned()));
        Ok::<Vec<_>, std::io::Error>(values.collect())
    };
    let many = a.get_many_or_load(["k", "l"], load).await.unwrap();
    assert_eq!(many.len(), 2);
    let source = truth.clone();
    a.refresh("k", move || source.load()).await.unwrap();
    assert_eq!(a.warm(["w".to_owned()], load).await.unwrap().changed, 1);
    assert_eq!(wire.asked(Step::Fill), 0);
    assert_eq!(wire.asked(Step::AcquireLease), 0);
    a.set_enabled(true);
    assert!(
        a.get_many(["k", "l", "w"])
            .await
            .iter()
            .all(Option::is_none)
    );
    // And then it is.
    truth.through(&a, "k").await.unwrap();
    assert!(a.get_local("k").is_some());
}

async fn what_is_inserted_invalidates(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    let keys = ["one", "many", "through"];
    for key in keys {
        a.insert(key, "old".to_owned()).await.unwrap();
    }
    b.set_enabled(false);
    let new = || "new".to_owned();
    b.insert("one", new()).await.unwrap();
    let with = Loaded::new(new()).ttl(HOUR);
    b.insert_many([("many", with)]).await.unwrap();
    let stored = b.write_through("through", new(), |_| async { Ok::<_, std::io::Error>(()) });
    stored.await.unwrap();
    assert_eq!(wire.asked(Step::Insert), 0);
    b.set_enabled(true);
    let (fresh, _) = fleet.instance().await;
    for key in keys {
        eventually("the other instance hears of it", || async {
            a.get(key).await.is_none()
        })
        .await;
        assert!(b.get(key).await.is_none(), "{key}");
        assert!(fresh.get(key).await.is_none(), "{key}");
    }
}

/// What is stored is the lock of another caller.
async fn an_insert_on_a_condition_changes_nothing(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    let claim = async |cache: &Texts, version| {
        let claimed = cache.insert_if("k", "mine".to_owned(), version);
        claimed.await.unwrap().is_some()
    };
    assert!(claim(&a, Version::ABSENT).await);
    let seen = b.get("k").await.unwrap().meta().version().unwrap();
    b.set_enabled(false);
    for version in [Version::ABSENT, seen] {
        assert!(!claim(&b, version).await);
    }
    let updated = b.update("k", |_| -> String { panic!("it is not read") });
    assert!(updated.await.unwrap_err().is_refused());
    let (fresh, _) = fleet.instance().await;
    assert_eq!(fresh.get("k").await.unwrap().meta().version(), Some(seen));
    assert_eq!(wire.asked(Step::InsertIf), 0);
    b.set_enabled(true);
    assert!(claim(&b, seen).await);
}

async fn changes_are_sent_and_applied(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for key in ["k", "l"] {
        a.insert(key, "v".to_owned()).await.unwrap();
        assert!(b.get(key).await.is_some());
    }
    b.set_enabled(false);
    b.invalidate("k").await.unwrap();
    eventually("it is sent", || async { a.get_local("k").is_none() }).await;
    assert!(a.get("k").await.is_none());
    let before = b.stats().invalidations_received;
    a.invalidate("l").await.unwrap();
    eventually("it is applied", || async {
        b.stats().invalidations_received > before
    })
    .await;
    b.set_enabled(true);
    for key in ["k", "l"] {
        assert!(b.get(key).await.is_none(), "{key}");
    }
}

/// Loads and inserts that began before, and end after it.
async fn what_was_under_way_is_not_stored(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    let (truth, loads) = (Source::new("v"), Gate::new());
    let load = truth.behind(&loads).spawn(&a, "loaded");
    loads.arrived(1).await;
    let replies = wire.close(Step::Insert, Way::Reply);
    let insert = {
        let a = a.clone();
        tokio::spawn(async move { a.insert("inserted", "v".to_owned()).await })
    };
    replies.arrived(1).await;
    a.set_enabled(false);
    loads.open();
    replies.open();
    assert_eq!(load.await.unwrap().unwrap().as_str(), "v");
    insert.await.unwrap().unwrap();
    for key in ["loaded", "inserted"] {
        assert!(a.get_local(key).is_none(), "{key}");
        assert!(a.get(key).await.is_none(), "{key}");
    }
    assert_eq!(wire.asked(Step::Fill), 0);
}

async fn no_fallback_is_handed_out(fleet: Fleet) {
    let set = |b: larder::Builder<String, String>| {
        let mode = Mode::Available { limit: HOUR };
        b.stale_if_error(HOUR).error_ttl(HOUR).mode(mode)
    };
    let (a, wire) = fleet.instance_with(set).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let fails = || async { Err::<String, _>(std::io::Error::other("no")) };
    assert!(a.get_or_load("l", fails).await.is_err());
    a.set_enabled(false);
    wire.silence(true);
    assert!(a.get("k").await.is_none());
    assert!(a.get_or_load("k", fails).await.is_err());
    // The error of the load that failed before is not handed out, either.
    let truth = Source::new("v");
    assert!(truth.through(&a, "l").await.is_ok());
    wire.silence(false);
}

#[tokio::test]
async fn l1_alone_can_be_switched_off() {
    let cache: Cache<String, u64> = Cache::builder("test:alone").build().unwrap();
    cache.insert("k", 1).await.unwrap();
    cache.set_enabled(false);
    assert!(cache.get("k").await.is_none());
    cache.insert("k", 2).await.unwrap();
    assert!(!cache.touch("k", Duration::from_secs(1)).await.unwrap());
    cache.set_enabled(true);
    cache.ready().await;
    assert!(cache.get("k").await.is_none());
    cache.insert("k", 3).await.unwrap();
    assert_eq!(*cache.get_local("k").unwrap(), 3);
}

#[tokio::test]
async fn so_many_keys_are_bypassed_at_most() {
    let cache: larder::Cache<u64, u64> = larder::Cache::builder("test:bypass").build().unwrap();
    for key in 0..999 {
        cache.bypass(&key).unwrap();
    }
    cache.bypass_prefix("x").unwrap();
    // Those that are bypassed already.
    cache.bypass(&7).unwrap();
    for refused in [cache.bypass(&1_000), cache.bypass_prefix("y")] {
        assert!(refused.is_err_and(|error| error.is_misuse()));
    }
    cache.insert(&1_000, 1).await.unwrap();
    assert!(cache.get(&1_000).await.is_some());
    cache.end_bypass();
    cache.bypass(&1_000).unwrap();
    assert!(cache.get(&1_000).await.is_none());
}

/// Calls the cache at each line of the log.
struct Calls(Texts);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Calls {
    fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.0.set_enabled_for(0.5);
        self.0.bypass_prefix("7:").unwrap();
    }
}

#[test]
fn a_layer_of_tracing_may_switch_the_cache_whose_lines_it_hears() {
    use tracing_subscriber::layer::SubscriberExt;

    let (sender, done) = std::sync::mpsc::channel();
    // A thread of its own: a call that waits for its own lock would hang the test.
    std::thread::spawn(move || {
        let cache: Texts = Cache::builder("test:text").build().unwrap();
        let layer = tracing_subscriber::registry().with(Calls(cache.clone()));
        tracing::subscriber::with_default(layer, || {
            cache.set_enabled(false);
            cache.set_enabled_for(0.1);
            cache.set_l1_capacity(10);
            cache.bypass("k").unwrap();
        });
        sender.send(()).unwrap();
    });
    done.recv_timeout(Duration::from_secs(10)).unwrap();
}
