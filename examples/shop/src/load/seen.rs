//! The names that products have had: whether a page is older than a change that its reader could know of.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::service::watch::held;

/// How old a page may be: the bound of the crate, `max_staleness`.
pub(super) const BOUND: Duration = Duration::from_secs(2);

/// The numbers in the names of products, which rise with each change.
#[derive(Default)]
pub(super) struct Seen(Mutex<HashMap<u64, Vec<(u64, Instant)>>>);

impl Seen {
    /// The next number for a product.
    pub(super) fn next(&self, id: u64) -> u64 {
        let changes = held(&self.0);
        let last = changes.get(&id).and_then(|all| all.last());
        last.map_or(1, |(number, _)| number + 1)
    }

    /// A change has been acknowledged.
    pub(super) fn changed(&self, id: u64, number: u64) {
        let mut changes = held(&self.0);
        changes
            .entry(id)
            .or_default()
            .push((number, Instant::now()));
    }

    /// Whether a page that was asked for then is older than a change of longer ago than the bound.
    pub(super) fn is_stale(&self, id: u64, name: &str, asked: Instant) -> bool {
        let shown = name
            .rsplit_once('#')
            .and_then(|(_, number)| number.parse().ok());
        let changes = held(&self.0);
        let known = changes.get(&id).into_iter().flatten();
        let known = known
            .filter(|(_, at)| *at + BOUND < asked)
            .map(|(number, _)| *number);
        known.max() > shown
    }
}
