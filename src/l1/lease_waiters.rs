//! Waiting for the leases that other instances have.

use std::collections::HashSet;
use std::mem;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::key::Key;
use crate::util::lock::lock;

/// A caller that waits for the ends of the leases on some keys.
#[derive(Default)]
pub(crate) struct LeaseWaiter {
    /// Keys whose leases have ended, of those that it waits for.
    ended: Mutex<HashSet<Key>>,
    notify: Notify,
}

impl LeaseWaiter {
    pub(super) fn end(&self, key: &str) {
        // The key before the notification: the task that is woken finds it.
        lock(&self.ended).insert(key.into());
        self.notify.notify_one();
    }

    /// Waits until some have ended, and returns their keys. An end that comes while no task waits here is not lost.
    pub(crate) async fn ended(&self) -> HashSet<Key> {
        loop {
            let ended = mem::take(&mut *lock(&self.ended));
            if !ended.is_empty() {
                return ended;
            }
            self.notify.notified().await;
        }
    }
}
