//! Changes just before a fault ends, and readers just after: an invalidation that was deferred may come too late for what
//! is made anew then.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::time::sleep;

use crate::customers::visit::{Customers, Outcome, Visit};
use crate::plan::Name;
use crate::service::failure::Trouble;

/// Products that customers seldom look at: a page that is old stays so until the checks.
const PRODUCTS: RangeInclusive<u64> = 401..=408;
/// How long before the end.
pub(super) const MOMENT: Duration = Duration::from_millis(400);
/// Between two looks at all of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Each instance has them in its L1.
pub(super) async fn prepare(customers: &Customers) -> Result<(), Trouble> {
    for id in PRODUCTS {
        for (name, instance) in customers.plan.all() {
            if matches!(name, Name::Gateway | Name::Product) {
                let path = format!("products/{id}");
                let _: Value = customers.ask((name, instance), &path).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn change(customers: &Customers) -> Vec<Outcome> {
    let changes = (0..)
        .zip(PRODUCTS)
        .map(|(gateway, id)| customers.visit(Visit::Rename(id), gateway));
    join_all(changes).await
}

/// Reads their pages again and again, until it is dropped.
pub(super) async fn read(customers: &Customers, seen: &mut Vec<Outcome>) -> Infallible {
    loop {
        let pages = (0..customers.plan.instances)
            .flat_map(|gateway| PRODUCTS.map(move |id| customers.visit(Visit::Page(id), gateway)));
        seen.extend(join_all(pages).await);
        sleep(PAUSE).await;
    }
}
