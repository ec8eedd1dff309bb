//! Requests that come at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures::FutureExt;
use futures::future::join_all;
use http::{Response, StatusCode};
use larder::{Clock, MemoryL2};
use larder_http::CacheLayer;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::origin::{Origin, Service, builder, get, layered, numbered, send, with};
use crate::support::eventually::eventually;

fn header<'a>(request: &'a http::request::Parts, name: &str) -> &'a str {
    let value = request.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

/// A service whose requests wait at a gate, and the most that were inside at once.
fn gated(
    origin: &Origin,
    answer: impl Fn(usize) -> Response<Body> + Send + Sync + 'static,
) -> (crate::origin::Inner, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let (entry, answer) = (Arc::clone(&gate), Arc::new(answer));
    let inner = origin.serving(move |n, _| {
        let (entry, answer) = (Arc::clone(&entry), Arc::clone(&answer));
        async move {
            entry.acquire().await.unwrap().forget();
            answer(n)
        }
        .boxed()
    });
    (inner, gate)
}

async fn hundred(service: &Service) -> Vec<tokio::task::JoinHandle<crate::origin::Got>> {
    let tasks = (0..100).map(|_| {
        let service = service.clone();
        tokio::spawn(async move { send(&service, get("/")).await })
    });
    let tasks = tasks.collect();
    // All of them are inside: each has looked the key up.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tasks
}

#[tokio::test]
async fn a_hundred_requests_share_one_response() {
    let origin = Origin::default();
    let (inner, gate) = gated(&origin, |n| numbered(n, &[("cache-control", "max-age=60")]));
    let service = layered(&Clock::manual(), inner);
    let tasks = hundred(&service).await;
    gate.add_permits(1);
    let got: Vec<_> = join_all(tasks)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(got.iter().all(|got| got.body == "1"));
    assert_eq!(origin.calls(), 1);
    let collapsed = got
        .iter()
        .filter(|got| got.header("cache-status").ends_with("; collapsed"));
    assert_eq!(collapsed.count(), 99);
}

