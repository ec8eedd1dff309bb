//! How much memory the responses take that L1 holds. A test binary of its own, as it counts the allocations of its thread.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::convert::Infallible;

use axum::body::{Body, to_bytes};
use http::{HeaderName, Request, Response};
use larder::Cache;
use larder_http::CacheLayer;
use tokio::runtime::Builder;
use tower::{Layer, ServiceExt};

/// Clients choose how many responses there are, how large they are, and what they depend on. The bound is not sharp:
/// see the documentation of the layer.
#[test]
fn responses_take_about_the_bytes_that_l1_may_hold() {
    const CAPACITY: u64 = 2 << 20;
    for (name, requests, body, lines, value, is_varied) in [
        ("404", 4_000, 0, 1, 1, false),
        ("short", 2_000, 300, 12, 20, false),
        ("headers", 200, 0, 100, 100, false),
        ("assets", 60, 100_000, 5, 20, false),
        ("variants", 1_200, 10, 1, 4_000, true),
    ] {
        let layer = CacheLayer::new(Cache::builder("test:bytes").l1_capacity(CAPACITY)).unwrap();
        let service = layer.layer(tower::service_fn(move |_: Request<Body>| {
            let mut response = Response::builder().header("cache-control", "max-age=60");
            for n in 1..lines {
                let name = HeaderName::try_from(format!("x-{n}")).unwrap();
                response = response.header(name, "x".repeat(value));
            }
            if is_varied {
                response = response.header("vary", "x-long");
            }
            let response = response.body(Body::from(vec![b'x'; body])).unwrap();
            async move { Ok::<_, Infallible>(response) }
        }));
        // One for each, whose last tasks end with it: they would keep the responses until the next one runs.
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let taken = allocation_counter::measure(|| {
            runtime.block_on(async {
                for n in 0..requests {
                    let path = if is_varied { 0 } else { n };
                    let long = format!("{n}{}", "x".repeat(value));
                    let request = Request::get(format!("http://shop.example/{path}"));
                    let request = request.header("x-long", long).body(Body::empty()).unwrap();
                    let response = service.clone().oneshot(request).await.unwrap();
                    to_bytes(Body::new(response.into_body()), usize::MAX)
                        .await
                        .unwrap();
                }
            });
        });
        // At most 64 that are not evicted yet.
        let each = u64::try_from(body + lines * (value + 250) + 6_000).unwrap();
        let bytes = CAPACITY / 2..CAPACITY * 9 / 8 + 64 * each;
        assert!(bytes.contains(&taken.bytes_max), "{name}: {taken:?}");
    }
}
