//! The layer: its rules say which requests and responses it handles, how, and in which cache.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::HeaderName;
use ::http::{request, response, uri};
use larder::{BuildError, Builder, Cache};

use super::invalidated::InvalidatedResponses;
use super::stored::{CachedResponse, Scheme};

/// Bytes of L1, unless the builder says so.
const L1_BYTES: u64 = 64 << 20;

type OfRequest<T> = Arc<dyn Fn(&request::Parts) -> T + Send + Sync>;
type OfBoth<T> = Arc<dyn Fn(&request::Parts, &response::Parts) -> T + Send + Sync>;
type Invalidate =
    Arc<dyn Fn(&request::Parts, &response::Parts, &mut InvalidatedResponses) + Send + Sync>;

/// Caches the responses of a service. See the [module](super).
///
/// Cheap to clone. Clones share the stored responses, also if their rules are changed afterwards.
#[derive(Clone)]
#[must_use = "it does nothing until it is put around a service"]
pub struct CacheLayer {
    pub(super) cache: Cache<String, CachedResponse>,
    pub(super) condition: OfRequest<bool>,
    pub(super) prefix: OfRequest<String>,
    pub(super) key: Option<OfRequest<Option<String>>>,
    pub(super) scheme: OfRequest<Option<uri::Scheme>>,
    pub(super) sort_query: bool,
    pub(super) store_if: OfBoth<bool>,
    pub(super) store_private: OfBoth<bool>,
    pub(super) authorized: bool,
    pub(super) ttl: OfBoth<Option<Duration>>,
    pub(super) tags: OfBoth<Vec<String>>,
    pub(super) invalidate: Invalidate,
    pub(super) targeted: Arc<[HeaderName]>,
    pub(super) obey_requests: bool,
    pub(super) body_limit: usize,
    pub(super) body_timeout: Duration,
    pub(super) stale_while_revalidate: Duration,
    pub(super) stale_if_error: Duration,
    pub(super) uncacheable_for: Duration,
    pub(super) name: Arc<str>,
}

impl CacheLayer {
    /// Builds a cache, and a layer that stores responses in it, by the rules of RFC 9111 for a shared cache. Clients
    /// choose how many entries there are and how large, so L1 is bounded in bytes:
    /// [`l1_capacity_bytes`](Builder::l1_capacity_bytes) is 64 MiB unless set. A number that is set by
    /// [`l1_capacity`](Builder::l1_capacity) is one of bytes, too, unless there is an
    /// [`l1_weigher`](Builder::l1_weigher).
    ///
    /// Responses bring their own TTLs. Of the options of the builder, `stale_if_error` and `error_ttl` are of use here,
    /// and [`verify`](Builder::verify) is not: each response has another date.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::Cache;
    /// use larder_http::CacheLayer;
    ///
    /// // In a service also `.redis("redis://127.0.0.1:6379")`.
    /// let layer = CacheLayer::new(Cache::builder("shop:http").l1_capacity_bytes(256 << 20))?;
    /// let cache = layer.cache().clone();
    /// cache.invalidate_prefix("GET shop.example/products").await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Builder::build`].
    pub fn new(builder: Builder<String, CachedResponse>) -> Result<Self, BuildError> {
        // A response that weighs more than a `u32` can say fits into no L1.
        let weigh = |key: &str, response: &CachedResponse| {
            u32::try_from(key.len() + response.size()).unwrap_or(u32::MAX)
        };
        Ok(Self::over(builder.or_weighed(L1_BYTES, weigh).build()?))
    }

    /// A layer with the default of each rule.
    fn over(cache: Cache<String, CachedResponse>) -> Self {
        Self {
            cache,
            condition: Arc::new(|_| true),
            prefix: Arc::new(|_| String::new()),
            key: None,
            scheme: Arc::new(|request| request.uri.scheme().cloned()),
            sort_query: true,
            store_if: Arc::new(|_, _| true),
            store_private: Arc::new(|_, _| false),
            authorized: false,
            ttl: Arc::new(|_, _| None),
            tags: Arc::new(|_, _| Vec::new()),
            invalidate: Arc::new(|_, _, _| {}),
            targeted: Arc::default(),
            obey_requests: false,
            body_limit: 1 << 20,
            body_timeout: Duration::from_secs(5),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            uncacheable_for: Duration::from_secs(5),
            name: "larder".into(),
        }
    }

    /// The cache of the layer: to invalidate resources that change without a request, and for its counters.
    #[must_use]
    pub fn cache(&self) -> &Cache<String, CachedResponse> {
        &self.cache
    }

    /// By which scheme a request was sent. `None` if its response cannot be stored by it.
    pub(super) fn scheme_of(&self, request: &request::Parts) -> Option<Scheme> {
        match (self.scheme)(request) {
            None => Some(Scheme::Unknown),
            Some(scheme) if scheme == uri::Scheme::HTTP => Some(Scheme::Http),
            Some(scheme) if scheme == uri::Scheme::HTTPS => Some(Scheme::Https),
            Some(_) => None,
        }
    }
}

