//! Loaders that look up keys whose loads they wait for. Loaders in a cycle would wait for each other until
//! `load_timeout`, with their leases renewed: the look-up that would close a cycle is an error instead. A loader has no
//! permit while it waits for a load: otherwise the load might get no permit.
//!
//! A call of a loader is known by its task. A look-up of a task that the loader spawns is like any caller's look-up.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::Poll;

use futures::future::poll_fn;
use tokio::task_local;

use super::permits::LoadPermits;
use crate::engine::context::Context;
use crate::error::LoadError;
use crate::key::Key;
use crate::options::Options;
use crate::util::lock::lock;

task_local! {
    /// The call of the loader that runs in this task.
    static HERE: Arc<LoaderCall>;
}

/// A call of a user's loader, of one key or more.
pub(super) struct LoaderCall {
    instance: u64,
    keys: Vec<Key>,
    permits: Arc<LoadPermits>,
    /// How many loads the call waits for.
    waits: AtomicUsize,
}

impl LoaderCall {
    pub(super) fn new(instance: u64, keys: Vec<Key>, permits: Arc<LoadPermits>) -> Arc<Self> {
        Arc::new(Self {
            instance,
            keys,
            permits,
            waits: AtomicUsize::new(0),
        })
    }

    /// Runs the user's code, which is polled only with a permit. While the call waits for a load it gives the permit
    /// back, and is not polled before it has one again: the code may give the look-up up in any poll, and does other
    /// work in that same poll.
    pub(super) async fn run<T>(self: Arc<Self>, code: impl Future<Output = T>) -> T {
        // Dropped after the code, whose destructors belong to it.
        let mut permit;
        let mut code = pin!(HERE.scope(Arc::clone(&self), code));
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

    fn is_waiting(&self) -> bool {
        // Relaxed: counted in this task, but for a look-up that the loader has moved to another one.
        self.waits.load(Ordering::Relaxed) > 0
    }

    fn loads(&self, load: &OneLoad) -> bool {
        self.instance == load.instance && self.keys.contains(&load.key)
    }
}

/// The load of a key in a cache of this process.
#[derive(Clone, PartialEq, Eq, Hash)]
struct OneLoad {
    instance: u64,
    key: Key,
}

/// A load that a call of a loader waits for.
struct Awaited {
    load: OneLoad,
    /// For the name of the cache.
    options: Arc<Options>,
}

/// Which calls of loaders wait for which loads, in all caches of the process.
static WAITS: LazyLock<Mutex<Waits>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Waits {
    /// By the address of the call.
    of_calls: HashMap<usize, Vec<Awaited>>,
    /// The calls that wait, by the loads that wait for their ends.
    calls: HashMap<OneLoad, Vec<usize>>,
}

impl Waits {
    fn add(&mut self, call: &Arc<LoaderCall>, awaited: Awaited) {
        let address = address(call);
        let of_call = self.of_calls.entry(address).or_default();
        if of_call.is_empty() {
            for load in loads_of(call) {
                self.calls.entry(load).or_default().push(address);
            }
        }
        of_call.push(awaited);
    }

    fn remove(&mut self, call: &Arc<LoaderCall>, load: &OneLoad) {
        let address = address(call);
        let Some(of_call) = self.of_calls.get_mut(&address) else {
            return;
        };
        if let Some(place) = of_call.iter().position(|awaited| awaited.load == *load) {
            of_call.swap_remove(place);
        }
        if !of_call.is_empty() {
            return;
        }
        self.of_calls.remove(&address);
        for load in loads_of(call) {
            if let Some(calls) = self.calls.get_mut(&load) {
                calls.retain(|of| *of != address);
                if calls.is_empty() {
                    self.calls.remove(&load);
                }
            }
        }
    }

    /// The names of the loads through which `awaited` waits for the call, if it does.
    fn cycle(&self, call: &LoaderCall, awaited: &Awaited) -> Option<String> {
        // Each with the place of the load that it was reached from.
        let mut reached = vec![(awaited, None)];
        let (mut next, mut seen) = (0, HashSet::new());
        while let Some(&(awaited, _)) = reached.get(next) {
            if call.loads(&awaited.load) {
                return Some(names(&reached, next));
            }
            for &of in self.calls.get(&awaited.load).into_iter().flatten() {
                if seen.insert(of) {
                    let further = self.of_calls.get(&of).into_iter().flatten();
                    reached.extend(further.map(|awaited| (awaited, Some(next))));
                }
            }
            next += 1;
        }
        None
    }
}

/// The way to a load, from the load itself on.
fn names(reached: &[(&Awaited, Option<usize>)], last: usize) -> String {
    let mut way = Vec::new();
    let mut place = Some(last);
    while let Some((awaited, from)) = place.and_then(|place| reached.get(place)) {
        way.push(format!(
            "{}:{}",
            awaited.options.namespace, awaited.load.key
        ));
        place = *from;
    }
    way.extend(way.first().cloned());
    way.reverse();
    way.join(" -> ")
}

fn address(call: &Arc<LoaderCall>) -> usize {
    Arc::as_ptr(call).addr()
}

fn loads_of(call: &LoaderCall) -> impl Iterator<Item = OneLoad> {
    call.keys.iter().map(|key| OneLoad {
        instance: call.instance,
        key: key.clone(),
    })
}

/// A call of a loader waits for a load until this is dropped.
pub(super) struct Waiting {
    call: Arc<LoaderCall>,
    load: OneLoad,
}

impl Waiting {
    /// To be called before a load is joined or begun. `None` if the caller is not the task of a loader.
    ///
    /// # Errors
    ///
    /// If the load waits for the caller already, or is the caller's own.
    pub(super) fn begin(ctx: &Context, key: &Key) -> Result<Option<Self>, LoadError> {
        let Ok(call) = HERE.try_with(Arc::clone) else {
            return Ok(None);
        };
        let (instance, key) = (ctx.instance, key.clone());
        let awaited = Awaited {
            load: OneLoad { instance, key },
            options: Arc::clone(&ctx.options),
        };
        let load = awaited.load.clone();
        // One critical section: of two calls that begin to wait for each other, the second finds the first.
        let mut waits = lock(&WAITS);
        if let Some(cycle) = waits.cycle(&call, &awaited) {
            return Err(LoadError::in_cycle(&cycle));
        }
        waits.add(&call, awaited);
        drop(waits);
        call.waits.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Self { call, load }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&WAITS).remove(&self.call, &self.load);
        self.call.waits.fetch_sub(1, Ordering::Relaxed);
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
            HERE.with(|call| call.waits.fetch_add(1, Ordering::Relaxed));
            load.await.unwrap();
            HERE.with(|call| call.waits.fetch_sub(1, Ordering::Relaxed));
            last.await.unwrap();
        };
        let call = LoaderCall::new(1, Vec::new(), Arc::clone(permits));
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
