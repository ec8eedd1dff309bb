//! A service with several caches, with axum: settings, sessions, probes, metrics, a page for operators, and an end that
//! loses no invalidation.
//!
//! ```sh
//! REDIS_URL=redis://127.0.0.1:6379 cargo run -p service
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use larder::{Cache, Caches, Loaded, LoadingCache, OrDeferred as _, ServiceSettings};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Serialize, Deserialize)]
struct Product {
    name: String,
    maker: String,
    cents: u32,
}

/// Stands for a database.
#[derive(Clone, Default)]
struct Db(Arc<Mutex<BTreeMap<u64, Product>>>);

#[derive(Clone)]
struct Shop {
    db: Db,
    products: LoadingCache<u64, Option<Product>>,
    /// The user of each session. Only in the cache.
    sessions: Cache<String, u64>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Such as CACHE_L2_TTL=1h for all caches, and CACHE_PRODUCT_L2_TTL=5m for one. They override the file.
    let environment = ServiceSettings::from_env("CACHE_")?;
    let file = match std::env::args().nth(1) {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => ServiceSettings::default(),
    };
    let metrics = install_metrics()?;

    let caches = Caches::new("shop", file.overridden_by(&environment))?;
    let shop = shop(&caches)?;
    caches.check_settings()?;

    // Begin with caches that may be used; if Redis does not answer, begin all the same.
    if timeout(Duration::from_secs(2), caches.ready())
        .await
        .is_err()
    {
        eprintln!("started without Redis");
    }

    let public = TcpListener::bind("127.0.0.1:0").await?;
    // On an address that only operators and the platform reach.
    let internal = TcpListener::bind("127.0.0.1:0").await?;
    println!("shop on http://{}", public.local_addr()?);
    println!("operators on http://{}", internal.local_addr()?);
    tokio::try_join!(
        axum::serve(public, public_routes(shop))
            .with_graceful_shutdown(stopped())
            .into_future(),
        axum::serve(internal, internal_routes(caches.clone(), metrics))
            .with_graceful_shutdown(stopped())
            .into_future(),
    )?;

    // After the last request: sends the invalidations that are deferred, and writes what is counted.
    if timeout(Duration::from_secs(5), caches.close())
        .await
        .is_err()
    {
        eprintln!("the caches were not closed in time");
    }
    Ok(())
}

fn shop(caches: &Caches) -> Result<Shop, Box<dyn Error>> {
    let db = Db::default();
    let source = db.clone();
    Ok(Shop {
        db,
        products: caches
            .cache("product")
            .read_through_with(move |id, _| {
                let found = source.find(id);
                async move { Ok::<_, io::Error>(with_tags(found)) }
            })
            .soft_ttl(MINUTE)
            .stale_if_error(60 * MINUTE)
            .build()?,
        // Half an hour idle, a day in all.
        sessions: caches
            .cache("session")
            .sliding(30 * MINUTE)
            .l2_ttl(24 * 60 * MINUTE)
            .build()?,
    })
}

/// Operators remove all products of a maker by its tag.
fn with_tags(product: Option<Product>) -> Loaded<Option<Product>> {
    let maker = product.as_ref().map(|product| product.maker.clone());
    Loaded::new(product).tags(maker.map(|maker| ("maker", maker)))
}

fn public_routes(shop: Shop) -> Router {
    Router::new()
        .route("/products/{id}", get(read_product).put(change_product))
        .route("/login/{user}", post(log_in))
        .route("/sessions/{session}", get(who_is).delete(log_out))
        .with_state(shop)
}

