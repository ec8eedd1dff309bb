//! Loaders that look up keys whose loads they wait for. Loaders in a cycle would wait for each other until
//! `load_timeout`, with their leases renewed: the look-up that would close a cycle is an error instead.
//!
//! A load waits for another one only if it has joined it: after a change of a key, its old load may wait for a load that
//! looks the key up and so begins a new one. A load that has to wait for a lease, which a refresh of its key or another
//! instance has, goes on after `lease_wait`, so it is in no cycle.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex};

use super::loader_call::{LoadId, LoaderCall};
use crate::engine::context::Context;
use crate::error::LoadError;
use crate::key::Key;
use crate::options::Options;
use crate::util::lock::lock;

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
            if call.instance == load.instance_key.instance && call.loads().any(is_own) {
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
    call.loads().map(|(key, id)| LoadRef {
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
        let Some(call) = LoaderCall::current() else {
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
        call.begin_wait();
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
        self.call.end_wait();
    }
}

/// Whether a call of a loader of this instance waits for a load.
pub(super) fn is_any_waiting(instance: u64) -> bool {
    let waits = lock(&WAITS);
    waits.calls.keys().any(|load| load.instance == instance)
}
