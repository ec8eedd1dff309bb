//! A service with several caches, with axum: settings, sessions, probes, metrics, routes for operators, and an end that
//! loses no invalidation.
//!
//! ```sh
//! export OPERATORS_TOKEN=$(openssl rand -hex 16)
//! REDIS_URL=redis://127.0.0.1:6379 cargo run -p service
//! ```
//!
//! On the operators' address, `/caches` has the routes of `larder-admin`, for those who have the token:
//!
//! ```sh
//! curl -H "authorization: Bearer $OPERATORS_TOKEN" "http://127.0.0.1:PORT/caches/shop:product/key?key=7"
//! ```

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use larder::{Cache, Caches, Loaded, LoadingCache, OrDeferred as _, ServiceSettings};
use larder_admin::{Access, Admin};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
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
    let metrics = install_metrics()?;
    let caches = Caches::new("shop", settings()?)?;
    let shop = shop(&caches)?;
    caches.check_settings()?;
    #[cfg(unix)]
    read_settings_at_hangup(caches.clone())?;

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
        axum::serve(internal, internal_routes(&caches, metrics))
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

/// Such as `CACHE_L2_TTL=1h` for all caches, and `CACHE_PRODUCT_L2_TTL=5m` for one. They override the file.
fn settings() -> Result<ServiceSettings, Box<dyn Error>> {
    let environment = ServiceSettings::from_env("CACHE_")?;
    let file = match env::args().nth(1) {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => ServiceSettings::default(),
    };
    Ok(file.overridden_by(&environment))
}

/// At each SIGHUP, as after a change of the file. Settings that cannot work change nothing.
#[cfg(unix)]
fn read_settings_at_hangup(caches: Caches) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    // Before the task begins: until then the signal ends the process.
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            match settings().and_then(|settings| Ok(caches.apply_settings(settings)?)) {
                Ok(all) => {
                    for one in all {
                        let (changed, waiting) = (one.changed(), one.needs_restart());
                        eprintln!(
                            "{}: changed {changed:?}, after a restart {waiting:?}",
                            one.namespace()
                        );
                    }
                }
                Err(error) => eprintln!("settings were not applied: {error}"),
            }
        }
    });
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
    let product = shop.products.get_or_load(&id).await?;
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

fn internal_routes(caches: &Caches, metrics: PrometheusHandle) -> Router {
    let admin = Admin::new(caches, access(env::var("OPERATORS_TOKEN").ok()));
    Router::new()
        // Liveness and readiness do not ask for Redis: without it the loaders answer, and a probe that fails would take
        // all instances out of service at once. Alert on the metric `larder_subscriber_live` instead.
        .route("/live", get(|| async { StatusCode::OK }))
        .route("/ready", get(|| async { StatusCode::OK }))
        .route("/metrics", get(async move || metrics.render()))
        .nest_service("/caches", admin)
}

/// The token lets operators do everything, and without a token in the environment nobody may do anything. To read is as
/// much a secret: the keys of sessions are shown, and each of them signs in.
fn access(token: Option<String>) -> impl Fn(&Parts) -> Access {
    let token = token.filter(|token| !token.is_empty());
    let expected = token.map(|token| format!("Bearer {token}"));
    move |head| match (head.headers.get(AUTHORIZATION), &expected) {
        (Some(given), Some(expected)) if is_same(given.as_bytes(), expected.as_bytes()) => {
            Access::Change
        }
        _ => Access::Denied,
    }
}

/// Takes as long for any text of a length, so that the time of an answer tells nothing of the token.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let differences = given.iter().zip(expected).map(|(a, b)| a ^ b);
    given.len() == expected.len() && differences.fold(0, |all, one| all | one) == 0
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
