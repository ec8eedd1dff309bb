//! No view that was acknowledged is lost, as long as Redis keeps what it has.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::found::Found;
use crate::customers::visit::{Customers, Outcome, Visit};
use crate::plan::Name;
use crate::service::failure::Trouble;

/// How long the last views may take to reach the database: an attempt that has failed is repeated.
const LIMIT: Duration = Duration::from_secs(20);

/// How many look at once.
const CROWD: u16 = 24;

pub(super) struct Views {
    before: HashMap<u64, u64>,
    acknowledged: HashMap<u64, u64>,
    /// Redis has not answered: they count, or not.
    unsure: HashMap<u64, u64>,
}

impl Views {
    pub(super) async fn new(customers: &Customers) -> Result<Self, Trouble> {
        Ok(Self {
            before: counted(customers).await?,
            acknowledged: HashMap::new(),
            unsure: HashMap::new(),
        })
    }

    pub(super) fn add(&mut self, product: u64, is_counted: bool) {
        let those = if is_counted {
            &mut self.acknowledged
        } else {
            &mut self.unsure
        };
        *those.entry(product).or_default() += 1;
    }

    /// To be called when none is under way.
    pub(super) async fn check(
        &self,
        customers: &Customers,
        found: &mut Found,
    ) -> Result<(), Trouble> {
        let until = Instant::now() + LIMIT;
        let of = |those: &HashMap<u64, u64>, id: &u64| those.get(id).copied().unwrap_or(0);
        loop {
            let now = counted(customers).await?;
            let products = || self.acknowledged.keys().chain(self.unsure.keys());
            let least = |id| of(&self.before, id) + of(&self.acknowledged, id);
            if products().all(|id| of(&now, id) >= least(id)) || Instant::now() > until {
                for id in products() {
                    let (counted, least) = (of(&now, id), least(id));
                    let most = least + of(&self.unsure, id);
                    found.check((least..=most).contains(&counted), || {
                        format!("product {id} has {counted} views, and not {least} to {most}")
                    });
                }
                found.views += self.acknowledged.values().sum::<u64>();
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Many look at a few products at once.
pub(super) async fn crowd(customers: &Customers) -> Vec<Outcome> {
    let views = (0..CROWD).map(|n| {
        let view = Visit::View(1 + u64::from(n) % 4);
        customers.visit(view, n)
    });
    join_all(views).await
}

/// How many views of each product are in the database.
async fn counted(customers: &Customers) -> Result<HashMap<u64, u64>, Trouble> {
    let all: Vec<(u64, u64)> = customers.ask((Name::Recommendation, 0), "views").await?;
    Ok(all.into_iter().collect())
}
