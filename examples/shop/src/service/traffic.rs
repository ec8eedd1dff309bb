//! The requests of an instance and what it finds in Redis, which the page draws as dots.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::interval;

use super::Service;
use crate::plan::Instance;

const MOMENT: Duration = Duration::from_millis(200);

/// What was counted since the instance was started.
struct Counts {
    received: u64,
    sent: HashMap<Instance, u64>,
    from_l2: u64,
}

impl Counts {
    fn now(service: &Service) -> Self {
        let from_l2 = service.caches.iter().map(|cache| cache.stats().l2_hits);
        Self {
            received: service.watch.requests.load(Ordering::Relaxed),
            sent: service.peers.sent(),
            from_l2: from_l2.sum(),
        }
    }

    /// `None` if there is nothing to draw.
    fn since(&self, before: &Self) -> Option<Value> {
        let received = self.received.saturating_sub(before.received);
        let from_l2 = self.from_l2.saturating_sub(before.from_l2);
        let mut sent = Vec::new();
        for (instance, count) in &self.sent {
            let count = count.saturating_sub(before.sent.get(instance).copied().unwrap_or(0));
            if count > 0 {
                let to = format!("{} {}", instance.0, instance.1);
                sent.push(json!({ "to": to, "count": count }));
            }
        }
        if sent.is_empty() && received + from_l2 == 0 {
            return None;
        }
        Some(json!({ "kind": "traffic", "received": received, "sent": sent, "from_l2": from_l2 }))
    }
}

/// What comes and goes in each moment.
pub(super) fn each_moment(service: Arc<Service>) -> impl Stream<Item = Value> {
    let began = (interval(MOMENT), Counts::now(&service), service);
    let each = stream::unfold(began, async |(mut moments, before, service)| {
        moments.tick().await;
        let now = Counts::now(&service);
        Some((now.since(&before), (moments, now, service)))
    });
    each.filter_map(async |traffic| traffic)
}
