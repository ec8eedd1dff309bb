//! Carries out each call: L1, then L2, then the loader.
//!
//! - [`engine`]: starts, stops and wires all of this; passes each call on
//! - [`lookup`]: L1, then L2
//! - [`at_least`]: both, for a caller that knows of a change which this instance may not have applied yet
//! - [`load`]: what L2 lacks: the fill [`lease`], the user's [`loader`], the fill
//! - [`refresh`]: the same in the background, for what is stale, or is soon ([`refresh_ahead`])
//! - [`backoff`]: when a key whose load or refresh failed is tried again, and what its callers get until then
//! - [`write`]: insert, invalidate, clear: a [`change`] goes to the [`writer`], which keeps the [`write_order`] and sends
//!   each [`write_batch`]
//! - [`passes`]: how invalidations of prefixes that come together share a pass over L2
//! - [`commit`]: a commit of the source, and the write that has to follow it
//! - [`warm`]: fills the cache with values that were read in bulk
//! - [`touch`]: a new life for what is there, by a call or by each read; [`extensions`]: when a read may extend it
//!   again
//! - [`verify`]: compares a sample of hits with the source; [`verifier`]: which
//! - [`hot_keys`]: which keys are looked up most
//! - [`fleet_stats`]: the counters of all instances together, and how far this one has [`reported`] its own
//! - `metrics` and `record`: what is handed to the recorder of the process, with the feature of that name
//! - [`deferred`]: invalidations that L2 could not be sent, until `write` delivers them
//! - [`await_applied`]: waiting until every instance has applied an invalidation; [`members`]: the instances to wait for;
//!   [`attendance`]: which of them are silent
//! - [`subscriber`]: what other instances changed comes in, and the proof that nothing was missed
//! - [`listen`]: what other programs invalidate, which a [`listener`] has heard; [`publish`]: what they are told, by a
//!   [`publisher`]
//! - [`tags`]: whether the tags of a value that L2 holds leave it valid
//! - [`context`], [`convert`], [`deadline`], [`breaker`], [`spans`]: what these have in common

mod at_least;
mod attendance;
mod await_applied;
mod backoff;
mod breaker;
mod change;
mod commit;
mod context;
mod convert;
mod deadline;
mod deferred;
#[expect(
    clippy::module_inception,
    reason = "it is what the layer is named after"
)]
mod engine;
mod extensions;
mod fleet_stats;
mod hot_keys;
mod lease;
mod listen;
mod listener;
mod load;
mod loader;
mod lookup;
mod members;
#[cfg(feature = "metrics")]
mod metrics;
mod passes;
mod publish;
mod publisher;
#[cfg(feature = "metrics")]
mod record;
mod refresh;
mod refresh_ahead;
mod reported;
mod spans;
mod subscriber;
mod tags;
mod touch;
mod update;
mod verifier;
mod verify;
mod warm;
mod write;
mod write_batch;
mod write_order;
mod writer;

#[cfg(feature = "write-behind")]
pub(crate) use self::change::{Appending, Queued};
pub(crate) use self::engine::{Engine, Parts, report_losses};
pub(crate) use self::listener::Listener;
pub(crate) use self::load::{Batches, Begin};
pub(crate) use self::loader::{Loader, LoaderOf};
pub(crate) use self::publisher::PublishTo;
pub(crate) use self::verifier::Same;
