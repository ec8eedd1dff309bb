//! The command line.

// The doc comments are the help text, where backticks would show.
#![allow(clippy::doc_markdown)]

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use larder::{Cache, L2Error, Mode, RedisL2};

use crate::product::Product;

/// One instance of a small product service: SQLite behind, a two-level cache in front of it.
///
/// Start several with the same --db and --redis to get a fleet: all of them see a PUT on any one.
/// RUST_LOG sets what is logged to stderr (default: warn), e.g. RUST_LOG=larder=debug.
#[derive(Parser)]
#[command(name = "instance", version)]
pub(crate) struct Args {
    /// Address to serve HTTP on; port 0 takes a free one and prints it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    pub(crate) listen: String,

    /// Redis that all instances share: redis://[user:password@]host:port[/db]. Several, of a cluster or of sentinels, with
    /// commas in between
    #[arg(
        long,
        value_name = "URL",
        default_value = "redis://127.0.0.1:6379",
        value_delimiter = ','
    )]
    redis: Vec<String>,

    /// Redis is a cluster, of which these are nodes
    #[arg(long)]
    cluster: bool,

    /// The name of the primary, if these are sentinels
    #[arg(long, value_name = "NAME", conflicts_with = "cluster")]
    sentinel: Option<String>,

    /// SQLite file that all instances share; created if missing, with its directories
    #[arg(long, value_name = "FILE", default_value = "products.sqlite")]
    pub(crate) db: PathBuf,

    /// Time added to each product the database loads, so that cache hits are noticeable
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 50,
        value_parser = clap::value_parser!(u64).range(..=20_000)
    )]
    db_latency_ms: u64,

    /// How long an instance that is cut off from Redis may answer from its own memory
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    max_staleness_ms: u64,

    /// How much longer it may do so, with flagged answers, if Redis does not answer [default: no longer]
    #[arg(long, value_name = "MS")]
    available_ms: Option<u64>,

    /// How long a product stays in this instance's memory [default: as long as in Redis]
    #[arg(long, value_name = "MS")]
    l1_ttl_ms: Option<u64>,

    /// How long a product stays in Redis
    #[arg(long, value_name = "MS", default_value_t = 3_600_000)]
    l2_ttl_ms: u64,

    /// Age from which a product is refreshed while the old one is still served [default: never]
    #[arg(long, value_name = "MS")]
    soft_ttl_ms: Option<u64>,

    /// Name in the printed lines, to tell instances apart
    #[arg(long, default_value = "instance")]
    pub(crate) name: String,
}

fn refused(error: impl Error) -> Box<dyn Error> {
    format!("cannot set up the cache: {error}").into()
}

impl Args {
    /// The cache these arguments describe. Absent products are cached too, as `None`.
    pub(crate) fn cache(&self) -> Result<Cache<u64, Option<Product>>, Box<dyn Error>> {
        let mut builder = Cache::builder("catalog:product")
            .l1_capacity(100_000)
            .l2_ttl(Duration::from_millis(self.l2_ttl_ms))
            .max_staleness(Duration::from_millis(self.max_staleness_ms))
            .l2(self.l2().map_err(refused)?);
        if let Some(ms) = self.available_ms {
            let limit = Duration::from_millis(ms);
            builder = builder.mode(Mode::Available { limit });
        }
        if let Some(ms) = self.l1_ttl_ms {
            builder = builder.l1_ttl(Duration::from_millis(ms));
        }
        if let Some(ms) = self.soft_ttl_ms {
            builder = builder.soft_ttl(Duration::from_millis(ms));
        }
        builder.build().map_err(refused)
    }

    fn l2(&self) -> Result<RedisL2, L2Error> {
        match (&self.sentinel, self.redis.as_slice()) {
            (Some(name), sentinels) => RedisL2::sentinel(name, sentinels),
            (None, [server]) if !self.cluster => RedisL2::open(server),
            (None, nodes) => RedisL2::cluster(nodes),
        }
    }

    pub(crate) fn db_latency(&self) -> Duration {
        Duration::from_millis(self.db_latency_ms)
    }
}
