//! What happens on a call, level by level. The only place that knows their order.
//!
//! - [`get`]: L1, then L2
//! - [`load`]: what L2 lacks: the fill lease ([`turn`]), the user's [`loader`], the fill
//! - [`refresh`]: the same in the background, for what is stale
//! - [`write`]: insert and invalidate, and what happens when L2 cannot be told
//! - [`clear`]: the same for everything there is
//! - [`queue`]: where writes wait for each other
//! - [`everywhere`]: waiting until all have applied it
//! - [`listen`]: what others changed comes in, and the proof that nothing was missed

mod await_applied;
mod backoff;
mod clear;
mod core;
mod deferred;
#[cfg(all(test, larder_interleavings))]
mod interleavings;
mod lease;
mod load;
mod loader;
mod lookup;
mod queue;
mod refresh;
mod subscriber;
mod write;

pub(crate) use self::core::{Core, Parts};
pub(crate) use self::loader::Loader;
