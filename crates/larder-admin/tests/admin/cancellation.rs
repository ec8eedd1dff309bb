//! Clients that disconnect.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use futures::{FutureExt, StreamExt, stream};
use http::Method;
use larder::{Cache, Caches, MemoryL2, ServiceSettings};
use larder_admin::{Access, Admin};
use tower::ServiceExt;

use crate::fleet::{builder, request, two};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn a_change_that_has_begun_is_carried_out() {
    let mut redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    for path in ["key?key=tea", "prefix?prefix=t", "values"] {
        a.store("tea").await;
        b.prices.get("tea").await.unwrap();
        redis.pause();
        let path = format!("/test:price/{path}");
        let change = a.admin.clone().oneshot(request(Method::DELETE, &path, ""));
        assert!(change.now_or_never().is_none(), "Redis has not answered");
        redis.resume();
        eventually(&path, async || b.prices.get("tea").await.is_none()).await;
    }
}

/// All of them are begun in the first poll.
#[tokio::test]
async fn all_caches_are_cleared_although_the_client_is_gone() {
    let caches = Caches::with_l2("test", ServiceSettings::default(), MemoryL2::new());
    let build = |n: u64| {
        caches
            .cache::<u64, u64>(&n.to_string())
            .partitions(4)
            .build()
            .unwrap()
    };
    let all: Vec<Cache<u64, u64>> = (0..200).map(build).collect();
    caches.ready().await;
    for cache in &all {
        cache.insert(&7, 1).await.unwrap();
    }
    let admin = Admin::new(&caches, |_| Access::Change);
    let change = admin.oneshot(request(Method::DELETE, "/values", ""));
    assert!(
        change.now_or_never().is_none(),
        "the caches have not answered"
    );
    for (n, cache) in all.iter().enumerate() {
        eventually(&format!("{n} is cleared"), async || {
            cache.get(&7).await.is_none()
        })
        .await;
    }
    caches.close().await;
}

#[tokio::test]
async fn a_body_that_is_cut_off_changes_nothing() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    let part = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"false"))]);
    let body = Body::from_stream(part.chain(stream::pending()));
    let request = builder(Method::PUT, "/enabled").body(body).unwrap();
    let change = a.admin.clone().oneshot(request);
    assert!(change.now_or_never().is_none(), "the rest has not come");
    assert!(a.prices.is_enabled());
}
