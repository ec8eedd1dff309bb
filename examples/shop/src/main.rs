//! A shop of seven services, each with the caching strategy that fits it, and a page that shows the caches at work.
//!
//! ```sh
//! cargo run --release -p shop
//! ```
//!
//! - [`run`]: the command without a name of a service: starts Redis, all services and a light load, and ends them
//! - [`plan`]: which services there are, and where they listen; [`args`]: the command line
//! - [`service`]: the parts that all services have in common
//! - [`gateway`], [`user`], [`product`], [`inventory`], [`order`], [`payment`], [`recommendation`]: the services
//!
//! `README.md` tells each decision, and its alternative.

mod args;
mod gateway;
mod inventory;
mod order;
mod payment;
mod plan;
mod product;
mod recommendation;
mod run;
mod service;
mod user;

use std::process::ExitCode;

use clap::Parser;
use tokio::io::{AsyncReadExt as _, stdin};
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Which};
use crate::service::failure::Trouble;

#[tokio::main]
async fn main() -> ExitCode {
    // Quiet unless asked: the services answer for Redis being away on the page.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).init();
    match start(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> Result<(), Trouble> {
    let Some(Which { name, instance }) = args.which()? else {
        return run::all(args.shop).await;
    };
    let is_tied = args.shop.tied;
    let stop = async move {
        if is_tied {
            // Ends with the process that has started it, however that ends.
            let mut nothing = [0; 1];
            let _ = stdin().read(&mut nothing).await;
        } else {
            let _ = tokio::signal::ctrl_c().await;
        }
    };
    let setup = args.shop.setup()?;
    let address = setup.plan.address((name, instance));
    let listening = || {
        if !is_tied {
            println!("{name} {instance} on http://{address}");
        }
    };
    service::run(setup, (name, instance), listening, stop).await
}
