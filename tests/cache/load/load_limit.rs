//! How many loaders run at once, when the limit changes while the cache is in use.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use larder::LoadError;
use tokio::select;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::fleet::{Fleet, Source, Texts};
use crate::support::eventually::eventually;
use crate::support::network::Gate;

/// Lets all tasks run that can, on a runtime of one thread.
async fn run_all() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_limit_of_loads_can_be_changed_while_loaders_run() {
    let fleet = Fleet::memory();
    let (cache, _) = fleet.instance_with(|b| b.max_concurrent_loads(2)).await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let source = truth.behind(&gate);
    let began = |count: usize| {
        let cache = cache.clone();
        async move {
            eventually("so many loaders run", || async {
                cache.stats().loads == count as u64
            })
            .await;
        }
    };
    let first: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|key| source.spawn(&cache, key))
        .into();
    began(2).await;
    // Those that wait go on at once.
    cache.set_max_concurrent_loads(3);
    began(3).await;
    // Three run, and none more begins before all of them but none have ended.
    cache.set_max_concurrent_loads(1);
    cache.set_max_concurrent_loads(0);
    run_all().await;
    assert_eq!(cache.stats().loads, 3);
    // Of the excess of two, one is taken back.
    cache.set_max_concurrent_loads(2);
    gate.open();
    for load in first {
        load.await.unwrap().unwrap();
    }
    assert_eq!(cache.stats().loads, 5);
    // The limit is two again: all permits have come back, and no more.
    let gate = Gate::new();
    let source = truth.behind(&gate);
    let second: Vec<_> = ["f", "g", "h"].map(|key| source.spawn(&cache, key)).into();
    began(7).await;
    run_all().await;
    assert_eq!(cache.stats().loads, 7);
    gate.open();
    for load in second {
        load.await.unwrap().unwrap();
    }
}

/// How many loaders do work of their own, and how many did at most.
#[derive(Clone, Default)]
struct Working(Arc<[AtomicUsize; 2]>);

impl Working {
    async fn work(&self) {
        self.work_until(yield_now()).await;
    }

    async fn work_until(&self, end: impl Future<Output = ()>) {
        let [now, most] = &*self.0;
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        end.await;
        yield_now().await;
        now.fetch_sub(1, SeqCst);
    }

    /// Since the last call of this.
    fn most(&self) -> usize {
        self.0[1].swap(0, SeqCst)
    }
}

/// How a loader gives up a look-up whose load goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It hears of an event, before it looks at the look-up again.
    Event,
    /// After it has looked at it.
    EventBehind,
    EventBesideMany,
    EventBesideRefresh,
    /// In the poll in which the look-up begins.
    AtOnce,
    TimeLimit,
    NowOrNever,
    Dropped,
}

const WAYS: [Way; 8] = [
    Way::Event,
    Way::EventBehind,
    Way::EventBesideMany,
    Way::EventBesideRefresh,
    Way::AtOnce,
    Way::TimeLimit,
    Way::NowOrNever,
    Way::Dropped,
];

impl Way {
    /// Whether it waits for the event.
    fn waits(self) -> bool {
        use Way::{Event, EventBehind, EventBesideMany, EventBesideRefresh};
        matches!(
            self,
            Event | EventBehind | EventBesideMany | EventBesideRefresh
        )
    }

    async fn give_up(self, cache: &Texts, slow: &Gate, event: &Gate) {
        let slow = Source::new("slow").behind(slow);
        let (of_many, of_refresh) = (slow.clone(), slow.clone());
        let one = slow.through(cache, "slow");
        let many = move |keys: Vec<String>| {
            let load = of_many.clone().load();
            async move {
                load.await?;
                Ok::<_, std::io::Error>(keys.into_iter().map(|key| (key, String::new())))
            }
        };
        match self {
            Self::Event => select! { biased; () = event.pass() => {}, _ = one => panic!() },
            Self::EventBehind => select! { biased; _ = one => panic!(), () = event.pass() => {} },
            Self::EventBesideMany => select! {
                biased;
                _ = cache.get_many_or_load(["slow", "slower"], many) => panic!(),
                () = event.pass() => {}
            },
            Self::EventBesideRefresh => select! {
                biased;
                _ = cache.refresh("slow", || of_refresh.load()) => panic!(),
                () = event.pass() => {}
            },
            Self::AtOnce => select! { biased; _ = one => panic!(), () = ready(()) => {} },
            Self::TimeLimit => assert!(timeout(Duration::ZERO, one).await.is_err()),
            Self::NowOrNever => assert!(one.now_or_never().is_none()),
            Self::Dropped => {
                let mut one = Box::pin(one);
                assert!(futures::poll!(&mut one).is_pending());
            }
        }
    }
}

