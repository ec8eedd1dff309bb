//! One instance of a small product service: HTTP in front, `SQLite` behind, larder between them.
//!
//! Start several on one database and one Redis, write to one of them, and see the change on the others.
//! `examples/README.md` walks through it.

mod args;
mod catalog;
mod db;
mod error;
mod http;
mod pool;
mod product;
mod signal;

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::args::Args;
use crate::catalog::Catalog;
use crate::db::Database;

/// How long a starting instance waits for Redis before it serves without it.
const REDIS_AT_START: Duration = Duration::from_secs(1);

/// How long each step of the shutdown may take: open requests, unfinished writes, the cache.
const SHUTDOWN_STEP: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    start_logging();

    let name = args.name.clone();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    // Before the first await, so that no signal is missed.
    let stop = signal::stop()?;

    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let address = listener.local_addr()?;

    let cache = args.cache()?;
    let db = Database::open(args.db.clone(), args.db_latency()).await?;
    let catalog = Catalog::new(db, cache.clone());

    // If Redis answers, the first request is cached already; if not, the service runs without it.
    if timeout(REDIS_AT_START, cache.ready()).await.is_err() {
        tracing::warn!("Redis does not answer yet; serving from the database until it does");
    }

    announce(&args.name, address);
    serve(listener, &catalog, stop).await?;

    if timeout(SHUTDOWN_STEP, catalog.finish_writes())
        .await
        .is_err()
    {
        tracing::warn!("some writes were not finished in time");
    }
    if timeout(SHUTDOWN_STEP, cache.close()).await.is_err() {
        tracing::warn!("the cache was not closed in time");
    }
    Ok(())
}

/// Serves until `stop`, then gives the open requests a bounded time to end.
async fn serve(
    listener: TcpListener,
    catalog: &Catalog,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stopping, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, http::router(catalog.clone()))
        .with_graceful_shutdown(async {
            _ = stopped.await;
        })
        .into_future();
    tokio::pin!(server);

    tokio::select! {
        ended = &mut server => return ended,
        () = stop => drop(stopping),
    }
    timeout(SHUTDOWN_STEP, server).await.unwrap_or_else(|_| {
        tracing::warn!("some requests were still open at the end");
        Ok(())
    })
}

/// Prints the address that the instance listens on: with port 0 it is not known before.
fn announce(name: &str, address: SocketAddr) {
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason to stop serving.
    _ = writeln!(out, "{name}: listening on http://{address}").and_then(|()| out.flush());
}

fn start_logging() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
