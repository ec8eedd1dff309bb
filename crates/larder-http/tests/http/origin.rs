//! An inner service that counts, and what the tests ask of it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, request};
use larder::{Builder, Cache, Clock};
use larder_http::{CacheLayer, CacheService, CachedResponse};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};

type Answer =
    Arc<dyn Fn(usize, request::Parts) -> BoxFuture<'static, Response<Body>> + Send + Sync>;
pub(crate) type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;
pub(crate) type Service = CacheService<Inner>;

/// What the inner service was asked.
#[derive(Clone, Default)]
pub(crate) struct Origin {
    calls: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<request::Parts>>>,
}

impl Origin {
    /// A service that answers the n-th request, from 1, at once.
    pub(crate) fn answering(
        &self,
        answer: impl Fn(usize, &request::Parts) -> Response<Body> + Send + Sync + 'static,
    ) -> Inner {
        self.serving(move |n, request| {
            let response = answer(n, &request);
            Box::pin(async move { response })
        })
    }

    pub(crate) fn serving(
        &self,
        answer: impl Fn(usize, request::Parts) -> BoxFuture<'static, Response<Body>>
        + Send
        + Sync
        + 'static,
    ) -> Inner {
        let (origin, answer): (_, Answer) = (self.clone(), Arc::new(answer));
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let n = origin.calls.fetch_add(1, Ordering::SeqCst) + 1;
            let (parts, _) = request.into_parts();
            origin.requests.lock().unwrap().push(parts.clone());
            let answered = answer(n, parts);
            async move { Ok(answered.await) }
        }))
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn last(&self) -> request::Parts {
        self.requests.lock().unwrap().last().unwrap().clone()
    }
}

/// The body `n`, with these headers.
pub(crate) fn numbered(n: usize, headers: &[(&str, &str)]) -> Response<Body> {
    let mut response = Response::builder();
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Body::from(n.to_string())).unwrap()
}

pub(crate) fn builder(clock: &Clock) -> Builder<String, CachedResponse> {
    // No jitter, so that a test can say when something is stale.
    Cache::builder("test:http")
        .clock(clock.clone())
        .jitter(0.0)
        .stale_if_error(std::time::Duration::from_secs(3600))
        .fallback_throttle(std::time::Duration::ZERO)
}

/// The usual layer around `inner`, with a cache without L2.
pub(crate) fn layered(clock: &Clock, inner: Inner) -> Service {
    CacheLayer::new(builder(clock)).unwrap().layer(inner)
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn x_cache(&self) -> &str {
        self.header("x-cache")
    }
}

pub(crate) fn get(uri: &str) -> Request<Body> {
    with(uri, &[])
}

pub(crate) fn with(uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    request("GET", uri, headers)
}

pub(crate) fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    if uri.starts_with('/') {
        request = request.header("host", "shop.example");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

pub(crate) async fn send(service: &Service, request: Request<Body>) -> Got {
    let response = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    Got {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}
