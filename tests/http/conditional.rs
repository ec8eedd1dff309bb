//! Conditional requests of clients, and revalidation.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{HeaderName, Response, StatusCode};
use larder::Clock;
use larder::http::CacheLayer;
use tower::Layer;

use crate::origin::{Origin, builder, get, layered, numbered, request, send, with};

const S: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_client_that_has_it_gets_304() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let headers = [
        ("cache-control", "max-age=60"),
        ("etag", "\"a,b\""),
        ("last-modified", "Mon, 01 Jan 2001 00:00:00 GMT"),
    ];
    let service = layered(&clock, origin.answering(move |n, _| numbered(n, &headers)));
    for (name, value, is_304) in [
        ("if-none-match", "\"a,b\"", true),
        ("if-none-match", "\"x\", W/\"a,b\"", true),
        ("if-none-match", "*", true),
        ("if-none-match", "\"a\"", false),
        ("if-modified-since", "Mon, 01 Jan 2001 00:00:00 GMT", true),
        ("if-modified-since", "Sun, 31 Dec 2000 00:00:00 GMT", false),
    ] {
        let got = send(&service, with("/", &[(name, value)])).await;
        let expected = if is_304 { (304, "") } else { (200, "1") };
        assert_eq!(
            (got.status.as_u16(), got.body.as_str()),
            expected,
            "{value}"
        );
    }
    // The first of them, too: the inner service was asked for the whole.
    assert_eq!(origin.calls(), 1);
    assert!(!origin.last().headers.contains_key("if-none-match"));
}

#[tokio::test]
async fn a_stale_one_is_revalidated() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, request| {
        let headers = [("cache-control", "max-age=10"), ("etag", "\"v1\"")];
        if request
            .headers
            .get("if-none-match")
            .is_some_and(|tag| tag == "\"v1\"")
        {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
                .headers_mut()
                .insert("cache-control", "max-age=20".parse().unwrap());
            response
                .headers_mut()
                .insert("x-new", "yes".parse().unwrap());
            return response;
        }
        numbered(n, &headers)
    });
    let service = layered(&clock, inner);
    send(&service, get("/")).await;
    clock.advance(15 * S);
    let got = send(&service, get("/")).await;
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "1"));
    assert_eq!(
        got.header("cache-status"),
        "larder; fwd=stale; fwd-status=304; ttl=20; stored"
    );
    clock.advance(15 * S);
    let got = send(&service, get("/")).await;
    assert_eq!(
        (got.x_cache(), got.header("x-new"), got.header("age")),
        ("HIT", "yes", "15")
    );
    assert_eq!(origin.calls(), 2);
}

/// It comes now, and is not as old as what was stored.
#[tokio::test]
async fn a_304_without_a_date_makes_a_stored_response_fresh() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let date = httpdate::fmt_http_date(SystemTime::now() - 65 * S);
    let inner = origin.answering(move |n, _| {
        let headers = [
            ("cache-control", "max-age=60"),
            ("etag", "\"v1\""),
            ("date", date.as_str()),
        ];
        if n == 1 {
            return numbered(n, &headers);
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    });
    let service = layered(&clock, inner);
    send(&service, get("/")).await;
    clock.advance(S);
    let revalidated = send(&service, get("/")).await;
    let status = revalidated.header("cache-status");
    assert!(status.contains("fwd-status=304"), "{status}");
    clock.advance(S);
    let got = send(&service, get("/")).await;
    assert_eq!((got.body.as_str(), got.x_cache()), ("1", "HIT"));
    assert_eq!(origin.calls(), 2);
}

/// As with a 200: only the client whose request it was gets the cookie.
#[tokio::test]
async fn a_cookie_of_a_304_is_not_stored() {
    for stores_private in [false, true] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(|n, _| {
            let headers = [("cache-control", "max-age=10"), ("etag", "\"v1\"")];
            let mut response = numbered(n, &headers);
            if n > 1 {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.body_mut() = Body::empty();
                let cookie = "id=7".parse().unwrap();
                response.headers_mut().insert("set-cookie", cookie);
            }
            response
        });
        let layer = CacheLayer::new(builder(&clock)).unwrap();
        let layer = layer.store_private(move |_, _| stores_private);
        let service = layer.layer(inner);
        send(&service, get("/")).await;
        clock.advance(15 * S);
        let first = send(&service, get("/")).await;
        assert_eq!(
            (first.body.as_str(), first.header("set-cookie")),
            ("1", "id=7")
        );
        let status = first.header("cache-status").to_owned();
        assert_eq!(status.ends_with("; stored"), stores_private, "{status}");
        if stores_private {
            let second = send(&service, get("/")).await;
            assert_eq!((second.x_cache(), second.header("set-cookie")), ("HIT", ""));
        }
    }
}