#[tokio::test]
async fn requests_for_a_variant_share_it() {
    let origin = Origin::default();
    let headers = [("cache-control", "max-age=60"), ("vary", "accept-language")];
    let (inner, gate) = gated(&origin, move |n| numbered(n, &headers));
    let service = layered(&Clock::manual(), inner);
    gate.add_permits(1);
    send(&service, get("/")).await;
    let german = || send(&service, with("/", &[("accept-language", "de")]));
    let open = async {
        // Both of them are inside.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
    };
    let (first, second, ()) = tokio::join!(german(), german(), open);
    assert_eq!((first.body.as_str(), second.body.as_str()), ("2", "2"));
    let statuses = [&first, &second].map(|got| got.header("cache-status"));
    let expected = [
        "larder; fwd=vary-miss; fwd-status=200; stored",
        "larder; fwd=vary-miss; ttl=60; collapsed",
    ];
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn an_uncacheable_response_is_shared_with_nobody_and_the_others_go_on_at_once() {
    for remembered in [Duration::ZERO, Duration::from_secs(5)] {
        let origin = Origin::default();
        let (inner, gate) = gated(&origin, |n| numbered(n, &[("set-cookie", "id=7")]));
        let service = CacheLayer::new(builder(&Clock::manual()))
            .unwrap()
            .uncacheable_for(remembered)
            .layer(inner);
        let tasks = hundred(&service).await;
        assert_eq!(origin.calls(), 1);
        gate.add_permits(1);
        eventually("all are inside at the same time", async || {
            origin.calls() == 100
        })
        .await;
        gate.add_permits(99);
        let got = join_all(tasks).await.into_iter().map(Result::unwrap);
        let mut bodies: Vec<usize> = got.map(|got| got.body.parse().unwrap()).collect();
        bodies.sort_unstable();
        assert!(bodies.into_iter().eq(1..=100), "each has its own");
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_each_other_where_a_response_was_uncacheable() {
    let origin = Origin::default();
    let (inner, gate) = gated(&origin, |n| {
        let may_be_stored = n > 101;
        numbered(
            n,
            &[("cache-control", "max-age=60")][..usize::from(may_be_stored)],
        )
    });
    let clock = Clock::manual();
    let service = layered(&clock, inner);
    gate.add_permits(1);
    send(&service, get("/")).await;
    for calls in [101, 201] {
        let tasks = hundred(&service).await;
        eventually("all are inside at the same time", async || {
            origin.calls() == calls
        })
        .await;
        gate.add_permits(100);
        let got = join_all(tasks).await.into_iter().map(Result::unwrap);
        let stored = got.filter(|got| got.header("cache-status").ends_with("; stored"));
        // After a time one of them tries whether its response can be stored by now.
        assert_eq!(stored.count(), usize::from(calls > 101));
        clock.advance(Duration::from_secs(6));
    }
    eventually("it is stored", async || {
        gate.add_permits(1);
        send(&service, get("/")).await.x_cache() == "HIT"
    })
    .await;
}

/// Each of them asks again as soon as it has an answer, as clients do that poll. No answer may be stored.
#[tokio::test(start_paused = true)]
async fn clients_that_poll_do_not_wait_for_each_other() {
    let (second, begun) = (Duration::from_secs(1), Instant::now());
    for seconds in [6..=6, 0..=1, 60..=60, 1..=90] {
        fastrand::seed(7);
        let (origin, clock) = (Origin::default(), Clock::tokio());
        let inner = origin.serving(move |n, request| {
            let sent: u64 = header(&request, "x-sent").parse().unwrap();
            let waited = u64::try_from(begun.elapsed().as_millis()).unwrap() - sent;
            let took = second * fastrand::u32(seconds.clone());
            async move {
                sleep(took).await;
                numbered(n, &[("x-waited", &waited.to_string())])
            }
            .boxed()
        });
        let l2 = MemoryL2::with_clock(clock.clone());
        let clients = (0..2).flat_map(|_| {
            let layer = CacheLayer::new(builder(&clock).l2(l2.clone())).unwrap();
            vec![layer.layer(inner.clone()); 3]
        });
        let first = begun.elapsed() + second * 60;
        let polls = clients.map(async |service| {
            for _ in 0..20 {
                let at = begun.elapsed();
                let sent = at.as_millis().to_string();
                let got = send(&service, with("/", &[("x-sent", &sent)])).await;
                // It takes a time to learn of the first.
                assert!(
                    got.header("x-waited") == "0" || at < first,
                    "{at:?}, {got:?}"
                );
            }
        });
        join_all(polls).await;
    }
}

/// Nor for a request that another instance has sent.
#[tokio::test]
async fn one_request_in_the_fleet_tries_whether_a_response_can_be_stored() {
    let (origin, clock) = (Origin::default(), Clock::manual());
    let (inner, gate) = gated(&origin, |n| {
        numbered(n, &[("cache-control", "max-age=60")][..usize::from(n > 1)])
    });
    let l2 = MemoryL2::with_clock(clock.clone());
    let services = [(); 2].map(|()| {
        let layer = CacheLayer::new(builder(&clock).l2(l2.clone())).unwrap();
        layer.layer(inner.clone())
    });
    gate.add_permits(1);
    send(&services[0], get("/")).await;
    clock.advance(Duration::from_secs(6));
    let mut tasks = Vec::new();
    for (n, service) in services.iter().enumerate() {
        tasks.extend(hundred(service).await);
        eventually("all are inside at the same time", async || {
            origin.calls() == 1 + 100 * (n + 1)
        })
        .await;
    }
    gate.add_permits(200);
    let got = join_all(tasks).await.into_iter().map(Result::unwrap);
    let stored = got.filter(|got| got.header("cache-status").ends_with("; stored"));
    assert_eq!(stored.count(), 1);
    for service in &services {
        eventually("it is stored", async || {
            // An instance that has left it to the other one pauses for a moment.
            clock.advance(Duration::from_millis(10));
            gate.add_permits(1);
            send(service, get("/")).await.x_cache() == "HIT"
        })
        .await;
    }
}

#[tokio::test]
async fn the_client_whose_request_was_sent_goes_away() {
    let origin = Origin::default();
    let (inner, gate) = gated(&origin, |n| numbered(n, &[("cache-control", "max-age=60")]));
    let service = layered(&Clock::manual(), inner);
    let tasks = hundred(&service).await;
    tasks[0].abort();
    tokio::task::yield_now().await;
    gate.add_permits(1);
    for task in tasks.into_iter().skip(1) {
        assert_eq!(task.await.unwrap().body, "1");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_service_that_fails_fails_for_each_by_itself() {
    let origin = Origin::default();
    let (inner, gate) = gated(&origin, |n| {
        let mut response = numbered(n, &[]);
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    });
    let service = layered(&Clock::manual(), inner);
    let tasks = hundred(&service).await;
    gate.add_permits(1);
    eventually("all are inside at the same time", async || {
        origin.calls() == 100
    })
    .await;
    gate.add_permits(99);
    let mut bodies: Vec<usize> = Vec::new();
    for task in tasks {
        let got = task.await.unwrap();
        assert_eq!(got.status, StatusCode::BAD_GATEWAY);
        bodies.push(got.body.parse().unwrap());
    }
    bodies.sort_unstable();
    assert!(bodies.into_iter().eq(1..=100), "each has its own");
}

#[tokio::test]
async fn requests_do_not_wait_for_each_other_where_the_service_has_failed() {
    let origin = Origin::default();
    let (inner, gate) = gated(&origin, |n| {
        let mut response = numbered(n, &[]);
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    });
    let clock = Clock::manual();
    let cache = builder(&clock).error_ttl(Duration::from_secs(1));
    let service = CacheLayer::new(cache).unwrap().layer(inner);
    gate.add_permits(1);
    send(&service, get("/")).await;
    let tasks = hundred(&service).await;
    eventually("all are inside at the same time", async || {
        origin.calls() == 101
    })
    .await;
    gate.add_permits(100);
    join_all(tasks).await;
    clock.advance(Duration::from_secs(2));
    let tasks = hundred(&service).await;
    assert_eq!(origin.calls(), 102, "after a time one of them tries again");
    gate.add_permits(100);
    join_all(tasks).await;
}

/// A request with `x-fail` fails, and others do not.
fn failing(directives: &'static str) -> impl Fn(usize, &http::request::Parts) -> Response<Body> {
    move |n, request| {
        if request.headers.contains_key("x-fail") {
            let mut response = numbered(n, &[]);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
        numbered(n, &[("cache-control", directives)])
    }
}

/// What the builder says of throttles is for other caches: a failure here may be that of one request.
fn throttled(clock: &Clock) -> larder::Builder<String, larder_http::CachedResponse> {
    builder(clock).fallback_throttle(Duration::from_secs(1))
}

#[tokio::test]
async fn requests_that_fail_do_not_keep_a_stale_response_for_others() {
    let usual: fn(&Clock) -> _ = throttled;
    let remembered: fn(&Clock) -> _ = |clock| throttled(clock).error_ttl(Duration::from_secs(1));
    for cache in [usual, remembered] {
        for directives in ["max-age=10, stale-if-error=99", "max-age=10"] {
            let (clock, origin) = (Clock::manual(), Origin::default());
            let inner = origin.answering(failing(directives));
            let service = CacheLayer::new(cache(&clock)).unwrap().layer(inner);
            for _ in 0..5 {
                clock.advance(Duration::from_secs(11));
                for _ in 0..5 {
                    send(&service, with("/", &[("x-fail", "1")])).await;
                }
                let own = send(&service, get("/")).await;
                assert_eq!(own.body, origin.calls().to_string(), "{directives}");
                assert_eq!(
                    own.header("cache-status").split("; ").last(),
                    Some("stored")
                );
                assert_eq!(send(&service, get("/")).await.x_cache(), "HIT");
            }
        }
    }
}

#[tokio::test]
async fn requests_that_fail_do_not_put_off_a_refresh_by_others() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(failing("max-age=10, stale-while-revalidate=99"));
    let service = CacheLayer::new(throttled(&clock)).unwrap().layer(inner);
    send(&service, get("/")).await;
    clock.advance(Duration::from_secs(11));
    // Each of them refreshes in the background, with itself.
    for n in 1..6 {
        let attack = send(&service, with("/", &[("x-fail", "1")])).await;
        assert_eq!(attack.x_cache(), "STALE");
        eventually("it was sent", async || origin.calls() > n).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    // The time stands still.
    eventually("the next one has its own", async || {
        let got = send(&service, get("/")).await;
        (got.x_cache(), got.body.as_str()) == ("HIT", "7")
    })
    .await;
}

#[tokio::test]
async fn a_request_that_waited_for_one_that_failed_is_stored() {
    for directives in ["max-age=10, stale-if-error=99", "max-age=10"] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let gate = Arc::new(Semaphore::new(0));
        let (entry, answer) = (Arc::clone(&gate), Arc::new(failing(directives)));
        let inner = origin.serving(move |n, request| {
            let (entry, answer) = (Arc::clone(&entry), Arc::clone(&answer));
            async move {
                if request.headers.contains_key("x-fail") {
                    entry.acquire().await.unwrap().forget();
                }
                answer(n, &request)
            }
            .boxed()
        });
        let service = CacheLayer::new(throttled(&clock)).unwrap().layer(inner);
        send(&service, get("/")).await;
        clock.advance(Duration::from_secs(11));
        let attack = {
            let service = service.clone();
            tokio::spawn(async move { send(&service, with("/", &[("x-fail", "1")])).await })
        };
        eventually("it is inside", async || origin.calls() == 2).await;
        let tasks = hundred(&service).await;
        assert_eq!(origin.calls(), 2, "they wait");
        gate.add_permits(1);
        attack.await.unwrap();
        for task in tasks {
            let got = task.await.unwrap();
            assert!(got.status == 200 && got.body != "1", "{got:?}");
        }
        assert_eq!(
            send(&service, get("/")).await.x_cache(),
            "HIT",
            "{directives}"
        );
    }
}

#[tokio::test]
async fn a_panic_reaches_the_client_whose_request_it_was() {
    let origin = Origin::default();
    let panics = Arc::new(AtomicUsize::new(0));
    let (inner, gate) = gated(&origin, |n| {
        assert_ne!(n, 1, "the first panics");
        numbered(n, &[("cache-control", "max-age=60")])
    });
    let service = layered(&Clock::manual(), inner);
    let tasks = hundred(&service).await;
    gate.add_permits(101);
    for task in tasks {
        if task.await.is_err_and(|error| error.is_panic()) {
            panics.fetch_add(1, Ordering::SeqCst);
        }
    }
    assert_eq!(panics.load(Ordering::SeqCst), 1);
    send(&service, get("/")).await;
}

#[tokio::test]
async fn a_response_that_takes_longer_than_a_load_may_is_not_lost() {
    let origin = Origin::default();
    let (inner, gate) = gated(&origin, |n| numbered(n, &[("cache-control", "max-age=60")]));
    let cache = builder(&Clock::system()).load_timeout(Duration::from_millis(20));
    let service = CacheLayer::new(cache).unwrap().layer(inner);
    let first = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, get("/")).await })
    };
    eventually("it is inside", async || origin.calls() == 1).await;
    let second = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, get("/")).await })
    };
    eventually("the other one asks by itself", async || origin.calls() == 2).await;
    gate.add_permits(2);
    let bodies = [first.await.unwrap().body, second.await.unwrap().body];
    assert!(
        bodies.contains(&"1".to_owned()) && bodies.contains(&"2".to_owned()),
        "{bodies:?}"
    );
}

