//! A call of a loader, which runs with a permit. It has none while it waits for a load: otherwise the load might get no
//! permit.
//!
//! A call of a loader is known by its task. A look-up of a task that the loader spawns is like any caller's look-up.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures::future::poll_fn;
use tokio::task_local;

use super::permits::LoadPermits;
use crate::key::Key;
use crate::l1::LoadOutcome;
use crate::util::shared_result::SharedResult;

task_local! {
    /// The call of the loader that runs in this task.
    static CURRENT_CALL: Arc<LoaderCall>;
}

/// A call of a user's loader, of one key or more.
pub(super) struct LoaderCall {
    pub(super) instance: u64,
    loads: Vec<(Key, LoadId)>,
    queued: QueuedLoads,
    permits: Arc<LoadPermits>,
    /// How many loads the call waits for.
    waits: AtomicUsize,
}

/// Tells the loads of a key apart: after a change of the key a load of it may run beside a former one.
#[derive(Clone)]
pub(super) enum LoadId {
    /// Callers join it until it ends or is detached.
    Joined(SharedResult<LoadOutcome>),
    /// Nobody joins it: each such call of the cache calls the loader anew.
    Anew(Arc<()>),
}

impl LoadId {
    pub(super) fn anew() -> Self {
        Self::Anew(Arc::default())
    }

    /// No other load has it for as long as this lives.
    pub(super) fn address(&self) -> usize {
        match self {
            Self::Joined(outcome) => outcome.address(),
            Self::Anew(this) => Arc::as_ptr(this).addr(),
        }
    }
}

/// Loads that begin when a call has ended: a caller that waits for one of them waits for the call.
#[derive(Clone, Default)]
pub(super) struct QueuedLoads {
    /// `None` if there are none, as mostly.
    all: Option<Arc<[(Key, LoadId)]>>,
    /// How many of them have begun.
    begun: usize,
}

impl QueuedLoads {
    pub(super) fn new(loads: impl ExactSizeIterator<Item = (Key, LoadId)>) -> Self {
        Self {
            all: (loads.len() > 0).then(|| loads.collect()),
            begun: 0,
        }
    }

    /// So many more begin.
    pub(super) fn begin(&mut self, loads: usize) {
        self.begun += loads;
    }

    fn iter(&self) -> impl Iterator<Item = &(Key, LoadId)> {
        self.all.iter().flat_map(|all| all.iter()).skip(self.begun)
    }
}

impl LoaderCall {
    pub(super) fn new(
        instance: u64,
        loads: Vec<(Key, LoadId)>,
        queued: QueuedLoads,
        permits: Arc<LoadPermits>,
    ) -> Arc<Self> {
        Arc::new(Self {
            instance,
            loads,
            queued,
            permits,
            waits: AtomicUsize::new(0),
        })
    }

    /// The call of the loader that the caller is part of, if it is.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT_CALL.try_with(Arc::clone).ok()
    }

    /// The loads that have to wait for this call: those that it runs, and those that begin after it.
    pub(super) fn loads(&self) -> impl Iterator<Item = &(Key, LoadId)> {
        self.loads.iter().chain(self.queued.iter())
    }

    /// Runs the user's code, which is polled only with a permit. While the call waits for a load it gives the permit back,
    /// and is not polled before it has one again: in any poll the code may drop the look-up and go on with other work.
    pub(super) async fn run<T>(self: Arc<Self>, code: impl Future<Output = T>) -> T {
        // Dropped after the code, whose destructors belong to it.
        let mut permit;
        let mut code = pin!(CURRENT_CALL.scope(Arc::clone(&self), code));
        loop {
            permit = Some(self.permits.acquire().await);
            let ended = poll_fn(|cx| match code.as_mut().poll(cx) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending if self.is_waiting() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(value) = ended.await {
                return value;
            }
            drop(permit.take());
            // Until the code, which was polled with the waker of this task, wakes it.
            futures::pending!();
        }
    }

    /// The call waits for a load, until `end_wait`.
    pub(super) fn begin_wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_wait(&self) {
        self.waits.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_waiting(&self) -> bool {
        // Relaxed: counted in this task, but for a look-up that the loader has moved to another one.
        self.waits.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::sync::oneshot;

    use super::*;

    /// A call that does its own work until the first is sent, waits for a load until the second is, and then does its
    /// own work again until the third is.
    fn call(
        permits: &Arc<LoadPermits>,
    ) -> ([oneshot::Sender<()>; 3], impl Future<Output = ()> + use<>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        let Ok([first, load, last]) = <[_; 3]>::try_from(receivers) else {
            unreachable!("there are three");
        };
        let Ok(senders) = <[_; 3]>::try_from(senders) else {
            unreachable!("there are three");
        };
        let code = async move {
            first.await.unwrap();
            CURRENT_CALL.with(|call| call.begin_wait());
            load.await.unwrap();
            CURRENT_CALL.with(|call| call.end_wait());
            last.await.unwrap();
        };
        let call = LoaderCall::new(1, Vec::new(), QueuedLoads::default(), Arc::clone(permits));
        (senders, call.run(code))
    }

    #[tokio::test]
    async fn a_call_that_is_cancelled_leaves_its_permit_wherever_it_is() {
        for cancelled_after in 0..=5 {
            let permits = Arc::new(LoadPermits::new(1));
            let other = permits.acquire().await;
            let ([first, load, last], code) = call(&permits);
            let mut code = Some(Box::pin(code));
            let mut other = Some(other);
            let (mut first, mut load, mut last) = (Some(first), Some(load), Some(last));
            for step in 0..=5 {
                match step {
                    // It waits for its first permit.
                    0 => {}
                    // It has one, and does its own work: the first part, and the last.
                    1 | 4 => drop(other.take()),
                    // It waits for a load, without one.
                    2 => first.take().unwrap().send(()).unwrap(),
                    // The load has ended, and another call has the permit.
                    3 => {
                        other = Some(permits.acquire().await);
                        load.take().unwrap().send(()).unwrap();
                    }
                    _ => last.take().unwrap().send(()).unwrap(),
                }
                let polled = poll!(code.as_mut().unwrap());
                assert_eq!(polled.is_ready(), step == 5);
                let has_permit = matches!(step, 1 | 4);
                let is_free = !has_permit && other.is_none();
                assert_eq!(permits.free(), usize::from(is_free), "{step}");
                if step == cancelled_after {
                    break;
                }
            }
            drop(code.take());
            assert_eq!(permits.free(), usize::from(other.is_none()));
            drop(other);
            assert_eq!(permits.free(), 1, "{cancelled_after}");
        }
    }
}