impl CacheLayer {
    /// Which GET and HEAD requests the layer handles. If the condition returns `false`, the request goes to the inner
    /// service by itself, and its response is not stored. Default: all.
    ///
    /// Whatever the condition returns, requests with `Authorization` (unless [`authorized`](Self::authorized) is set),
    /// `Range`, `If-Match`, `If-Range`, `If-Unmodified-Since`, `Upgrade` or a body are not handled.
    ///
    /// For a service that answers by cookies and does not say so in `Vary`:
    ///
    /// ```
    /// # fn demo(layer: larder_http::CacheLayer) -> larder_http::CacheLayer {
    /// layer.condition(|request| !request.headers.contains_key(http::header::COOKIE))
    /// # }
    /// ```
    pub fn condition(
        mut self,
        condition: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.condition = Arc::new(condition);
        self
    }

    /// The text that keys begin with, such as the tenant. Default: none.
    ///
    /// The layer also calls this rule, as it calls [`key`](Self::key), with a request for another path and the method
    /// GET, to invalidate the response of that path.
    pub fn prefix(
        mut self,
        prefix: impl Fn(&request::Parts) -> String + Send + Sync + 'static,
    ) -> Self {
        self.prefix = Arc::new(prefix);
        self
    }

    /// The key of a request, after the prefix; `None`: it is not cached. Default: `GET shop.example/products?a=1&b=2`,
    /// see [keys](super#keys).
    ///
    /// The layer also calls this rule with a request for another path and the method GET, to invalidate the response of
    /// that path. Variants (`Vary`) have longer keys. A response whose key is longer than
    /// [`MAX_KEY_BYTES`](larder::key::MAX_KEY_BYTES) less 34 is not cached.
    pub fn key(
        mut self,
        key: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.key = Some(Arc::new(key));
        self
    }

    /// The scheme by which a client has sent a request; `None` if the scheme is not known. Default: the scheme of the
    /// request's URI, as HTTP/2 has it.
    ///
    /// The scheme is no part of the key, so an invalidation reaches the responses to requests by any scheme. But a
    /// response is only used for requests by its scheme. Requests by other schemes than `http` and `https` go to the
    /// inner service.
    ///
    /// Set this rule if clients reach the service by TLS, or by a proxy that ends TLS. By default the layer ignores
    /// `X-Forwarded-Proto` and `Forwarded`, as a client could send them. A proxy has to replace these headers:
    ///
    /// ```
    /// # fn demo(layer: larder_http::CacheLayer) -> larder_http::CacheLayer {
    /// layer.scheme(|request| {
    ///     let scheme = request.headers.get("x-forwarded-proto")?;
    ///     scheme.as_bytes().try_into().ok()
    /// })
    /// # }
    /// ```
    ///
    /// A redirect of a resource to itself is only stored if it leads to another scheme, and the scheme of the request
    /// is known: otherwise the stored redirect could lead clients in a circle.
    pub fn scheme(
        mut self,
        scheme: impl Fn(&request::Parts) -> Option<uri::Scheme> + Send + Sync + 'static,
    ) -> Self {
        self.scheme = Arc::new(scheme);
        self
    }

    /// Whether the default key has the parts of the query sorted by their names, so that two orders of the parts are
    /// one resource. Default: yes. Parts with one name stay in their order, and a query with `;` stays as it is.
    ///
    /// Set `false` for a service to which the order of other parts matters, too, such as `a[]=1&a[0]=2`.
    pub fn sort_query(mut self, is_sorted: bool) -> Self {
        self.sort_query = is_sorted;
        self
    }

