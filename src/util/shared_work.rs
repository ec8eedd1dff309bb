//! Work that is done once for all callers who ask for it before it begins. Knows nothing of the work.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::task::yield_now;

use super::lock::lock;

/// How often the work lets other tasks run before it begins: those that are about to ask for it.
const YIELDS_BEFORE_SEND: usize = 8;

/// By keys, the work that callers wait for. Of one key, one at a time is done.
pub(crate) struct SharedWork<K, T>(Mutex<HashMap<K, Weak<Work<T>>>>);

struct Work<T> {
    /// How often it was begun.
    begun: AtomicU64,
    /// Held while it is done: which time it was done last, and the result.
    last: tokio::sync::Mutex<Option<(u64, T)>>,
}

impl<K: Eq + Hash, T: Clone> SharedWork<K, T> {
    /// Does the work, or waits for a caller who begins it after this call and returns the result of that. Safe to
    /// cancel: then the next caller begins it.
    pub(crate) async fn run(&self, key: K, work: impl Future<Output = T>) -> T {
        let all = self.get(key);
        let before = all.begun.load(Ordering::SeqCst);
        let mut last = all.last.lock().await;
        match &*last {
            Some((number, result)) if *number > before => result.clone(),
            _ => {
                for _ in 0..YIELDS_BEFORE_SEND {
                    yield_now().await;
                }
                let number = all.begun.fetch_add(1, Ordering::SeqCst) + 1;
                let result = work.await;
                *last = Some((number, result.clone()));
                result
            }
        }
    }

    fn get(&self, key: K) -> Arc<Work<T>> {
        let mut all = lock(&self.0);
        if let Some(work) = all.get(&key).and_then(Weak::upgrade) {
            return work;
        }
        all.retain(|_, work| work.strong_count() > 0);
        let work = Arc::new(Work {
            begun: AtomicU64::new(0),
            last: tokio::sync::Mutex::new(None),
        });
        all.insert(key, Arc::downgrade(&work));
        work
    }
}

impl<K, T> Default for SharedWork<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::{join, join_all, pending, select};
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn callers_who_ask_before_it_begins_share_it() {
        let (joint, begun) = (SharedWork::default(), Cell::new(0));
        let ask = || {
            joint.run("a", async {
                begun.set(begun.get() + 1);
                begun.get()
            })
        };
        assert_eq!(join_all([ask(), ask(), ask()]).await, [1, 1, 1]);
        assert_eq!(ask().await, 2, "a result is not kept");
        let other = joint.run("b", async { 7 });
        assert_eq!(join(ask(), other).await, (3, 7));
    }

    /// They have found something that it may have looked at before.
    #[tokio::test]
    async fn callers_who_ask_once_it_has_begun_wait_for_the_next() {
        let (joint, has_begun, may_end) = (SharedWork::default(), Notify::new(), Notify::new());
        let first = joint.run("a", async {
            has_begun.notify_one();
            may_end.notified().await;
            1
        });
        let others = async {
            has_begun.notified().await;
            let asked = ["second", "third"].map(|_| joint.run("a", async { 2 }));
            let end = async { may_end.notify_one() };
            join(join_all(asked), end).await.0
        };
        assert_eq!(join(first, others).await, (1, vec![2, 2]));
    }

    #[tokio::test]
    async fn the_next_caller_begins_what_was_cancelled() {
        let (joint, has_begun) = (SharedWork::default(), Notify::new());
        let cancelled = joint.run("a", async {
            has_begun.notify_one();
            pending().await
        });
        let cancelled = select(Box::pin(cancelled), Box::pin(has_begun.notified()));
        let next = joint.run("a", async { 2 });
        let ((), next) = join(async { drop(cancelled.await) }, next).await;
        assert_eq!(next, 2);
    }
}
