//! Loaders that look up keys whose loads they wait for. Loaders in a cycle would wait for each other until
//! `load_timeout`, with their leases renewed: the look-up that would close a cycle is an error instead. A loader has no
//! permit while it waits for a load: otherwise the load might get no permit.
//!
//! A call of a loader is known by its task. A look-up of a task that the loader spawns is like any caller's look-up.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex};

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many loads the call waits for.
    waits: usize,
    has_permit: bool,
}

impl LoaderCall {
    pub(super) fn new(instance: u64, keys: Vec<Key>, permits: Arc<LoadPermits>) -> Arc<Self> {
        Arc::new(Self {
            instance,
            keys,
            permits,
            state: Mutex::default(),
        })
    }

    /// Runs the user's code, once there is a permit for it.
    pub(super) async fn run<T>(self: Arc<Self>, code: impl Future<Output = T>) -> T {
        self.acquire_permit().await;
        HERE.scope(self, code).await
    }

    /// Waits for a permit, unless the call has one or waits for a load.
    async fn acquire_permit(&self) {
        let needs_permit = |state: &State| state.waits == 0 && !state.has_permit;
        if !needs_permit(&lock(&self.state)) {
            return;
        }
        // Never closed, so an error is no reason not to go on.
        let Ok(permit) = self.permits.acquire().await else {
            return;
        };
        let mut state = lock(&self.state);
        // Another branch of the loader may have begun to wait, or has got a permit.
        if needs_permit(&state) {
            state.has_permit = true;
            permit.forget();
        }
    }

    fn begin_wait(&self) {
        let mut state = lock(&self.state);
        state.waits += 1;
        if state.has_permit {
            state.has_permit = false;
            self.permits.give_back();
        }
    }

    fn loads(&self, load: &OneLoad) -> bool {
        self.instance == load.instance && self.keys.contains(&load.key)
    }
}

impl Drop for LoaderCall {
    fn drop(&mut self) {
        if lock(&self.state).has_permit {
            self.permits.give_back();
        }
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

/// A call of a loader waits for a load until this is dropped. Then [`reacquire_permit`] is to be called.
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
        call.begin_wait();
        Ok(Some(Self { call, load }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&WAITS).remove(&self.call, &self.load);
        lock(&self.call.state).waits -= 1;
    }
}

/// Waits for the permit of the loader that runs in this task, if it does not wait for a load any more.
pub(super) async fn reacquire_permit() {
    if let Ok(call) = HERE.try_with(Arc::clone) {
        call.acquire_permit().await;
    }
}
