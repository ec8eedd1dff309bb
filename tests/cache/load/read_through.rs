//! A cache that has its loader: of one key or of many, which single misses may share.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use larder::{Cache, Caches, Entry, LoadError, Loaded, LoadingCache, MemoryL2, Source, with_state};
use tokio::runtime;

use crate::fleet::{Fleet, HOUR, Set, over_both_stores, received, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::Gate;

/// Such as a recursive value that refers to itself.
#[tokio::test]
async fn a_loader_that_looks_up_its_own_key_gets_an_error_at_once() {
    let fleet = Fleet::memory();
    for many in [false, true] {
        // Before it has subscribed, L1 may be emptied meanwhile: then the look-up begins a new load.
        let (cache, _) = fleet.instance().await;
        let (inner, own) = (cache.clone(), Arc::new(Mutex::new(None)));
        let seen = Arc::clone(&own);
        let load = move || async move {
            let never = || async { Ok::<_, Infallible>("inner".to_owned()) };
            // Others may be looked up.
            let other = inner.get_or_load("other", never).await.unwrap();
            let looked_up = if many {
                let never = |_| async { Ok::<_, Infallible>([]) };
                inner.get_many_or_load(["k"], never).await.map(drop)
            } else {
                inner.get_or_load("k", never).await.map(drop)
            };
            *seen.lock().unwrap() = looked_up.err();
            Ok::<_, Infallible>(other.to_uppercase())
        };
        let loaded = cache.get_or_load("k", load).await.unwrap();
        assert_eq!(*loaded, "INNER");
        let error = own.lock().unwrap().take().unwrap();
        assert!(error.is_misuse() && !error.is_timeout(), "{error}");
        cache.clear().await.unwrap();
    }
}

#[test]
fn options_may_follow_the_loader() {
    let loader = |_: u64| async { Ok::<_, Infallible>(1) };
    let many = |_: Vec<u64>| async { Ok::<_, Infallible>([(1, 1)]) };
    let window = Duration::from_millis(1);
    let batched = Cache::<u64, u64>::builder("test:late").read_through_many(many);
    assert!(batched.batch_loads(window, 2).build().is_ok());
    let alone = Cache::<u64, u64>::builder("test:late").read_through(loader);
    let error = alone.batch_loads(window, 2).build().err().unwrap();
    assert!(error.to_string().contains("read_through_many"), "{error}");
}

/// Those of single keys that settings have set after the loader.
#[tokio::test]
async fn settings_batch_the_loads_of_a_cache_of_several() {
    let settings = serde_json::from_str(r#"{ "square": { "batch_loads": "1s,2" } }"#).unwrap();
    let caches = Caches::with_l2("test", settings, MemoryL2::new());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let load = move |keys: Vec<u64>| {
        seen.lock().unwrap().push(keys.len());
        async { Ok::<_, Infallible>(keys.into_iter().map(|n| (n, n * n))) }
    };
    let squares: LoadingCache<u64, u64> = (caches.cache("square").read_through_many(load))
        .build()
        .unwrap();
    let (a, b) = tokio::join!(squares.get_or_load(&2), squares.get_or_load(&3));
    assert_eq!((*a.unwrap(), *b.unwrap()), (4, 9));
    assert_eq!(*calls.lock().unwrap(), [2]);
}

#[tokio::test]
async fn a_loader_is_given_its_state() {
    let prices = Arc::new(Mutex::new(7));
    let load = with_state(
        Arc::clone(&prices),
        |prices: Arc<Mutex<u64>>, id| async move { Ok::<_, Infallible>(*prices.lock().unwrap() * id) },
    );
    let cache: LoadingCache<u64, u64> = (Cache::builder("test:state").read_through(load))
        .build()
        .unwrap();
    assert_eq!(*cache.get_or_load(&2).await.unwrap(), 14);
    *prices.lock().unwrap() = 8;
    assert_eq!(*cache.get_or_load(&3).await.unwrap(), 24);
}

over_both_stores!(
    a_missing_key_is_loaded_once_in_the_fleet,
    keys_are_loaded_one_by_one_by_a_loader_of_one_key,
    missing_keys_are_loaded_together_by_a_loader_of_many,
    a_key_without_a_value_is_an_error_for_its_callers,
    single_misses_become_one_call,
    a_failed_batch_is_an_error_for_all_of_it,
    a_token_is_for_every_kind_of_loader,
);

type Loading = LoadingCache<String, String>;

/// The keys of each call of a loader.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Vec<String>>>>);

impl Calls {
    fn note(&self, mut keys: Vec<String>) {
        keys.sort();
        self.0.lock().unwrap().push(keys);
    }

    fn take(&self) -> Vec<Vec<String>> {
        let mut calls = std::mem::take(&mut *self.0.lock().unwrap());
        calls.sort();
        calls
    }
}

fn of_one(fleet: &Fleet, calls: &Calls) -> Loading {
    with_one(fleet.builder().0, calls)
}

fn with_one(builder: Set, calls: &Calls) -> Loading {
    let calls = calls.clone();
    let load = move |key: String| {
        calls.note(vec![key.clone()]);
        async move {
            match key.strip_prefix("no ") {
                Some(_) => Err(io::Error::from(io::ErrorKind::NotFound)),
                None => Ok(key.to_uppercase()),
            }
        }
    };
    builder.read_through(load).build().unwrap()
}

fn of_many(fleet: &Fleet, calls: &Calls, set: impl FnOnce(Set) -> Set) -> Loading {
    with_many(set(fleet.builder().0), calls)
}

fn with_many(builder: Set, calls: &Calls) -> Loading {
    let calls = calls.clone();
    let load = move |keys: Vec<String>| {
        calls.note(keys.clone());
        async move {
            if keys.iter().any(|key| key == "fails") {
                return Err(io::Error::other("the source is down"));
            }
            let known = keys.into_iter().filter(|key| !key.starts_with("no "));
            Ok(known.map(|key| (key.clone(), key.to_uppercase())))
        }
    };
    builder.read_through_many(load).build().unwrap()
}

fn texts(entries: &[Entry<String>]) -> Vec<&str> {
    entries.iter().map(|entry| entry.as_str()).collect()
}

async fn a_missing_key_is_loaded_once_in_the_fleet(fleet: Fleet) {
    let (calls, gets) = (Calls::default(), 0..20);
    let instances = [of_one(&fleet, &calls), of_one(&fleet, &calls)];
    for instance in &instances {
        instance.ready().await;
    }
    let gets = gets.map(|n| instances[n % 2].get_or_load("a"));
    for found in try_join_all(gets).await.unwrap() {
        assert_eq!(*found, "A");
    }
    assert_eq!(calls.take(), [["a"]]);
    instances[0].invalidate("a").await.unwrap();
    received(&instances[1], 1).await;
    let found = instances[1].get_or_load("a").await.unwrap();
    assert_eq!(found.meta().source(), Source::Loader);
    assert_eq!(calls.take(), [["a"]]);
}

async fn keys_are_loaded_one_by_one_by_a_loader_of_one_key(fleet: Fleet) {
    let calls = Calls::default();
    let cache = of_one(&fleet, &calls);
    cache.get_or_load("b").await.unwrap();
    let found = cache.get_many_or_load(["a", "b", "c", "a"]).await.unwrap();
    assert_eq!(texts(&found), ["A", "B", "C", "A"]);
    assert_eq!(calls.take(), [["a"], ["b"], ["c"]]);
    let error = cache.get_many_or_load(["a", "no d"]).await.err().unwrap();
    assert!(error.is_loader());
    calls.take();
    assert_eq!(*cache.refresh("a").await.unwrap(), "A");
    assert_eq!(calls.take(), [["a"]]);
}

async fn missing_keys_are_loaded_together_by_a_loader_of_many(fleet: Fleet) {
    let calls = Calls::default();
    let cache = of_many(&fleet, &calls, |builder| builder);
    assert_eq!(*cache.get_or_load("b").await.unwrap(), "B");
    let found = cache.get_many_or_load(["a", "b", "c", "a"]).await.unwrap();
    assert_eq!(texts(&found), ["A", "B", "C", "A"]);
    assert_eq!(*cache.refresh("c").await.unwrap(), "C");
    assert_eq!(calls.take(), [vec!["a", "c"], vec!["b"], vec!["c"]]);
}

async fn a_token_is_for_every_kind_of_loader(fleet: Fleet) {
    let kinds: [fn(Set, &Calls) -> Loading; 3] = [with_one, with_many, |builder, calls| {
        with_many(builder.batch_loads(Duration::from_millis(1), 100), calls)
    }];
    let (a, _) = fleet.instance().await;
    for kind in kinds {
        let (calls, (builder, wire)) = (Calls::default(), fleet.builder());
        let b = kind(without_heartbeats(builder), &calls);
        b.ready().await;
        wire.heartbeat_answered().await;
        a.insert("k", "old".to_owned()).await.unwrap();
        eventually("b keeps it", || async {
            b.get_or_load("k").await.unwrap();
            b.get_local("k").is_some()
        })
        .await;
        wire.drop_messages(true);
        let token = a.invalidate("k").await.unwrap();
        assert_eq!(*b.get_or_load("k").await.unwrap(), "old");
        let found = b.at_least(&token).get_or_load("k").await.unwrap();
        assert_eq!(
            (found.as_str(), calls.take()),
            ("K", vec![vec!["k".to_owned()]])
        );

        let token = a.insert("k", "new".to_owned()).await.unwrap();
        assert_eq!(*b.get_or_load("k").await.unwrap(), "K");
        let found = b
            .at_least(&token)
            .get_many_or_load(["l", "k", "l"])
            .await
            .unwrap();
        assert_eq!(texts(&found), ["L", "new", "L"]);
        assert_eq!(calls.take(), [["l"]]);
        let error = b.at_least(&token).get_many_or_load(["k", "no l"]).await;
        assert!(error.is_err());
        a.clear().await.unwrap();
    }
}

async fn a_key_without_a_value_is_an_error_for_its_callers(fleet: Fleet) {
    for set in [
        |builder: Set| builder,
        |builder: Set| builder.batch_loads(Duration::from_millis(1), 3),
    ] {
        let calls = Calls::default();
        let cache = of_many(&fleet, &calls, set);
        let (a, none) = tokio::join!(cache.get_or_load("a"), cache.get_or_load("no b"));
        assert_eq!(*a.unwrap(), "A");
        assert!(none.is_err_and(|error| error.is_not_found()));
        let error = cache.get_many_or_load(["no b", "c"]).await.err().unwrap();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(error.key(), Some("no b"));
        // The call does not wait for the other key.
        eventually("what was loaded is kept", async || {
            cache.get_local("c").is_some()
        })
        .await;
        // Another call may find it.
        calls.take();
        assert!(cache.get_or_load("no b").await.is_err());
        let error = cache.refresh("no b").await.err().unwrap();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(calls.take(), [["no b"], ["no b"]]);
        // Its lease was given back.
        cache.insert("no b", "found".to_owned()).await.unwrap();
        assert_eq!(*cache.get_or_load("no b").await.unwrap(), "found");
        cache.clear().await.unwrap();
    }
}

/// The window has no end here: it is the number of keys that ends it.
async fn single_misses_become_one_call(fleet: Fleet) {
    let calls = Calls::default();
    let cache = of_many(&fleet, &calls, |builder| builder.batch_loads(HOUR, 3));
    let keys = ["a", "b", "c", "d", "e", "f"];
    let found = try_join_all(keys.map(|key| cache.get_or_load(key)))
        .await
        .unwrap();
    assert_eq!(texts(&found), ["A", "B", "C", "D", "E", "F"]);
    let calls = calls.take();
    assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(cache.stats().loads, 2);
}

async fn a_failed_batch_is_an_error_for_all_of_it(fleet: Fleet) {
    let calls = Calls::default();
    let cache = of_many(&fleet, &calls, |builder| builder.batch_loads(HOUR, 2));
    let both = ["fails", "a"].map(|key| cache.get_or_load(key));
    for result in join_all(both).await {
        let cause = result.err().unwrap();
        assert!(cause.downcast_ref::<io::Error>().is_some(), "{cause}");
    }
    let both = ["a", "b"].map(|key| cache.get_or_load(key));
    assert_eq!(texts(&try_join_all(both).await.unwrap()), ["A", "B"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_ends_with_its_window() {
    let fleet = Fleet::memory();
    let calls = Calls::default();
    let window = Duration::from_millis(20);
    let cache = of_many(&fleet, &calls, |builder| builder.batch_loads(window, 100));
    for keys in [["a", "b", "a"], ["c", "d", "d"]] {
        try_join_all(keys.map(|key| cache.get_or_load(key)))
            .await
            .unwrap();
    }
    assert_eq!(calls.take(), [["a", "b"], ["c", "d"]]);
}

/// The first load began before the invalidation, so the second caller does not join it. Without an L2 no lease keeps
/// them apart.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_in_a_batch_begins_the_next() {
    let calls = Calls::default();
    let builder = Cache::builder("test:alone").batch_loads(Duration::from_millis(20), 100);
    let cache = with_many(builder, &calls);
    let mut first = Box::pin(cache.get_or_load("a"));
    assert!(futures::poll!(&mut first).is_pending());
    cache.invalidate("a").await.unwrap();
    let (first, second, other) =
        tokio::join!(first, cache.get_or_load("a"), cache.get_or_load("b"));
    assert_eq!(
        texts(&[first.unwrap(), second.unwrap(), other.unwrap()]),
        ["A", "A", "B"]
    );
    assert_eq!(calls.take(), [vec!["a"], vec!["a", "b"]]);
}

/// A batch is one call of a loader, however many keys it has.
#[tokio::test]
async fn a_batch_is_one_of_the_loads_that_may_run_at_once() {
    let fleet = Fleet::memory();
    let calls = Calls::default();
    let set = |builder: Set| builder.batch_loads(HOUR, 3).max_concurrent_loads(1);
    let cache = of_many(&fleet, &calls, set);
    let found = try_join_all(["a", "b", "c"].map(|key| cache.get_or_load(key))).await;
    assert_eq!(texts(&found.unwrap()), ["A", "B", "C"]);
    assert_eq!(calls.take(), [["a", "b", "c"]]);
}

#[tokio::test]
async fn a_caller_that_is_cancelled_leaves_the_batch_as_it_is() {
    let fleet = Fleet::memory();
    let calls = Calls::default();
    let cache = of_many(&fleet, &calls, |builder| builder.batch_loads(HOUR, 2));
    let mut cancelled = Box::pin(cache.get_or_load("a"));
    let loads = cache.stats().l2_misses;
    tokio::select! {
        biased;
        _ = &mut cancelled => panic!("it waits for another key"),
        () = eventually("it is missed", || async {
            cache.stats().l2_misses > loads
        }) => {}
    }
    for _ in 0..100 {
        // To the point where it waits for the batch.
        tokio::select! {
            biased;
            _ = &mut cancelled => panic!("it waits for another key"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(cancelled);
    assert_eq!(*cache.get_or_load("b").await.unwrap(), "B");
    assert_eq!(calls.take(), [["a", "b"]]);
}

/// The callers of the ended runtime get an error, and the next one begins another batch.
#[test]
fn a_batch_ends_with_its_runtime() {
    let first = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let calls = Calls::default();
    let cache = {
        let _entered = first.enter();
        of_many(&Fleet::memory(), &calls, |builder| {
            builder.batch_loads(HOUR, 2)
        })
    };
    let waiting = first.spawn({
        let cache = cache.clone();
        async move { cache.get_or_load("a").await }
    });
    let missed = || async { cache.stats().l2_misses > 0 };
    first.block_on(eventually("it is missed", missed));
    first.block_on(async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    });
    drop(first);
    drop(waiting);
    let second = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    second.block_on(async {
        let both = ["b", "c"].map(|key| cache.get_or_load(key));
        assert_eq!(texts(&try_join_all(both).await.unwrap()), ["B", "C"]);
    });
}

/// The loader is given the stale value, and says how the new one is stored.
#[tokio::test]
async fn a_stale_value_is_refreshed_with_the_loader() {
    let fleet = Fleet::memory();
    let gate = Gate::new();
    let builder = fleet.builder().0.soft_ttl(Duration::from_secs(60));
    let load = {
        let gate = gate.clone();
        move |key: String, previous: Option<Entry<String>>| {
            let gate = gate.clone();
            async move {
                let Some(previous) = previous else {
                    return Ok::<_, Infallible>(Loaded::new(key));
                };
                gate.pass().await;
                Ok(Loaded::new(format!("{} again", *previous)))
            }
        }
    };
    let cache = builder.read_through_with(load).build().unwrap();
    assert_eq!(*cache.get_or_load("a").await.unwrap(), "a");
    fleet.advance(Duration::from_secs(120));
    let stale = cache.get_or_load("a").await.unwrap();
    assert_eq!((stale.as_str(), stale.meta().is_stale()), ("a", true));
    gate.open();
    eventually("it is refreshed", || async {
        *cache.get_or_load("a").await.unwrap() == "a again"
    })
    .await;
}

#[tokio::test]
async fn batches_that_cannot_work_are_refused() {
    let builder = |window, max| Cache::<u64, u64>::builder("test:batches").batch_loads(window, max);
    let one = |key| async move { Ok::<_, Infallible>(key) };
    let many =
        |keys: Vec<u64>| async { Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key))) };
    let window = Duration::from_millis(1);
    for (error, says) in [
        (
            builder(window, 2).build().err(),
            "batch_loads needs read_through_many",
        ),
        (
            builder(window, 2).read_through(one).build().err(),
            "batch_loads needs read_through_many",
        ),
        (
            builder(Duration::ZERO, 2)
                .read_through_many(many)
                .build()
                .err(),
            "the window of batch_loads must be from 1 ms",
        ),
        (
            builder(window, 0).read_through_many(many).build().err(),
            "the max of batch_loads must be from 1 to 1024 keys, and not 0",
        ),
        (
            builder(window, 1025).read_through_many(many).build().err(),
            "the max of batch_loads must be from 1 to 1024 keys, and not 1025",
        ),
    ] {
        let error = error.unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
    let cache = builder(window, 1).read_through_many(many).build().unwrap();
    assert_eq!(*cache.get_or_load(&7).await.unwrap(), 7);
}

/// Its calls can be awaited in a task.
#[tokio::test]
async fn its_futures_are_send() {
    let calls = Calls::default();
    let cache = of_many(&Fleet::memory(), &calls, |builder| builder);
    let task = tokio::spawn(async move {
        cache.get_many_or_load(["a", "b"]).await?;
        cache.refresh("a").await?;
        cache.get_or_load("a").await
    });
    let found: Result<_, LoadError> = task.await.unwrap();
    assert_eq!(*found.unwrap(), "A");
}