async fn read_product(State(shop): State<Shop>, Path(id): Path<u64>) -> Answer<Response> {
    let product = shop.products.get(&id).await?;
    Ok(match product.value() {
        Some(product) => Json(product).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn change_product(
    State(shop): State<Shop>,
    Path(id): Path<u64>,
    Json(product): Json<Product>,
) -> Answer<StatusCode> {
    // Nothing is awaited between the two: a client that hangs up then would leave the old value. Otherwise call
    // `invalidate_after`.
    shop.db.put(id, product); // has committed
    // Deferred is as good as done for the caller: there is nothing to try again.
    shop.products.invalidate(&id).await.or_deferred()?;
    Ok(StatusCode::NO_CONTENT)
}

async fn log_in(State(shop): State<Shop>, Path(user): Path<u64>) -> Answer<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let session = format!("{:032x}", u128::from_le_bytes(random));
    // No `or_deferred`: a session that is not stored is none.
    shop.sessions.insert(&session, user).await?;
    Ok(session)
}

async fn who_is(State(shop): State<Shop>, Path(session): Path<String>) -> Answer<Response> {
    Ok(match shop.sessions.get(&session).await {
        Some(user) => user.to_string().into_response(),
        // Only the cache has sessions. Nobody is signed out because Redis is away.
        None if !shop.sessions.health().is_l2_up() => {
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        None => StatusCode::UNAUTHORIZED.into_response(),
    })
}

async fn log_out(State(shop): State<Shop>, Path(session): Path<String>) -> Answer<StatusCode> {
    shop.sessions.invalidate(&session).await.or_deferred()?;
    Ok(StatusCode::NO_CONTENT)
}

fn internal_routes(caches: Caches, metrics: PrometheusHandle) -> Router {
    Router::new()
        // Liveness and readiness do not ask for Redis: without it the loaders answer, and a probe that fails would take
        // all instances out of service at once. Alert on the metric `larder_subscriber_live` instead.
        .route("/live", get(|| async { StatusCode::OK }))
        .route("/ready", get(|| async { StatusCode::OK }))
        .route("/metrics", get(async move || metrics.render()))
        .route("/caches", get(show_caches).delete(clear))
        .route("/caches/enabled", put(switch))
        .route("/caches/tags/{tag}", delete(invalidate_tag))
        .with_state(caches)
}

async fn show_caches(State(caches): State<Caches>) -> Json<Value> {
    let shown = caches.iter().map(|cache| {
        let stats = cache.stats();
        json!({
            "namespace": cache.namespace(),
            "ok": cache.health().is_ok(),
            "enabled": cache.is_enabled(),
            "l1_entries": stats.l1_entries,
            "l1_hits": stats.l1_hits,
            "loads": stats.loads,
        })
    });
    Json(shown.collect())
}

async fn clear(State(caches): State<Caches>) -> Answer<StatusCode> {
    caches.clear().await.or_deferred()?;
    Ok(StatusCode::NO_CONTENT)
}

async fn switch(State(caches): State<Caches>, Json(is_enabled): Json<bool>) -> StatusCode {
    // In this instance: operators call each, or set `enabled` in the settings.
    caches.set_enabled(is_enabled);
    StatusCode::NO_CONTENT
}

async fn invalidate_tag(
    State(caches): State<Caches>,
    Path(tag): Path<String>,
) -> Answer<StatusCode> {
    caches.invalidate_tag(&tag).await.or_deferred()?;
    Ok(StatusCode::NO_CONTENT)
}

type Answer<T> = Result<T, Failure>;

/// Any error is a 500, and its text is for the log.
struct Failure(Box<dyn Error>);

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        // With its causes: that a load has failed is all that a `LoadError` says itself.
        eprint!("{}", self.0);
        let mut cause = self.0.source();
        while let Some(error) = cause {
            eprint!(": {error}");
            cause = error.source();
        }
        eprintln!();
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

fn install_metrics() -> Result<PrometheusHandle, Box<dyn Error>> {
    let seconds = [
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
    ];
    let durations = Matcher::Suffix("_duration_seconds".to_owned());
    let prometheus = PrometheusBuilder::new().set_buckets_for_metric(durations, &seconds)?;
    let metrics = prometheus.install_recorder()?;
    // Until then the exporter keeps each duration by itself.
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(metrics)
}

/// Resolves at ctrl-c, or when the platform ends the service.
fn stopped() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    async move {
        let interrupt = tokio::signal::ctrl_c();
        #[cfg(unix)]
        if let Ok(mut terminate) = terminate {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
        _ = interrupt.await;
    }
}

impl Db {
    fn find(&self, id: u64) -> Option<Product> {
        self.0.lock().ok()?.get(&id).cloned()
    }

    fn put(&self, id: u64, product: Product) {
        if let Ok(mut products) = self.0.lock() {
            products.insert(id, product);
        }
    }
}
