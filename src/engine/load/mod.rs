//! All that may run a loader: single flight in this instance, and in the fleet by the lease (rules 1: a fill needs a
//! lease and 12: a load runs in a task of its own).
//!
//! Knows the order of the steps (look-up, lease, loader, fill), and none of the steps themselves. [`Loads`] is the
//! entry.
//!
//! - [`get`]: the callers of a load; [`get_many`]: those of loads of several keys
//! - [`load_job`]: the task of a load or refresh: it asks for leases, calls the loader, and stores the values
//! - [`rounds`]: when it asks again for leases that other instances have
//! - [`lease`]: one load of a key in the fleet
//! - [`fill`]: the loaded value is stored, if the lease still stands
//! - [`loader`]: the user's loader, and the limits that it runs in
//! - [`loader_call`]: a call of it, which has a permit; [`cycles`]: loaders that wait for each other's loads
//! - [`permits`]: how many loaders run at once
//! - [`fallbacks`]: values or errors for the callers of a load that failed, and for those that come soon after
//! - [`refresh`]: stale values, and those that soon will be, are replaced in the background; callers may wait for it
//! - [`cache_loader`]: which loader loads a key; [`batches`]: loads of single keys that become one call of it
//! - [`load_anew`]: a load that a caller asks for, whatever is stored
//! - [`keep_warm`]: values that are refreshed before they are stale, also if nobody looks them up
//! - [`verify`]: a sample of hits is compared with the source; [`mismatches`]: the last values that differed
//! - [`shadow`]: all hits are compared with the source, which answers their callers
//! - [`warm`]: keys that nobody has looked up yet
//! - [`partitions`]: calls for keys of several partitions
//! - [`commit`]: a commit of the source, and the change of the cache that has to follow it

mod batches;
mod cache_loader;
mod commit;
mod cycles;
mod fallbacks;
mod fill;
mod get;
mod get_many;
mod keep_warm;
mod lease;
mod load_anew;
mod load_job;
pub(crate) mod loader;
mod loader_call;
mod mismatches;
mod partitions;
mod permits;
mod refresh;
mod rounds;
mod shadow;
mod verify;
mod warm;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub(crate) use self::batches::Batches;
pub(crate) use self::cache_loader::{CacheLoader, LoaderSource};
pub(crate) use self::commit::{AnyReturn, Commit, CommitResult, invalidate_after};
pub(crate) use self::loader::{AnyKey, LoaderForKeys};
pub use self::mismatches::Mismatch;
pub(crate) use self::mismatches::Mismatches;
pub(crate) use self::partitions::PartitionLoads;
use self::permits::LoadPermits;
use super::context::Context;
use super::read::lookup::Reads;
use super::write::Writes;
use crate::options::{MAX_LOADS, Options};

/// How many hits are checked at the same time. One that comes then is not checked.
const MAX_CHECKS: usize = 64;

/// The calls that may run a loader.
pub(crate) struct Loads {
    pub(crate) ctx: Arc<Context>,
    reads: Arc<Reads>,
    pub(crate) writes: Arc<Writes>,
    permits: Arc<Permits>,
    mismatches: Arc<Mismatches>,
}

/// The limits of an instance, which all its partitions share.
pub(crate) struct Permits {
    /// One for each loader that may run now.
    // Only a `LoaderCall` may clone this `Arc`, and keeps the clone while it runs or waits for its permit: `pending` counts
    // the clones.
    loads: Arc<LoadPermits>,
    /// One for each hit that may be checked now.
    checks: Arc<Semaphore>,
}

impl Permits {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            loads: Arc::new(LoadPermits::new(options.max_concurrent_loads)),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
        }
    }

    pub(crate) fn set_most_loads(&self, most: usize) {
        self.loads.set_most(most.clamp(1, MAX_LOADS));
    }
}

impl Loads {
    pub(crate) fn new(
        ctx: &Arc<Context>,
        reads: &Arc<Reads>,
        writes: &Arc<Writes>,
        permits: &Arc<Permits>,
        mismatches: &Arc<Mismatches>,
    ) -> Self {
        Self {
            permits: Arc::clone(permits),
            mismatches: Arc::clone(mismatches),
            ctx: Arc::clone(ctx),
            reads: Arc::clone(reads),
            writes: Arc::clone(writes),
        }
    }
}
