//! A cache that is used on several runtimes, which may end.

use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, poll};
use larder::{Cache, Clock};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::fleet::{Fleet, Texts, UNHURRIED, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Step, Way};
use crate::write::batching::{numbered, pairs, value};

const LIMIT: Duration = Duration::from_secs(20);

/// Driven only by the thread that blocks on it.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A cache can outlive the runtime that it began on: it subscribes again on the next one.
#[test]
fn a_cache_moves_from_runtime_to_runtime() {
    let (cache, _) = Fleet::memory().build(|builder| builder);
    for round in 0..3 {
        runtime().block_on(async {
            // The last proof may still hold; then L1 is used, and the subscriber begins when it lapses.
            cache.ready().await;
            cache.insert("k", format!("round {round}")).await.unwrap();
            assert_eq!(*cache.get_local("k").unwrap(), format!("round {round}"));
        });
    }
}

/// The runtime may end before it has polled the task that gives the memory of L1's entries back.
#[test]
fn memory_is_given_back_on_the_next_runtime() {
    let (clock, ttl) = (Clock::manual(), Duration::from_secs(1));
    let builder = Cache::builder("test:swept").clock(clock.clone());
    let cache: Texts = builder.l2_ttl(ttl).build().unwrap();
    runtime().block_on(async { drop(cache.get("k").now_or_never()) });
    let mut paused = Builder::new_current_thread();
    let paused = paused.enable_all().start_paused(true).build().unwrap();
    paused.block_on(async {
        cache.insert("k", "v".to_owned()).await.unwrap();
        clock.advance(2 * ttl);
        assert_eq!(cache.stats().l1_entries, 1, "it has expired");
        eventually("it is removed", || async { cache.stats().l1_entries == 0 }).await;
    });
}

/// Also while the last proof would still hold: what other instances change is received, and what is deferred is sent.
#[test]
fn the_next_call_on_another_runtime_takes_over_at_once() {
    let fleet = Fleet::memory();
    let (cache, wire) = fleet.build(without_heartbeats);
    let ends = runtime();
    ends.block_on(cache.ready());
    let driven = runtime();
    let other = driven.block_on(async { fleet.instance().await.0 });
    ends.block_on(async {
        other.insert("k", "old".to_owned()).await.unwrap();
        wire.lose(Step::Invalidate, Way::Request, 1);
        cache.invalidate("k").await.unwrap_err();
        wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    });
    drop(ends);
    wire.lose(Step::Invalidate, Way::Request, 0);
    driven.block_on(async {
        cache.get("other").await;
        eventually("it is delivered", || async {
            other.get("k").await.is_none()
        })
        .await;
        cache.ready().await;
        cache.insert("k", "new".to_owned()).await.unwrap();
        other.invalidate("k").await.unwrap();
        eventually("the message is received", || async {
            cache.get_local("k").is_none()
        })
        .await;
    });
}

/// The same over Redis, whose connection dies with the runtime: nothing is lost or deferred for that.
#[test]
fn a_cache_on_redis_moves_from_runtime_to_runtime() {
    let server = runtime().block_on(crate::support::redis_server::RedisServer::start());
    let cache: Texts = Cache::builder("test:runtime")
        .redis(server.url())
        .l2_timeout(UNHURRIED)
        .build()
        .unwrap();
    for round in 0..5 {
        runtime().block_on(async {
            cache.insert("k", format!("round {round}")).await.unwrap();
            assert_eq!(*cache.get("k").await.unwrap(), format!("round {round}"));
        });
    }
}

#[test]
fn ready_outlives_the_runtime_of_the_subscriber() {
    let (cache, wire) = Fleet::memory().build(|builder| builder);
    let gate = wire.close(Step::Subscribe, Way::Request);
    let (ends, driven) = (runtime(), runtime());
    assert!(
        ends.block_on(async { cache.ready().now_or_never() })
            .is_none()
    );
    ends.block_on(gate.arrived(1));
    let mut ready = Box::pin(cache.ready());
    assert!(
        driven
            .block_on(async { (&mut ready).now_or_never() })
            .is_none()
    );
    drop(ends);
    gate.open();
    driven.block_on(ready);
    assert!(cache.health().is_subscriber_live());
}

#[test]
fn a_clear_whose_runtime_ends_is_sent_later() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        fleet.build(|builder| builder),
        fleet.build(|builder| builder),
    );
    let gate = wire.close(Step::Clear, Way::Request);
    let ends = runtime();
    ends.block_on(async {
        a.insert("k", "v".to_owned()).await.unwrap();
        assert!(a.clear().now_or_never().is_none());
        gate.arrived(1).await;
    });
    drop(ends);
    gate.open();
    runtime().block_on(async {
        assert!(a.get("k").await.is_none(), "at once, whatever L2 has");
        eventually("the invalidation is sent", async || {
            b.get("k").await.is_none()
        })
        .await;
    });
    assert_eq!(a.stats().writes_deferred, 1);
}

