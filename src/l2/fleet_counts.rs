//! Counters of the whole fleet, summed up in the store.

use std::time::Duration;

use super::Reply;

/// For how long the store remembers the last report of an instance, so that a copy of it counts nothing.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(3600);

/// The counts of an instance since its last report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The id of the instance.
    pub instance: u64,
    /// Rises by one with each report of an instance. A copy has the number of the first.
    pub number: u64,
    /// In milliseconds of the store's time: a report that arrives later is refused.
    pub deadline: Option<u64>,
    /// Names, and by how much they have grown.
    pub counted: &'a [(&'static str, u64)],
}

/// The sums of one namespace.
pub trait FleetCounts: Send + Sync {
    /// Adds a report, unless one of this instance with this number was added in the last hour. `false` if it came after its
    /// deadline, and was not added.
    fn add<'a>(&'a self, report: Report<'a>) -> Reply<'a, bool>;

    /// All sums.
    fn sums(&self) -> Reply<'_, Vec<(String, u64)>>;
}
