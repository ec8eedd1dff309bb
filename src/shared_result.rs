//! What one task finds out and many wait for.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock::lock;

/// Each waits for itself: that another gives up is nothing to it. Who polled for all, and then gave up, could have been
/// the only one to be woken.
#[derive(Debug)]
pub(crate) struct SharedResult<T>(Arc<Shared<T>>);

/// Tells an outcome. Dropped before, nobody will.
#[derive(Debug)]
pub(crate) struct ResultSender<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    over: Notify,
}

#[derive(Clone, Debug)]
enum State<T> {
    Unknown,
    Told(T),
    Lost,
}

pub(crate) fn shared_result<T>() -> (ResultSender<T>, SharedResult<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Unknown),
        over: Notify::new(),
    });
    (ResultSender(Arc::clone(&shared)), SharedResult(shared))
}

impl<T> ResultSender<T> {
    pub(crate) fn tell(self, outcome: T) {
        *lock(&self.0.state) = State::Told(outcome);
    }
}

impl<T> Drop for ResultSender<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if matches!(*state, State::Unknown) {
            *state = State::Lost;
        }
        drop(state);
        self.0.over.notify_waiters();
    }
}

impl<T: Clone> SharedResult<T> {
    /// Waits for it. `None` if nobody will tell it.
    pub(crate) async fn wait(self) -> Option<T> {
        loop {
            // Hears of what is told from here on.
            let over = self.0.over.notified();
            match self.state() {
                State::Told(outcome) => return Some(outcome),
                State::Lost => return None,
                State::Unknown => over.await,
            }
        }
    }

    pub(crate) fn peek(&self) -> Option<T> {
        match self.state() {
            State::Told(outcome) => Some(outcome),
            State::Lost | State::Unknown => None,
        }
    }

    fn state(&self) -> State<T> {
        lock(&self.0.state).clone()
    }
}

impl<T> SharedResult<T> {
    /// Whether nobody will tell it.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(*lock(&self.0.state), State::Lost)
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
