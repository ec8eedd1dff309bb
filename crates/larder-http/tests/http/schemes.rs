//! Requests by http, by https, and by a scheme that is not known.

use http::StatusCode;
use http::uri::Scheme;
use larder::{Clock, MemoryL2};
use larder_http::CacheLayer;
use tower::Layer;

use crate::origin::{Origin, builder, get, layered, numbered, request, send, with};

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// The forms that a request for one resource has.
const FORMS: [&str; 3] = [
    "/list?a=1",
    "http://shop.example/list?a=1",
    "https://shop.example/list?a=1",
];

#[tokio::test]
async fn no_response_is_used_for_another_scheme_and_a_change_reaches_all() {
    for headers in [&[FRESH][..], &[FRESH, ("vary", "a")]] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let l2 = MemoryL2::with_clock(clock.clone());
        let layer = || CacheLayer::new(builder(&clock).l2(l2.clone())).unwrap();
        let inner = origin.answering(move |n, _| numbered(n, headers));
        let (layer, other) = (layer(), layer());
        let own = layer.cache().clone();
        let layer = layer.invalidate(|request, _, found| match request.uri.path() {
            "/path" => found.path("/list?a=1"),
            "/key" => found.key("GET shop.example/list?a=1"),
            "/prefix" => found.prefix("GET shop.example/li"),
            _ => {}
        });
        let services = [layer.layer(inner.clone()), other.layer(inner)];
        for change in [0, 1, 2, 3, 4, 5, 6, 7_usize] {
            let before = origin.calls();
            let mut bodies = Vec::new();
            // The first of them may lose its place to a variant once.
            for round in 0..4 {
                for form in FORMS {
                    let got = send(&services[round % 2], get(form)).await;
                    bodies.push((form, got.body));
                }
            }
            let calls = origin.calls() - before;
            assert!(
                (3..=4).contains(&calls),
                "{headers:?}, {change}: {bodies:?}"
            );
            bodies.sort_unstable();
            bodies.dedup();
            for (form, body) in &bodies {
                let is_used_for = |other: &&(&str, String)| other.1 == *body;
                let forms = bodies.iter().filter(is_used_for).count();
                assert_eq!(forms, 1, "{form}: {bodies:?}");
                assert!(
                    body.parse::<usize>().unwrap() > before,
                    "{change}: {bodies:?}"
                );
            }
            match change {
                0..3 => drop(send(&services[0], request("POST", FORMS[change], &[])).await),
                3 => drop(send(&services[0], request("POST", "/path", &[])).await),
                4 => drop(send(&services[0], request("POST", "/key", &[])).await),
                5 => drop(
                    send(
                        &services[0],
                        request("POST", "https://shop.example/prefix", &[]),
                    )
                    .await,
                ),
                6 => drop(own.invalidate("GET shop.example/list?a=1").await.unwrap()),
                _ => drop(own.invalidate_prefix("GET shop.example/").await.unwrap()),
            }
            // The other instance has heard of it.
            own.invalidate_and_wait("other").await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_usual_case_of_one_scheme_takes_one_look_up() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, _| numbered(n, &[FRESH]));
    let layer = CacheLayer::new(builder(&clock)).unwrap();
    let (cache, service) = (layer.cache().clone(), layer.layer(inner));
    for form in ["https://shop.example/a", "/b"] {
        send(&service, get(form)).await;
        let before = cache.stats().l1_hits;
        assert_eq!(send(&service, get(form)).await.x_cache(), "HIT");
        assert_eq!(cache.stats().l1_hits - before, 1, "{form}");
    }
}

#[tokio::test]
async fn a_header_that_names_the_scheme_counts_if_a_rule_says_so() {
    for is_trusted in [false, true] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let mut layer = CacheLayer::new(builder(&clock)).unwrap();
        if is_trusted {
            layer = layer.scheme(|request| {
                let scheme = request.headers.get("x-forwarded-proto")?;
                Scheme::try_from(scheme.as_bytes()).ok()
            });
        }
        let service = layer.layer(origin.answering(|n, _| numbered(n, &[FRESH])));
        let by = |scheme| {
            with(
                "/",
                &[("x-forwarded-proto", scheme), ("forwarded", "proto=http")],
            )
        };
        let https = send(&service, by("https")).await.body;
        let http = send(&service, by("http")).await.body;
        assert_eq!(https == http, !is_trusted);
        assert_eq!(send(&service, by("http")).await.body, http);
        // Neither of the two.
        let ws = send(&service, by("ws")).await;
        assert_eq!(ws.header("cache-status").contains("bypass"), is_trusted);
        let none = send(&service, get("/")).await.body;
        assert_eq!(none == https, !is_trusted);
    }
}

#[tokio::test]
async fn other_schemes_are_not_cached_and_change_what_is_stored() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(&clock, origin.answering(|n, _| numbered(n, &[FRESH])));
    send(&service, get("/")).await;
    for n in ["2", "3"] {
        assert_eq!(send(&service, get("ws://shop.example/")).await.body, n);
    }
    send(&service, request("POST", "ws://shop.example/", &[])).await;
    assert_eq!(send(&service, get("/")).await.body, "5");
}

/// A service behind a proxy that ends TLS sends clients to https, and knows by a header whether they are there.
#[tokio::test]
async fn a_redirect_to_https_does_not_become_a_loop() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, request| {
        let is_https = (request.headers.get("x-forwarded-proto")).is_some_and(|by| by == "https")
            || request.uri.scheme() == Some(&Scheme::HTTPS);
        if is_https {
            return numbered(n, &[("cache-control", "no-store")]);
        }
        let path = request.uri.path_and_query().unwrap();
        let to = match path.as_str() {
            "/other" => "https://shop.example/new".to_owned(),
            path => format!("https://shop.example{path}"),
        };
        let mut response = numbered(n, &[FRESH, ("location", &to)]);
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        response
    });
    let service = layered(&clock, inner);
    for path in ["/a?b=1", "/"] {
        let by = |scheme| with(path, &[("x-forwarded-proto", scheme)]);
        for _ in 0..2 {
            let redirect = send(&service, by("http")).await;
            assert_eq!(
                (redirect.status.as_u16(), redirect.x_cache()),
                (301, "MISS")
            );
            assert_eq!(send(&service, by("https")).await.status, 200, "{path}");
        }
    }
    // Where the scheme is known, and to another resource, it is stored.
    for uri in ["http://shop.example/a", "/other"] {
        send(&service, get(uri)).await;
        let redirect = send(&service, get(uri)).await;
        assert_eq!(
            (redirect.status.as_u16(), redirect.x_cache()),
            (301, "HIT"),
            "{uri}"
        );
    }
    let https = "https://shop.example/a";
    assert_eq!(send(&service, get(https)).await.status, 200);
}

/// The inner service knows that the request came without TLS, whatever it says itself.
#[tokio::test]
async fn a_redirect_to_the_scheme_that_a_request_claims_is_not_stored() {
    for to in [
        "/a",
        "https://shop.example/a",
        "https://shop.example:443/a#b",
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, _| {
            let mut response = numbered(n, &[FRESH, ("location", to)]);
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            response
        });
        let service = layered(&clock, inner);
        send(&service, get("https://shop.example/a")).await;
        let second = send(&service, get("https://shop.example/a")).await;
        assert_eq!(second.x_cache(), "MISS", "{to}");
    }
}
