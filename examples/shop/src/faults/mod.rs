//! One fault after the other in a shop under load, and after each whether the shop has kept what it promises.
//!
//! - [`fault`]: how each is caused and healed, and which requests have a fallback meanwhile
//! - [`late`]: changes just before a fault ends, and their readers
//! - [`well`]: when the shop is well again
//! - [`orders`], [`sessions`], [`views`], [`cards`]: what the shop promises, as it is seen from outside. Whether a page is
//!   too old is found by those who read it
//! - [`found`]: what was seen, and the table
//!
//! `README.md` lists the promises.

mod cards;
mod fault;
mod found;
mod late;
mod orders;
mod sessions;
mod views;
mod well;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::maybe_done;
use futures::join;
use rand::random;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

use self::fault::Fault;
use self::found::{Found, Table};
use self::orders::Orders;
use self::sessions::Sessions;
use self::views::Views;
use crate::args::Shop;
use crate::customers::driver::{Driver, Mix, SESSIONS};
use crate::customers::visit::{Customers, Outcome, Visit};
use crate::run::{Running, Signals};
use crate::service::Way;
use crate::service::failure::Trouble;

/// More changes than customers make.
const MIX: Mix = [600, 50, 100, 100, 50, 100];
/// How many log out during each fault, and in a storm.
const LOGOUTS: usize = 8;
const STORM: usize = 60;
/// How long an order takes, or less.
const MIDST: Duration = Duration::from_millis(60);
/// Between the wave of orders and logouts with which a fault comes, and the next one.
const WAVE: Duration = Duration::from_millis(500);
/// The products that many want at once: nobody else does.
const WANTED: std::ops::RangeInclusive<u64> = 450..=499;

#[derive(Clone, clap::Args)]
pub(crate) struct Faults {
    /// For how long faults begin
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// How many customers there are, each with ten seconds between two requests
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
}

pub(crate) async fn run(shop: Shop, faults: Faults) -> Result<(), Trouble> {
    let has_own_redis = shop.redis.is_none() && !shop.in_process && !shop.cluster;
    if !has_own_redis || shop.way() != Way::Larder || shop.instances < 2 {
        let text = "the faults are for a shop with the crate, one Redis of its own, and two instances of each service";
        return Err(text.into());
    }
    let mut signals = Signals::new()?;
    let (running, control) = Running::start(&shop, signals.next()).await?;
    drop(control);
    let mut table = Table::default();
    let done = tokio::select! {
        done = all(&running, &faults, &mut table) => done,
        () = signals.next() => Err("the faults were ended".into()),
    };
    if !table.is_empty() {
        table.print();
    }
    // A second Ctrl-C does not wait.
    running.end(signals.hurry()).await;
    done?;
    match table.violations() {
        0 => Ok(()),
        many => Err(format!("{many} violations").into()),
    }
}

async fn all(running: &Running, faults: &Faults, table: &mut Table) -> Result<(), Trouble> {
    running
        .redis()
        .map_err(|_| "the faults need a Redis: install redis-server")?;
    let mut driver = Driver::new(running.plan, faults.users, MIX)?;
    let customers = Arc::clone(&driver.customers);
    customers.log_in(SESSIONS).await?;
    well::wait(running, &customers, &mut Found::default()).await?;
    let until = Instant::now() + Duration::from_secs(faults.seconds);
    for (turn, wanted) in WANTED.cycle().enumerate() {
        if Instant::now() >= until {
            break;
        }
        let fault = Fault::of(turn);
        let mut found = Found::default();
        let done = one(fault, running, &mut driver, wanted, &mut found).await;
        if let Err(trouble) = &done {
            found.violation(format!("it cannot be checked: {trouble}"));
        }
        found.print(&fault.to_string());
        table.add(fault.to_string(), &found);
        // What comes after would be checked against what is not known.
        done?;
    }
    Ok(())
}