#[tokio::test]
async fn an_invalidation_during_a_request_leaves_nothing_old() {
    for (headers, by_tag) in [
        (&[("cache-control", "max-age=60")][..], false),
        (&[("cache-control", "max-age=60")], true),
        (&[("cache-control", "max-age=60"), ("vary", "a")], false),
        (&[("cache-control", "max-age=60"), ("vary", "a")], true),
    ] {
        let origin = Origin::default();
        let (inner, gate) = gated(&origin, move |n| numbered(n, headers));
        let layer = CacheLayer::new(builder(&Clock::system()).l2(MemoryL2::new())).unwrap();
        let cache = layer.cache().clone();
        cache.ready().await;
        let layer = layer.tags(|_, _| vec!["all".to_owned()]);
        let service = layer.layer(inner);
        let first = {
            let service = service.clone();
            tokio::spawn(async move { send(&service, get("/")).await })
        };
        eventually("it is inside", async || origin.calls() == 1).await;
        if by_tag {
            cache.invalidate_tag("all").await.unwrap();
        } else {
            cache.invalidate("GET shop.example/").await.unwrap();
        }
        gate.add_permits(10);
        first.await.unwrap();
        let second = send(&service, get("/")).await.body;
        assert_ne!(second, "1", "{headers:?}, by tag: {by_tag}");
    }
}