/// The writer's task ends with its runtime: the writes that it had not sent are deferred, and later writes have
/// another.
#[test]
fn a_runtime_that_ends_amid_writes_harms_no_later_one() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (fleet.build(|b| b), fleet.build(|b| b));
    for polls in 0..10 {
        let keys = numbered(200);
        runtime()
            .block_on(b.insert_many(pairs(&keys, "old")))
            .unwrap();
        runtime().block_on(async {
            a.ready().await;
            let gate = wire.close(
                Step::Invalidate,
                if polls % 2 == 0 {
                    Way::Request
                } else {
                    Way::Reply
                },
            );
            let mut call = Box::pin(a.invalidate_many(&keys));
            for _ in 0..polls {
                assert!(poll!(&mut call).is_pending());
                tokio::task::yield_now().await;
            }
            if polls == 0 {
                assert!(poll!(&mut call).is_pending());
            }
            drop(gate);
        });
        wire.close(Step::Invalidate, Way::Request).open();
        wire.close(Step::Invalidate, Way::Reply).open();
        runtime().block_on(async {
            // The last proof ends, and the subscriber is started anew.
            fleet.advance(Duration::from_secs(3));
            eventually("all are gone", async || {
                a.ready().await;
                let found = join_all(keys.iter().map(|key| value(&b, key))).await;
                found.iter().all(Option::is_none)
            })
            .await;
            timeout(LIMIT, a.insert_many(pairs(&keys, "new")))
                .await
                .unwrap()
                .unwrap();
        });
    }
}

/// Writes that were already sent keep their order.
#[test]
fn a_runtime_that_ends_changes_no_order() {
    let (cache, wire) = Fleet::memory().build(|builder| builder);
    let gate = wire.close(Step::Insert, Way::Request);
    let (ends, stays) = (runtime(), runtime());
    stays.block_on(async {
        let inserting = tokio::spawn({
            let cache = cache.clone();
            async move { cache.insert("k", "old".to_owned()).await }
        });
        gate.arrived(1).await;
        let other = cache.insert("other", "v".to_owned());
        std::thread::scope(|scope| {
            // The task is not polled there.
            scope.spawn(|| assert!(ends.block_on(async { other.now_or_never() }).is_none()));
        });
        ends.shutdown_background();
        let mut invalidation = Box::pin(cache.invalidate("k"));
        assert!(poll!(&mut invalidation).is_pending());
        cache.invalidate("another").await.unwrap();
        assert!(poll!(&mut invalidation).is_pending(), "that of k waits");
        gate.open();
        invalidation.await.unwrap();
        inserting.await.unwrap().unwrap();
        assert!(cache.get("k").await.is_none());
    });
}

/// A caller that shares a read whose task ends with its runtime reads by itself.
#[test]
fn a_read_on_a_runtime_that_ends_delays_no_other_caller() {
    let fleet = Fleet::memory();
    let (there, here) = (runtime(), runtime());
    let (a, _) = fleet.build(without_heartbeats);
    here.block_on(a.insert("k", "v".to_owned())).unwrap();
    // In another instance, L1 has nothing.
    let (b, wire) = fleet.build(|b| without_heartbeats(b).l2_timeout(Duration::from_millis(50)));
    here.block_on(b.ready());
    let held = wire.close(Step::Get, Way::Reply);
    let mut alone = Box::pin(b.get("k"));
    assert!(here.block_on(async { poll!(&mut alone) }).is_pending());
    let mut shared = Box::pin(b.get("k"));
    assert!(there.block_on(async { poll!(&mut shared) }).is_pending());
    drop(there);
    held.open();
    let found = here.block_on(async { timeout(LIMIT, b.get("k")).await });
    assert!(found.unwrap().is_some());
    assert!(here.block_on(shared).is_some());
    assert!(here.block_on(alone).is_some());
}

/// So the end of a runtime cuts none of them off.
#[test]
fn without_l2_a_write_is_done_when_it_is_first_polled() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    let done = |write: &mut dyn FnMut() -> bool| runtime().block_on(async { assert!(write()) });
    done(&mut || {
        let insert = cache.insert("k", "v".to_owned()).now_or_never();
        insert.unwrap().is_ok() && cache.get_local("k").is_some()
    });
    done(&mut || {
        let invalidate = cache.invalidate("k").now_or_never();
        invalidate.unwrap().is_ok() && cache.get_local("k").is_none()
    });
    done(&mut || {
        let twice = [("k", "old"), ("k", "new")].map(|(key, text)| (key, text.to_owned()));
        let insert = cache.insert_many(twice).now_or_never();
        let found = cache.get_local("k");
        insert.unwrap().is_ok() && found.is_some_and(|found| *found == "new")
    });
    done(&mut || {
        let clear = cache.clear().now_or_never();
        clear.unwrap().is_ok() && cache.get_local("k").is_none()
    });
}
