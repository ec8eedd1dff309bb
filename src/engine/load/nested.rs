//! Loaders that look up keys whose loads they wait for. Loaders in a cycle would wait for each other until
//! `load_timeout`, with their leases renewed: the look-up that would close a cycle is an error instead. A loader has no
//! permit while it waits for a load: otherwise the load might get no permit.
//!
//! A load waits for another one only if it has joined it: after a change of a key, its old load may wait for a load that
//! looks the key up and so begins a new one. A load that has to wait for a lease, which a refresh of its key or another
//! instance has, goes on after `lease_wait`, so it is in no cycle.
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
use crate::l1::LoadOutcome;
use crate::options::Options;
use crate::util::lock::lock;
use crate::util::shared_result::SharedResult;

task_local! {
    /// The call of the loader that runs in this task.
    static CURRENT_CALL: Arc<LoaderCall>;
}

/// Whether the caller is a loader.
pub(super) fn is_in_loader() -> bool {
    CURRENT_CALL.try_with(|_| ()).is_ok()
}

/// A call of a user's loader, of one key or more.
pub(super) struct LoaderCall {
    instance: u64,
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
    fn address(&self) -> usize {
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

    fn is_waiting(&self) -> bool {
        // Relaxed: counted in this task, but for a look-up that the loader has moved to another one.
        self.waits.load(Ordering::Relaxed) > 0
    }
}

/// The load of a key in a cache of this process.
#[derive(Clone, PartialEq, Eq)]
struct LoadRef {
    instance_key: InstanceKey,
    /// See [`LoadId::address`].
    id: usize,
}

/// A key of an instance.
#[derive(Clone, PartialEq, Eq, Hash)]
struct InstanceKey {
    instance: u64,
    key: Key,
}

/// A load that a call of a loader waits for.
struct AwaitedLoad {
    load: LoadRef,
    /// For the name of the cache.
    options: Arc<Options>,
}

/// Which calls of loaders wait for which loads, in all caches of the process. Has no values: to drop one may run the
/// user's code, and this is locked.
static WAITS: LazyLock<Mutex<Waits>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Waits {
    /// By the address of the call.
    awaited_by_call: HashMap<usize, Vec<AwaitedLoad>>,
    /// By the key of a load: the id of the load, and the address of the waiting call that runs the load.
    calls: HashMap<InstanceKey, Vec<(usize, usize)>>,
}

impl Waits {
    fn add(&mut self, call: &Arc<LoaderCall>, awaited: AwaitedLoad) {
        let address = address(call);
        let all_awaited = self.awaited_by_call.entry(address).or_default();
        if all_awaited.is_empty() {
            for LoadRef { instance_key, id } in loads_of(call) {
                self.calls
                    .entry(instance_key)
                    .or_default()
                    .push((id, address));
            }
        }
        all_awaited.push(awaited);
    }

    fn remove(&mut self, call: &Arc<LoaderCall>, load: &LoadRef) {
        let address = address(call);
        let Some(awaited) = self.awaited_by_call.get_mut(&address) else {
            return;
        };
        if let Some(index) = awaited.iter().position(|awaited| awaited.load == *load) {
            awaited.swap_remove(index);
        }
        if !awaited.is_empty() {
            return;
        }
        self.awaited_by_call.remove(&address);
        for LoadRef { instance_key, .. } in loads_of(call) {
            if let Some(calls) = self.calls.get_mut(&instance_key) {
                calls.retain(|(_, of)| *of != address);
                if calls.is_empty() {
                    self.calls.remove(&instance_key);
                }
            }
        }
    }