/// The inner service is wrong, but a client must not keep the old body as the new one.
#[tokio::test]
async fn a_304_about_another_response_changes_nothing() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, _| {
        let etag = format!("\"v{n}\"");
        let mut response = numbered(n, &[("cache-control", "max-age=10"), ("etag", &etag)]);
        if n > 1 {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
        }
        response
    });
    let service = layered(&clock, inner);
    send(&service, get("/")).await;
    clock.advance(15 * S);
    let got = send(&service, get("/")).await;
    assert_eq!((got.body.as_str(), got.header("etag")), ("1", "\"v1\""));
    assert!(!got.header("cache-status").ends_with("stored"));
}

#[tokio::test]
async fn no_cache_is_revalidated_each_time() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, request| {
        let mut response = numbered(n, &[("cache-control", "no-cache"), ("etag", "\"v1\"")]);
        if request.headers.contains_key("if-none-match") {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
        }
        response
    });
    let service = layered(&clock, inner);
    for n in 1..4 {
        assert_eq!(send(&service, get("/")).await.body, "1");
        assert_eq!(origin.calls(), n);
        clock.advance(S);
    }
}

#[tokio::test]
async fn head_is_answered_by_a_stored_get() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    let head = || request("HEAD", "/", &[]);
    assert_eq!(send(&service, head()).await.x_cache(), "MISS");
    assert_eq!(
        send(&service, get("/")).await.body,
        "2",
        "a HEAD stores nothing"
    );
    let got = send(&service, head()).await;
    assert_eq!((got.body.as_str(), got.x_cache()), ("", "HIT"));
    assert_eq!(got.header("content-length"), "1");
}

#[tokio::test]
async fn a_head_has_the_length_of_the_get() {
    for (status, condition, expected) in [
        (200, "", (200, "1")),
        (200, "\"v1\"", (304, "1")),
        (204, "", (204, "")),
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, _| {
            let headers = [("cache-control", "max-age=60"), ("etag", "\"v1\"")];
            let mut response = numbered(n, &headers);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if status == 204 {
                *response.body_mut() = Body::empty();
            }
            response
        });
        let service = layered(&clock, inner);
        send(&service, get("/")).await;
        let head = request("HEAD", "/", &[("if-none-match", condition)]);
        let got = send(&service, head).await;
        let length = got.header("content-length");
        assert_eq!((got.status.as_u16(), length), expected);
    }
}

/// More than 24 576 names have a map of headers panic.
#[tokio::test]
async fn a_304_with_more_headers_than_can_be_stored_does_no_harm() {
    for names in [1_100, 24_570] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, request| {
            let fresh = [("cache-control", "max-age=10"), ("etag", "\"v\"")];
            let mut response = numbered(n, &fresh);
            for n in 0..20 {
                let name = HeaderName::try_from(format!("x-own-{n}")).unwrap();
                response.headers_mut().insert(name, n.into());
            }
            if request.headers.contains_key("if-none-match") {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response.headers_mut().clear();
                for n in 0..names {
                    let name = HeaderName::try_from(format!("x-{n}")).unwrap();
                    response.headers_mut().insert(name, n.into());
                }
            }
            response
        });
        let service = layered(&clock, inner);
        send(&service, get("/")).await;
        clock.advance(Duration::from_secs(11));
        let got = send(&service, get("/")).await;
        assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "1"));
        assert_eq!(origin.calls(), 2);
    }
}

/// Such as a service itself can make: there is room for none of the layer's.
#[tokio::test]
async fn a_response_with_as_many_headers_as_there_can_be_is_passed_on() {
    for lines in [24_576, 1_025, 1_024] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, _| {
            let mut response = numbered(n, &[("cache-control", "max-age=60")]);
            // With a date, which the layer adds.
            for n in 2..lines {
                let name = HeaderName::try_from(format!("x-{n}")).unwrap();
                response.headers_mut().insert(name, n.into());
            }
            response
        });
        let service = layered(&clock, inner);
        for _ in 0..2 {
            let got = send(&service, get("/")).await;
            assert!(got.headers.len() >= lines - 1);
        }
        assert_eq!(origin.calls() == 1, lines == 1_024, "{lines}");
    }
}
