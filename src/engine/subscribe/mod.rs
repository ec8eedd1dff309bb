//! Messages of other instances, and all else that waits for L2.
//!
//! Knows nothing of connections, and leaves to `l1` which entries a message evicts.
//! [`Subscriber`](subscriber::Subscriber) is the entry: it owns the task that all of this runs in.
//!
//! - [`subscriber`]: the task, which subscribes again and again; [`state`]: what it shares with its subscriptions
//! - [`subscription_run`]: one subscription: messages of other instances, and the proof that none was missed
//! - [`session`]: how far it is in these messages, and what it does next; [`answers`]: whether answers to its writes fit them
//! - [`delivery`]: deferred writes, and probes of an L2 that does not answer
//! - [`instance_tasks`]: work for all partitions, by the subscriber of the first one

mod answers;
mod delivery;
pub(crate) mod instance_tasks;
mod session;
mod state;
pub(crate) mod subscriber;
mod subscription_run;