/// Without the layer a server drops a request whose client is gone.
#[tokio::test]
async fn a_request_for_which_nobody_waits_any_more_is_dropped() {
    let (origin, gate) = (Origin::default(), Arc::new(Semaphore::new(1)));
    let permits = Arc::clone(&gate);
    let inner = origin.serving(move |_, _| {
        let permits = Arc::clone(&permits);
        async move {
            let _held = permits.acquire().await;
            std::future::pending().await
        }
        .boxed()
    });
    let cache = builder(&Clock::system()).load_timeout(Duration::from_millis(20));
    let service = CacheLayer::new(cache).unwrap().layer(inner);
    let client = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, get("/")).await })
    };
    eventually("it is inside", async || gate.available_permits() == 0).await;
    client.abort();
    eventually("it is dropped", async || gate.available_permits() == 1).await;
}

/// A limit behind the layer is for what the inner service gets.
#[tokio::test]
async fn what_is_stored_is_handed_out_while_the_service_is_busy() {
    let origin = Origin::default();
    let inner = origin.serving(|n, request| {
        async move {
            if request.uri.path() == "/slow" {
                std::future::pending::<()>().await;
            }
            numbered(n, &[("cache-control", "max-age=60")])
        }
        .boxed()
    });
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let service = layer.layer(tower::limit::ConcurrencyLimit::new(inner, 1));
    service.clone().oneshot(get("/")).await.unwrap();
    let slow = tokio::spawn(service.clone().oneshot(get("/slow")));
    eventually("it is inside", async || origin.calls() == 2).await;
    let hit = service.clone().oneshot(get("/"));
    let hit = tokio::time::timeout(Duration::from_secs(10), hit).await;
    assert_eq!(hit.unwrap().unwrap().headers()["x-cache"], "HIT");
    slow.abort();
}

#[tokio::test]
async fn a_service_that_takes_one_request_at_a_time_is_not_stuck() {
    let origin = Origin::default();
    let inner = origin.answering(|n, _| numbered(n, &[("set-cookie", "x")]));
    let limited = tower::limit::ConcurrencyLimit::new(inner, 1);
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let service = layer.layer(limited);
    let sent = (0..20).map(|_| service.clone().oneshot(get("/")));
    let got = tokio::time::timeout(Duration::from_secs(10), join_all(sent)).await;
    assert!(got.unwrap().iter().all(Result::is_ok));
}
