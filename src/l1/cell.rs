//! What holds a shared thing, or nothing, and is read without waiting; for the test of interleavings something
//! whose steps loom can see.

use std::sync::Arc;

#[cfg(not(larder_interleavings))]
pub(super) use self::swapped::Cell;
#[cfg(larder_interleavings)]
pub(super) use self::visible::Cell;

impl<T> Cell<T> {
    /// For who is the only one to write it.
    pub(super) fn take_if(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> Option<Arc<T>> {
        if self.holds(condition) {
            self.replace(None)
        } else {
            None
        }
    }
}

#[cfg(not(larder_interleavings))]
mod swapped {
    use std::sync::Arc;

    use arc_swap::{ArcSwapOption, Guard};

    pub(in crate::l1) struct Cell<T>(ArcSwapOption<T>);

    impl<T> Cell<T> {
        pub(in crate::l1) fn new() -> Self {
            Self(ArcSwapOption::const_empty())
        }

        #[inline]
        pub(in crate::l1) fn get_if(
            &self,
            condition: impl FnOnce(&Arc<T>) -> bool,
        ) -> Option<Arc<T>> {
            // What is not taken is not counted up, which others who read it would notice.
            let held = self.0.load();
            if !condition(held.as_ref()?) {
                return None;
            }
            Guard::into_inner(held)
        }

        pub(in crate::l1) fn holds(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> bool {
            self.0.load().as_ref().is_some_and(condition)
        }

        pub(in crate::l1) fn replace(&self, by: Option<Arc<T>>) -> Option<Arc<T>> {
            self.0.swap(by)
        }
    }
}

#[cfg(larder_interleavings)]
mod visible {
    use std::sync::Arc;

    use crate::l1::sync::{Mutex, lock};

    pub(in crate::l1) struct Cell<T>(Mutex<Option<Arc<T>>>);

    impl<T> Cell<T> {
        pub(in crate::l1) fn new() -> Self {
            Self(Mutex::new(None))
        }

        pub(in crate::l1) fn get_if(
            &self,
            condition: impl FnOnce(&Arc<T>) -> bool,
        ) -> Option<Arc<T>> {
            let held = lock(&self.0).clone();
            held.filter(|held| condition(held))
        }

        pub(in crate::l1) fn holds(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> bool {
            lock(&self.0).as_ref().is_some_and(condition)
        }

        pub(in crate::l1) fn replace(&self, by: Option<Arc<T>>) -> Option<Arc<T>> {
            std::mem::replace(&mut *lock(&self.0), by)
        }
    }
}
