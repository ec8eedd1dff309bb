//! What is of one user is not stored.

use std::time::Duration;

use http::{HeaderValue, Uri};
use larder::Clock;
use larder_http::CacheLayer;
use tower::Layer;

use crate::origin::{Origin, builder, get, layered, numbered, send, with};

#[tokio::test]
async fn private_responses_are_not_stored() {
    for headers in [
        &[("cache-control", "max-age=60, private")][..],
        &[("cache-control", "max-age=60, PRIVATE=\"x-user\"")],
        &[("cache-control", "max-age=60, no-store")],
        &[("cache-control", "max-age=60"), ("set-cookie", "id=7")],
        &[("cache-control", "max-age=60"), ("vary", "*")],
        &[],
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let service = layered(&clock, origin.answering(move |n, _| numbered(n, headers)));
        for n in ["1", "2", "3"] {
            let got = send(&service, get("/")).await;
            assert_eq!(
                (got.body.as_str(), got.x_cache()),
                (n, "MISS"),
                "{headers:?}"
            );
        }
    }
}

/// What cannot be read is taken for what keeps a response from others.
#[tokio::test]
async fn malformed_headers_of_private_responses_do_not_share_them() {
    let fresh = ("cache-control", &b"max-age=60"[..]);
    for (name, line) in [
        ("vary", &b"Accept-Language; X-User"[..]),
        ("vary", b"\"*\""),
        ("vary", b"X-User="),
        ("vary", b"X-\xfcser"),
        ("cache-control", b"private, x=\xfc"),
        ("cache-control", b"\xfc private"),
        ("cache-control", b"a=\"b, private"),
        ("cache-control", b"a=b\"c, no-store\""),
        ("cache-control", b"a=\"b\\\", private"),
        ("cache-control", b"a=\"b\" private"),
        ("cache-control", b"private; max-age=60"),
        ("cache-control", b"max-age=60; Private"),
        ("cache-control", b"max-age=60 private"),
        ("cache-control", b"no-store; foo"),
        ("cache-control", b"\"no-store\""),
        ("cache-control", b"no-cache; foo"),
        ("cache-control", b"private =\"x-user\""),
        ("cache-control", b"\xc2\xa0not-private"),
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, _| {
            let mut response = numbered(n, &[]);
            for (name, line) in [fresh, (name, line)] {
                let line = HeaderValue::from_bytes(line).unwrap();
                response.headers_mut().append(name, line);
            }
            response
        });
        let service = layered(&clock, inner);
        for n in ["1", "2"] {
            let got = send(&service, with("/", &[("x-user", n)])).await;
            let line = String::from_utf8_lossy(line);
            assert_eq!(got.body, n, "{name}: {line}");
        }
    }
}

#[tokio::test]
async fn what_only_looks_like_a_directive_keeps_nothing_from_being_stored() {
    for line in [
        &b"max-age=60, a=\"private, no-store\""[..],
        b"max-age=60, a=\"\\\", private\"",
        b"max-age=60, a=\"\xfc private\"",
        b"max-age=60, a=private",
        b"max-age=60, not-private",
        b"foo; bar, max-age=60",
        b"max-age=60, , \"",
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let inner = origin.answering(move |n, _| {
            let mut response = numbered(n, &[]);
            let line = HeaderValue::from_bytes(line).unwrap();
            response.headers_mut().insert("cache-control", line);
            response
        });
        let service = layered(&clock, inner);
        for x_cache in ["MISS", "HIT"] {
            let got = send(&service, get("/")).await;
            assert_eq!(got.x_cache(), x_cache, "{}", String::from_utf8_lossy(line));
        }
    }
}

#[tokio::test]
async fn a_request_with_authorization_is_not_answered_from_what_is_stored() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    let ann = || with("/", &[("authorization", "Bearer ann")]);
    assert_eq!(send(&service, ann()).await.body, "1");
    assert_eq!(send(&service, get("/")).await.body, "2");
    assert_eq!(send(&service, ann()).await.body, "3");
    assert_eq!(send(&service, get("/")).await.body, "2");
}

#[tokio::test]
async fn a_layer_that_is_told_to_handle_authorization_stores_what_says_that_it_may() {
    for (directives, is_stored) in [
        ("max-age=60", false),
        ("max-age=60, public", true),
        ("s-maxage=60", true),
        ("max-age=60, must-revalidate", true),
    ] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let layer = CacheLayer::new(builder(&clock)).unwrap().authorized(true);
        let service = layer
            .layer(origin.answering(move |n, _| numbered(n, &[("cache-control", directives)])));
        let ann = || with("/", &[("authorization", "Bearer ann")]);
        send(&service, ann()).await;
        let second = send(&service, ann()).await.body;
        assert_eq!(second == "1", is_stored, "{directives}");
    }
}

