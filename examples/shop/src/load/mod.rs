//! The same load for the shop in its three ways: with the crate, by hand, and without a cache.
//!
//! All three run at the same time, each with a Redis of its own. The load goes to one after the other, in short slices, so
//! that whatever else the machine does falls on all of them.
//!
//! - [`tally`]: what the customers have seen, and what it has cost
//! - [`chart`]: the latencies as a picture

mod chart;
mod tally;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::time::sleep;

use self::tally::{Costs, Tally};
use crate::args::Shop;
use crate::customers::driver::{Driver, Mix, SESSIONS};
use crate::customers::visit::Visit;
use crate::product::PRODUCTS;
use crate::run::{Running, Signals};
use crate::service::Way;
use crate::service::failure::Trouble;

/// How long the load stays with one way.
const SLICE: Duration = Duration::from_secs(3);
/// How long customers come to each way at first, when each page has been made once.
const WARM: Duration = Duration::from_secs(10);
/// How many of these pages are asked for at a time.
const AT_ONCE: usize = 8;
/// So that no slice pays for what an earlier one has begun.
const REST: Duration = Duration::from_millis(200);
/// Mostly pages.
const MIX: Mix = [803, 80, 70, 30, 15, 2];
/// How many ports are between the shops.
const APART: u16 = 100;

#[derive(Clone, clap::Args)]
pub(crate) struct Load {
    /// How long each way is under load
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// How many customers there are, each with ten seconds between two requests
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,

    /// Draws the latencies into this file
    #[arg(long, value_name = "SVG")]
    chart: Option<PathBuf>,
}

/// A shop of one way, and what its customers have seen.
struct Side {
    name: &'static str,
    running: Arc<Running>,
    driver: Driver,
    tally: Tally,
}

pub(crate) async fn run(shop: Shop, load: Load) -> Result<(), Trouble> {
    if let Some(path) = &load.chart {
        // Before the load, and not after it.
        let file = File::create(path);
        file.map_err(|error| format!("cannot draw into {}: {error}", path.display()))?;
    }
    let mut signals = Signals::new()?;
    let mut sides = Vec::new();
    let done = match start(&shop, &load, &mut sides, &mut signals).await {
        Ok(()) => tokio::select! {
            done = measure(&load, &mut sides) => done,
            () = signals.next() => Err("the load was ended".into()),
        },
        failed => failed,
    };
    // A second Ctrl-C does not wait.
    let hurry = signals.hurry().shared();
    join_all(sides.iter().map(|side| side.running.end(hurry.clone()))).await;
    done
}

async fn start(
    shop: &Shop,
    load: &Load,
    sides: &mut Vec<Side>,
    signals: &mut Signals,
) -> Result<(), Trouble> {
    let ways = [
        ("larder", Way::Larder),
        ("by hand", Way::ByHand),
        ("without a cache", Way::WithoutCache),
    ];
    for (number, (name, way)) in (0..).zip(ways) {
        let mut one = shop.clone();
        one.port += number * APART;
        one.by_hand = way == Way::ByHand;
        one.without_cache = way == Way::WithoutCache;
        // Only the crate can use one.
        one.cluster &= way == Way::Larder;
        let (running, control) = Running::start(&one, signals.next()).await?;
        drop(control);
        let side = Side {
            name,
            driver: Driver::new(running.plan, load.users, MIX)?,
            running,
            tally: Tally::new()?,
        };
        let (has_redis, customers) = (
            side.running.redis.is_some(),
            Arc::clone(&side.driver.customers),
        );
        sides.push(side);
        if !has_redis {
            return Err("the load needs a Redis for each way: install redis-server".into());
        }
        customers.log_in(SESSIONS).await?;
    }
    Ok(())
}

/// Before requests count: a cold start is not what is compared.
async fn warm(side: &mut Side) -> Result<(), Trouble> {
    let customers = &side.driver.customers;
    let pages = (0..side.running.plan.instances)
        .flat_map(|gateway| (1..=u64::from(PRODUCTS)).map(move |id| (gateway, id)));
    let visits = stream::iter(pages).for_each_concurrent(AT_ONCE, async |(gateway, id)| {
        customers.visit(Visit::Page(id), gateway).await;
    });
    visits.await;
    side.driver.run(sleep(WARM), drop).await
}

async fn measure(load: &Load, sides: &mut [Side]) -> Result<(), Trouble> {
    println!(
        "each way is under load for {} s, in slices of {} s, after each page was asked for once and {} s of load that do \
         not count",
        load.seconds,
        SLICE.as_secs(),
        WARM.as_secs()
    );
    for side in &mut *sides {
        warm(side).await?;
    }
    for _ in 0..load.seconds.div_ceil(SLICE.as_secs()) {
        for side in &mut *sides {
            let redis = side.running.redis.as_ref();
            let customers = Arc::clone(&side.driver.customers);
            let before = Costs::of(&customers, redis).await?;
            let tally = &mut side.tally;
            let slice = side.driver.run(sleep(SLICE), |outcome| tally.add(&outcome));
            slice.await?;
            sleep(REST).await;
            tally.add_costs(before, Costs::of(&customers, redis).await?);
        }
    }
    for side in &mut *sides {
        side.tally.stampede(&side.driver.customers).await?;
    }
    print(sides);
    if let Some(path) = &load.chart {
        let lines: Vec<_> = sides
            .iter()
            .map(|side| (side.name, &side.tally.pages))
            .collect();
        chart::draw(path, &lines)?;
        println!("drawn into {}", path.display());
    }
    Ok(())
}

fn print(sides: &[Side]) {
    type Cell = fn(&Tally) -> String;
    let rows: [(&str, Cell); 9] = [
        ("requests", |tally| tally.requests.to_string()),
        ("product page, p50", |tally| {
            ms(tally.pages.value_at_quantile(0.5))
        }),
        ("product page, p99", |tally| {
            ms(tally.pages.value_at_quantile(0.99))
        }),
        ("product page, p99.9", |tally| {
            ms(tally.pages.value_at_quantile(0.999))
        }),
        ("errors", |tally| tally.errors.to_string()),
        ("database queries", |tally| tally.queries.to_string()),
        ("commands of Redis", |tally| tally.commands.to_string()),
        ("stale pages", |tally| tally.stale.to_string()),
        ("queries of a stampede", |tally| tally.stampede.to_string()),
    ];
    let names: Vec<_> = sides.iter().map(|side| side.name).collect();
    println!("\n| | {} |", names.join(" | "));
    println!("| --- |{}", " ---: |".repeat(names.len()));
    for (name, cell) in rows {
        let cells: Vec<_> = sides.iter().map(|side| cell(&side.tally)).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}

/// Of µs.
fn ms(micros: u64) -> String {
    let (whole, rest) = (micros / 1000, micros % 1000 / 10);
    format!("{whole}.{rest:02} ms")
}
