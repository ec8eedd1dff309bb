//! One small example of each call, of the usual options and of features. No server is needed:
//!
//! ```sh
//! cargo run -p calls
//! cargo run -p calls -- touch
//! cargo run -p calls --all-features -- outbox codecs
//! ```
//!
//! Each example is a file of its own, and fails if the cache does not do what it is meant to show. Several instances
//! are several caches over one `MemoryL2`; in a service they are processes, and L2 is Redis.
//!
//! Tokio's time is paused here: a `sleep` of an hour returns within a second. A cache that is built with
//! `Clock::tokio()` goes by that time. With a service's runtime both go by the real one.

mod at_least;
mod clear;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(all(feature = "compression", feature = "encryption"))]
mod codec_layers;
#[cfg(all(feature = "json", feature = "postcard", feature = "messagepack"))]
mod codecs;
mod expire;
mod fallbacks;
mod get;
mod get_local;
mod get_many;
mod get_or_load;
mod get_or_load_with;
mod hot_keys;
mod insert;
mod insert_if;
#[cfg(feature = "inspect")]
mod inspect;
mod invalidate;
mod invalidate_after;
mod invalidate_and_hold;
mod invalidate_and_wait;
mod invalidate_prefix;
mod invalidations;
mod keep_warm;
mod l1_size;
mod limits;
mod listen_to;
mod loaded;
#[cfg(feature = "macros")]
mod macros;
#[cfg(feature = "metrics")]
mod metrics;
mod operation;
#[cfg(feature = "outbox-rusqlite")]
mod outbox;
#[cfg(feature = "outbox-sqlx")]
mod outbox_postgres;
#[cfg(feature = "json")]
mod publish_changes;
mod read_through;
mod refresh;
mod refresh_ahead;
mod set_enabled;
mod settings;
mod size_advice;
mod sliding;
mod stale_wait;
mod staleness;
mod stores;
mod tags;
#[cfg(feature = "tls")]
mod tls;
mod touch;
mod ttls;
mod update;
#[cfg(feature = "uuid")]
mod uuids;
mod verify;
mod warm;
mod write_through;

use std::env::{self, VarError};
use std::error::Error;
use std::process::ExitCode;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use tokio::runtime::Builder;

type Outcome = Result<(), Box<dyn Error>>;
type Example = (&'static str, fn() -> LocalBoxFuture<'static, Outcome>);

macro_rules! examples {
    ($($(#[$if:meta])? $name:ident)*) => {
        &[$($(#[$if])? (stringify!($name), || $name::run().boxed_local())),*]
    };
}

/// In the order of the guide's page `calls`.
const EXAMPLES: &[Example] = examples! {
    get_or_load get_or_load_with read_through refresh get get_many get_local
    invalidate invalidate_after invalidations write_through invalidate_and_wait at_least invalidate_and_hold
    #[cfg(feature = "outbox-rusqlite")] outbox
    #[cfg(feature = "outbox-sqlx")] outbox_postgres
    insert loaded update warm keep_warm insert_if expire touch
    tags invalidate_prefix clear set_enabled operation hot_keys size_advice
    settings stores l1_size ttls refresh_ahead stale_wait fallbacks sliding staleness verify limits
    listen_to #[cfg(feature = "json")] publish_changes
    #[cfg(all(feature = "json", feature = "postcard", feature = "messagepack"))] codecs
    #[cfg(all(feature = "compression", feature = "encryption"))] codec_layers
    #[cfg(feature = "tls")] tls
    #[cfg(feature = "cluster")] cluster
    #[cfg(feature = "uuid")] uuids
    #[cfg(feature = "macros")] macros
    #[cfg(feature = "inspect")] inspect
    #[cfg(feature = "metrics")] metrics
};

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let is_known = |name: &String| EXAMPLES.iter().any(|(known, _)| known == name);
    if let Some(unknown) = wanted.iter().find(|name| !is_known(name)) {
        eprintln!("there is no example {unknown:?}; there are:");
        for (name, _) in EXAMPLES {
            eprintln!("  {name}");
        }
        return ExitCode::FAILURE;
    }
    for (name, example) in EXAMPLES {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        match run(*example) {
            Ok(()) => println!("{name}: as promised"),
            // It needs a server, and is not told of one.
            Err(error) if error.is::<VarError>() => println!("{name}: skipped: {error}"),
            Err(error) => {
                eprintln!("{name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs it in a runtime of its own, so that nothing of another example is under way.
fn run(example: fn() -> LocalBoxFuture<'static, Outcome>) -> Outcome {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build()?;
    runtime.block_on(example())
}
