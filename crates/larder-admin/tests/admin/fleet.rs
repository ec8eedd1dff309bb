//! Two instances of a service, each with its routes.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{HeaderMap, Method, Request, StatusCode, request};
use larder::{Cache, Caches, RedisL2, ServiceSettings};
use larder_admin::{Access, Admin};
use serde_json::{Value, from_slice};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::support::redis_server::RedisServer;

pub(crate) struct Instance {
    pub(crate) caches: Caches,
    pub(crate) prices: Cache<String, String>,
    pub(crate) stock: Cache<(String, u64), u64>,
    pub(crate) admin: Admin,
}

/// An answer, with its body as JSON: `Null` if it has none.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Instance {
    pub(crate) async fn start(redis: &RedisServer) -> Self {
        let l2 = RedisL2::open(redis.url()).unwrap();
        let instance = Self::of(Caches::with_l2("test", ServiceSettings::default(), l2));
        instance.caches.ready().await;
        instance
    }

    pub(crate) fn of(caches: Caches) -> Self {
        let prices = caches.cache("price").track_hot_keys(true);
        // Of keys of two parts, and with a slash in its name.
        let stock = caches.cache("stock/shelf").size_advice(true);
        Self {
            prices: prices.build().unwrap(),
            stock: stock.build().unwrap(),
            admin: Admin::new(&caches, |_| Access::Change),
            caches,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(&self.admin, request(Method::GET, path, "")).await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Answer {
        send(&self.admin, request(Method::PUT, path, body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(&self.admin, request(Method::DELETE, path, "")).await
    }

    /// Stores a value whose text is in no answer.
    pub(crate) async fn store(&self, key: &str) {
        self.prices.insert(key, SECRET.to_owned()).await.unwrap();
    }
}

/// Generous, because a busy test machine is no reason to fail.
const LIMIT: Duration = Duration::from_secs(30);
/// The value of each price.
pub(crate) const SECRET: &str = "a value that no route shows";

pub(crate) async fn two(redis: &RedisServer) -> [Instance; 2] {
    [Instance::start(redis).await, Instance::start(redis).await]
}

pub(crate) fn builder(method: Method, path: &str) -> request::Builder {
    let json = ("content-type", "application/json");
    Request::builder()
        .method(method)
        .uri(path)
        .header(json.0, json.1)
}

pub(crate) fn request(method: Method, path: &str, body: &str) -> Request<Body> {
    builder(method, path)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

pub(crate) async fn send(admin: &Admin, request: Request<Body>) -> Answer {
    let answered = timeout(LIMIT, admin.clone().oneshot(request)).await;
    let Ok(response) = answered.expect("no request waits for so long");
    let (head, body) = response.into_parts();
    let bytes = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains(SECRET));
    assert_eq!(head.headers["cache-control"], "no-store");
    Answer {
        status: head.status,
        body: if bytes.is_empty() {
            Value::Null
        } else {
            from_slice(&bytes).unwrap()
        },
        headers: head.headers,
    }
}

impl Answer {
    /// Succeeded, with this body.
    pub(crate) fn shown(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/json");
        assert_eq!(self.headers["x-content-type-options"], "nosniff");
        self.body
    }

    /// The change is carried out, and there is no more to say.
    pub(crate) fn done(self) {
        assert_eq!(
            (self.status.as_u16(), &self.body),
            (204, &Value::Null),
            "{self:?}"
        );
    }

    /// Failed with this status, and a line with this text.
    pub(crate) fn failed(&self, status: u16, text: &str) {
        let line = self.body["error"].as_str().unwrap_or_default();
        assert!(
            self.status == status && line.contains(text),
            "{status} {text}: {self:?}"
        );
        assert!(!line.contains('\n') && !line.contains("redis://"), "{line}");
    }
}
