//! For how long a response is used: RFC 9111, and RFC 5861 after that.

use std::time::Duration;

use http::{Response, StatusCode};
use larder::Clock;
use larder_http::CacheLayer;
use tower::Layer;

use crate::origin::{Origin, builder, get, layered, numbered, send, with};
use crate::support::eventually::eventually;

const S: Duration = Duration::from_secs(1);

#[tokio::test]
async fn it_is_used_while_it_is_fresh() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    let first = send(&service, get("/a?b=1&a=2")).await;
    assert_eq!((first.body.as_str(), first.x_cache()), ("1", "MISS"));
    assert_eq!(
        first.header("cache-status"),
        "larder; fwd=uri-miss; fwd-status=200; stored"
    );
    clock.advance(20 * S);
    let second = send(&service, get("/a?a=2&b=1")).await;
    assert_eq!((second.body.as_str(), second.x_cache()), ("1", "HIT"));
    assert_eq!(second.header("age"), "20");
    assert_eq!(second.header("cache-status"), "larder; hit; ttl=40");
    clock.advance(40 * S);
    assert_eq!(send(&service, get("/a?a=2&b=1")).await.body, "2");
    assert_eq!(send(&service, get("/a?a=2&b=3")).await.body, "3");
}

#[tokio::test]
async fn its_age_counts() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let headers = [
        ("cache-control", "max-age=60, s-maxage=\"100\""),
        ("age", "30"),
    ];
    let service = layered(&clock, origin.answering(move |n, _| numbered(n, &headers)));
    send(&service, get("/")).await;
    clock.advance(69 * S);
    let got = send(&service, get("/")).await;
    assert_eq!((got.body.as_str(), got.header("age")), ("1", "99"));
    clock.advance(S);
    assert_eq!(send(&service, get("/")).await.body, "2");
}

#[tokio::test]
async fn a_stale_one_is_used_while_it_is_loaded_anew() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| {
            numbered(
                n,
                &[("cache-control", "max-age=10, stale-while-revalidate=20")],
            )
        }),
    );
    send(&service, get("/")).await;
    clock.advance(15 * S);
    let stale = send(&service, get("/")).await;
    assert_eq!((stale.body.as_str(), stale.x_cache()), ("1", "STALE"));
    assert_eq!(stale.header("cache-status"), "larder; hit; ttl=-5");
    eventually("the new one is stored", async || {
        send(&service, get("/")).await.body == "2"
    })
    .await;
    assert_eq!(origin.calls(), 2);
    clock.advance(30 * S);
    assert_eq!(send(&service, get("/")).await.body, "3", "after the window");
}

/// As for values that a program asks for itself.
#[tokio::test]
async fn a_hit_is_counted_once_and_refreshed_ahead() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let layer = CacheLayer::new(builder(&clock).refresh_ahead(0.5)).unwrap();
    let cache = layer.cache().clone();
    let headers = [("cache-control", "max-age=10, stale-while-revalidate=20")];
    let inner = origin.answering(move |n, _| numbered(n, &headers));
    let service = layer.layer(inner);
    send(&service, get("/")).await;
    clock.advance(8 * S);
    assert_eq!(send(&service, get("/")).await.x_cache(), "HIT");
    eventually("it is refreshed ahead", async || origin.calls() == 2).await;
    eventually("the new one is stored", async || {
        cache
            .get("GET shop.example/")
            .await
            .is_some_and(|entry| entry.meta().age() < S)
    })
    .await;
    clock.advance(15 * S);
    let before = cache.stats();
    assert_eq!(send(&service, get("/")).await.x_cache(), "STALE");
    let after = cache.stats();
    assert_eq!(after.l1_hits - before.l1_hits, 1);
    assert_eq!(after.stale_served - before.stale_served, 1);
}