/// A rule that says for how long a response is fresh does not say that it is for others.
#[tokio::test]
async fn a_ttl_does_not_share_what_was_answered_to_authorization() {
    for (directives, is_stored) in [("max-age=60", false), ("max-age=60, public", true)] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let service = CacheLayer::new(builder(&clock))
            .unwrap()
            .authorized(true)
            .ttl(|_, _| Some(Duration::from_secs(60)))
            .layer(origin.answering(move |n, _| numbered(n, &[("cache-control", directives)])));
        send(&service, with("/", &[("authorization", "Bearer ann")])).await;
        let bob = send(&service, with("/", &[("authorization", "Bearer bob")])).await;
        assert_eq!(bob.body == "1", is_stored, "{directives}");
    }
}

#[tokio::test]
async fn private_responses_are_stored_if_a_rule_says_so_and_their_cookies_are_not() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let layer = CacheLayer::new(builder(&clock))
        .unwrap()
        .store_private(|_, _| true);
    let headers = [
        ("cache-control", "private, max-age=60"),
        ("set-cookie", "id=7"),
        ("etag", "\"v1\""),
    ];
    let service = layer.layer(origin.answering(move |n, _| numbered(n, &headers)));
    // Though the client has the body.
    let first = send(&service, with("/", &[("if-none-match", "\"v1\"")])).await;
    assert_eq!(first.header("set-cookie"), "id=7");
    let second = send(&service, get("/")).await;
    assert_eq!(
        (second.body.as_str(), second.header("set-cookie")),
        ("1", "")
    );
}

#[tokio::test]
async fn what_is_answered_to_a_cookie_is_stored_only_if_it_says_how_long_it_is_fresh() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let headers = [("last-modified", "Mon, 01 Jan 2001 00:00:00 GMT")];
    let service = layered(&clock, origin.answering(move |n, _| numbered(n, &headers)));
    let ann = || with("/ann", &[("cookie", "id=7")]);
    send(&service, ann()).await;
    assert_eq!(send(&service, ann()).await.body, "2");
    send(&service, get("/")).await;
    assert_eq!(
        send(&service, get("/")).await.body,
        "3",
        "without a cookie it is"
    );
}

#[tokio::test]
async fn a_request_that_forbids_it_is_not_stored() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    send(&service, with("/", &[("cache-control", "no-store")])).await;
    assert_eq!(send(&service, get("/")).await.body, "2");
}

#[tokio::test]
async fn a_condition_keeps_requests_away() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let layer = CacheLayer::new(builder(&clock)).unwrap();
    let service = layer
        .condition(|request| !request.headers.contains_key("cookie"))
        .layer(origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])));
    send(&service, get("/")).await;
    let got = send(&service, with("/", &[("cookie", "id=7")])).await;
    assert_eq!(got.body, "2");
    assert_eq!(
        got.header("cache-status"),
        "larder; fwd=bypass; fwd-status=200"
    );
}

/// The path of another form joined to the host could name another host and path. `http` refuses all but this one.
#[tokio::test]
async fn a_path_that_does_not_begin_with_a_slash_has_no_key() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let fresh = [("cache-control", "max-age=60")];
    let service = layered(&clock, origin.answering(move |n, _| numbered(n, &fresh)));
    for n in ["1", "2"] {
        let mut request = get("/");
        *request.uri_mut() = Uri::from_static("*");
        assert_eq!(send(&service, request).await.body, n);
    }
}

/// Web cache deception: the service answers by a part of the path, and the rule by another one.
#[tokio::test]
async fn a_ttl_by_path_shares_whatever_the_service_answers_there() {
    for looks_at_type in [false, true] {
        let (clock, origin) = (Clock::manual(), Origin::default());
        let layer = CacheLayer::new(builder(&clock)).unwrap();
        let layer = layer.ttl(move |request, response| {
            let is_style = request.uri.path().contains("/x.css");
            let kind = response.headers.get("content-type");
            let has_type = kind.is_some_and(|kind| kind == "text/css");
            (is_style && (has_type || !looks_at_type)).then_some(Duration::from_secs(60))
        });
        let html = [("content-type", "text/html")];
        let service = layer.layer(origin.answering(move |n, _| numbered(n, &html)));
        let ann = with("/account/x.css", &[("cookie", "id=ann")]);
        assert_eq!(send(&service, ann).await.body, "1");
        let other = send(&service, get("/account/x.css")).await;
        assert_eq!(other.body == "1", !looks_at_type);
    }
}
