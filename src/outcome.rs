//! What one task finds out and many wait for.

use tokio::sync::watch;

/// Each waits for itself: that another gives up is nothing to it. Who polled for all, and then gave up, could have been
/// the only one to be woken.
#[derive(Debug)]
pub(crate) struct Outcome<T>(watch::Receiver<Option<T>>);

/// Tells an outcome. Dropped before, nobody will.
#[derive(Debug)]
pub(crate) struct Teller<T>(watch::Sender<Option<T>>);

pub(crate) fn outcome<T>() -> (Teller<T>, Outcome<T>) {
    let (teller, outcome) = watch::channel(None);
    (Teller(teller), Outcome(outcome))
}

impl<T> Teller<T> {
    pub(crate) fn tell(self, outcome: T) {
        self.0.send_replace(Some(outcome));
    }
}

impl<T: Clone> Outcome<T> {
    /// Waits for it. `None` if nobody will tell it.
    pub(crate) async fn wait(mut self) -> Option<T> {
        let told = self.0.wait_for(Option::is_some).await.ok()?;
        told.clone()
    }

    pub(crate) fn peek(&self) -> Option<T> {
        self.0.borrow().clone()
    }
}

impl<T> Outcome<T> {
    /// Whether nobody will tell it.
    pub(crate) fn is_lost(&self) -> bool {
        self.0.has_changed().is_err() && self.0.borrow().is_none()
    }

    #[cfg(all(test, larder_interleavings))]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl<T> Clone for Outcome<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
