//! A tower layer that caches HTTP responses, for axum and hyper servers: RFC 9111 as a shared cache, and RFC 5861.
//!
//! A [`CacheLayer`] stands before a service. It stores responses in a [`Cache`](larder::Cache), so all instances of the
//! service share them, one request is sent to the service for many that come together, and an invalidated response is
//! gone everywhere.
//!
//! ```
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use axum::Router;
//! use axum::http::header::CACHE_CONTROL;
//! use axum::routing::get;
//! use larder::Cache;
//! use larder_http::CacheLayer;
//! # use axum::{body::Body, http::Request};
//! # use tower::ServiceExt;
//!
//! // In a service also `.redis("redis://127.0.0.1:6379")`.
//! let cache = Cache::builder("shop:http")
//!     // For how long responses are kept to be revalidated, or to be used while the service fails.
//!     .stale_if_error(Duration::from_secs(3600));
//! let app: Router = Router::new()
//!     .route("/price", get(|| async { ([(CACHE_CONTROL, "max-age=60")], "450") }))
//!     .layer(CacheLayer::new(cache)?);
//!
//! # let ask = || Request::get("/price").header("host", "shop.example").body(Body::empty()).unwrap();
//! let first = app.clone().oneshot(ask()).await?;
//! assert_eq!(first.headers()["x-cache"], "MISS");
//! let second = app.oneshot(ask()).await?;
//! assert_eq!(second.headers()["x-cache"], "HIT");
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
//! ```
//!
//! # What is stored
//!
//! Responses to GET, under a [key](#keys) from method, host, path and sorted query. HEAD is answered from them. A
//! response is stored if RFC 9111 lets a shared cache do so, and
//!
//! - it has no `Set-Cookie`, `private` or `no-store`, unless [`store_private`](CacheLayer::store_private) says so;
//! - its request had no `Authorization`, unless [`authorized`](CacheLayer::authorized) is set;
//! - if its request had a `Cookie`: it says how long it is fresh, or that it is `public`;
//! - its body is not over the [limit](CacheLayer::body_limit), comes in [time](CacheLayer::body_timeout) and in fewer
//!   than 16 384 frames, has no trailers, and is whole;
//! - its `Content-Type` is not `text/event-stream`, `multipart/x-mixed-replace` or `application/grpc…`;
//! - it has no more than 1 024 header lines.
//!
//! Requests with `Range`, `If-Match`, `If-Range`, `If-Unmodified-Since`, `Upgrade` or a body go to the service. Those
//! with `If-None-Match` or `If-Modified-Since` are answered 304 from stored responses. A stale response with `ETag` or
//! `Last-Modified` is revalidated, if the cache keeps it: see [`stale_if_error`](larder::Builder::stale_if_error). So is
//! one with `no-cache`, each time. `Last-Modified` counts only if it is a second older than `Date`, and `Date` never
//! stands for it: of two versions that were made in one second, neither is taken for the other. A client that was given
//! one of them in that second, and asks with its `Last-Modified`, may still be told that it has the other: send `ETag`
//! where a resource may change twice in a second.
//!
//! A service that answers by a header, such as `Cookie`, has to say so in `Vary` or `Cache-Control`, as for any shared
//! cache. The host of the key is that which the client sends: a server that is reached by any name should check it
//! first. A request with two hosts, in its URI and `Host`, or with a text that is no host, goes to the service.
//!
//! # Keys
//!
//! The key of a resource is `GET shop.example/products?a=1&b=2`, in this order: the [`prefix`](CacheLayer::prefix);
//! `GET` and a space; the host as the client sends it, in lower case and with its port; the path; and the query, whose
//! parts are sorted by their names, unless [`sort_query`](CacheLayer::sort_query) says otherwise. The host has no slash
//! and the path begins with a slash, so that each key names one host and one path. [`key`](CacheLayer::key) takes the
//! place of all but the prefix.
//!
//! The port counts as the client writes it: `Host: shop.example:443` and `Host: shop.example` have two keys.
//!
//! The key does not contain the scheme, so an invalidation of a resource reaches the responses to requests by http, by
//! https, and by a scheme that the layer does not know. A response to a request by one scheme is not used for a request
//! by another. The URI names the scheme over HTTP/2 and in requests to proxies. For other requests, set
//! [`scheme`](CacheLayer::scheme). If requests for a resource come by several schemes, each scheme has variants of its
//! own.
//!
//! Each variant has a key of its own, of the resource's key, a space and 32 digits: a hash (HMAC-SHA256) of the headers
//! that the response names in `Vary`, as the request has them, and of the scheme. The secret of the hash is random and
//! stored under the key of the resource, so that instances share it, and to invalidate that key removes all variants.
//! The headers themselves are not stored. If a response names other headers than those before it, all of them count
//! from then on, for a day or until the resource is invalidated; up to 32.
//!
//! # Who waits for whom
//!
//! Requests for a response that is not there wait for the first of them. If its response proves uncacheable, nobody
//! else gets it: the others go on at once, together, each with a request of its own. Requests with this key do not wait
//! for each other then. After [`uncacheable_for`](CacheLayer::uncacheable_for) one request of the fleet at a time finds
//! out whether its response can be stored by now, and the others still do not wait. This ends when a response is
//! stored, or when no request has come for [`load_timeout`](larder::Builder::load_timeout), 30 s. A response that takes
//! longer than nine tenths of `load_timeout` counts as uncacheable, unless an older one is kept. While
//! `stale-while-revalidate` allows it, nobody waits.
//!
//! No client waits for the end of a body. The client whose request was sent gets the head of the response with the part
//! of the body that is there, and each further part as it comes. Meanwhile the layer copies the body, at the pace of
//! the service, whether or not the client reads. Requests that wait for the response get it when its body is whole. If
//! the body becomes too long, takes longer than [`body_timeout`](CacheLayer::body_timeout), 5 s, or has trailers, the
//! response is uncacheable, and the client reads the rest from the service. If the body fails, so does its request, and
//! the others go on as below.
//!
//! If the service fails, by an error or a status 500, 502, 503 or 504, only the request that was sent gets the failure.
//! Each request of the instance that waited for it is then sent by itself, and its response is stored. No request gets
//! a stale response because another request has failed, and a refresh in the background that fails does not put off the
//! next refresh: [`fallback_throttle`](larder::Builder::fallback_throttle) does not apply to such failures.
//!
//! While a service fails, the instances try one after the other, and a request waits for up to
//! [`lease_wait`](larder::Builder::lease_wait), 5 s, before it is sent. With an [`error_ttl`](larder::Builder::error_ttl)
//! of a second, which is 0 unless set, requests go on at once for so long after a failure, each with a request of its
//! own.
//!
//! # Response headers
//!
//! `X-Cache` is `HIT`, `MISS` or `STALE`; the last also in [`Mode::Available`](larder::Mode::Available) for a response
//! that is not proven to be current. `Cache-Status` (RFC 9211) has more: `larder; hit; ttl=40`, `larder; fwd=uri-miss;
//! fwd-status=200; stored`, `larder; fwd=uri-miss; ttl=60; collapsed`. `stored` is said of a response that is given to
//! the cache, also if that is switched off or cannot reach Redis; but not if the head was sent before the body was
//! whole. `Age` is how old the response was when it came, and
//! for how long it has been stored, by the monotonic clock of the cache.
//!
//! # Invalidation
//!
//! A request with POST, PUT, PATCH, DELETE or another unsafe method that the service answers with 2xx or 3xx
//! invalidates the response of its URI, and of those in `Location` and `Content-Location` on the same host, with all
//! variants and by all schemes; and those that [`invalidate`](CacheLayer::invalidate) names. If its URI and `Host` name
//! several hosts, that holds for each of them. That is done before its client gets the answer. Other instances follow
//! within [`max_staleness`](larder::Builder::max_staleness). If Redis cannot be reached, the cache invalidates later, as
//! [`Cache::invalidate`](larder::Cache::invalidate) says. The calls of the cache work, too: by key, tag or prefix.
//!
//! A service may take several URIs for one resource, such as `/a` and `/%61`, or a host with and without its port. For
//! the layer they are several: a change by one of them does not invalidate the others, unless a tag or a rule names
//! them.
//!
//! # Memory
//!
//! L1 is bounded in bytes, 64 MiB unless the builder says [`l1_capacity_bytes`](larder::Builder::l1_capacity_bytes). A response is
//! copied when it is stored, so that it keeps no buffer of a connection in memory. Its client gets the body from the
//! same copy, or from a second one if parts of the body come later. The bound is not sharp: up to 64 responses more, or
//! 384 if many are stored at once, are there until they are evicted, and 64 that are hit often until the next one is
//! stored. A response that is being read takes up to four times its bytes.
//!
//! # Errors
//!
//! The errors of the service, and no others. Without Redis requests go to the service, or are answered as the mode of the
//! cache says. A panic of the service goes on in the request that it was sent for. A request with `only-if-cached` gets
//! 504 if nothing is stored for it. A request that waits for its response while the runtime it was sent in ends gets
//! 500.
//!
//! # Cancellation
//!
//! The future of a request can be dropped, and so can the body of its response. A request to the service whose response
//! may be stored goes on, in a task of its own, and so does the copy of its body; but not for longer than
//! [`load_timeout`](larder::Builder::load_timeout), after which nobody waits for it. An
//! invalidation that was begun is carried out; a client that goes away while the service still works on a POST cancels
//! that as without the layer, and then nothing is invalidated.
//!
//! # Cost
//!
//! A hit in L1 takes no round trip, one in L2 one; twice that for a response with `Vary`, or that is asked for by
//! several schemes. A miss takes three, and one more for a response with `Vary`; they are not on the way of a response
//! that is not stored. A 304 of the service stores the response anew. An unsafe request takes one, one more for tags,
//! and a pass over the database for each prefix. Each request allocates its future, a copy of the headers, and the
//! state that a load of its response would need.
//!
//! # Not supported
//!
//! Storing parts of responses, responses to POST, `CDN-Cache-Control`, and pushing 1xx responses on. The results of the
//! public [test suite](cache_tests) for HTTP caches say more.

mod answer;
mod any_body;
mod attempt;
mod body;
mod conditional;
mod copy;
mod directives;
mod handle;
mod invalidated;
mod keys;
mod layer;
mod policy;
mod references;
mod search;
mod service;
mod stored;
mod typed;
mod unsafe_methods;
mod untyped;
mod variants;

#[doc = include_str!("cache_tests.md")]
pub mod cache_tests {}

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

#[doc = include_str!("guide.md")]
pub mod guide {}

pub use self::body::CacheBody;
pub use self::invalidated::InvalidatedResponses;
pub use self::layer::CacheLayer;
pub use self::service::{CacheService, ResponseFuture};
pub use self::stored::CachedResponse;
