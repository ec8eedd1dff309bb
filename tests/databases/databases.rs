//! The outbox on real servers of `PostgreSQL` and `MariaDB`, which the tests start by themselves: by sqlx, and by the
//! driver for tokio-postgres that the documentation shows.
//!
//! `sh tests/proof.sh databases` runs them, and installs the servers where they are missing. One alone:
//!
//! ```sh
//! PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)" \
//!     cargo test -p databases -- --include-ignored killed_after_its_commit
//! ```

// A failed step ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod database;
#[allow(dead_code, reason = "the test calls a part of it")]
#[path = "../../examples/calls/outbox_postgres.rs"]
mod example;
mod outages;
mod processes;
mod rows;
mod server;
#[path = "../support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod eventually;
    pub(crate) mod program;
    pub(crate) mod redis_server;
    pub(crate) mod signal;
}
#[path = "../../crates/larder-outbox/src/tokio_postgres.rs"]
mod tokio_postgres_table;

use std::time::Duration;

use larder::{Cache, Caches, RedisL2, ServiceSettings};
use larder_outbox::{OutboxStats, Relay};

/// Of the relays here: short, as the tests wait for it.
const INTERVAL: Duration = Duration::from_millis(50);
/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);
/// No busy machine is a reason to fail.
const UNHURRIED: Duration = Duration::from_secs(5);
/// For what takes longer than most tests wait: a database that is away, or has many rows.
const LIMIT: Duration = Duration::from_secs(300);

type Prices = Cache<String, i64>;
type Pages = Cache<u64, String>;

/// The caches of an instance that has subscribed, as in a process of its own.
struct Instance {
    caches: Caches,
    prices: Prices,
    pages: Pages,
}

impl Instance {
    async fn new(redis: &str) -> Self {
        let l2 = RedisL2::open(redis).unwrap();
        let caches = Caches::with_l2("shop", ServiceSettings::default(), l2);
        let prices = caches.cache("price").l2_timeout(UNHURRIED);
        let pages = caches.cache("page").l2_timeout(UNHURRIED);
        let (prices, pages) = (prices.build().unwrap(), pages.build().unwrap());
        caches.ready().await;
        Self {
            caches,
            prices,
            pages,
        }
    }
}

/// Waits for as long as a database may be away.
async fn stats_are(relay: &Relay, what: &str, are: impl Fn(OutboxStats) -> bool) {
    let begun = std::time::Instant::now();
    while !are(relay.stats()) {
        assert!(begun.elapsed() < LIMIT, "not {what}: {:?}", relay.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
