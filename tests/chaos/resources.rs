//! What this process uses: it must not grow.

use std::fs;

use tokio::runtime::Handle;

use crate::INSTANCES;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resources {
    pub(crate) rss_kib: usize,
    pub(crate) descriptors: usize,
    /// On the runtime of each instance.
    pub(crate) tasks: [usize; INSTANCES],
}

/// How much more may be used: memory for what the allocator keeps, and tasks and descriptors for what happens to be
/// under way when it is counted.
const MORE_MEMORY: f64 = 1.25;
const MORE_KIB: f64 = 16.0 * 1024.0;
const MORE: usize = 12;

impl Resources {
    pub(crate) fn now(runtimes: &[Handle; INSTANCES]) -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("this needs Linux");
        let rss = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rss| rss.trim().strip_suffix(" kB"))
            .and_then(|rss| rss.parse().ok());
        Self {
            rss_kib: rss.expect("a process has a size"),
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            tasks: std::array::from_fn(|index| runtimes[index].metrics().num_alive_tasks()),
        }
    }

    /// The least of both, so that what is under way for a moment does not count.
    pub(crate) fn least(&self, other: &Self) -> Self {
        Self {
            rss_kib: self.rss_kib.min(other.rss_kib),
            descriptors: self.descriptors.min(other.descriptors),
            tasks: std::array::from_fn(|index| self.tasks[index].min(other.tasks[index])),
        }
    }

    /// Whether this is no more than before, but for the margins above.
    #[allow(clippy::cast_precision_loss, reason = "memory is not that large")]
    pub(crate) fn is_flat(&self, before: &Self) -> bool {
        let limit = before.rss_kib as f64 * MORE_MEMORY + MORE_KIB;
        let tasks = self.tasks.iter().zip(before.tasks);
        (self.rss_kib as f64) < limit
            && self.descriptors <= before.descriptors + MORE
            && tasks.into_iter().all(|(now, before)| *now <= before + MORE)
    }
}

#[cfg(test)]
mod tests {
    use super::{MORE, Resources};

    #[test]
    fn each_resource_alone_may_grow_within_its_margin() {
        let before = Resources {
            rss_kib: 100_000,
            descriptors: 20,
            tasks: [10; 3],
        };
        let with = |change: fn(&mut Resources)| {
            let mut now = before.clone();
            change(&mut now);
            now.is_flat(&before)
        };
        assert!(with(|_| {}));
        assert!(with(|now| now.rss_kib = 140_000));
        assert!(!with(|now| now.rss_kib = 142_000));
        assert!(with(|now| now.descriptors += MORE));
        assert!(!with(|now| now.descriptors += MORE + 1));
        assert!(!with(|now| now.tasks[2] += MORE + 1));
    }
}
