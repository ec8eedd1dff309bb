//! No code of users runs while the crate holds a lock, see `support::unlocked`. All tests of the cache check the log,
//! loaders and stores; here are the other kinds of code, and a subscriber that calls the cache it hears of.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use larder::l2::L2;
use larder::{Cache, Caches, Clock, CommitError, Invalidation, Loaded, MemoryL2, ServiceSettings};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{from_value, json};
use tokio::runtime::Builder;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::fleet::HOUR;
use crate::support::eventually::eventually;
use crate::support::network::{Network, Step, Way};
use crate::support::unlocked::{Unlocked, check, watch};

/// A value that checks whatever is done with it.
#[derive(Clone, Debug, PartialEq)]
struct Value(u32, Unlocked);

impl Value {
    fn new(number: u32) -> Self {
        Self(number, Unlocked)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        check("serialize");
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        check("deserialize");
        u32::deserialize(deserializer).map(Self::new)
    }
}

/// An error of a loader that checks when it is dropped.
#[derive(Debug)]
struct Failed(Unlocked);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        check("an error");
        f.write_str("failed")
    }
}

impl std::error::Error for Failed {}

fn options(l2: impl L2, clock: &Clock) -> larder::Builder<u32, Value> {
    Cache::builder("test:unlocked")
        .l2(l2)
        .clock(clock.clone())
        .max_staleness(HOUR)
        .l1_capacity(20)
        .l1_weigher(|_: &str, _: &Value| {
            check("a weigher");
            1
        })
        .tags_of(|_: &str, value: &Value| {
            check("tags_of");
            [format!("t{}", value.0 % 3)]
        })
        .ttl_of(|_: &Value| {
            check("ttl_of");
            None
        })
        .soft_ttl(Duration::from_secs(10))
        .stale_if_error(HOUR)
        .verify(0.3)
}

async fn use_it(cache: &Cache<u32, Value>, round: u32) {
    let load = |fails: bool| {
        move || async move {
            check("a loader");
            if fails {
                Err(Failed(Unlocked))
            } else {
                Ok(Value::new(1))
            }
        }
    };
    for key in 0..40 {
        _ = cache
            .get_or_load(&key, load((key + round).is_multiple_of(4)))
            .await;
    }
    let many = |keys: Vec<u32>| async move {
        check("a loader of many");
        Ok::<_, Failed>(keys.into_iter().map(|key| (key, Value::new(key))))
    };
    _ = cache.get_many_or_load(&[1, 2, 3, 100 + round], many).await;
    _ = cache.refresh(&1, load(round.is_multiple_of(2))).await;
    _ = cache.insert(&2, Loaded::new(Value::new(round))).await;
    let change = |old: Option<&Value>| {
        check("an update");
        Value::new(old.map_or(0, |old| old.0 + 1))
    };
    _ = cache.update(&3, change).await;
    let store = |_: &Value| {
        check("a store");
        async { Ok::<_, Failed>(()) }
    };
    _ = cache.write_through(&4, Value::new(4), store).await;
    _ = cache.invalidate(&5).await;
    _ = cache.invalidate_tag("t1").await;
    _ = cache
        .insert(&8, Loaded::new(Value::new(8)).no_store())
        .await;
    _ = cache.expire(&6).await;
    _ = cache.touch(&7, HOUR).await;
    _ = cache.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whatever_is_called_is_called_without_a_lock() {
    watch();
    let seconds = Arc::new(AtomicU64::new(1));
    let passed = Arc::clone(&seconds);
    let clock = Clock::from_fn(move || {
        check("a clock");
        Duration::from_secs(passed.load(SeqCst))
    });
    let l2 = MemoryL2::with_clock(clock.clone());
    let network = Network::new(l2.clone());
    let listens = options(l2.clone(), &clock).listen_to("others", |_| {
        check("a parser");
        vec![Invalidation::key("1")]
    });
    let caches = [options(network.clone(), &clock), listens].map(|it| it.build().unwrap());
    // One listener that is too slow, so that events are dropped, and one that is not.
    let slow = caches[0].events();
    let mut events = caches[0].events();
    let listening = tokio::spawn(async move { while events.next().await.is_some() {} });
    for cache in &caches {
        cache.ready().await;
    }
    for round in 0..6 {
        let using = caches.iter().map(|cache| use_it(cache, round));
        futures::future::join_all(using).await;
        l2.publish("others", b"1");
        seconds.fetch_add(11, SeqCst);
        match round {
            1 => network.lose(Step::Get, Way::Request, 5),
            2 => l2.set_reachable(false),
            3 => {
                l2.set_reachable(true);
                eventually("it answers", || async { caches[0].health().is_l2_up() }).await;
            }
            _ => {}
        }
        caches[0].set_l1_capacity(10 + u64::from(round));
    }
    for cache in &caches {
        cache.close().await;
    }
    drop((slow, caches));
    listening.abort();
}

/// A subscriber that asks for the health, and applies and checks settings, at each line.
struct Asks(Arc<OnceLock<(Caches, Cache<u32, u32>)>>);

impl<S: Subscriber> Layer<S> for Asks {
    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        if let Some((caches, cache)) = self.0.get() {
            assert!(caches.check_settings().is_ok());
            _ = (cache.health(), cache.stats(), caches.is_healthy());
            drop(caches.cache::<u32, u32>("b").build());
        }
    }
}

fn settings(value: serde_json::Value) -> ServiceSettings {
    from_value(value).unwrap()
}

#[test]
fn a_subscriber_may_call_the_cache_that_it_hears_of() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let known = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Asks(Arc::clone(&known)));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async {
                let l2 = MemoryL2::new();
                let caches = Caches::with_l2("test", ServiceSettings::default(), l2.clone());
                let cache: Cache<u32, u32> = caches.cache("b").build().unwrap();
                cache.ready().await;
                let late = caches.cache::<u32, u32>("late");
                known.set((caches.clone(), cache.clone())).ok().unwrap();
                l2.set_reachable(false);
                while !cache.health().is_breaker_open() {
                    assert!(cache.get(&1).await.is_none());
                }
                l2.set_reachable(true);
                eventually("the breaker closes", || async {
                    !cache.health().is_breaker_open()
                })
                .await;
                let other = json!({ "l2_ttl": "5m", "b": {
                    "enabled": false, "enabled_for": 0.5, "l1_capacity": 7, "max_concurrent_loads": 3 } });
                caches.apply_settings(settings(other)).unwrap();
                late.build().unwrap();
            });
        });
        done.send(()).unwrap();
    });
    is_done
        .recv_timeout(Duration::from_secs(120))
        .expect("the subscriber does not hang");
}

#[tokio::test]
async fn a_store_that_panics_before_its_future_is_there_invalidates_the_key() {
    let cache: Cache<u32, u32> = Cache::builder("test:panics").build().unwrap();
    cache.insert(&1, 1).await.unwrap();
    let store = |_: &u32| {
        assert!(!cache.is_enabled(), "a panic before the future is there");
        async { Ok::<_, std::io::Error>(()) }
    };
    let written = std::panic::AssertUnwindSafe(cache.write_through(&1, 2, store));
    let written = written.catch_unwind().await.expect("the caller goes on");
    assert!(matches!(written, Err(CommitError::Panicked(_))));
    assert!(cache.get(&1).await.is_none());
}
