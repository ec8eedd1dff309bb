//! Routes for operators, for axum or any tower service: states, counters, where a key is, switches, invalidations.
//!
//! [`Admin`] is a [`Service`](tower_service::Service) over the [`Caches`](larder::Caches) of a service. Each request
//! needs [`Access`], which a function of the caller decides. No route shows a value.
//!
//! ```
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::Router;
//! use axum::extract::Request;
//! use axum::middleware::{Next, from_fn};
//! use axum::response::Response;
//! use larder_admin::{Access, Admin};
//! use larder::{Cache, Caches, MemoryL2, ServiceSettings};
//! # use axum::body::Body;
//! # use tower::ServiceExt;
//!
//! #[derive(Clone)]
//! struct Operator {
//!     may_change: bool,
//! }
//!
//! // A layer in front authenticates, and may wait for that. It leaves in the request whom it has found.
//! async fn authenticate(mut request: Request, next: Next) -> Response {
//!     # async fn find_operator(headers: &axum::http::HeaderMap) -> Option<Operator> {
//!     #     headers.get("authorization").map(|_| Operator { may_change: true })
//!     # }
//!     if let Some(operator) = find_operator(request.headers()).await {
//!         request.extensions_mut().insert(operator);
//!     }
//!     next.run(request).await
//! }
//!
//! // In a service: `Caches::new("shop", settings)?`.
//! let caches = Caches::with_l2("shop", ServiceSettings::default(), MemoryL2::new());
//! let prices: Cache<String, u32> = caches.cache("price").build()?;
//! let admin = Admin::new(&caches, |head| match head.extensions.get::<Operator>() {
//!     Some(operator) if operator.may_change => Access::Change,
//!     Some(_) => Access::Read,
//!     None => Access::Denied,
//! });
//! let app: Router = Router::new().nest_service("/caches", admin).layer(from_fn(authenticate));
//!
//! prices.insert("tea", 450).await?;
//! let invalidate = Request::delete("/caches/shop:price/key?key=tea")
//!     .header("authorization", "…")
//!     .header("content-type", "application/json");
//! let response = app.clone().oneshot(invalidate.body(Body::empty())?).await?;
//! assert_eq!(response.status(), 204);
//! assert!(prices.get("tea").await.is_none());
//!
//! // No layer has left an operator in this request.
//! let response = app.oneshot(Request::get("/caches").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 403);
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
//! ```
//!
//! # Routes
//!
//! `NS` is a namespace, such as `shop:price`; a `/` in it is written as `%2F`. Paths are those after the path at which
//! [`Admin`] is mounted: axum's `nest_service` strips it. A service of hyper that has other routes strips it, too.
//!
//! | request | body | does |
//! | --- | --- | --- |
//! | `GET /` | | shows [each cache](#what-is-shown) |
//! | `GET /NS` | | shows one cache |
//! | `GET /NS/global_stats` | | shows the [counters of all instances](larder::Cache::global_stats) |
//! | `GET /NS/hot_keys?most=N` | | shows the [hottest keys](larder::Cache::hot_keys), each with its share of the look-ups; none unless [`track_hot_keys`](larder::Builder::track_hot_keys) is set |
//! | `GET /NS/local_keys?most=N` | | shows [keys in L1](larder::Cache::local_keys) of this instance |
//! | `GET /NS/mismatches` | | shows the last 32 keys whose values [`verify`](larder::Builder::verify) has found not to be those of the source, the last one first: `epoch` and `version` of the write, `age_ms` at that time, and `found_ms_ago` |
//! | `GET /NS/key?key=KEY` | | shows [where a key is](#where-a-key-is) |
//! | `PUT /NS/enabled`, `PUT /enabled` | `true` or `false` | [switches](larder::Cache::set_enabled) a cache, or all of them, on or off in this instance |
//! | `PUT /NS/enabled_everywhere`, `PUT /enabled_everywhere` | `true` or `false` | [switches](larder::Cache::set_enabled_everywhere) a cache, or all of them, on or off in all instances |
//! | `PUT /NS/share`, `PUT /share` | `0.0` to `1.0` | has a cache, or all of them, used for a [share of its keys](larder::Cache::set_enabled_for) in this instance |
//! | `PUT /NS/max_concurrent_loads` | `1` or more | sets [how many loaders may run at once](larder::Cache::set_max_concurrent_loads) in this instance |
//! | `PUT /NS/l1_capacity` | `0` or more | sets the [capacity of L1](larder::Cache::set_l1_capacity) in this instance |
//! | `PUT /NS/bypass` | `{"key":KEY}` or `{"prefix":PREFIX}` | has the cache off [for a key](larder::Cache::bypass) or [a prefix](larder::Cache::bypass_prefix) in this instance, beside those before |
//! | `DELETE /NS/bypass` | | [ends](larder::Cache::end_bypass) all of these |
//! | `DELETE /NS/key?key=KEY` | | [invalidates](larder::Cache::invalidate) a key |
//! | `DELETE /NS/tag?tag=TAG`, `DELETE /tag?tag=TAG` | | [invalidates a tag](larder::Cache::invalidate_tag) in a cache, or in all of them |
//! | `DELETE /NS/prefix?prefix=PREFIX` | | [invalidates a prefix](larder::Cache::invalidate_prefix), whatever the type of the keys; answers `{"removed":N}` |
//! | `DELETE /NS/values`, `DELETE /values` | | [clears](larder::Cache::clear) a cache, or all of them |
//!
//! Keys, tags and prefixes are texts as Redis shows them after the namespace, see [`CacheKey`](larder::CacheKey). They
//! are percent-encoded UTF-8, and `+` is a space: `curl -G --data-urlencode "key=a b" …`. `N` is up to 1 000, and 100
//! unless the query has it. HEAD is answered as GET; the server drops the body.
//!
//! Each request is answered by one instance. The invalidations and `enabled_everywhere` reach all instances, as the
//! calls of the cache do. Other switches change only the instance that was asked: call each instance, or have each
//! apply its [settings](larder::Caches::apply_settings) anew, in a route of your own that reads them.
//!
//! # Answers
//!
//! | status | when | body |
//! | --- | --- | --- |
//! | 200 | the answer has something to show | JSON |
//! | 204 | the change is carried out | none |
//! | 202 | L2 has not accepted the invalidation: it [is deferred](larder::WriteError::is_deferred), and this instance retries | `{"deferred":LINE}` |
//! | 400 | the query or the body makes no sense; nothing was changed | `{"error":LINE}`, as for all that follow |
//! | 403 | `access` said [`Denied`](Access::Denied), whatever the request asks for | none |
//! | 403 | `access` said [`Read`](Access::Read), and the request is a change | |
//! | 404 | there is no such path or cache | |
//! | 405 | the path takes other methods, which `Allow` lists | |
//! | 413 | the body is over 64 KiB | |
//! | 415 | a change has not the header `content-type: application/json` | |
//! | 502 | L2 has refused the request, or the change has failed and is not deferred | |
//! | 503 | L2 cannot be reached, or did not answer in time | |
//!
//! No line contains the address of a server, a password, a key or a value.
//!
//! # What is shown
//!
//! Of a cache: `namespace`; `instance`, the [name](larder::Builder::instance_name) of this process, and `member`, the number
//! by which the command `larder` shows this instance; `ok`, as [`Health::is_ok`](larder::Health::is_ok); `enabled` and
//! `share`; `bypassed`, the number of keys and prefixes for which the cache is off, and `bypassed_everywhere`, the number
//! of prefixes for which it is off in all instances, by the command `larder bypass`; `l1_capacity`; `l2`, the store, or
//! `none` if the instance caches for itself; `settings`, the other [settings](larder::Settings) in effect, without those
//! that nothing has set and that have no default; `health`, and as `partitions` the [health of each
//! partition](larder::Cache::partition_health); `stats`, the [counters](larder::Stats) of this instance; `size_advice`, the
//! [hit rates with other capacities](larder::Cache::size_advice), or `null`.
//!
//! A key may be personal data, or a secret, such as the id of a session. Only `hot_keys`, `local_keys`, `mismatches` and
//! `key` show keys, to clients with [`Access::Read`]. The function that decides sees the path, without the part that axum's
//! `nest_service` strips, and may deny single routes.
//!
//! # Where a key is
//!
//! `GET /NS/key` shows as `l1` and `l2` what this instance could answer a look-up with: `epoch` and `version` of the
//! write, `age_ms`, `expires_in_ms`, `stale_in_ms`, `is_stale` and `tags`, as of [`Meta`](larder::Meta) and
//! [`Entry::tags`](larder::Entry::tags); or `null`. `l2_error` says why L2 was not asked, or `null`. While `enabled` is
//! `false`, or an invalidation of the key is `deferred`, look-ups use neither level for the key.
//!
//! It loads nothing, and is no look-up: L1 stays as it is, no TTL is extended, and hits are not counted. A value in L2
//! is read and decoded all the same, so it counts in `l2_read_bytes`, and in `decode_errors` or `l2_misses` if it
//! cannot be used. The command `larder inspect` says why a value in Redis is not used.
//!
//! # Pages of other sites
//!
//! A browser sends the cookies of an operator, or the login of HTTP authentication, with the requests of any page that
//! the operator visits. Such a page cannot change anything here: forms send GET and POST alone, and no route takes
//! POST. A script may send PUT and DELETE, and `content-type: application/json`, which each change needs, only if the
//! server agrees to it in the answer to OPTIONS: that answer is 405 here. So do not put a CORS layer that allows other
//! origins before [`Admin`]. A cookie that identifies an operator should be `SameSite=Strict`.
//!
//! # Cancellation
//!
//! A client that disconnects before its body has come changes nothing. After that the change is carried out, as [the
//! calls of a cache](larder::Cache#cancellation) are. [`Admin`] sets no time limit for a body that comes slowly.
//!
//! # Cost
//!
//! A request allocates its future and its answer. What is shown costs no request to L2, except `global_stats`, one, and
//! `key`, one or two. `local_keys` may keep its thread busy for a tenth of a second in a cache with a million entries.
//! The changes cost what the calls of the cache cost.

mod body;
mod call;
mod query;
mod read;
mod reply;
mod routes;
mod service;

pub use self::body::AdminBody;
pub use self::service::{Access, Admin};
