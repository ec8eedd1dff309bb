//! The number of partitions changes while instances that were told different numbers run beside each other (rule 27).

use std::time::Duration;

use deadpool_redis::redis::cmd;
use futures::future::join_all;
use larder::Loaded;
use larder::caches::AnyCache;

use crate::fleet::{Fleet, Set, Source, Texts, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Network, Step, Way};

async fn of(fleet: &Fleet, partitions: u16) -> (Texts, Network) {
    fleet.instance_with(|set| set.partitions(partitions)).await
}

/// An instance with one partition that does not hear of others: its connection is half-open.
async fn deaf(fleet: &Fleet, set: impl FnOnce(Set) -> Set) -> (Texts, Network) {
    let (deaf, wire) = fleet.instance_with(set).await;
    wire.silence(true);
    (deaf, wire)
}

/// Waits until all have the same partitions, as each sees what another one writes.
async fn agree(all: &[&Texts]) {
    for (n, writer) in all.iter().enumerate() {
        for reader in all {
            eventually("one reads what the other writes", async || {
                let value = format!("of {n}");
                let written = writer.insert("agreed", value.clone()).await;
                written.is_ok() && reader.get("agreed").await.as_deref() == Some(&value)
            })
            .await;
        }
    }
}

/// Changes the source of some keys, and invalidates them; a write that is deferred is delivered later.
async fn change(cache: &Texts, sources: &[Source], who: &str) {
    for round in 0..40 {
        let at = round % sources.len();
        sources[at].set(&format!("{round} of {who}"));
        if let Err(error) = cache.invalidate(&format!("k{at}")).await {
            assert!(error.is_deferred(), "{error}");
        }
        load(cache, sources).await;
    }
}

async fn load(cache: &Texts, sources: &[Source]) -> Vec<String> {
    let loads = sources.iter().enumerate().map(async |(at, source)| {
        let loaded = source.through(cache, &format!("k{at}")).await;
        (*loaded.unwrap()).clone()
    });
    join_all(loads).await
}

#[tokio::test]
async fn invalidations_reach_all_while_the_partitions_change() {
    let fleet = Fleet::redis().await;
    let sources: Vec<Source> = (0..6).map(|_| Source::new("first")).collect();
    let (a, _) = of(&fleet, 1).await;
    let (b, _) = of(&fleet, 1).await;
    let began = async |partitions, who| {
        let (cache, _) = of(&fleet, partitions).await;
        change(&cache, &sources, who).await;
        cache
    };
    let ((), (), c, d) = tokio::join!(
        change(&a, &sources, "a"),
        change(&b, &sources, "b"),
        began(4, "c"),
        began(3, "d"),
    );
    agree(&[&a, &b, &c, &d]).await;
    let now = join_all(sources.iter().map(|source| source.clone().load())).await;
    let now: Vec<String> = now.into_iter().map(Result::unwrap).collect();
    for (cache, who) in [(&a, "a"), (&b, "b"), (&c, "c"), (&d, "d")] {
        eventually(who, async || load(cache, &sources).await == now).await;
    }
}

#[tokio::test]
async fn what_former_partitions_do_not_accept_is_delivered_in_those_of_now() {
    let fleet = Fleet::redis().await;
    let (c, _) = of(&fleet, 1).await;
    for (n, call) in ["key", "tag", "prefix", "clear"].into_iter().enumerate() {
        // It has the partitions from before, as another one is the first that hears of those of now.
        let (a, to_a) = deaf(&fleet, without_heartbeats).await;
        let (b, _) = of(&fleet, 2 << n).await;
        agree(&[&b, &c]).await;
        let tagged = |tag: &str| Loaded::new("old".to_owned()).tags([tag.to_owned()]);
        for key in ["late", "key", "tag", "prefix", "other"] {
            c.insert(key, tagged(key)).await.unwrap();
        }
        // This one could not be sent before. That has to be made up for, too.
        to_a.lose(Step::Invalidate, Way::Request, 1);
        assert!(a.invalidate("late").await.unwrap_err().is_deferred());
        let done = match call {
            "key" => a.invalidate("key").await.map(drop),
            "tag" => a.invalidate_tag("tag").await.map(drop),
            "prefix" => a.invalidate_prefix("pre").await.map(drop),
            _ => a.clear().await.map(drop),
        };
        assert!(done.unwrap_err().is_deferred(), "{call}");
        assert!(a.get("late").await.is_none() && a.get(call).await.is_none());
        to_a.silence(false);
        eventually(call, async || {
            c.get("late").await.is_none() && c.get(call).await.is_none()
        })
        .await;
        // The removal of a prefix takes several steps, and all keys go if one of them fails.
        let is_one = matches!(call, "key" | "tag");
        eventually(call, async || c.get("other").await.is_some() == is_one).await;
        agree(&[&a, &b, &c]).await;
    }
}

