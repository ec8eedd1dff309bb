//! The parts that all services have in common.
//!
//! - [`values`]: a cache of one kind of value, in each of the three ways that the shop compares
//! - [`db`]: a service's own database, which counts its queries and can be made slow or broken
//! - [`pages`]: the pages of the gateway, for the services that change their parts
//! - [`peers`]: requests to other services
//! - [`watch`]: what the page is told of an instance; [`times`]: how long its requests took;
//!   [`traffic`]: how many there are
//! - [`uncached`]: requests that no cache answers, to compare
//! - [`metrics`]: the metrics of the caches, for a Prometheus
//! - [`failure`]: errors as responses

pub(crate) mod db;
pub(crate) mod failure;
mod metrics;
pub(crate) mod pages;
pub(crate) mod peers;
pub(crate) mod times;
pub(crate) mod traffic;
pub(crate) mod uncached;
pub(crate) mod values;
pub(crate) mod watch;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, middleware};
use futures::FutureExt as _;
use larder::{Caches, MemoryL2, RedisL2, ServiceSettings};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use self::db::Db;
use self::failure::Trouble;
use self::peers::Peers;
use self::watch::Watch;
use crate::plan::{Instance, Name, Plan};
use crate::{gateway, inventory, order, payment, product, recommendation, user};

/// How the services read: with the crate, with moka and a pool as in a tutorial, or from their databases each time.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    Larder,
    ByHand,
    WithoutCache,
}

/// The second level.
#[derive(Clone)]
pub(crate) enum Level2 {
    Redis(RedisL2, String),
    /// All services are in one process.
    Memory(MemoryL2),
}

/// What an instance is told when it starts.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) way: Way,
    pub(crate) l2: Level2,
    /// The folder of the databases.
    pub(crate) data: PathBuf,
    /// Added to each query, as a database has it that is across a network.
    pub(crate) db_latency: Duration,
    /// The address of the process that has started all, and its password.
    pub(crate) control: Option<(String, String)>,
}

/// How long requests that are under way may take at the end.
const GRACE: Duration = Duration::from_millis(500);

/// An instance of a service.
pub(crate) struct Service {
    pub(crate) setup: Setup,
    pub(crate) me: Instance,
    pub(crate) caches: Caches,
    pub(crate) peers: Peers,
    pub(crate) watch: Arc<Watch>,
}

impl Service {
    /// The service's own database, which no other service opens.
    pub(crate) async fn database(&self, schema: &'static str) -> Result<Db, Trouble> {
        let path = self.setup.data.join(format!("{}.sqlite", self.me.0));
        let db = Db::open(&path, self.setup.db_latency, schema).await;
        let db = db.map_err(|error| {
            let (name, path, error) = (self.me.0, path.display(), error.to_string());
            format!("{name} cannot use {path}: {}", error.trim_end())
        })?;
        self.watch.database(&db);
        Ok(db)
    }
}

/// Runs an instance until `stop`. `listening` is called when it takes requests.
pub(crate) async fn run(
    setup: Setup,
    me: Instance,
    listening: impl FnOnce(),
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Trouble> {
    let settings = ServiceSettings::from_env("SHOP_CACHE_")?;
    let caches = match &setup.l2 {
        Level2::Redis(l2, _) => Caches::with_l2("shop", settings, l2.clone()),
        Level2::Memory(l2) => Caches::with_l2("shop", settings, l2.clone()),
    };
    let address = setup.plan.address(me);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!(
            "{} cannot listen on {address}: {error}; choose another --port",
            me.0
        )
    })?;
    let service = Arc::new(Service {
        peers: Peers::new(setup.plan)?,
        watch: Arc::new(Watch::new(me)?),
        caches,
        setup,
        me,
    });
    let routes = match me.0 {
        Name::Gateway => gateway::routes(&service)?,
        Name::User => user::routes(&service).await?,
        Name::Product => product::routes(&service).await?,
        Name::Inventory => inventory::routes(&service).await?,
        Name::Order => order::routes(&service).await?,
        Name::Payment => payment::routes(&service).await?,
        Name::Recommendation => recommendation::routes(&service).await?,
    };
    // Requests are answered without Redis, too, so this is not waited for longer.
    let _ = timeout(Duration::from_secs(1), service.caches.ready()).await;
    let metered = middleware::from_fn_with_state(Arc::clone(&service.watch), watch::meter);
    let routes = routes
        .layer(middleware::from_fn(uncached::follow))
        .layer(metered);
    let app = Router::new().merge(routes).nest(
        "/internal",
        watch::routes(&service).merge(metrics::routes()?),
    );
    listening();
    let stop = stop.shared();
    let serve = axum::serve(listener, app).with_graceful_shutdown(stop.clone());
    tokio::select! {
        served = serve.into_future() => served?,
        // A page that is open, or a request of which only a part has come, would hold up the end.
        () = async { stop.await; sleep(GRACE).await } => {}
    }
    // Sends the invalidations that are deferred.
    let _ = timeout(Duration::from_secs(2), service.caches.close()).await;
    Ok(())
}
