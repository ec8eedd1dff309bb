//! Which primary an instance believes, by what the sentinels say (rule 26).

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::Connection;
use crate::link::Link;

pub(crate) struct Belief {
    has_sentinels: bool,
    within: Duration,
    /// The incarnation of the store that they have named last, and when they were asked.
    named: Mutex<Option<(u64, Instant)>>,
}

impl Belief {
    pub(crate) fn new(link: &Link) -> Self {
        Self {
            has_sentinels: link.config.has_sentinels && !is_off(),
            within: link.config.max_staleness_of(link.instance),
            named: Mutex::default(),
        }
    }

    /// Asks. Whether the connection leads to the primary that they name.
    pub(crate) fn confirm(&self, connection: &Connection) -> bool {
        let incarnation = connection.store.incarnation();
        *self.named.lock().unwrap() = Some((incarnation, Instant::now()));
        !self.has_sentinels || incarnation == connection.incarnation
    }

    pub(crate) fn doubt(&self) {
        *self.named.lock().unwrap() = None;
    }

    /// Whether a connection may be used: they have named its primary lately, and no other since.
    pub(crate) fn holds(&self, connection: &Connection) -> bool {
        let named = *self.named.lock().unwrap();
        let holds = |(incarnation, at): (u64, Instant)| {
            incarnation == connection.incarnation && at.elapsed() <= self.within
        };
        !self.has_sentinels || named.is_some_and(holds)
    }
}

#[cfg(larder_ablation)]
fn is_off() -> bool {
    larder::ablation::without(larder::ablation::Rule::Witnesses)
}

#[cfg(not(larder_ablation))]
fn is_off() -> bool {
    false
}
