//! What the page is told of an instance, and what its buttons change in it. Under `/internal`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant as Clock;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, put};
use axum::{Json, Router};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use larder::{Cache, CacheEvent, CacheKey, OrDeferred as _, Stats};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Service;
use super::db::{self, Db};
use super::failure::{Answer, Failure, Trouble};
use super::times::{Recent, Times};
use super::traffic;
use crate::plan::{Instance, Name};

/// The requests of an instance, its caches and its databases.
pub(crate) struct Watch {
    me: Instance,
    pub(super) requests: AtomicU64,
    times: Mutex<Recent>,
    /// Those of product pages at the gateway, with the caches and without.
    pages: Mutex<[Recent; 2]>,
    caches: Mutex<Vec<Arc<dyn Watched>>>,
    databases: Mutex<Vec<Arc<db::State>>>,
}

/// A cache, whatever its types.
trait Watched: Send + Sync {
    fn namespace(&self) -> &str;
    fn events(&self) -> BoxStream<'static, CacheEvent>;
    fn hot_keys(&self) -> Value;
    fn totals(&self) -> BoxFuture<'_, Value>;
    /// Where a key is, and which version of it.
    fn look(&self, key: &str) -> BoxFuture<'_, Value>;
}

impl<K, V> Watched for Cache<K, V>
where
    K: CacheKey + FromStr + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn namespace(&self) -> &str {
        self.namespace()
    }

    fn events(&self) -> BoxStream<'static, CacheEvent> {
        self.events().boxed()
    }

    fn hot_keys(&self) -> Value {
        let keys = self.hot_keys(5);
        let shown = keys
            .iter()
            .map(|hot| json!({ "key": hot.key, "share": hot.share }));
        shown.collect()
    }

    fn totals(&self) -> BoxFuture<'_, Value> {
        async {
            let stats = self.global_stats().await;
            stats.map_or(Value::Null, |stats| json!(counted(&stats)))
        }
        .boxed()
    }

    fn look(&self, key: &str) -> BoxFuture<'_, Value> {
        let key = key.parse::<K>().ok();
        async move {
            let Some(key) = key else {
                return Value::Null;
            };
            let in_l1 = self.get_local::<K, _>(&key).is_some();
            let entry = self.get::<K, _>(&key).await;
            let meta = entry.as_ref().map(larder::Entry::meta);
            json!({
                "in_l1": in_l1,
                "in_l2": meta.is_some(),
                "version": meta.and_then(|meta| meta.version()).map(|version| format!("{version:?}")),
                "age_ms": meta.map(|meta| meta.age().as_millis()),
                "is_stale": meta.map(|meta| meta.is_stale()),
            })
        }
        .boxed()
    }
}

