//! Loads of single keys that come together become one call of the loader of the cache.

use std::collections::HashSet;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, timeout_at};

use super::Loads;
use super::load_job::{JobAndLoader, LoadJob};
use super::loader::{AnyKey, LoaderForKeys};
use crate::key::Key;
use crate::util::lock::lock;

/// A loader of many keys. With `limits` it collects loads of single keys for a time, up to a number, from the
/// first of them on.
pub(crate) struct Batches {
    pub(crate) loader_for: LoaderForKeys,
    pub(crate) limits: Option<(Duration, usize)>,
    /// The batch that takes more loads. Its task has the other end.
    open: Mutex<Option<OpenBatch>>,
}

/// A load of one key, with the loads of its partition.
type QueuedLoad = (Arc<Loads>, AnyKey, LoadJob);

struct OpenBatch {
    loads: Sender<QueuedLoad>,
    /// A key that is in it begins the next: the loader has one value for a key, and an earlier load of it may have
    /// begun before an invalidation (rule 4: detach).
    keys: HashSet<Key>,
}

impl Batches {
    pub(crate) fn new(loader_for: LoaderForKeys) -> Self {
        Self {
            loader_for,
            limits: None,
            open: Mutex::default(),
        }
    }

    /// Adds a load to the open batch. If there is none, or its runtime has ended, begins one. Without limits returns
    /// the load, and the loader to run it with.
    pub(crate) fn add(
        &self,
        loads: &Arc<Loads>,
        key: AnyKey,
        job: LoadJob,
    ) -> Option<JobAndLoader> {
        let Some((window, max)) = self.limits else {
            return Some((job, (self.loader_for)(vec![key])));
        };
        // One critical section: of two callers without a batch only one begins it.
        let mut open = lock(&self.open);
        let text = job.op.key.clone();
        let mut one = (Arc::clone(loads), key, job);
        if let Some(batch) = &mut *open
            && batch.keys.insert(text.clone())
        {
            debug_assert!(batch.keys.len() <= max, "a batch that is full is not open");
            match batch.loads.try_send(one) {
                Ok(()) => {
                    // Its task gets no more, and need not wait for the end of the window. If it has ended with its
                    // runtime meanwhile, the load is dropped with the batch.
                    let is_full = batch.keys.len() >= max || batch.loads.is_closed();
                    let ended = if is_full { open.take() } else { None };
                    // Values of users may be in it.
                    drop(open);
                    drop(ended);
                    return None;
                }
                // Its window is over, or its runtime has ended: the load begins the next batch.
                Err(refused) => one = refused.into_inner(),
            }
        }
        let (sender, receiver) = mpsc::channel(max);
        // There is room for it.
        let _ = sender.try_send(one);
        let next = (max > 1).then_some(OpenBatch {
            loads: sender,
            keys: HashSet::from([text]),
        });
        let former = mem::replace(&mut *open, next);
        // Before the task is spawned, which may run at once on another thread. Values of users may be in the former batch.
        drop(open);
        drop(former);
        let until = Instant::now() + window;
        let loader_for = Arc::clone(&self.loader_for);
        tokio::spawn(async move {
            let mut rest = collect(receiver, until).await;
            let mut parts = Vec::new();
            // A call of the loader for each partition.
            while let Some((loads, ..)) = rest.first() {
                let loads = Arc::clone(loads);
                let part = rest.extract_if(.., |(of, ..)| Arc::ptr_eq(of, &loads));
                let part = part.enumerate().map(|(index, (_, key, mut job))| {
                    job.loader_index = index;
                    (key, job)
                });
                let (keys, jobs) = part.unzip();
                let loader = loader_for(keys);
                parts.push(async move { loads.run_all(jobs, loader).await });
            }
            join_all(parts).await;
        });
        None
    }
}

/// The loads that come until the batch is full, or the time is over.
async fn collect<T>(mut receiver: Receiver<T>, until: Instant) -> Vec<T> {
    let mut all = Vec::new();
    while let Ok(Some(next)) = timeout_at(until, receiver.recv()).await {
        all.push(next);
    }
    // From here on another batch takes them; those that came before are taken out.
    receiver.close();
    while let Some(next) = receiver.recv().await {
        all.push(next);
    }
    all
}
