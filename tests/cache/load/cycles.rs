//! Loaders that look up other keys: a cycle is an error at once, and no permit is held meanwhile.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use larder::{Cache, LoadError, LoadingCache};
use tokio::sync::{Barrier, Notify};

use crate::support::network::Gate;

type Texts = Cache<String, String>;
type Loaded = Result<String, LoadError>;

fn cache(namespace: &str) -> Texts {
    Cache::builder(namespace).build().unwrap()
}

/// Loads the first key by a look-up of the second one, and so on.
fn chain(mut keys: Vec<(Texts, &'static str)>) -> BoxFuture<'static, Loaded> {
    async move {
        if keys.is_empty() {
            return Ok("end".to_owned());
        }
        let (cache, key) = keys.remove(0);
        let entry = cache.get_or_load(key, move || chain(keys)).await?;
        Ok(format!("{key} {}", *entry))
    }
    .boxed()
}

/// The names of the cycle that is the cause of an error.
#[track_caller]
fn cycle(error: &LoadError) -> String {
    assert!(!error.is_timeout(), "{error}");
    error.cycle().expect("it is in a cycle").to_owned()
}

#[tokio::test]
async fn a_chain_of_loads_is_none() {
    let (one, other) = (cache("test:one"), cache("test:other"));
    let keys = vec![
        (one.clone(), "a"),
        (other.clone(), "a"),
        (one, "b"),
        (other, "b"),
    ];
    assert_eq!(chain(keys).await.unwrap(), "a a b b end");
}

#[tokio::test]
async fn a_cycle_of_loads_is_an_error_at_once() {
    let (one, other) = (cache("test:one"), cache("test:other"));
    let key = |cache: &Texts, key| (cache.clone(), key);
    for (keys, names) in [
        (
            vec![key(&one, "a"), key(&one, "a")],
            "test:one:a -> test:one:a",
        ),
        (
            vec![key(&one, "a"), key(&one, "b"), key(&one, "a")],
            "test:one:b -> test:one:a -> test:one:b",
        ),
        (
            vec![
                key(&one, "c"),
                key(&one, "a"),
                key(&other, "a"),
                key(&one, "a"),
            ],
            "test:other:a -> test:one:a -> test:other:a",
        ),
    ] {
        let error = chain(keys).await.unwrap_err();
        assert_eq!(cycle(&error), names);
        assert!(!error.to_string().contains("test:one"), "{error}");
    }
    assert_eq!(one.stats().load_failures, 1 + 2 + 2);
    // Nothing is left of them.
    assert_eq!(
        chain(vec![key(&one, "b"), key(&one, "a")]).await.unwrap(),
        "b a end"
    );
}

/// Each of two callers has begun a load that has not looked the other key up yet.
#[tokio::test]
async fn loads_that_began_apart_are_in_a_cycle_too() {
    let cache = cache("test:apart");
    let both_run = Arc::new(Barrier::new(2));
    let load = |key: &'static str, other: &'static str| {
        let (cache, inner, both_run) = (cache.clone(), cache.clone(), Arc::clone(&both_run));
        tokio::spawn(async move {
            let load = move || async move {
                both_run.wait().await;
                let never = || async { Ok::<_, Infallible>(String::new()) };
                let found = inner.get_or_load(other, never).await?;
                Ok::<_, LoadError>(format!("{key} {}", *found))
            };
            cache.get_or_load(key, load).await
        })
    };
    let ends = join_all([load("a", "b"), load("b", "a")]).await;
    for end in ends {
        let names = cycle(&end.unwrap().unwrap_err());
        assert!(
            names == "test:apart:a -> test:apart:b -> test:apart:a"
                || names == "test:apart:b -> test:apart:a -> test:apart:b",
            "{names}"
        );
    }
}

#[tokio::test]
async fn look_ups_of_many_keys_and_refreshes_are_in_cycles_too() {
    let cache = cache("test:many");
    for is_refresh in [false, true] {
        let inner = cache.clone();
        let load = move || async move {
            let of_b = inner.clone();
            let load_b = move |_: Vec<String>| {
                let inner = of_b.clone();
                async move {
                    let never = || async { Ok::<_, Infallible>(String::new()) };
                    let a = if is_refresh {
                        inner.refresh("a", never).await?
                    } else {
                        inner.get_or_load("a", never).await?
                    };
                    Ok::<_, LoadError>([("b".to_owned(), a.to_string())])
                }
            };
            let found = inner.get_many_or_load(["c", "b"], load_b).await?;
            Ok::<_, LoadError>(format!("{found:?}"))
        };
        let error = cache.get_or_load("a", load).await.unwrap_err();
        // Both keys are of the call that looks the first one up.
        let names =
            ["c", "b"].map(|key| format!("test:many:{key} -> test:many:a -> test:many:{key}"));
        assert!(names.contains(&cycle(&error)), "{error:?}");
    }
}

/// A call for very many keys loads them in parts, one after the other.
#[tokio::test]
async fn a_part_of_a_load_that_looks_up_a_key_of_a_later_part_is_in_a_cycle() {
    let cache = cache("test:parts");
    let keys: Vec<_> = (0..3000).map(|n| format!("k{n}")).collect();
    for (from, to) in [("k0", "k2999"), ("k2999", "k0"), ("k1500", "k2500")] {
        let (inner, caller) = (cache.clone(), cache.clone());
        let load = move |keys: Vec<String>| {
            let inner = inner.clone();
            async move {
                if keys.iter().any(|key| key == from) {
                    let never = || async { Ok::<_, Infallible>(String::new()) };
                    inner.get_or_load(to, never).await?;
                }
                Ok::<_, LoadError>(keys.into_iter().map(|key| (key.clone(), key)))
            }
        };
        let found = caller.get_many_or_load(&keys, load).await;
        if from == "k2999" {
            // Of a part that has ended.
            found.unwrap();
        } else {
            let names = cycle(&found.unwrap_err());
            assert_eq!(names, format!("test:parts:{to} -> test:parts:{to}"));
        }
        cache.clear().await.unwrap();
    }
}

/// The loader of the cache itself, in batches.
#[tokio::test]
async fn a_batch_that_looks_up_one_of_its_keys_is_in_a_cycle() {
    let inner = Arc::new(std::sync::OnceLock::<LoadingCache<u64, u64>>::new());
    let of_loader = Arc::clone(&inner);
    let cache = Cache::<u64, u64>::builder("test:batch")
        .batch_loads(Duration::from_millis(1), 10)
        .read_through_many(move |keys: Vec<u64>| {
            let cache = of_loader.get().unwrap().clone();
            async move {
                // Each number needs the next one, and the last one needs the first.
                let next = keys.iter().map(|n| (n + 1) % 4).collect::<Vec<_>>();
                let found = cache.get_many_or_load(&next).await?;
                let sums = keys
                    .into_iter()
                    .zip(found)
                    .map(|(n, found)| (n, n + *found));
                Ok::<_, LoadError>(sums.collect::<Vec<_>>())
            }
        })
        .build()
        .unwrap();
    inner.set(cache.clone()).ok().unwrap();
    let error = cache.get_or_load(&0).await.unwrap_err();
    let names = cycle(&error);
    assert_eq!(names.matches("test:batch:").count(), 5, "{names}");
}

/// A look-up that its loader has given up is waited for by nobody.
#[tokio::test]
async fn a_look_up_that_was_dropped_is_in_no_cycle() {
    let cache = cache("test:dropped");
    let (inner, given_up) = (cache.clone(), Arc::new(Notify::new()));
    let of_b = (cache.clone(), Arc::clone(&given_up));
    let load_a = move || async move {
        let load_b = move || async move {
            let (inner, given_up) = of_b;
            given_up.notified().await;
            let a = || async { Ok::<_, Infallible>("loaded by b".to_owned()) };
            let a = inner.get_or_load("a", a).await?;
            Ok::<_, LoadError>(format!("b by {}", *a))
        };
        let mut b = Box::pin(inner.get_or_load("b", load_b));
        // It has begun the load of b.
        assert!(futures::poll!(&mut b).is_pending());
        drop(b);
        given_up.notify_one();
        Ok::<_, LoadError>("a".to_owned())
    };
    assert_eq!(*cache.get_or_load("a", load_a).await.unwrap(), "a");
    let never = || async { Ok::<_, Infallible>("another".to_owned()) };
    assert_eq!(*cache.get_or_load("b", never).await.unwrap(), "b by a");
}

/// How a loader looks a key up again, after a change of the key has detached its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    One,
    Many,
    /// By a loader that waits for a load that waits for it.
    InCycle,
}

/// A load that a change of its key has detached waits for another one, which looks the key up: that is a new load, and
/// waits for neither of them.
#[tokio::test]
async fn a_new_load_of_a_key_is_not_the_one_before_the_change() {
    for (is_refresh, again) in [false, true].into_iter().flat_map(|is_refresh| {
        [Again::One, Again::Many, Again::InCycle].map(|again| (is_refresh, again))
    }) {
        let cache = cache("test:changed");
        let gate = Gate::new();
        let (inner, of_b) = (cache.clone(), (cache.clone(), gate.clone()));
        let load_b = move || async move {
            let (inner, gate) = of_b;
            gate.pass().await;
            let of_a = inner.clone();
            let new = move || {
                let inner = of_a.clone();
                async move {
                    if again == Again::InCycle {
                        let never = || async { Ok::<_, Infallible>(String::new()) };
                        inner.get_or_load("b", never).await?;
                    }
                    Ok::<_, LoadError>("new a".to_owned())
                }
            };
            let a = if again == Again::Many {
                let load = move |_: Vec<String>| {
                    let new = new();
                    async move { Ok::<_, LoadError>([("a".to_owned(), new.await?)]) }
                };
                let mut found = inner.get_many_or_load(["c", "a"], load).await?;
                found.pop().flatten().expect("it is loaded").to_string()
            } else {
                inner.get_or_load("a", new).await?.to_string()
            };
            Ok::<_, LoadError>(format!("b by {a}"))
        };
        let load_a = move || async move {
            let b = inner.get_or_load("b", load_b).await?;
            Ok::<_, LoadError>(format!("a by {}", *b))
        };
        let caller = cache.clone();
        let former = tokio::spawn(async move {
            if is_refresh {
                caller.refresh("a", load_a).await
            } else {
                caller.get_or_load("a", load_a).await
            }
        });
        gate.arrived(1).await;
        cache.invalidate("a").await.unwrap();
        gate.open();
        let found = former.await.unwrap();
        if again == Again::InCycle {
            let names = cycle(&found.unwrap_err());
            assert_eq!(names, "test:changed:a -> test:changed:b -> test:changed:a");
        } else {
            assert_eq!(*found.unwrap(), "a by b by new a", "{is_refresh} {again:?}");
            assert_eq!(
                cache.get("a").await.as_deref().map(String::as_str),
                Some("new a")
            );
        }
    }
}

async fn alone(running: &AtomicUsize) {
    assert_eq!(running.fetch_add(1, SeqCst), 0, "another one runs");
    tokio::task::yield_now().await;
    running.fetch_sub(1, SeqCst);
}

/// With one permit a load inside a load would wait for the permit of its own loader.
#[tokio::test]
async fn a_loader_that_waits_for_a_load_holds_no_permit() {
    let build = |namespace: &str| -> Texts {
        let builder = Cache::builder(namespace).max_concurrent_loads(1);
        builder.build().unwrap()
    };
    let (one, other) = (build("test:one"), build("test:other"));
    let keys = vec![
        (one.clone(), "a"),
        (one.clone(), "b"),
        (other.clone(), "a"),
        (one, "c"),
    ];
    assert_eq!(chain(keys).await.unwrap(), "a b a c end");

    // While they wait for none there is one at a time.
    let running = Arc::new(AtomicUsize::new(0));
    let loads = (0..20).map(|n| {
        let (cache, running) = (other.clone(), Arc::clone(&running));
        async move {
            let (inner, key) = (cache.clone(), format!("outer {n}"));
            let load = move || async move {
                alone(&running).await;
                let of_inner = Arc::clone(&running);
                let load = move || async move {
                    alone(&of_inner).await;
                    Ok::<_, Infallible>(String::new())
                };
                inner.get_or_load(&format!("inner {n}"), load).await?;
                alone(&running).await;
                let many =
                    |_: Vec<String>| async { Err::<[_; 0], _>(std::io::Error::other("down")) };
                let found = inner.get_many_or_load([&format!("many {n}")], many).await;
                found.map(drop).unwrap_err();
                alone(&running).await;
                Ok::<_, LoadError>(String::new())
            };
            cache.get_or_load(&key, load).await.unwrap();
        }
    });
    join_all(loads).await;
    assert_eq!(other.stats().loads, 1 + 20 * 3);
}

/// The look-up of a task that a loader has spawned is that of any caller.
#[tokio::test]
async fn a_cycle_that_is_not_found_ends_by_the_time_limit() {
    let builder = Cache::builder("test:spawned").load_timeout(Duration::from_millis(50));
    let cache: Texts = builder.build().unwrap();
    let inner = cache.clone();
    let load = move || async move {
        let never = || async { Ok::<_, Infallible>(String::new()) };
        let look_up = async move { inner.get_or_load("a", never).await };
        let found = tokio::spawn(look_up).await.unwrap()?;
        Ok::<_, LoadError>(found.to_string())
    };
    let error = cache.get_or_load("a", load).await.unwrap_err();
    assert!(
        error.is_timeout() && error.to_string().contains("spawned"),
        "{error}"
    );
}
