//! What the callers on one runtime share, as a connection ends with its runtime. Knows no connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwapOption;
use tokio::runtime::{self, Handle};

use super::lock::lock;

/// The one that is in use on each runtime.
pub(crate) struct PerRuntime<T>(Mutex<HashMap<runtime::Id, Weak<T>>>);

impl<T> PerRuntime<T> {
    /// The one that callers on this runtime share, or a new one.
    pub(crate) fn get(&self) -> Arc<T>
    where
        T: Default,
    {
        self.get_or(T::default)
    }

    /// The one that callers on this runtime share, or a new one that `make` returns.
    pub(crate) fn get_or(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = lock(&self.0);
        let here = Handle::current().id();
        if let Some(one) = all.get(&here).and_then(Weak::upgrade) {
            return one;
        }
        // The parts of runtimes that have ended leave with it.
        all.retain(|_, one| one.strong_count() > 0);
        let one = Arc::new(make());
        all.insert(here, Arc::downgrade(&one));
        one
    }

    /// The next caller is given another one. Does nothing if that is so already.
    pub(crate) fn retire(&self, one: &Arc<T>) {
        lock(&self.0).retain(|_, other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(one)));
    }
}

/// As [`PerRuntime`], but keeps the one of the runtime that it was asked for on last: mostly there is no other.
pub(crate) struct KeptPerRuntime<T> {
    all: PerRuntime<T>,
    last: ArcSwapOption<(runtime::Id, Arc<T>)>,
}

impl<T> KeptPerRuntime<T> {
    /// The one that callers on this runtime share, or a new one that `make` returns.
    pub(crate) fn get_or(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let here = Handle::current().id();
        if let Some(last) = &*self.last.load()
            && last.0 == here
        {
            return Arc::clone(&last.1);
        }
        let one = self.all.get_or(make);
        self.last.store(Some(Arc::new((here, Arc::clone(&one)))));
        one
    }
}

impl<T> Default for KeptPerRuntime<T> {
    fn default() -> Self {
        Self {
            all: PerRuntime::default(),
            last: ArcSwapOption::empty(),
        }
    }
}

impl<T> Default for PerRuntime<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
