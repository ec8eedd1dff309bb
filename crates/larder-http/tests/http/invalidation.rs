//! What requests that change something remove.

use futures::StreamExt;
use http::StatusCode;
use larder::key::MAX_KEY_BYTES;
use larder::l2::deadpool_redis::redis;
use larder::{Builder, Cache, Clock};
use larder_http::{CacheLayer, CachedResponse};
use tower::{Layer, ServiceExt};

use crate::origin::{Origin, Service, builder, get, numbered, request, send};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

fn service(origin: &Origin) -> Service {
    over(origin, builder(&Clock::manual()))
}

fn over(origin: &Origin, cache: Builder<String, CachedResponse>) -> Service {
    let layer = CacheLayer::new(cache)
        .unwrap()
        .tags(|request, _| vec![format!("first{}", &request.uri.path()[..2])])
        .invalidate(|request, _, found| {
            if request.uri.path() == "/rule" {
                found.path("/path?x=1");
                found.key("GET shop.example/key");
                found.tag("first/t");
                found.prefix("GET shop.example/prefix");
                // No response has these.
                found.path("no path");
                found.key("x".repeat(MAX_KEY_BYTES + 1));
                found.tag("x".repeat(MAX_KEY_BYTES + 1));
            }
        });
    layer.layer(origin.answering(|n, request| {
        let mut headers = vec![("cache-control", "max-age=60")];
        if request.method == "POST" {
            headers.push(("location", "/created"));
            headers.push(("content-location", "http://shop.example/content"));
        }
        if request.method == "PUT" {
            headers.push(("location", "http://other.example/created"));
        }
        let mut response = numbered(n, &headers);
        if request.method == "DELETE" {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        response
    }))
}

async fn is_there(service: &Service, path: &str) -> bool {
    send(service, get(path)).await.x_cache() == "HIT"
}

#[tokio::test]
async fn its_own_uri_and_those_that_it_names() {
    let origin = Origin::default();
    let service = service(&origin);
    let all = [
        "/x?a=1&b=2",
        "/created",
        "/content",
        "/other",
        "http://other.example/created",
    ];
    for path in all {
        send(&service, get(path)).await;
    }
    send(&service, request("DELETE", "/x?b=2&a=1", &[])).await;
    send(&service, request("OPTIONS", "/x?b=2&a=1", &[])).await;
    assert!(
        is_there(&service, "/x?a=1&b=2").await,
        "a failure, and a safe method"
    );
    send(&service, request("PUT", "/y", &[])).await;
    assert!(
        is_there(&service, "http://other.example/created").await,
        "another host"
    );
    let done = send(&service, request("POST", "/x?b=2&a=1", &[])).await;
    assert_eq!(
        done.header("cache-status"),
        "larder; fwd=method; fwd-status=200"
    );
    for path in ["/x?a=1&b=2", "/created", "/content"] {
        assert!(!is_there(&service, path).await, "{path}");
    }
    assert!(is_there(&service, "/other").await);
}

#[tokio::test]
async fn references_are_resolved_as_a_client_does() {
    for (reference, named, is_named) in [
        ("../list", "/list", true),
        ("./list?a", "/shop/list?a", true),
        ("list/..", "/shop/", true),
        ("/x/./../../list", "/list", true),
        ("?page=2", "/shop/x?page=2", true),
        ("//SHOP.example/list", "/list", true),
        ("https://shop.example:443/list", "/list", true),
        ("//shop.example:81/list", "/list", false),
        ("mailto:shop@shop.example", "/list", false),
        ("/list#7", "/list", true),
        ("list#7", "/shop/list", true),
    ] {
        let origin = Origin::default();
        let inner = origin.answering(move |n, _| {
            numbered(
                n,
                &[("cache-control", "max-age=60"), ("location", reference)],
            )
        });
        let service = crate::origin::layered(&Clock::manual(), inner);
        send(&service, get(named)).await;
        assert!(is_there(&service, named).await);
        send(&service, request("POST", "/shop/x", &[])).await;
        assert_ne!(is_there(&service, named).await, is_named, "{reference}");
    }
}

#[tokio::test]
async fn a_host_in_the_uri_is_that_of_the_paths_that_are_named() {
    let origin = Origin::default();
    let service = service(&origin);
    for path in ["http://a.example/created", "http://b.example/created"] {
        send(&service, get(path)).await;
    }
    send(&service, request("POST", "http://a.example/x", &[])).await;
    assert!(!is_there(&service, "http://a.example/created").await);
    assert!(is_there(&service, "http://b.example/created").await);
}

/// The service may have taken the request for either.
#[tokio::test]
async fn a_request_that_names_several_hosts_changes_all_of_them() {
    let others: [(&str, &[&[u8]]); 4] = [
        ("http://a.example/x?1", &[b"B.example"]),
        ("/x?1", &[b"a.example", b"b.example"]),
        ("/x?1", &[b"b.example", b"c/d", b"\xff", b"a.example"]),
        (
            "https://u@b.example/x?1",
            &[b"a.example:81", b"c.example", b"A.example"],
        ),
    ];
    for (uri, hosts) in others {
        let origin = Origin::default();
        let service = over(&origin, builder(&Clock::manual()));
        let all = ["a.example", "b.example"];
        let paths = ["/x?1", "/created", "/content"];
        let named = |host: &str, path: &str| get(&format!("http://{host}{path}"));
        for host in all {
            for path in paths {
                send(&service, named(host, path)).await;
            }
        }
        send(&service, get("http://other.example/x?1")).await;
        let mut change = http::Request::post(uri);
        for host in hosts {
            change = change.header("host", *host);
        }
        send(&service, change.body(axum::body::Body::empty()).unwrap()).await;
        for host in all {
            for path in paths.iter().filter(|path| **path != "/content") {
                let got = send(&service, named(host, path)).await;
                assert_eq!(got.x_cache(), "MISS", "{uri} {hosts:?}: {host}{path}");
            }
        }
        let got = send(&service, get("http://other.example/x?1")).await;
        assert_eq!(got.x_cache(), "HIT");
    }
}

#[tokio::test]
async fn what_rules_name() {
    let origin = Origin::default();
    let service = service(&origin);
    let all = ["/path?x=1", "/key", "/tag", "/prefix/a", "/other"];
    for path in all {
        send(&service, get(path)).await;
        assert!(is_there(&service, path).await, "{path}");
    }
    send(&service, request("PATCH", "/rule", &[])).await;
    for path in all {
        assert_eq!(is_there(&service, path).await, path == "/other", "{path}");
    }
}

/// The handler is through, so what it has changed is invalidated.
#[tokio::test]
async fn a_client_that_goes_away_meanwhile_leaves_nothing_old() {
    let (redis, origin) = (RedisServer::start().await, Origin::default());
    let cache = Cache::builder("test:http").redis(redis.url());
    let service = over(&origin, cache);
    let all = ["/rule", "/path?x=1", "/key", "/tag", "/prefix/a"];
    for path in all {
        send(&service, get(path)).await;
    }
    let mut change = service.clone().oneshot(request("PATCH", "/rule", &[]));
    let calls = origin.calls();
    while origin.calls() == calls {
        assert!(futures::poll!(&mut change).is_pending());
    }
    drop(change);
    for path in all {
        eventually("it is gone", async || {
            send(&service, get(path))
                .await
                .body
                .parse::<usize>()
                .unwrap()
                > calls
        })
        .await;
    }
}

/// As RFC 9111 says of the resource itself; a rule may look at the status.
#[tokio::test]
async fn a_request_that_is_sent_to_the_login_invalidates_unless_the_rule_looks() {
    for looks in [false, true] {
        let origin = Origin::default();
        let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
        let layer = layer.invalidate(move |_, response, found| {
            if !looks || response.status.is_success() {
                found.prefix("GET ");
            }
        });
        let service = layer.layer(origin.answering(|n, request| {
            let mut response = numbered(n, &[("cache-control", "max-age=60")]);
            if request.method == "POST" {
                *response.status_mut() = StatusCode::SEE_OTHER;
            }
            response
        }));
        for path in ["/own", "/other"] {
            send(&service, get(path)).await;
        }
        send(&service, request("POST", "/own", &[])).await;
        assert!(!is_there(&service, "/own").await);
        assert_eq!(is_there(&service, "/other").await, looks);
    }
}

/// A `key` rule leaves out what is secret.
#[tokio::test]
async fn subscribers_see_the_urls_of_keys() {
    let (server, origin) = (RedisServer::start().await, Origin::default());
    let client = redis::Client::open(server.url()).unwrap();
    let mut messages = client.get_async_pubsub().await.unwrap();
    messages.psubscribe("*").await.unwrap();
    let layer = CacheLayer::new(Cache::builder("test:http").redis(server.url())).unwrap();
    let layer = layer.key(|request| {
        let is_secret = request.uri.path() == "/left-out";
        let seen = if is_secret { "/left-out" } else { "/?token=7" };
        Some(seen.to_owned())
    });
    let inner = origin.answering(|n, _| numbered(n, &[("cache-control", "max-age=60")]));
    let service = layer.layer(inner);
    let mut messages = messages.on_message();
    for (path, is_seen) in [("/left-out?token=7", false), ("/?token=7", true)] {
        send(&service, get(path)).await;
        send(&service, request("POST", path, &[])).await;
        loop {
            let message = messages.next().await.unwrap();
            let message = message.get_payload_bytes().to_vec();
            let has = |text: &[u8]| message.windows(text.len()).any(|part| part == text);
            assert!(is_seen || !has(b"token=7"));
            if has(if is_seen { b"token=7" } else { b"left-out" }) {
                break;
            }
        }
    }
}
