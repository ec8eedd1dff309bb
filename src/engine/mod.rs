//! Carries out each call: L1, then L2, then the loader.
//!
//! [`engine`] puts an instance together, and names the part that carries out a call; [`operate`] watches, switches and
//! closes it. Each part is a module, and is there once for each of the [`partitions`]:
//!
//! - [`read`]: look-ups in L1 and L2
//! - [`write`]: inserts, invalidations, clears and updates
//! - [`load`]: keys that L2 does not have, stale values, and all else that runs a user's loader
//! - [`report`]: counters for the fleet and for the recorder of the process
//! - [`other_programs`]: invalidations that other programs publish, and changes that are published for them
//! - [`subscribe`]: messages of other instances, and the proof that none was missed
//!
//! A module uses those above it in this list, and the files beside this one, which all modules share: [`context`] holds
//! their common state, and [`convert`], [`ahead`], [`backoff`], [`breaker`], [`deferred`], [`members`], `metrics`,
//! [`recent_misses`], [`spans`], [`sweep`] and [`switch`] are one mechanism each.

mod ahead;
mod backoff;
mod breaker;
mod context;
mod convert;
mod deferred;
#[expect(
    clippy::module_inception,
    reason = "it is what the layer is named after"
)]
mod engine;
mod load;
mod local_values;
mod members;
#[cfg_attr(not(feature = "metrics"), path = "no_metrics.rs")]
mod metrics;
mod operate;
mod other_programs;
mod partitions;
mod read;
mod recent_misses;
mod report;
mod spans;
mod subscribe;
mod sweep;
mod switch;
mod write;

#[cfg(feature = "write-behind")]
pub(crate) use self::context::Context;
pub(crate) use self::convert::{Same, TypeRules};
pub(crate) use self::engine::{Engine, Parts, report_losses};
pub use self::load::Mismatch;
pub(crate) use self::load::loader::Loader;
pub(crate) use self::load::{
    AnyKey, AnyReturn, Batches, CacheLoader, Commit, CommitResult, LoaderForKeys, LoaderSource,
    PartitionLoads, invalidate_after,
};
pub(crate) use self::other_programs::listen::Channel;
pub(crate) use self::other_programs::publish::PublishTarget;
#[cfg(feature = "write-behind")]
pub(crate) use self::partitions::Partitions;
pub(crate) use self::read::looked_up::LookedUp;
pub use self::read::{Located, LocatedEntry};
pub(crate) use self::write::{KeysAndTags, PartitionWrites};
