//! The result of one task that many callers wait for.
//!
//! Knows nothing of what the task does. Each caller waits for itself, so that cancelling one does not affect the
//! others: with a future that one caller polls for all, the caller that is woken could be the one that was cancelled.
//!
//! tokio's `watch` would do, but it wakes those that wait in a random order: a seed of the simulation would have more
//! than one history.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// Waits for the result. Clones wait for the same.
#[derive(Debug)]
pub(crate) struct SharedResult<T>(Arc<ResultState<T>>);

/// Sends the result. If it is dropped without, there is none.
#[derive(Debug)]
pub(crate) struct ResultSender<T>(Arc<ResultState<T>>);

#[derive(Debug)]
struct ResultState<T> {
    /// `None` if the sender was dropped without a result, as when the runtime of its task ends.
    result: OnceLock<Option<T>>,
    /// Notified when the sender is gone.
    sent: Notify,
}

pub(crate) fn shared_result<T>() -> (ResultSender<T>, SharedResult<T>) {
    let shared = Arc::new(ResultState {
        result: OnceLock::new(),
        sent: Notify::new(),
    });
    (ResultSender(Arc::clone(&shared)), SharedResult(shared))
}

impl<T> ResultSender<T> {
    /// The end that waits for the result.
    pub(crate) fn result(&self) -> SharedResult<T> {
        SharedResult(Arc::clone(&self.0))
    }

    pub(crate) fn send(self, result: T) {
        // Only the sender sets it, and this consumes the sender.
        let _ = self.0.result.set(Some(result));
        // The sender is dropped here, which wakes the waiters.
    }
}

impl<T> Drop for ResultSender<T> {
    fn drop(&mut self) {
        // Does nothing after `send`, which has set the result.
        let _ = self.0.result.set(None);
        // Here and not in `send`: a sender that is lost wakes its waiters, too.
        self.0.sent.notify_waiters();
    }
}

impl<T: Clone> SharedResult<T> {
    /// Waits for the result. `None` if it is lost. Safe to cancel.
    pub(crate) async fn wait(self) -> Option<T> {
        loop {
            // Before the result is read: it is notified of what is sent from here on.
            let sent = self.0.sent.notified();
            if let Some(result) = self.0.result.get() {
                return result.clone();
            }
            sent.await;
        }
    }

    /// The result, if it was sent already.
    pub(crate) fn peek(&self) -> Option<T> {
        self.0.result.get().cloned().flatten()
    }

    /// Tells it apart from others, for as long as it lives. Clones have the same.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether there will be no result.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.0.result.get(), Some(None))
    }

    #[cfg(all(test, larder_interleavings))]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for SharedResult<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
