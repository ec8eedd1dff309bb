//! The rules of a layer: which requests and responses it handles, how, and in which cache.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::HeaderName;
use ::http::uri::Scheme;
use ::http::{request, response};

use super::invalidations::Invalidations;
use super::stored::{self, CachedResponse};
use crate::Cache;

type OfRequest<T> = Arc<dyn Fn(&request::Parts) -> T + Send + Sync>;
type OfBoth<T> = Arc<dyn Fn(&request::Parts, &response::Parts) -> T + Send + Sync>;
type Invalidate = Arc<dyn Fn(&request::Parts, &response::Parts, &mut Invalidations) + Send + Sync>;

#[derive(Clone)]
pub(super) struct Rules {
    pub(super) cache: Cache<String, CachedResponse>,
    pub(super) name: Arc<str>,
    pub(super) condition: OfRequest<bool>,
    pub(super) prefix: OfRequest<String>,
    pub(super) key: Option<OfRequest<Option<String>>>,
    pub(super) scheme: OfRequest<Option<Scheme>>,
    pub(super) store_if: OfBoth<bool>,
    pub(super) store_private: OfBoth<bool>,
    pub(super) ttl: OfBoth<Option<Duration>>,
    pub(super) tags: OfBoth<Vec<String>>,
    pub(super) invalidate: Invalidate,
    /// The fields that are looked at before `Cache-Control`, in this order.
    pub(super) targeted: Arc<[HeaderName]>,
    pub(super) sorts_query: bool,
    pub(super) obeys_requests: bool,
    pub(super) looks_up_authorized: bool,
    pub(super) body_limit: usize,
    pub(super) body_timeout: Duration,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    pub(super) uncacheable_for: Duration,
}

impl Rules {
    pub(super) fn new(cache: Cache<String, CachedResponse>) -> Self {
        Self {
            cache,
            name: "larder".into(),
            condition: Arc::new(|_| true),
            prefix: Arc::new(|_| String::new()),
            key: None,
            scheme: Arc::new(|request| request.uri.scheme().cloned()),
            store_if: Arc::new(|_, _| true),
            store_private: Arc::new(|_, _| false),
            ttl: Arc::new(|_, _| None),
            tags: Arc::new(|_, _| Vec::new()),
            invalidate: Arc::new(|_, _, _| {}),
            targeted: Arc::default(),
            sorts_query: true,
            obeys_requests: false,
            looks_up_authorized: false,
            body_limit: 1 << 20,
            body_timeout: Duration::from_secs(5),
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            uncacheable_for: Duration::from_secs(5),
        }
    }

    /// By which scheme a request was sent. `None` if its response cannot be stored by it.
    pub(super) fn scheme_of(&self, request: &request::Parts) -> Option<stored::Scheme> {
        match (self.scheme)(request) {
            None => Some(stored::Scheme::Unknown),
            Some(scheme) if scheme == Scheme::HTTP => Some(stored::Scheme::Http),
            Some(scheme) if scheme == Scheme::HTTPS => Some(stored::Scheme::Https),
            Some(_) => None,
        }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("name", &self.name)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}