    /// Which responses may be stored, of those that RFC 9111 allows. Default: all.
    pub fn store_if(
        mut self,
        rule: impl Fn(&request::Parts, &response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.store_if = Arc::new(rule);
        self
    }

    /// Which private responses are stored: responses with `Set-Cookie`, `private` or `no-store`, and responses to
    /// requests with `Authorization` if [`authorized`](Self::authorized) is set. Default: none.
    ///
    /// `Set-Cookie` itself is never stored: only the client whose request was sent to the inner service gets it.
    pub fn store_private(
        mut self,
        rule: impl Fn(&request::Parts, &response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.store_private = Arc::new(rule);
        self
    }

    /// Whether the layer handles requests with `Authorization`. Default: no, they go to the inner service.
    ///
    /// If the layer handles them, the rules of RFC 9111 hold: it stores their responses if these are `public`, or have
    /// `s-maxage` or `must-revalidate`; and it answers them from all stored responses. If responses depend on the user,
    /// the [`key`](Self::key) or [`prefix`](Self::prefix) has to depend on the user, too.
    pub fn authorized(mut self, are_handled: bool) -> Self {
        self.authorized = are_handled;
        self
    }

    /// How long a response is fresh, in place of the time in its headers. `None`: the headers decide. Zero: the
    /// response is not fresh.
    ///
    /// The layer calls this rule for responses with status 200, 203, 204, 300, 301, 308, 404, 405, 410, 414 or 501, and
    /// for responses with `max-age`, `s-maxage`, `public` or `Expires`. So this rule does not store errors and
    /// temporary redirects.
    ///
    /// This rule does not make private responses public: see [`store_private`](Self::store_private). But it also stores
    /// a response without `Cache-Control` whose request had a `Cookie`: a service that answers by cookies has to send
    /// `Vary` or `private`, or needs a [`condition`](Self::condition). A rule that looks at the path should look at the
    /// type of the response, too: a service may answer `/account/x.css` with the account.
    pub fn ttl(
        mut self,
        ttl: impl Fn(&request::Parts, &response::Parts) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.ttl = Arc::new(ttl);
        self
    }

    /// Tags of a response, by which [`Cache::invalidate_tag`] and [`InvalidatedResponses::tag`] find it. Default: none. At
    /// most [`MAX_TAGS`](larder::loaded::MAX_TAGS); with more, or with one that is too long, the response is not stored.
    pub fn tags(
        mut self,
        tags: impl Fn(&request::Parts, &response::Parts) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.tags = Arc::new(tags);
        self
    }

    /// Which responses a request with another method than GET, HEAD, OPTIONS and TRACE invalidates after it has
    /// succeeded, besides its own URI and those in `Location` and `Content-Location` on the same host.
    ///
    /// 3xx is success, too: a request that the service redirects to its login invalidates the keys that the rule names,
    /// unless the rule looks at the status. So any client can cause these invalidations.
    ///
    /// ```
    /// # fn demo(layer: larder_http::CacheLayer) -> larder_http::CacheLayer {
    /// layer.invalidate(|request, response, found| {
    ///     if request.uri.path().starts_with("/products/") && response.status.is_success() {
    ///         found.path("/products");
    ///         found.tag("search");
    ///     }
    /// })
    /// # }
    /// ```
    pub fn invalidate(
        mut self,
        rule: impl Fn(&request::Parts, &response::Parts, &mut InvalidatedResponses)
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.invalidate = Arc::new(rule);
        self
    }

    /// Response headers for this cache, such as `CDN-Cache-Control`, in the order of preference: RFC 9213. Default:
    /// none, as a service behind a CDN sends `CDN-Cache-Control` to the CDN.
    ///
    /// The first of these headers that a response has, and that is a valid dictionary with at least one member, takes
    /// the place of `Cache-Control` and `Expires` for this cache. The client gets all headers.
    ///
    /// ```
    /// # fn demo(layer: larder_http::CacheLayer) -> larder_http::CacheLayer {
    /// layer.targeted([http::header::CDN_CACHE_CONTROL])
    /// # }
    /// ```
    pub fn targeted(mut self, fields: impl IntoIterator<Item = HeaderName>) -> Self {
        self.targeted = fields.into_iter().collect();
        self
    }

    /// Whether clients can ask for fresher responses, by `no-cache`, `max-age`, `min-fresh` and `Pragma: no-cache`.
    /// Default: no, as each such request may reach the inner service. RFC 9111 lets the cache decide.
    ///
    /// The response to `no-cache` replaces the stored response; responses to `max-age` and `min-fresh` are not stored.
    /// The layer always obeys `no-store` and `only-if-cached`, and never `max-stale`.
    pub fn obey_requests(mut self, are_obeyed: bool) -> Self {
        self.obey_requests = are_obeyed;
        self
    }

    /// The longest body that is stored, in bytes. Default: 1 MiB. A longer body is passed on, and not stored. The cache
    /// has a limit of its own, [`max_value_size`](larder::Builder::max_value_size).
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// How long the body of a response may take to be stored. Default: 5 s. The client whose request was sent gets
    /// each part as it comes. Other requests for the response wait for the whole body, or until this time is over.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// `stale-while-revalidate` of responses without this directive. Default: 0.
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.stale_while_revalidate = time;
        self
    }

    /// `stale-if-error` of responses without this directive. Default: 0. The cache also has to keep responses for that
    /// time, see [`stale_if_error`](larder::Builder::stale_if_error).
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.stale_if_error = time;
        self
    }

    /// How long nothing is stored under a key after a response that could not be stored. Default: 5 s.
    ///
    /// Requests with the key do not wait for each other in this time. After it they still do not wait, while one
    /// request at a time tests whether its response can be stored by now: the cache remembers for two
    /// [`load_timeout`](larder::Builder::load_timeout) more that the response could not be stored.
    ///
    /// Zero: a request always waits for a request with its key that is under way in its instance, and instances try one
    /// after the other, as [described](super#who-waits-for-whom).
    pub fn uncacheable_for(mut self, time: Duration) -> Self {
        self.uncacheable_for = time;
        self
    }

    /// The name of this cache in `Cache-Status`: a token, or a quoted string. Default: `larder`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }
}

impl fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CacheLayer");
        debug.field("name", &self.name).field("cache", &self.cache);
        debug.finish_non_exhaustive()
    }
}
