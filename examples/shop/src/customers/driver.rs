//! An open loop: customers come at random times, whether or not the shop keeps up.

use std::sync::Arc;
use std::time::Duration;

use rand::distr::weighted::WeightedIndex;
use rand::distr::{Distribution as _, Uniform};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::pin;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::visit::{Customers, Outcome, Visit};
use crate::plan::Plan;
use crate::service::failure::Trouble;

/// Between two requests of a customer, in the mean.
const THINKS: f64 = 10.0;
/// How many sessions there are. More would only show how long a login takes.
pub(crate) const SESSIONS: usize = 50;

/// Of how many do what: pages, lists, views, accounts, orders and changes of a name.
pub(crate) type Mix = [u32; 6];

pub(crate) struct Driver {
    /// How many come in a second.
    rate: f64,
    mix: WeightedIndex<u32>,
    random: StdRng,
    pub(crate) customers: Arc<Customers>,
}

impl Driver {
    /// Nobody has logged in yet.
    pub(crate) fn new(plan: Plan, users: u32, mix: Mix) -> Result<Self, Trouble> {
        let customers = Customers::new(plan)?;
        Ok(Self {
            rate: f64::from(users) / THINKS,
            mix: WeightedIndex::new(mix)?,
            // The same customers in each shop.
            random: StdRng::seed_from_u64(1),
            customers: Arc::new(customers),
        })
    }

    /// Lets customers come until this is done, and waits until the last has gone.
    pub(crate) async fn run<T>(
        &mut self,
        until: impl Future<Output = T>,
        mut each: impl FnMut(Outcome),
    ) -> Result<T, Trouble> {
        let mut visits = JoinSet::new();
        let even = Uniform::new(f64::MIN_POSITIVE, 1.0)?;
        let mut at = Instant::now();
        pin!(until);
        let done = loop {
            // The times between arrivals that do not depend on each other.
            at += Duration::from_secs_f64(-even.sample(&mut self.random).ln() / self.rate);
            let visit = self.choose();
            let (customers, gateway) = (Arc::clone(&self.customers), self.random.random());
            tokio::select! {
                biased;
                done = &mut until => break done,
                () = sleep_until(at) => {}
            }
            // In a task of its own: nobody waits for those who came before.
            visits.spawn(async move { customers.visit(visit, gateway).await });
        };
        while let Some(outcome) = visits.join_next().await {
            each(outcome?);
        }
        Ok(done)
    }

    fn choose(&mut self) -> Visit {
        let random = &mut self.random;
        let id = self.customers.product(random);
        let session = random.random_range(..SESSIONS);
        match self.mix.sample(random) {
            0 => Visit::Page(id),
            1 => Visit::List,
            2 => Visit::View(id),
            3 => Visit::Account(session),
            4 => Visit::Order(id, session),
            _ => Visit::Rename(id),
        }
    }
}
