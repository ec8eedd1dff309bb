//! A shop of seven services, each with the caching strategy that fits it, and a page that shows the caches at work.
//!
//! ```sh
//! cargo run --release -p shop
//! ```
//!
//! - [`run`]: the command without a name of a service: starts Redis, all services and a light load, and ends them
//! - [`load`]: the same load for the shop in its three ways
//! - [`faults`]: one fault after the other, and whether the shop keeps its promises
//! - [`customers`]: what the load consists of
//! - [`plan`]: which services there are, and where they listen; [`args`]: the command line
//! - [`service`]: the parts that all services have in common
//! - [`gateway`], [`user`], [`product`], [`inventory`], [`order`], [`payment`], [`recommendation`]: the services
//!
//! `README.md` tells each decision, and its alternative.

mod args;
mod customers;
mod faults;
mod gateway;
mod inventory;
mod load;
mod order;
mod payment;
mod plan;
mod product;
mod recommendation;
mod run;
mod service;
mod user;

use std::io;
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
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    match start(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> Result<(), Trouble> {
    let instance = match args.which()? {
        Which::All => return run::all(args.shop).await,
        Which::Load(load) => return load::run(args.shop, load).await,
        Which::Faults(faults) => return faults::run(args.shop, faults).await,
        Which::Redis(arguments) => return run::redis::keep(arguments).await,
        Which::Service(instance) => instance,
    };
    let is_tied = args.shop.tied;
    let stop = async move {
        if is_tied {
            input_ends().await;
        } else {
            let _ = tokio::signal::ctrl_c().await;
        }
    };
    let setup = args.shop.setup()?;
    let address = setup.plan.address(instance);
    let listening = || {
        if !is_tied {
            println!("{} {} on http://{address}", instance.0, instance.1);
        }
    };
    service::run(setup, instance, listening, stop).await
}

/// Waits until the process that has started this one has ended, however that ended.
async fn input_ends() {
    let mut nothing = [0; 1];
    _ = stdin().read(&mut nothing).await;
}
