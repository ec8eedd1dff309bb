//! Several instances on a real Redis, and a Redis that is gone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::{StreamExt, stream};
use http::Response;
use larder::{Builder, Cache, Mode, RedisL2};
use larder_http::{CacheLayer, CachedResponse};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt};

use crate::origin::{Origin, Service, get, numbered, request, send, with};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

fn cache(redis: &RedisServer) -> Builder<String, CachedResponse> {
    Cache::builder("test:http")
        .l2(RedisL2::open(redis.url()).unwrap())
        .max_staleness(Duration::from_millis(500))
}

async fn instance(cache: Builder<String, CachedResponse>, origin: &Origin) -> Service {
    let layer = CacheLayer::new(cache).unwrap();
    layer.cache().ready().await;
    let layer = layer.tags(|_, _| vec!["all".to_owned()]);
    layer.layer(origin.answering(|n, _| {
        numbered(
            n,
            &[
                ("cache-control", "max-age=60"),
                ("vary", "accept-language"),
                ("x-n", "ä"),
            ],
        )
    }))
}

#[tokio::test]
async fn instances_share_what_is_stored_and_what_is_invalidated() {
    for mode in [
        Mode::Strict,
        Mode::Available {
            limit: Duration::from_secs(60),
        },
    ] {
        let redis = RedisServer::start().await;
        let origin = Origin::default();
        let a = instance(cache(&redis).mode(mode), &origin).await;
        let b = instance(cache(&redis).mode(mode), &origin).await;
        let first = send(&a, get("/")).await;
        let second = send(&b, get("/")).await;
        assert_eq!((second.body.as_str(), second.x_cache()), ("1", "HIT"));
        assert_eq!(second.headers.get("x-n"), first.headers.get("x-n"));
        assert_eq!(
            send(&b, with("/", &[("accept-language", "de")])).await.body,
            "2"
        );
        assert_eq!(
            send(&a, with("/", &[("accept-language", "de")])).await.body,
            "2"
        );
        // Request and invalidation are through before the answer.
        send(&b, request("POST", "/", &[])).await;
        assert_eq!(send(&b, get("/")).await.body, "4");
        eventually("the other instance has it", async || {
            send(&a, get("/")).await.body == "4"
        })
        .await;
        assert_eq!(origin.calls(), 4);
    }
}

#[tokio::test]
async fn in_shadow_the_inner_service_answers_each_request() {
    let redis = RedisServer::start().await;
    let origin = Origin::default();
    let service = instance(cache(&redis).mode(Mode::Shadow), &origin).await;
    let german = || with("/", &[("accept-language", "de")]);
    for n in 1..=3 {
        assert_eq!(send(&service, get("/")).await.body, (2 * n - 1).to_string());
        assert_eq!(send(&service, german()).await.body, (2 * n).to_string());
    }
}

#[tokio::test]
async fn without_redis_the_inner_service_answers() {
    let mut redis = RedisServer::start().await;
    let origin = Origin::default();
    let service = instance(cache(&redis), &origin).await;
    send(&service, get("/")).await;
    redis.kill();
    eventually("nothing proves that it is current", async || {
        let got = send(&service, get("/")).await;
        assert_eq!(got.status, 200);
        got.x_cache() == "MISS"
    })
    .await;
    assert_eq!(send(&service, request("POST", "/", &[])).await.status, 200);
}

#[tokio::test]
async fn without_redis_an_available_instance_says_that_it_is_stale() {
    let mut redis = RedisServer::start().await;
    let origin = Origin::default();
    let mode = Mode::Available {
        limit: Duration::from_secs(60),
    };
    let service = instance(cache(&redis).mode(mode), &origin).await;
    send(&service, get("/")).await;
    redis.kill();
    eventually("it is flagged", async || {
        let got = send(&service, get("/")).await;
        assert_eq!(got.body, "1");
        got.x_cache() == "STALE"
    })
    .await;
    send(&service, request("POST", "/", &[])).await;
    assert_ne!(
        send(&service, get("/")).await.body,
        "1",
        "it was invalidated here"
    );
}

#[tokio::test]
async fn a_change_without_redis_reaches_the_other_instances_when_redis_is_back() {
    let mut redis = RedisServer::start().await;
    let origin = Origin::default();
    let a = instance(cache(&redis), &origin).await;
    let b = instance(cache(&redis), &origin).await;
    send(&a, get("/")).await;
    assert_eq!(send(&b, get("/")).await.x_cache(), "HIT");
    redis.pause();
    assert_eq!(send(&a, request("POST", "/", &[])).await.status, 200);
    assert_ne!(send(&a, get("/")).await.body, "1");
    redis.resume();
    eventually("both have the new response", async || {
        let (on_a, on_b) = (send(&a, get("/")).await, send(&b, get("/")).await);
        assert_ne!(on_a.body, "1");
        on_b.body == on_a.body && (on_a.x_cache(), on_b.x_cache()) == ("HIT", "HIT")
    })
    .await;
}

#[tokio::test]
async fn an_instance_gets_a_body_that_another_one_has_passed_on() {
    let redis = RedisServer::start().await;
    let (origin, sent) = (Origin::default(), Arc::new(Semaphore::new(0)));
    let opened = Arc::clone(&sent);
    let inner = origin.answering(move |_, _| {
        let opened = Arc::clone(&opened);
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from("first"))]);
        let second = stream::once(async move {
            opened.acquire().await.unwrap().forget();
            Ok(Bytes::from("second"))
        });
        let response = Response::builder().header("cache-control", "max-age=60");
        let body = Body::from_stream(first.chain(second));
        response.body(body).unwrap()
    });
    let mut services = Vec::new();
    for _ in 0..2 {
        // For a machine that is busy.
        let layer = CacheLayer::new(cache(&redis).lease_wait(Duration::from_secs(60))).unwrap();
        layer.cache().ready().await;
        let layer = layer.body_timeout(Duration::from_secs(60));
        services.push((layer.cache().clone(), layer.layer(inner.clone())));
    }
    let [(_, a), (cache, b)] = &services[..] else {
        panic!("two instances");
    };
    let response = a.clone().oneshot(get("/")).await.unwrap();
    let mut body = Body::new(response.into_body()).into_data_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "first");
    let on_b = tokio::spawn({
        let b = b.clone();
        async move { send(&b, get("/")).await }
    });
    eventually("it waits", async || cache.stats().l2_misses > 0).await;
    sent.add_permits(1);
    assert_eq!(body.next().await.unwrap().unwrap(), "second");
    assert_eq!(on_b.await.unwrap().body, "firstsecond");
    assert_eq!(origin.calls(), 1);
}
