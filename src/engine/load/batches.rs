//! Loads of single keys that come together, and become one call of a loader of many keys.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, timeout_at};

use super::Loads;
use super::fetch::Fetch;
use super::loader::LoaderOf;
use crate::key::Key;
use crate::util::lock::lock;
use crate::vocabulary::Value;

/// Collects loads for so long, and so many at most, from the first of them on.
pub(crate) struct Batches<K, V> {
    window: Duration,
    max: usize,
    pub(crate) loader_of: LoaderOf<Vec<K>, V>,
    /// The batch that takes more loads. Its task has the other end.
    open: Mutex<Option<Open<K, V>>>,
}

struct Open<K, V> {
    loads: Sender<(K, Fetch<V>)>,
    /// A key that is in it begins the next: the loader has one value for a key, and an earlier load of it may have
    /// begun before an invalidation (rule 4).
    keys: HashSet<Key>,
}

impl<K: Send + 'static, V: Value> Batches<K, V> {
    pub(crate) fn new(window: Duration, max: usize, loader_of: LoaderOf<Vec<K>, V>) -> Self {
        Self {
            window,
            max,
            loader_of,
            open: Mutex::default(),
        }
    }

    /// Adds a load to the open batch. If there is none, or its runtime has ended, begins one.
    pub(crate) fn add(&self, loads: &Arc<Loads<V>>, key: K, led: Fetch<V>) {
        // One critical section: of two callers without a batch only one begins it.
        let mut open = lock(&self.open);
        let text = led.op.key().clone();
        let mut one = (key, led);
        if let Some(batch) = &mut *open
            && batch.keys.insert(text.clone())
        {
            debug_assert!(
                batch.keys.len() <= self.max,
                "a batch that is full is not open"
            );
            match batch.loads.try_send(one) {
                Ok(()) => {
                    if batch.keys.len() >= self.max {
                        // Its task gets no more, and need not wait for the end of the window.
                        *open = None;
                    }
                    return;
                }
                // Its window is over, or its runtime has ended: the load begins the next batch.
                Err(refused) => one = refused.into_inner(),
            }
        }
        let (sender, receiver) = mpsc::channel(self.max);
        // There is room for it.
        let _ = sender.try_send(one);
        *open = (self.max > 1).then_some(Open {
            loads: sender,
            keys: HashSet::from([text]),
        });
        // Before the task is spawned, which may run at once on another thread.
        drop(open);
        let until = Instant::now() + self.window;
        let (loads, loader_of) = (Arc::clone(loads), Arc::clone(&self.loader_of));
        tokio::spawn(async move {
            let (keys, led) = collect(receiver, until).await;
            loads.run_all(led, loader_of(keys)).await;
        });
    }
}

/// The loads that come until the batch is full, or the time is over.
async fn collect<K, V>(
    mut receiver: Receiver<(K, Fetch<V>)>,
    until: Instant,
) -> (Vec<K>, Vec<Fetch<V>>) {
    let (mut keys, mut all) = (Vec::new(), Vec::new());
    loop {
        let next = match timeout_at(until, receiver.recv()).await {
            Ok(next) => next,
            Err(_) => {
                // From here on another batch takes them; those that came before are taken out.
                receiver.close();
                receiver.recv().await
            }
        };
        let Some((key, led)) = next else {
            return (keys, all);
        };
        keys.push(key);
        all.push(led);
    }
}