/// One fault, and the checks. Nobody is in the shop before and after.
async fn one(
    fault: Fault,
    running: &Running,
    driver: &mut Driver,
    wanted: u64,
    found: &mut Found,
) -> Result<(), Trouble> {
    let customers = Arc::clone(&driver.customers);
    let customers = &*customers;
    let many = if fault == Fault::LogoutStorm {
        STORM
    } else {
        LOGOUTS
    };
    let mut sessions = Sessions::new(customers, many).await?;
    let mut orders = Orders::new(customers, wanted).await?;
    let mut views = Views::new(customers).await?;
    // A list that was stored has a fallback.
    for gateway in 0..customers.plan.instances {
        customers.visit(Visit::List, gateway).await;
    }
    late::prepare(customers).await?;
    let began = Instant::now();
    let over = began + fault.lasts();
    let (mut of_logouts, mut elsewhere) = (Found::default(), Found::default());
    let script = async {
        let mut many_come = pin!(maybe_done(async {
            join!(
                orders.waves(customers),
                views::crowd(customers),
                sessions.waves(over, customers, &mut of_logouts),
            )
        }));
        let cause = async {
            // So that the first wave is under way.
            sleep(MIDST.mul_f64(random())).await;
            elsewhere.done(fault.cause(running, customers).await);
            sleep_until(over.into()).await;
        };
        join!(cause, async {
            _ = timeout_at(over.into(), &mut many_come).await;
        });
        let mut changes = pin!(maybe_done(late::change(customers)));
        // Those that need what has failed come to an end only after that.
        _ = timeout(late::MOMENT, async { join!(&mut many_come, &mut changes) }).await;
        let healed = Instant::now();
        let healing = async {
            elsewhere.done(fault.heal(running, customers).await);
            join!(&mut many_come, &mut changes);
            well::wait(running, customers, &mut elsewhere).await
        };
        let mut seen = Vec::new();
        let healing = tokio::select! {
            done = healing => done,
            never = late::read(customers, &mut seen) => match never {},
        };
        seen.extend(changes.take_output().into_iter().flatten());
        let (accepted, crowd, ()) = many_come.take_output().unwrap_or_default();
        seen.extend(crowd);
        elsewhere.well = healed.elapsed();
        let well = Instant::now();
        let recovering = async {
            healing?;
            fault.recover(customers).await
        };
        (seen, accepted, recovering.await.map(|()| well))
    };
    let mut outcomes = Vec::new();
    let done = driver.run(script, |outcome| outcomes.push(outcome)).await?;
    let (seen, accepted, well) = done;
    outcomes.extend(seen);
    found.add(&of_logouts);
    found.add(&elsewhere);
    for outcome in outcomes {
        judge(fault, began, &outcome, &mut orders, &mut views, found);
    }
    let well = well?;
    customers.seen.settled();
    let again = orders.rush(customers).await;
    orders.accept_rush(accepted + again);
    // An order may be settled only now.
    well::wait(running, customers, found).await?;
    orders.check(customers, found).await?;
    if fault.keeps_redis() {
        views.check(customers, found).await?;
    }
    cards::check(running.redis()?, customers, found).await?;
    sessions.check_at_the_end(customers, well, found).await;
    pages(customers, began, found).await;
    Ok(())
}

/// Adds what a customer has seen.
fn judge(
    fault: Fault,
    began: Instant,
    outcome: &Outcome,
    orders: &mut Orders,
    views: &mut Views,
    found: &mut Found,
) {
    let Outcome {
        visit,
        answer,
        stale,
        ..
    } = outcome;
    let at = outcome.asked.saturating_duration_since(began);
    // That there is no piece is an answer.
    let failure = answer.as_ref().err();
    let failure = failure.filter(|error| !error.starts_with(StatusCode::CONFLICT.as_str()));
    found.requests += 1;
    found.failed += u64::from(failure.is_some());
    found.pages += u64::from(matches!(visit, Visit::Page(_)));
    match (visit, answer) {
        (Visit::Order(product, _), Ok(_)) => orders.accept(*product, 1),
        (Visit::Rename(_), Ok(_)) => found.changes += 1,
        (Visit::View(product), answer) => {
            let answer = answer.as_ref().ok();
            let is_counted = answer.and_then(|answer| answer.get("is_counted"));
            views.add(*product, is_counted == Some(&Value::Bool(true)));
        }
        _ => {}
    }
    if let Some(error) = failure {
        found.check(!fault.has_fallback(*visit), || {
            format!("{visit:?}, after {at:?}, has a fallback: {error}")
        });
    }
    if let Some((name, number)) = stale {
        found.violation(format!(
            "{visit:?}, after {at:?}, shows {name}: #{number} was known"
        ));
    }
}

/// Reads the page of each product that was changed since, when that counts for all.
async fn pages(customers: &Customers, since: Instant, found: &mut Found) {
    let (products, counts) = customers.seen.changed_since(since);
    sleep_until(counts.into()).await;
    for product in products {
        for gateway in 0..customers.plan.instances {
            let page = customers.visit(Visit::Page(product), gateway).await;
            found.pages += 1;
            if let Some((name, number)) = page.stale {
                found.violation(format!(
                    "gateway {gateway} goes on to show {name}: #{number} was known"
                ));
            }
        }
    }
}