    /// The names of the loads through which `awaited` waits for the call, if it does. A load that `is_anew` waits for
    /// nothing yet; it counts as any load of its key, as loaders that load each other's keys anew would never end.
    fn cycle(
        &self,
        call: &Arc<LoaderCall>,
        awaited: &AwaitedLoad,
        is_anew: bool,
    ) -> Option<String> {
        // Each with the index of the load that it was reached from.
        let mut reached = vec![(awaited, None)];
        let (mut next, mut seen) = (0, HashSet::new());
        while let Some(&(AwaitedLoad { load, .. }, from)) = reached.get(next) {
            let is_it = |id: usize| id == load.id || is_anew && from.is_none();
            // A load that nobody joins has the lease of its key, for which any other load of the key waits.
            let is_own = |(key, id): &(Key, LoadId)| {
                let is_same = matches!(id, LoadId::Anew(_)) || is_it(id.address());
                *key == load.instance_key.key && is_same
            };
            let mut own = call.loads.iter().chain(call.queued.iter());
            if call.instance == load.instance_key.instance && own.any(is_own) {
                return Some(names(&reached, next));
            }
            let calls = self.calls.get(&load.instance_key).into_iter().flatten();
            for &(_, of) in calls.filter(|(id, _)| is_it(*id)) {
                if seen.insert(of) {
                    let further = self.awaited_by_call.get(&of).into_iter().flatten();
                    reached.extend(further.map(|awaited| (awaited, Some(next))));
                }
            }
            next += 1;
        }
        None
    }
}

/// The way to a load, from the load itself on.
fn names(reached: &[(&AwaitedLoad, Option<usize>)], last: usize) -> String {
    let mut way = Vec::new();
    let mut index = Some(last);
    while let Some((awaited, from)) = index.and_then(|index| reached.get(index)) {
        way.push(format!(
            "{}:{}",
            awaited.options.namespace, awaited.load.instance_key.key
        ));
        index = *from;
    }
    way.extend(way.first().cloned());
    way.reverse();
    way.join(" -> ")
}

fn address(call: &Arc<LoaderCall>) -> usize {
    Arc::as_ptr(call).addr()
}

fn loads_of(call: &LoaderCall) -> impl Iterator<Item = LoadRef> {
    let loads = call.loads.iter().chain(call.queued.iter());
    loads.map(|(key, id)| LoadRef {
        instance_key: InstanceKey {
            instance: call.instance,
            key: key.clone(),
        },
        id: id.address(),
    })
}

/// A call of a loader waits for a load until this is dropped.
pub(super) struct Waiting {
    call: Arc<LoaderCall>,
    load: LoadRef,
    /// Held, so that no other load has its address.
    _id: LoadId,
}

impl Waiting {
    /// To be called when a load was joined or begun, before it is waited for. `None` if the caller is not the task of a
    /// loader.
    ///
    /// # Errors
    ///
    /// If the load waits for the caller already, or is the caller's own.
    pub(super) fn begin(
        ctx: &Context,
        key: &Key,
        id: impl FnOnce() -> LoadId,
    ) -> Result<Option<Box<Self>>, LoadError> {
        let Ok(call) = CURRENT_CALL.try_with(Arc::clone) else {
            return Ok(None);
        };
        let (instance, key, id) = (ctx.instance, key.clone(), id());
        let load = LoadRef {
            instance_key: InstanceKey { instance, key },
            id: id.address(),
        };
        let awaited = AwaitedLoad {
            load: load.clone(),
            options: Arc::clone(&ctx.options),
        };
        let is_anew = matches!(id, LoadId::Anew(_));
        // One critical section: of two calls that begin to wait for each other, the second finds the first.
        let mut waits = lock(&WAITS);
        if let Some(cycle) = waits.cycle(&call, &awaited, is_anew) {
            return Err(LoadError::in_cycle(&cycle));
        }
        waits.add(&call, awaited);
        drop(waits);
        call.waits.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Box::new(Self {
            call,
            load,
            _id: id,
        })))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&WAITS).remove(&self.call, &self.load);
        self.call.waits.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a call of a loader of this instance waits for a load.
pub(super) fn waits(instance: u64) -> bool {
    let waits = lock(&WAITS);
    waits.calls.keys().any(|load| load.instance == instance)
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
            CURRENT_CALL.with(|call| call.waits.fetch_add(1, Ordering::Relaxed));
            load.await.unwrap();
            CURRENT_CALL.with(|call| call.waits.fetch_sub(1, Ordering::Relaxed));
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
