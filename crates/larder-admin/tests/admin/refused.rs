//! What is refused: clients without access, methods, forms, and input that makes no sense.

use std::io;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use futures::stream;
use http::{Method, Request};
use larder_admin::{Access, Admin};
use serde_json::Value;

use crate::fleet::{Instance, builder, request, send, two};
use crate::support::redis_server::RedisServer;

/// Every path, and the methods that it takes.
const PATHS: [(&str, &[&str]); 25] = [
    ("/", &["GET", "HEAD"]),
    ("/test:price", &["GET", "HEAD"]),
    ("/test:price/", &["GET", "HEAD"]),
    ("/test:price/global_stats", &["GET", "HEAD"]),
    ("/test:price/hot_keys", &["GET", "HEAD"]),
    ("/test:price/local_keys", &["GET", "HEAD"]),
    ("/test:price/mismatches", &["GET", "HEAD"]),
    ("/test:price/key?key=tea", &["GET", "HEAD", "DELETE"]),
    ("/test:price/enabled", &["PUT"]),
    ("/test:price/share", &["PUT"]),
    ("/test:price/enabled_everywhere", &["PUT"]),
    ("/test:price/max_concurrent_loads", &["PUT"]),
    ("/test:price/l1_capacity", &["PUT"]),
    ("/test:price/bypass", &["PUT", "DELETE"]),
    ("/test:price/values", &["DELETE"]),
    ("/test:price/tag?tag=x", &["DELETE"]),
    ("/test:price/prefix?prefix=x", &["DELETE"]),
    ("/enabled", &["PUT"]),
    ("/enabled_everywhere", &["PUT"]),
    ("/share", &["PUT"]),
    ("/values", &["DELETE"]),
    ("/tag?tag=x", &["DELETE"]),
    // These are no paths.
    ("/test:none", &[]),
    ("/none", &[]),
    ("/test:price/none", &[]),
];

const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW",
];

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).unwrap()
}

/// None of the requests has changed anything.
async fn unchanged(instance: &Instance) {
    let all = instance.get("/").await.shown();
    for cache in all.as_array().unwrap() {
        assert_eq!(
            (&cache["enabled"], &cache["share"]),
            (&true.into(), &1.0.into())
        );
    }
    assert!(instance.prices.get("tea").await.is_some());
    assert_eq!(instance.prices.stats().writes_deferred, 0);
}

#[tokio::test]
async fn a_client_without_access_gets_nothing() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    let denied = Admin::new(&a.caches, |_| Access::Denied);
    for (path, _) in PATHS {
        for name in METHODS {
            let answer = send(&denied, request(method(name), path, "false")).await;
            assert_eq!(
                (answer.status.as_u16(), answer.body),
                (403, Value::Null),
                "{name} {path}"
            );
            // The same for each path, and nothing of it.
            let headers: Vec<_> = answer
                .headers
                .keys()
                .map(http::HeaderName::as_str)
                .collect();
            assert_eq!(headers, ["cache-control"], "{name} {path}");
        }
    }
    unchanged(&a).await;
}

#[tokio::test]
async fn a_client_that_may_read_changes_nothing() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    let reading = Admin::new(&a.caches, |_| Access::Read);
    for (path, methods) in PATHS {
        for name in methods {
            let answer = send(&reading, request(method(name), path, "false")).await;
            if ["GET", "HEAD"].contains(name) {
                answer.shown();
            } else {
                answer.failed(403, "may read");
            }
        }
    }
    unchanged(&a).await;
}

#[tokio::test]
async fn access_is_decided_by_the_head_of_the_request() {
    #[derive(Clone)]
    struct Operator(Access);

    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let admin = Admin::new(&a.caches, move |head| {
        seen.lock()
            .unwrap()
            .push((head.method.clone(), head.uri.to_string()));
        // As a layer in front leaves it, or by a header.
        let operator = head.extensions.get::<Operator>();
        let is_known = head
            .headers
            .get("authorization")
            .is_some_and(|value| value == "known");
        operator.map_or(
            if is_known {
                Access::Read
            } else {
                Access::Denied
            },
            |it| it.0,
        )
    });
    let ask = async |access: Option<Access>, header: &str| {
        let mut request = builder(Method::PUT, "/enabled").header("authorization", header);
        if let Some(access) = access {
            request = request.extension(Operator(access));
        }
        send(&admin, request.body(Body::from("true")).unwrap())
            .await
            .status
            .as_u16()
    };
    assert_eq!(ask(None, "").await, 403);
    assert_eq!(ask(None, "known").await, 403);
    assert_eq!(ask(Some(Access::Denied), "known").await, 403);
    assert_eq!(ask(Some(Access::Change), "").await, 204);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[..], vec![(Method::PUT, "/enabled".to_owned()); 4]);
}