#[tokio::test]
async fn a_stale_one_is_used_instead_of_an_error_if_it_may_be() {
    for (directives, is_used) in [
        ("max-age=10, stale-if-error=20", true),
        ("max-age=10", false),
        ("max-age=10, stale-if-error=20, must-revalidate", false),
        ("max-age=10, stale-if-error=20, proxy-revalidate", false),
        ("s-maxage=10, stale-if-error=20", false),
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let service = layered(
            &clock,
            origin.answering(move |n, _| {
                let mut response = numbered(n, &[("cache-control", directives)]);
                if n > 1 {
                    response = Response::new("down".into());
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                response
            }),
        );
        send(&service, get("/")).await;
        clock.advance(15 * S);
        let got = send(&service, get("/")).await;
        let expected = if is_used {
            ("1", "STALE")
        } else {
            ("down", "MISS")
        };
        assert_eq!((got.body.as_str(), got.x_cache()), expected, "{directives}");
        clock.advance(15 * S);
        let got = send(&service, get("/")).await;
        assert_eq!(got.body, "down", "{directives}: after the window");
    }
}

#[tokio::test]
async fn a_rule_says_how_long_it_is_fresh() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let layer = CacheLayer::new(builder(&clock)).unwrap();
    let layer = layer.ttl(|request, _| (request.uri.path() == "/own").then_some(30 * S));
    let service = layer.layer(origin.answering(|n, _| numbered(n, &[])));
    for _ in 0..2 {
        assert_eq!(send(&service, get("/own")).await.body, "1");
    }
    clock.advance(30 * S);
    assert_eq!(send(&service, get("/own")).await.body, "2");
    // Nothing says how long others are fresh.
    assert_eq!(send(&service, get("/")).await.body, "3");
    assert_eq!(send(&service, get("/")).await.body, "4");
}

/// A rule that looks at nothing must not keep an error, or a redirect to a login, for everybody.
#[tokio::test]
async fn a_rule_stores_no_errors_and_no_temporary_redirects_that_do_not_say_so() {
    for (status, is_usual) in [(200, true), (404, true), (301, true)]
        .into_iter()
        .chain([302, 303, 307, 400, 401, 403, 429, 500, 503].map(|status| (status, false)))
    {
        for says_so in [false, true] {
            let (clock, origin) = (Clock::manual(), Origin::default());
            let inner = origin.answering(move |n, _| {
                let headers = [("cache-control", "max-age=1")];
                let mut response = numbered(n, if says_so { &headers } else { &[] });
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response
            });
            let layer = CacheLayer::new(builder(&clock)).unwrap();
            let service = layer.ttl(|_, _| Some(30 * S)).layer(inner);
            send(&service, get("/")).await;
            clock.advance(20 * S);
            let second = send(&service, get("/")).await.x_cache() == "HIT";
            assert_eq!(second, is_usual || says_so, "{status}, {says_so}");
        }
    }
}

#[tokio::test]
async fn times_without_an_end_do_no_harm() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = CacheLayer::new(builder(&clock))
        .unwrap()
        .ttl(|_, _| Some(Duration::MAX))
        .stale_while_revalidate(Duration::MAX)
        .stale_if_error(Duration::MAX)
        .layer(origin.answering(|n, _| numbered(n, &[("age", "99999999999999999999999")])));
    send(&service, get("/")).await;
    clock.advance(100 * S);
    assert_eq!(send(&service, get("/")).await.body, "1");
}

#[tokio::test]
async fn clients_get_fresher_ones_only_if_a_rule_says_so() {
    for obeys in [false, true] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let layer = CacheLayer::new(builder(&clock))
            .unwrap()
            .obey_requests(obeys);
        let service =
            layer.layer(origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])));
        send(&service, get("/")).await;
        clock.advance(20 * S);
        for (header, value) in [
            ("cache-control", "no-cache"),
            ("pragma", "no-cache"),
            ("cache-control", "max-age=0"),
            ("cache-control", "min-fresh=59"),
        ] {
            clock.advance(S);
            let before = origin.calls();
            let got = send(&service, with("/", &[(header, value)])).await;
            assert_eq!(origin.calls() > before, obeys, "{value}: {got:?}");
            if value == "no-cache" && header == "cache-control" && obeys {
                let next = send(&service, get("/")).await;
                assert_eq!(
                    (next.body.as_str(), next.x_cache()),
                    (got.body.as_str(), "HIT")
                );
                clock.advance(20 * S);
            }
        }
    }
}

#[tokio::test]
async fn only_if_cached_never_asks() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    let only = || with("/", &[("cache-control", "only-if-cached")]);
    assert_eq!(
        send(&service, only()).await.status,
        StatusCode::GATEWAY_TIMEOUT
    );
    assert_eq!(origin.calls(), 0);
    send(&service, get("/")).await;
    assert_eq!(send(&service, only()).await.body, "1");
}
