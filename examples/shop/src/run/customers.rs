//! A light load, so that there is something to see; and a line of figures each second.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

use rand::rng;
use reqwest::Method;
use tokio::time::interval;

use crate::customers::visit::{Customers, Visit};
use crate::plan::Plan;
use crate::service::failure::Trouble;
use crate::service::watch::Report;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(50);
/// Of so many pages of a gateway one is made again, without a cache.
const COMPARED: u64 = 5;
/// Requests between two lines.
const LINE: u64 = 20;

/// Looks at products until it is dropped.
pub(super) async fn shop(plan: Plan) -> Result<(), Trouble> {
    let customers = Customers::new(plan)?;
    let (mut ticks, mut last) = (interval(PAUSE), Figures::default());
    for turn in 0_u64.. {
        ticks.tick().await;
        let id = customers.product(&mut rng());
        let gateway = u16::try_from(turn % u64::from(plan.instances)).unwrap_or(0);
        for visit in [Visit::Page(id), Visit::View(id)] {
            // One that fails is what the page shows.
            customers.visit(visit, gateway).await;
        }
        if turn / u64::from(plan.instances) % COMPARED == 0 {
            // The page of the shop shows both times.
            let path = format!("uncached/products/{id}");
            let _ = customers.request(Method::GET, gateway, &path).send().await;
        }
        if turn % LINE == 0
            && let Ok(reports) = customers.reports(gateway).await
        {
            let now = Figures::of(&reports);
            now.print(&last);
            last = now;
        }
    }
    Ok(())
}

/// The sums of all instances.
#[derive(Clone, Copy, Default)]
struct Figures {
    requests: u64,
    l1_hits: u64,
    l2_hits: u64,
    loads: u64,
    queries: u64,
    down: usize,
    troubled: usize,
}

impl Figures {
    fn of(reports: &[Report]) -> Self {
        let mut all = Self::default();
        for report in reports {
            all.requests += report.requests;
            all.queries += report.queries;
            all.down += usize::from(report.is_down);
            all.troubled += usize::from(!report.is_down && !report.is_well());
            for cache in &report.caches {
                let count = |name| cache.stats.get(name).copied().unwrap_or(0);
                all.l1_hits += count("l1_hits");
                all.l2_hits += count("l2_hits");
                all.loads += count("loads");
            }
        }
        all
    }

    fn print(&self, last: &Self) {
        let since = |of: fn(&Self) -> u64| of(self).saturating_sub(of(last));
        let line = format!(
            "requests {}, L1 hits {}, L2 hits {}, loads {}, queries {}, instances down {}, in trouble {}",
            since(|of| of.requests),
            since(|of| of.l1_hits),
            since(|of| of.l2_hits),
            since(|of| of.loads),
            since(|of| of.queries),
            self.down,
            self.troubled
        );
        let mut out = stdout();
        // A closed terminal is no reason to end.
        _ = if out.is_terminal() {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }
}