#[tokio::test]
async fn each_path_has_its_methods() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    for (path, methods) in PATHS {
        for name in METHODS.iter().filter(|name| !methods.contains(name)) {
            let answer = send(&a.admin, request(method(name), path, "false")).await;
            if methods.is_empty() {
                answer.failed(404, "there is no such");
            } else {
                answer.failed(405, "this path takes");
                assert_eq!(answer.headers["allow"], methods.join(", "), "{name} {path}");
            }
        }
    }
    unchanged(&a).await;
}

#[tokio::test]
async fn other_paths_are_not_found() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    for path in [
        "/test:stock/shelf",
        "/price",
        "/test:",
        "/TEST:price",
        "/test:price/key/",
        "/test:price//",
        "/test:price/enabled/true",
        "/enabled/",
        "/key?key=tea",
        "/prefix?prefix=x",
        "/max_concurrent_loads",
        "/l1_capacity",
        "/bypass",
        "/%",
        "/%FF:price",
        "/%65nabled",
        "*",
    ] {
        for name in ["GET", "PUT", "DELETE"] {
            send(&a.admin, request(method(name), path, ""))
                .await
                .failed(404, "there is no such");
        }
    }
}

/// Forms send these types, and so do scripts of other origins without a question before.
#[tokio::test]
async fn a_change_needs_a_type_that_no_form_has() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    let ask = async |name: &str, path: &str, kind: Option<&str>| {
        let mut asked = Request::builder().method(method(name)).uri(path);
        if let Some(kind) = kind {
            asked = asked.header("content-type", kind);
        }
        send(&a.admin, asked.body(Body::from("false")).unwrap()).await
    };
    for (path, methods) in PATHS {
        for name in methods
            .iter()
            .filter(|name| ["PUT", "DELETE"].contains(name))
        {
            for kind in [
                None,
                Some(""),
                Some("text/plain"),
                Some("application/x-www-form-urlencoded"),
                Some("multipart/form-data; boundary=application/json"),
                Some("application/jsonp"),
                Some("text/plain; application/json"),
            ] {
                ask(name, path, kind)
                    .await
                    .failed(415, "content-type: application/json");
            }
        }
    }
    unchanged(&a).await;
    for kind in ["application/json; charset=utf-8", "Application/JSON ;x"] {
        ask("PUT", "/enabled", Some(kind)).await.done();
        assert!(!a.prices.is_enabled());
        a.put("/enabled", "true").await.done();
    }
}

#[tokio::test]
async fn bodies_that_make_no_sense() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    for (path, expected, bodies) in [
        (
            "enabled",
            "true or false",
            &[
                "",
                "0",
                "null",
                "\"true\"",
                "{",
                "true false",
                "{\"enabled\":true}",
            ][..],
        ),
        (
            "share",
            "from 0.0 to 1.0",
            &[
                "", "-0.1", "1.01", "null", "NaN", "1e400", "\"0.5\"", "true", "[0.5]",
            ],
        ),
        (
            "max_concurrent_loads",
            "from 1 on",
            &["", "0", "-1", "1.5", "99999999999999999999999", "true"],
        ),
        (
            "l1_capacity",
            "a whole number",
            &["", "-1", "1.5", "99999999999999999999999", "true"],
        ),
        (
            "enabled_everywhere",
            "true or false",
            &["", "1", "\"true\""],
        ),
        (
            "bypass",
            "{\"key\":KEY} or {\"prefix\":PREFIX}",
            &[
                "",
                "\"k\"",
                "{}",
                "{\"key\":1}",
                "{\"tag\":\"t\"}",
                "{\"prefix\":\"\"}",
            ],
        ),
    ] {
        for body in bodies {
            let answer = a.put(&format!("/test:price/{path}"), body).await;
            answer.failed(400, expected);
            if !["max_concurrent_loads", "l1_capacity", "bypass"].contains(&path) {
                a.put(&format!("/{path}"), body).await.failed(400, expected);
            }
        }
    }
    unchanged(&a).await;
}

