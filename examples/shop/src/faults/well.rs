//! When the shop is well again: all instances run and work with Redis, and nothing waits to be delivered.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::found::Found;
use crate::customers::visit::Customers;
use crate::plan::Name;
use crate::run::Running;
use crate::service::failure::Trouble;
use crate::service::watch::Report;

/// How long that may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until it is. What has ended without a fault is a violation, and is started again.
pub(super) async fn wait(
    running: &Running,
    customers: &Customers,
    found: &mut Found,
) -> Result<(), Trouble> {
    let until = Instant::now() + LIMIT;
    loop {
        for what in running.start_what_has_ended().await? {
            found.violation(format!("{what} has ended, and was started again"));
        }
        let missing = match missing(customers).await {
            Ok(None) => return Ok(()),
            Ok(Some(missing)) => missing,
            Err(trouble) => trouble.to_string(),
        };
        if Instant::now() > until {
            return Err(format!("the shop is not well after {LIMIT:?}: {missing}").into());
        }
        sleep(PAUSE).await;
    }
}

/// The first thing that is not well.
async fn missing(customers: &Customers) -> Result<Option<String>, Trouble> {
    let reports = customers.reports(0).await?;
    if let Some(report) = reports.iter().find(|report| !report.is_well()) {
        let Report {
            service, instance, ..
        } = report;
        return Ok(Some(format!(
            "{service} {instance} is down or without Redis"
        )));
    }
    let waiting = [
        (Name::Product, "outbox", "invalidations wait in the outbox"),
        (Name::Order, "open", "orders are open"),
    ];
    for (name, path, what) in waiting {
        let many: u64 = customers.ask((name, 0), path).await?;
        if many > 0 {
            return Ok(Some(format!("{many} {what}")));
        }
    }
    Ok(None)
}