#[tokio::test]
async fn an_instance_that_is_told_a_smaller_number_takes_the_larger_one() {
    let fleet = Fleet::redis().await;
    let (a, _) = of(&fleet, 2).await;
    let (b, _) = of(&fleet, 4).await;
    agree(&[&a, &b]).await;
    a.close().await;
    drop(a);
    // It is restarted while the deploy goes on, and others come.
    for partitions in [2, 1, 3, 4] {
        let (again, _) = of(&fleet, partitions).await;
        agree(&[&again, &b]).await;
        // Those that it has gone on with may not all have subscribed yet.
        eventually("all partitions are well", async || again.health().is_ok()).await;
        assert_eq!(again.stats().l2_errors, 0, "{partitions}");
    }
    // Once more, and to the most that there are.
    let (c, _) = of(&fleet, 16).await;
    agree(&[&b, &c]).await;
    b.close().await;
    assert!(b.insert("k", "v".to_owned()).await.is_ok() || b.health().is_l2_up());
}

#[tokio::test]
async fn one_that_waits_for_all_waits_for_those_with_former_partitions() {
    let fleet = Fleet::redis().await;
    let short = |set: Set| set.max_staleness(Duration::from_millis(600));
    let source = Source::new("old");
    let (a, to_a) = fleet.instance_with(short).await;
    source.through(&a, "k").await.unwrap();
    to_a.silence(true);
    let (c, _) = fleet.instance_with(|set| short(set).partitions(4)).await;
    source.set("new");
    c.invalidate_and_wait("k").await.unwrap();
    assert!(
        a.get_local("k").is_none(),
        "it may still have relied on a proof"
    );
}

#[tokio::test]
async fn an_instance_that_is_switched_off_stays_so() {
    let fleet = Fleet::redis().await;
    let (a, _) = of(&fleet, 1).await;
    a.set_enabled(false);
    let (c, _) = of(&fleet, 4).await;
    let one = async || a.stats().l1_flushes;
    let before = one().await;
    c.insert("k", "v".to_owned()).await.unwrap();
    assert!(a.get("k").await.is_none() && !a.is_enabled());
    a.ready().await;
    a.set_enabled(true);
    agree(&[&a, &c]).await;
    assert!(a.get("k").await.is_some() && one().await >= before);
}

/// With other partitions an instance makes an L1 of its own for each.
#[tokio::test]
async fn the_capacity_outlives_a_change_of_partitions() {
    let fleet = Fleet::redis().await;
    let small = |set: Set| set.l1_capacity(80);
    let (a, _) = fleet.instance_with(small).await;
    a.set_l1_capacity(8_000);
    let (c, _) = fleet.instance_with(|set| small(set).partitions(4)).await;
    agree(&[&a, &c]).await;
    let keys: Vec<String> = (0..400).map(|n| format!("k{n}")).collect();
    let rows = keys.iter().map(|key| (key, "row".to_owned()));
    a.insert_many(rows).await.unwrap();
    eventually("L1 has all", async || {
        a.local_keys(1_000).len() == keys.len()
    })
    .await;
}

/// A handle without types keeps the engine that the instance had when the handle was made.
#[tokio::test]
async fn a_cache_without_types_goes_on_with_the_present_partitions() {
    let fleet = Fleet::redis().await;
    let (a, _) = of(&fleet, 1).await;
    let any = AnyCache::from(&a);
    let (c, _) = of(&fleet, 4).await;
    agree(&[&a, &c]).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    eventually("L1 has the key", async || {
        any.local_keys(10).contains(&"k".to_owned())
    })
    .await;
    assert_eq!(any.partition_health().len(), 4);
    any.set_enabled(false);
    assert!(!a.is_enabled() && !any.is_enabled());
}

/// As after an eviction: which partitions are used is found out by the others.
#[tokio::test]
async fn the_partitions_are_known_though_the_clock_that_names_them_is_lost() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        panic!("it is one");
    };
    let mut raw = server.connection().await;
    let (c, _) = of(&fleet, 4).await;
    let () = cmd("DEL")
        .arg("{test:text.0}!clock")
        .query_async(&mut raw)
        .await
        .unwrap();
    let (a, _) = of(&fleet, 1).await;
    agree(&[&a, &c]).await;
    let named: u16 = cmd("HGET")
        .arg("{test:text.0}!clock")
        .arg("partitions")
        .query_async(&mut raw)
        .await
        .unwrap();
    assert_eq!(named, 4, "and named there again");
}

#[cfg(feature = "write-behind")]
mod write_behind {
    use std::io;

    use larder::Cache;
    use larder::write_behind::WriteBehind;

    use super::*;

    #[tokio::test]
    async fn partitions_in_which_writes_may_wait_are_not_left() {
        let fleet = Fleet::redis().await;
        let on_it = |partitions| {
            let builder = Cache::builder("test:text").partitions(partitions);
            let cache: Texts = builder.l2(fleet.l2()).build().unwrap();
            cache
        };
        let a = on_it(1);
        let fail = async |_| Err::<(), _>(io::Error::other("no"));
        let behind = WriteBehind::builder(a.clone()).store(fail).build().unwrap();
        behind.insert("k", "v".to_owned()).await.unwrap();
        let c = on_it(4);
        assert!(
            c.insert("k", "w".to_owned())
                .await
                .unwrap_err()
                .is_deferred()
        );
        a.insert("other", "v".to_owned()).await.unwrap();
        assert_eq!(behind.stats().await.unwrap().pending, 1);
    }
}
