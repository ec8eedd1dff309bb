//! What the customers of one shop have seen, and what it has cost.

use futures::future::join_all;
use hdrhistogram::Histogram;

use crate::customers::visit::{Customers, Outcome, Visit};
use crate::run::redis::Redis;
use crate::service::failure::Trouble;
use crate::service::times::record;

/// How many customers ask for one product at once, in a stampede.
const CROWD: u16 = 200;

pub(super) struct Tally {
    /// How long each product page took, in µs.
    pub(super) pages: Histogram<u64>,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) stale: u64,
    pub(super) queries: u64,
    pub(super) commands: u64,
    /// Queries for one product that was renamed while many were asking for it.
    pub(super) stampede: u64,
}

impl Tally {
    pub(super) fn new() -> Result<Self, Trouble> {
        Ok(Self {
            pages: Histogram::new(3)?,
            requests: 0,
            errors: 0,
            stale: 0,
            queries: 0,
            commands: 0,
            stampede: 0,
        })
    }

    pub(super) fn add_costs(&mut self, before: Costs, after: Costs) {
        self.queries += after.queries.saturating_sub(before.queries);
        self.commands += after.commands.saturating_sub(before.commands);
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.requests += 1;
        self.errors += u64::from(outcome.answer.is_err());
        self.stale += u64::from(outcome.stale.is_some());
        if matches!(outcome.visit, Visit::Page(_)) {
            record(&mut self.pages, outcome.took);
        }
    }

    /// Renames a product while many ask for it, and counts the queries.
    pub(super) async fn stampede(&mut self, customers: &Customers) -> Result<(), Trouble> {
        let id = 3;
        for _ in 0..3 {
            let before = queries(customers).await?;
            let renamed = customers.visit(Visit::Rename(id), 0);
            let crowd = (0..CROWD).map(|gateway| customers.visit(Visit::Page(id), gateway));
            renamed.await;
            join_all(crowd).await;
            self.stampede += queries(customers).await?.saturating_sub(before);
        }
        Ok(())
    }
}

/// The counters of a shop since it was started.
#[derive(Clone, Copy)]
pub(super) struct Costs {
    queries: u64,
    commands: u64,
}

impl Costs {
    pub(super) async fn of(customers: &Customers, redis: Option<&Redis>) -> Result<Self, Trouble> {
        let commands = match redis {
            Some(redis) => redis.commands().await?,
            None => 0,
        };
        Ok(Self {
            queries: queries(customers).await?,
            commands,
        })
    }
}

async fn queries(customers: &Customers) -> Result<u64, Trouble> {
    let reports = customers.reports(0).await?;
    Ok(reports.iter().map(|report| report.queries).sum())
}
