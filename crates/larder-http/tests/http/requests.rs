//! Which requests share a stored response.

use axum::body::Body;
use http::Request;
use larder::Clock;
use larder_http::CacheLayer;
use tower::Layer;

use crate::origin::{Origin, builder, get, layered, numbered, request, send, with};

#[tokio::test]
async fn hosts_and_paths_are_apart() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    let to = |host: &str, path: &str| {
        let request = Request::builder().uri(path).header("host", host);
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(send(&service, to("a.example", "/")).await.body, "1");
    assert_eq!(send(&service, to("b.example", "/")).await.body, "2");
    assert_eq!(send(&service, to("A.example", "/")).await.body, "1");
    assert_eq!(send(&service, to("a.example", "/A")).await.body, "3");
    assert_eq!(send(&service, to("a.example", "/a")).await.body, "4");
    let whole = to("a.example", "http://a.example/a");
    assert_eq!(send(&service, whole).await.body, "5", "its scheme is known");
}

/// The order of values of one name may mean something, and some services divide a query at semicolons.
#[tokio::test]
async fn parts_of_a_query_are_sorted_by_names() {
    for (query, other, are_same) in [
        ("x=1&x=2", "x=2&x=1", false),
        ("b=1&a=2", "a=2&b=1", true),
        ("b=1&a=2&b=0", "a=2&b=1&b=0", true),
        ("b=1&a=2&b=0", "a=2&b=0&b=1", false),
        ("a=1&%61=2", "%61=2&a=1", false),
        ("a+b=1&a%20b=2", "a%20b=2&a+b=1", false),
        ("a%5b=1&b&a[=2", "b&a[=2&a%5b=1", false),
        ("b&a=1;c=2", "a=1;c=2&b", false),
        ("b&&a", "&a&b", true),
        ("b=1&a=2", "b=1&a=2&", false),
    ] {
        for sorts in [false, true] {
            let (clock, origin) = (Clock::manual(), Origin::default());
            let layer = CacheLayer::new(builder(&clock)).unwrap();
            // As it is unless that is said.
            let layer = if sorts {
                layer
            } else {
                layer.sort_query(false)
            };
            let inner = origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")]));
            let service = layer.layer(inner);
            send(&service, get(&format!("/?{query}"))).await;
            assert_eq!(send(&service, get(&format!("/?{query}"))).await.body, "1");
            let got = send(&service, get(&format!("/?{other}"))).await;
            let expected = if are_same && sorts { "1" } else { "2" };
            assert_eq!(got.body, expected, "{query}, {other}, {sorts}");
        }
    }
}

/// It would be stored under the key of another resource or host.
#[tokio::test]
async fn a_host_that_is_not_clear_is_not_cached() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    let to = |uri: &str, hosts: &[&[u8]]| {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(Body::empty()).unwrap()
    };
    let unclear: [(&str, &[&[u8]]); 5] = [
        ("/7", &[b"a.example/products"]),
        ("/7", &[b"a.example?x="]),
        ("/7", &[b"a\xff"]),
        ("/7", &[b"a.example", b"b.example"]),
        ("http://a.example/7", &[b"b.example"]),
    ];
    for (uri, hosts) in unclear {
        let got = send(&service, to(uri, hosts)).await;
        let passed = "larder; fwd=bypass; fwd-status=200";
        assert_eq!(got.header("cache-status"), passed, "{uri} {hosts:?}");
    }
    let clear: [(&str, &[&[u8]]); 5] = [
        ("/7", &[]),
        ("/7", &[b"a.example:8080"]),
        ("/7", &[b"[::1]:8080"]),
        ("http://c.example/7", &[]),
        ("http://User@D.example/7", &[b"d.example", b"D.example"]),
    ];
    for (uri, hosts) in clear {
        send(&service, to(uri, hosts)).await;
        let got = send(&service, to(uri, hosts)).await;
        assert_eq!(got.x_cache(), "HIT", "{uri} {hosts:?}");
    }
    for host in ["a.example", "a.example:80", "a.example:443"] {
        let got = send(&service, to("/7", &[host.as_bytes()])).await;
        assert_eq!(got.x_cache(), "MISS", "{host} is another key");
    }
}

#[tokio::test]
async fn ranges_and_preconditions_pass_by() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    send(&service, get("/")).await;
    let names = [
        "range",
        "if-range",
        "if-match",
        "if-unmodified-since",
        "upgrade",
    ];
    for (n, name) in names.iter().enumerate() {
        let got = send(&service, with("/", &[(name, "x")])).await;
        assert_eq!(got.body, (n + 2).to_string());
        assert!(origin.last().headers.contains_key(*name));
    }
    let mut fat = get("/");
    *fat.body_mut() = Body::from("x");
    assert_eq!(send(&service, fat).await.body, "7", "a GET with a body");
    assert_eq!(send(&service, request("OPTIONS", "/", &[])).await.body, "8");
    assert_eq!(send(&service, get("/")).await.body, "1");
}

#[tokio::test]
async fn keys_and_prefixes_are_as_rules_say() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let layer = CacheLayer::new(builder(&clock)).unwrap();
    let cache = layer.cache().clone();
    let service = layer
        .prefix(|request| format!("{:?} ", request.headers.get("tenant")))
        .key(|request| request.uri.path().strip_prefix("/api").map(str::to_owned))
        .layer(origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])));
    let of = |tenant, path| with(path, &[("tenant", tenant)]);
    assert_eq!(send(&service, of("a", "/api/x?1")).await.body, "1");
    assert_eq!(send(&service, of("a", "/api/x?2")).await.body, "1");
    assert_eq!(send(&service, of("b", "/api/x")).await.body, "2");
    assert_eq!(send(&service, of("a", "/other")).await.body, "3");
    assert_eq!(send(&service, of("a", "/other")).await.body, "4");
    assert!(cache.get("Some(\"a\") /x").await.is_some());
}

#[tokio::test]
async fn a_key_that_is_too_long_is_not_cached() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(
        &clock,
        origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")])),
    );
    let path = format!("/{}", "x".repeat(1024));
    for n in ["1", "2"] {
        assert_eq!(send(&service, get(&path)).await.body, n);
    }
}
