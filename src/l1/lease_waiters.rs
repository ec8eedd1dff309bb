//! What who waits for leases of other instances is told: which of them have ended.

use std::collections::HashSet;
use std::mem;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::key::Key;
use crate::lock::lock;

/// Keys on which others have leases. There are as many as somebody waits for, at most.
#[derive(Default)]
pub(crate) struct LeaseWaiter {
    ended: Mutex<HashSet<Key>>,
    told: Notify,
}

impl LeaseWaiter {
    pub(super) fn end(&self, key: &str) {
        lock(&self.ended).insert(key.into());
        self.told.notify_one();
    }

    /// Waits until some have ended. What is told while nobody waits here is not lost.
    pub(crate) async fn ended(&self) -> HashSet<Key> {
        loop {
            let ended = mem::take(&mut *lock(&self.ended));
            if !ended.is_empty() {
                return ended;
            }
            self.told.notified().await;
        }
    }
}