#[tokio::test]
async fn queries_that_make_no_sense() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    let long = format!("key={}", "x".repeat(1_025));
    for (path, query, expected) in [
        ("key", "", "lacks key"),
        ("key", "&", "lacks key"),
        ("key", "tea", "takes only the query key"),
        ("key", "keys=tea", "takes only the query key"),
        ("key", "key=tea&most=1", "takes only the query key"),
        ("key", "key=tea&key=milk", "more than once"),
        ("key", "key=%FF", "percent-encoded"),
        ("key", "key=%2", "percent-encoded"),
        ("key", "%=tea", "percent-encoded"),
        ("key", &long, "1024 bytes"),
        ("tag", "", "lacks tag"),
        ("tag", &long.replace("key", "tag"), "1024 bytes"),
        ("prefix", "", "lacks prefix"),
        ("prefix", "prefix=", "is empty"),
        ("prefix", &long.replace("key", "prefix"), "1024 bytes"),
        ("values", "key=tea", "takes no query"),
        ("values", "tag=x", "takes no query"),
        ("enabled", "enabled=false", "takes no query"),
        ("hot_keys", "most=0", "from 1 to 1000"),
        ("hot_keys", "most=1001", "from 1 to 1000"),
        ("local_keys", "most=-1", "from 1 to 1000"),
        ("local_keys", "most=1001", "from 1 to 1000"),
        ("local_keys", "most=", "from 1 to 1000"),
        ("local_keys", "most=99999999999999999999", "from 1 to 1000"),
        ("local_keys", "key=1", "takes only the query most"),
        ("", "most=1", "takes no query"),
    ] {
        let path = format!("/test:price/{path}?{query}");
        let mut answered = 0;
        for name in METHODS {
            let answer = send(&a.admin, request(method(name), &path, "false")).await;
            if answer.status != 405 {
                answer.failed(400, expected);
                answered += 1;
            }
        }
        assert!(answered > 0, "{path}");
    }
    a.get("/?most=1").await.failed(400, "takes no query");
    a.delete("/tag").await.failed(400, "lacks tag");
    unchanged(&a).await;
}

/// A body of this length, which says `false`.
fn off(length: usize) -> Bytes {
    let mut bytes = b"false".to_vec();
    bytes.resize(length, b' ');
    bytes.into()
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    const MOST: usize = 64 << 10;
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    let ask = async |body| {
        let request = builder(Method::PUT, "/test:price/enabled")
            .body(body)
            .unwrap();
        send(&a.admin, request).await
    };
    let in_parts = |parts: Vec<Bytes>| {
        Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, io::Error>)))
    };
    ask(Body::from(off(MOST + 1))).await.failed(413, "64 KiB");
    let parts = vec![
        off(MOST / 2),
        Bytes::from(vec![b' '; MOST / 2]),
        Bytes::from_static(b" "),
    ];
    ask(in_parts(parts)).await.failed(413, "64 KiB");
    // It is not read to its end, if it has one.
    let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(b"        ")));
    ask(Body::from_stream(endless)).await.failed(413, "64 KiB");
    let broken = stream::iter([Ok(off(5)), Err(io::Error::other("a secret"))]);
    let answer = ask(Body::from_stream(broken)).await;
    answer.failed(400, "could not be read");
    assert!(!answer.body.to_string().contains("secret"));
    unchanged(&a).await;
    ask(Body::from(off(MOST))).await.done();
    assert!(!a.prices.is_enabled());
    a.put("/enabled", "true").await.done();
    let parts = vec![off(MOST / 2), Bytes::from(vec![b' '; MOST / 2])];
    ask(in_parts(parts)).await.done();
    assert!(!a.prices.is_enabled());
}

/// Such as one that never ends: only PUT has one that counts.
#[tokio::test]
async fn the_body_of_other_methods_is_not_read() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    let ask = async |name, path| {
        let never = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        send(&a.admin, builder(method(name), path).body(never).unwrap()).await
    };
    ask("GET", "/").await.shown();
    ask("DELETE", "/test:price/key?key=tea").await.done();
    // Nor is that of a request that is refused.
    ask("PUT", "/none").await.failed(404, "there is no such");
    ask("PUT", "/enabled?x").await.failed(400, "takes no query");
}
