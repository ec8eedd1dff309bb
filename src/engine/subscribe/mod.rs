//! Messages of other instances and of other programs.
//!
//! Knows nothing of connections, and leaves to `l1` which entries a message evicts.
//! [`Subscriber`](subscriber::Subscriber) is the entry: it owns the task that all of this runs in.
//!
//! - [`subscriber`]: the task, and all else that waits for L2
//! - [`receiver`]: one subscription: messages of other instances, and the proof that none was missed
//! - [`session`]: how far it is in these messages, and what it does next
//! - [`listen`]: invalidations that other programs publish
//! - [`publish`]: changes of this instance, for other programs

pub(crate) mod listen;
pub(crate) mod publish;
mod receiver;
mod session;
pub(crate) mod subscriber;