/// Loads `key`: the loader works, gives a look-up up, and works again.
async fn load(
    (cache, other): (Texts, Texts),
    key: String,
    way: Way,
    (slow, event): (Gate, Gate),
    working: Working,
) -> Result<String, LoadError> {
    let load = move || async move {
        working.work().await;
        way.give_up(&other, &slow, &event).await;
        working.work().await;
        yield_now().await;
        working.work().await;
        Ok::<_, Infallible>(String::new())
    };
    Ok(cache.get_or_load(&key, load).await?.to_string())
}

/// No more and no fewer loaders than this may run at once.
async fn has_limit(cache: &Texts, limit: usize) {
    let gate = Gate::new();
    let source = Source::new("v").behind(&gate);
    let all: Vec<_> = ["l1", "l2", "l3", "l4"]
        .map(|key| source.spawn(cache, key))
        .into();
    gate.arrived(limit).await;
    run_all().await;
    assert_eq!(source.loads(), limit);
    gate.open();
    for one in all {
        one.await.unwrap().unwrap();
    }
    cache
        .invalidate_many(["l1", "l2", "l3", "l4"])
        .await
        .unwrap();
}

/// The loads that are given up are of another cache, so that they take no permits of this one.
#[tokio::test]
async fn loaders_that_give_a_look_up_up_are_not_more_than_the_limit() {
    const LOADS: usize = 40;
    for (limit, way) in [1, 3].into_iter().flat_map(|n| WAYS.map(|way| (n, way))) {
        let fleet = Fleet::memory();
        let (cache, _) = fleet.instance_with(|b| b.max_concurrent_loads(limit)).await;
        let (other, _) = Fleet::memory().instance().await;
        let (slow, event, working) = (Gate::new(), Gate::new(), Working::default());
        let loads = (0..LOADS).map(|n| {
            let (caches, gates) = (
                (cache.clone(), other.clone()),
                (slow.clone(), event.clone()),
            );
            tokio::spawn(load(caches, format!("k{n}"), way, gates, working.clone()))
        });
        let loads: Vec<_> = loads.collect();
        if way.waits() {
            // All of them wait, so none counts.
            event.arrived(LOADS).await;
            has_limit(&cache, limit).await;
        }
        event.open();
        for load in join_all(loads).await {
            load.unwrap().unwrap();
        }
        assert_eq!(working.most(), limit, "{way:?}");
        has_limit(&cache, limit).await;
        slow.open();
    }
}

/// The load that is given up goes on, and has the only permit.
#[tokio::test]
async fn a_loader_that_gives_a_look_up_up_waits_until_it_may_run() {
    let fleet = Fleet::memory();
    let (cache, _) = fleet.instance_with(|b| b.max_concurrent_loads(1)).await;
    let (slow, event, working) = (Gate::new(), Gate::new(), Working::default());
    let (inner, of_slow, of_loader) = (cache.clone(), slow.clone(), event.clone());
    let outer = {
        let (cache, working) = (cache.clone(), working.clone());
        tokio::spawn(async move {
            let load = move || async move {
                let of_inner = working.clone();
                let slow = || async move {
                    of_inner.work_until(of_slow.pass()).await;
                    Ok::<_, Infallible>(String::new())
                };
                select! {
                    biased;
                    () = of_loader.pass() => {}
                    _ = inner.get_or_load("slow", slow) => panic!("it is given up"),
                }
                working.work().await;
                Ok::<_, Infallible>(String::new())
            };
            cache.get_or_load("k", load).await.map(drop)
        })
    };
    slow.arrived(1).await;
    event.open();
    run_all().await;
    assert!(!outer.is_finished());
    slow.open();
    outer.await.unwrap().unwrap();
    assert_eq!(working.most(), 1);
    has_limit(&cache, 1).await;
}

#[tokio::test]
async fn the_limit_may_change_while_loaders_wait_for_loads() {
    const LOADS: usize = 20;
    for way in WAYS.into_iter().filter(|way| way.waits()) {
        let fleet = Fleet::memory();
        let (cache, _) = fleet.instance_with(|b| b.max_concurrent_loads(4)).await;
        let (other, _) = Fleet::memory().instance().await;
        let (slow, working) = (Gate::new(), Working::default());
        for limit in [1, 3, 2] {
            let event = Gate::new();
            let loads = (0..LOADS).map(|n| {
                let (caches, gates) = (
                    (cache.clone(), other.clone()),
                    (slow.clone(), event.clone()),
                );
                let key = format!("{limit} {n}");
                tokio::spawn(load(caches, key, way, gates, working.clone()))
            });
            let loads: Vec<_> = loads.collect();
            event.arrived(LOADS).await;
            working.most();
            cache.set_max_concurrent_loads(limit);
            event.open();
            for load in join_all(loads).await {
                load.unwrap().unwrap();
            }
            assert_eq!(working.most(), limit, "{way:?}");
            has_limit(&cache, limit).await;
        }
        slow.open();
    }
}
