//! The state of a subscriber, which its task and each of its subscriptions use.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::engine::context::Context;
use crate::engine::other_programs::publish::Publisher;

/// The state that the task of the subscriber shares with each of its subscriptions.
pub(super) struct SubscriberState {
    pub(super) ctx: Arc<Context>,
    /// Publishes changes of this instance for other programs.
    pub(super) publisher: Option<Arc<Publisher>>,
    /// Whether a request is on its way by which L2 lists this instance as a member: a subscription, or a heartbeat.
    pub(super) may_be_joining: watch::Sender<bool>,
    /// Notified when L2 may answer: a request is worth a try. A notification without a waiting task is kept, so the
    /// delivery runs once more.
    pub(super) l2_may_answer: Notify,
}