fn counted(stats: &Stats) -> BTreeMap<String, u64> {
    let counted = stats.iter();
    counted
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

impl Watch {
    pub(crate) fn new(me: Instance) -> Result<Self, Trouble> {
        Ok(Self {
            me,
            requests: AtomicU64::new(0),
            times: Mutex::new(Recent::new()?),
            pages: Mutex::new([Recent::new()?, Recent::new()?]),
            caches: Mutex::default(),
            databases: Mutex::default(),
        })
    }

    pub(crate) fn cache<K, V>(&self, cache: &Cache<K, V>)
    where
        K: CacheKey + FromStr + Send + Sync + 'static,
        V: Send + Sync + 'static,
    {
        held(&self.caches).push(Arc::new(cache.clone()));
    }

    pub(crate) fn database(&self, db: &Db) {
        held(&self.databases).push(Arc::clone(&db.state));
    }

    fn caches(&self) -> Vec<Arc<dyn Watched>> {
        held(&self.caches).clone()
    }
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the time of each request.
pub(crate) async fn meter(
    State(watch): State<Arc<Watch>>,
    request: Request,
    next: Next,
) -> Response {
    let began = Clock::now();
    let is_gateway = watch.me.0 == Name::Gateway;
    let is_page = is_gateway && request.uri().path().starts_with("/products/");
    let is_uncached = is_gateway && request.uri().path().starts_with("/uncached/");
    let response = next.run(request).await;
    let took = began.elapsed();
    watch.requests.fetch_add(1, Ordering::Relaxed);
    held(&watch.times).add(took);
    if is_page || is_uncached {
        let [cached, uncached] = &mut *held(&watch.pages);
        if is_page { cached } else { uncached }.add(took);
    }
    response
}

pub(crate) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/report", get(report))
        .route("/totals", get(totals))
        .route("/events", get(events))
        .route("/keys/{cache}/{key}", get(look))
        .route("/enabled", put(switch))
        .route("/tags/{tag}", axum::routing::delete(empty_tag))
        .route("/database", put(set_database))
        .with_state(Arc::clone(service))
}

/// The state of an instance.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) service: Name,
    pub(crate) instance: u16,
    pub(crate) is_down: bool,
    pub(crate) requests: u64,
    times: Times,
    pages: [Times; 2],
    /// The services that this one leaves alone, as they do not answer.
    broken_peers: Vec<Name>,
    pub(crate) queries: u64,
    is_broken: bool,
    slowed_by: u64,
    pub(crate) caches: Vec<CacheReport>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CacheReport {
    namespace: String,
    /// And its messages are heard, so L1 is used.
    is_l2_up: bool,
    is_breaker_open: bool,
    is_enabled: bool,
    hot_keys: Value,
    pub(crate) stats: BTreeMap<String, u64>,
}

impl Report {
    /// Of an instance that does not answer.
    pub(crate) fn down((service, instance): Instance) -> Self {
        Self {
            service,
            instance,
            is_down: true,
            requests: 0,
            times: Times::default(),
            pages: Default::default(),
            broken_peers: Vec::new(),
            queries: 0,
            is_broken: false,
            slowed_by: 0,
            caches: Vec::new(),
        }
    }

    /// Whether it runs, and all of its caches are used and work with L2.
    pub(crate) fn is_well(&self) -> bool {
        let is_well =
            |cache: &CacheReport| cache.is_l2_up && !cache.is_breaker_open && cache.is_enabled;
        !self.is_down && self.caches.iter().all(is_well)
    }
}

async fn report(State(service): State<Arc<Service>>) -> Json<Report> {
    let watch = &service.watch;
    let watched = watch.caches();
    let caches = service.caches.iter().map(|cache| {
        let health = cache.health();
        let watched = (watched.iter()).find(|one| one.namespace() == cache.namespace());
        CacheReport {
            namespace: cache.namespace().to_owned(),
            is_l2_up: health.is_ok(),
            is_breaker_open: health.is_breaker_open(),
            is_enabled: cache.is_enabled(),
            hot_keys: watched.map_or(Value::Null, |cache| cache.hot_keys()),
            stats: counted(&cache.stats()),
        }
    });
    let caches = caches.collect();
    let databases = held(&watch.databases).clone();
    let sum = |of: fn(&db::State) -> &AtomicU64| {
        let each = databases.iter().map(|db| of(db).load(Ordering::Relaxed));
        each.sum()
    };
    let pages = held(&watch.pages).each_mut().map(Recent::times);
    Json(Report {
        is_down: false,
        requests: watch.requests.load(Ordering::Relaxed),
        times: held(&watch.times).times(),
        pages,
        broken_peers: service.peers.broken(),
        queries: sum(|db| &db.queries),
        is_broken: databases
            .iter()
            .any(|db| db.is_broken.load(Ordering::Relaxed)),
        slowed_by: sum(|db| &db.slowed_by),
        caches,
        ..Report::down(watch.me)
    })
}

/// The counters of each cache in the whole fleet.
async fn totals(State(service): State<Arc<Service>>) -> Json<Value> {
    let mut all = serde_json::Map::new();
    for cache in service.watch.caches() {
        all.insert(cache.namespace().to_owned(), cache.totals().await);
    }
    Json(all.into())
}

/// The events of the caches, as they happen, and the traffic since the last moment.
async fn events(
    State(service): State<Arc<Service>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut all = SelectAll::new();
    for cache in service.watch.caches() {
        let namespace = cache.namespace().to_owned();
        all.push(
            cache
                .events()
                .filter_map(move |event| {
                    let shown = shown(&namespace, &event);
                    async move { shown }
                })
                .boxed(),
        );
    }
    let (name, instance) = service.watch.me;
    all.push(traffic::each_moment(service).boxed());
    let events = all.map(move |event| {
        let event = json!({ "service": name, "instance": instance, "event": event });
        Ok(Event::default().data(event.to_string()))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn shown(namespace: &str, event: &CacheEvent) -> Option<Value> {
    let (kind, what, is_own) = match event {
        CacheEvent::Loaded { keys, .. } => ("loaded", keys.join(" "), true),
        CacheEvent::LoadFailed { keys, .. } => ("failed", keys.join(" "), true),
        CacheEvent::Inserted { key, is_own, .. } => ("inserted", key.clone(), *is_own),
        CacheEvent::Invalidated { key, is_own, .. } => ("invalidated", key.clone(), *is_own),
        CacheEvent::TagInvalidated { tag, is_own, .. } => ("tag", tag.clone(), *is_own),
        CacheEvent::Cleared { is_own, .. } => ("cleared", String::new(), *is_own),
        CacheEvent::BreakerOpened => ("breaker opened", String::new(), true),
        CacheEvent::BreakerClosed => ("breaker closed", String::new(), true),
        _ => return None,
    };
    Some(json!({ "cache": namespace, "kind": kind, "what": what, "is_own": is_own }))
}

async fn look(
    State(service): State<Arc<Service>>,
    Path((cache, key)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let caches = service.watch.caches();
    let found = caches.iter().find(|one| one.namespace() == cache);
    let cache = found.ok_or_else(|| Failure::not_found("cache"))?;
    Ok(Json(cache.look(&key).await))
}

async fn switch(State(service): State<Arc<Service>>, Json(is_enabled): Json<bool>) -> StatusCode {
    service.caches.set_enabled(is_enabled);
    StatusCode::NO_CONTENT
}

async fn empty_tag(
    State(service): State<Arc<Service>>,
    Path(tag): Path<String>,
) -> Answer<StatusCode> {
    service.caches.invalidate_tag(&tag).await.or_deferred()?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct DatabaseFault {
    slowed_by: u64,
    is_broken: bool,
}

async fn set_database(
    State(service): State<Arc<Service>>,
    Json(fault): Json<DatabaseFault>,
) -> StatusCode {
    for db in &*held(&service.watch.databases) {
        db.slowed_by.store(fault.slowed_by, Ordering::Relaxed);
        db.is_broken.store(fault.is_broken, Ordering::Relaxed);
    }
    StatusCode::NO_CONTENT
}
