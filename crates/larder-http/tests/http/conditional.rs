//! Conditional requests of clients, and revalidation.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{HeaderName, Response, StatusCode};
use larder::Clock;
use larder_http::CacheLayer;
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

/// `Date` names no version: a client that takes it for one may have what came before its own change.
#[tokio::test]
async fn a_client_sees_its_own_change_in_the_same_second() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")]));
    let service = layered(&clock, inner);
    let first = send(&service, get("/")).await;
    assert_eq!((first.body.as_str(), first.x_cache()), ("1", "MISS"));
    assert!(!send(&service, get("/")).await.header("date").is_empty());
    send(&service, request("POST", "/", &[])).await;
    // As late as its `Date` may be, so that it does not depend on when a second begins.
    let since = httpdate::fmt_http_date(SystemTime::now() + 2 * S);
    for how in ["MISS", "HIT"] {
        let got = send(&service, with("/", &[("if-modified-since", &since)])).await;
        let got = (got.status.as_u16(), got.body.as_str(), got.x_cache());
        assert_eq!(got, (200, "3", how));
    }
}

/// Until the second of a change is over, there may be another change with the same `Last-Modified`.
#[tokio::test]
async fn last_modified_counts_once_its_second_is_over() {
    let at = |seconds| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + seconds * S);
    let now = 978_307_200;
    for (sent, since, is_304) in [
        (now - 1, now, false),
        (now, now, false),
        (now, now + 5, false),
        (now + 1, now, true),
        (now + 1, now + 5, true),
        (now + 1, now - 1, false),
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let (sent, modified, since) = (at(sent), at(now), at(since));
        let inner = origin.answering(move |n, _| {
            let headers = [
                ("cache-control", "max-age=4000000000"),
                ("last-modified", &*modified),
                ("date", &*sent),
            ];
            numbered(n, &headers)
        });
        let service = layered(&clock, inner);
        for _ in 0..2 {
            let got = send(&service, with("/", &[("if-modified-since", &since)])).await;
            assert_eq!(got.status == StatusCode::NOT_MODIFIED, is_304, "{since}");
        }
        assert_eq!(origin.calls(), 1);
    }
}

/// The layer is a client of the inner service: it asks about a version, and not about a second with two of them.
#[tokio::test]
async fn the_inner_service_is_asked_about_what_names_a_version() {
    const MODIFIED: &str = "Mon, 01 Jan 2001 00:00:00 GMT";
    const LATER: &str = "Mon, 01 Jan 2001 00:00:01 GMT";
    for (sent, etag, conditions) in [
        (MODIFIED, None, [None, None]),
        (LATER, None, [None, Some(MODIFIED)]),
        (MODIFIED, Some("\"v1\""), [Some("\"v1\""), None]),
        (LATER, Some("W/\"v1\""), [Some("W/\"v1\""), Some(MODIFIED)]),
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, _| {
            let mut headers = vec![
                ("cache-control", "max-age=1, stale-while-revalidate=0"),
                ("last-modified", MODIFIED),
                ("date", sent),
            ];
            headers.extend(etag.map(|etag| ("etag", etag)));
            numbered(n, &headers)
        });
        let layer = CacheLayer::new(builder(&clock)).unwrap();
        let service = layer.stale_if_error(3600 * S).layer(inner);
        for call in 1..3 {
            assert_eq!(send(&service, get("/")).await.body, call.to_string());
            clock.advance(2 * S);
        }
        let asked = origin.last().headers;
        let asked = ["if-none-match", "if-modified-since"]
            .map(|name| asked.get(name).map(|value| value.to_str().unwrap()));
        assert_eq!(asked, conditions);
    }
}

/// It may have been made before a change that came while it was under way.
#[tokio::test(start_paused = true)]
async fn a_response_without_a_date_is_of_when_it_was_asked_for() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    // By the time of the test it was asked for 20 s ago.
    let changed = httpdate::fmt_http_date(SystemTime::now() - 10 * S);
    let since = changed.clone();
    let inner = origin.serving(move |n, _| {
        let changed = changed.clone();
        Box::pin(async move {
            tokio::time::sleep(20 * S).await;
            let fresh = ("cache-control", "max-age=60");
            numbered(n, &[fresh, ("last-modified", &changed)])
        })
    });
    let service = layered(&clock, inner);
    for how in ["MISS", "HIT"] {
        let got = send(&service, with("/", &[("if-modified-since", &since)])).await;
        assert_eq!((got.status.as_u16(), got.x_cache()), (200, how));
        assert_ne!(got.header("age"), "20", "its lifetime begins when it comes");
    }
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
    // The second time shows that the stored one has stayed.
    for _ in 0..2 {
        let got = send(&service, get("/")).await;
        assert_eq!((got.body.as_str(), got.header("etag")), ("1", "\"v1\""));
        assert!(!got.header("cache-status").ends_with("stored"));
    }
}

/// Which response a 304 is about: section 4.3.4 of RFC 9111.
#[tokio::test]
async fn a_304_is_about_the_response_that_it_names() {
    const OLD: [(&str, &str); 2] = [
        ("last-modified", "Mon, 01 Jan 2001 00:00:00 GMT"),
        ("date", "Tue, 02 Jan 2001 00:00:00 GMT"),
    ];
    for (stored, named, is_about_it) in [
        (("etag", "\"v\""), ("etag", "\"v\""), true),
        (("etag", "W/\"v\""), ("etag", "W/\"v\""), true),
        (("etag", "\"v\""), ("etag", "W/\"v\""), true),
        // The bytes of the stored one may be others.
        (("etag", "W/\"v\""), ("etag", "\"v\""), false),
        (("x-no", "etag"), ("etag", "\"v\""), false),
        (("etag", "\"v\""), ("x-no", "etag"), true),
        (("x-no", "etag"), OLD[0], true),
        // Such as an older release that was put back.
        (
            ("x-no", "etag"),
            ("last-modified", "Sun, 31 Dec 2000 00:00:00 GMT"),
            false,
        ),
        (("etag", "\"v\""), ("last-modified", OLD[1].1), false),
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, request| {
            let is_conditional = request.headers.contains_key("if-modified-since");
            let fresh = ("cache-control", "max-age=4000000000");
            if !is_conditional {
                let stale = ("cache-control", "max-age=1");
                return numbered(n, &[stale, stored, OLD[0], OLD[1]]);
            }
            let mut response = numbered(n, &[fresh, named]);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
            response
        });
        let layer = CacheLayer::new(builder(&clock)).unwrap();
        let service = layer.stale_if_error(3600 * S).layer(inner);
        send(&service, get("/")).await;
        clock.advance(2 * S);
        let got = send(&service, get("/")).await;
        assert_eq!(got.body, "1", "{stored:?} {named:?}");
        let status = got.header("cache-status");
        assert_eq!(status.ends_with("stored"), is_about_it, "{status}");
    }
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
