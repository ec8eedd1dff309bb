//! A shared entry, or none, that is read without waiting.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

pub(super) struct Cell<T>(ArcSwapOption<T>);

impl<T> Cell<T> {
    pub(super) fn of(held: Option<Arc<T>>) -> Self {
        Self(ArcSwapOption::new(held))
    }

    #[inline(always)]
    pub(super) fn get_if(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> Option<Arc<T>> {
        // An entry that is not taken is not counted up, which others that read it would notice.
        let held = self.0.load();
        if !condition(held.as_ref()?) {
            return None;
        }
        Guard::into_inner(held)
    }

    pub(super) fn holds(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> bool {
        self.0.load().as_ref().is_some_and(condition)
    }

    pub(super) fn replace(&self, by: Option<Arc<T>>) -> Option<Arc<T>> {
        self.0.swap(by)
    }

    /// Puts another one in the place of this one, if it is still there. Returns whether it was.
    pub(super) fn replace_if(&self, old: &Arc<T>, new: &Arc<T>) -> bool {
        // The caller holds the old one, so no other one can have its address.
        let (held, new) = (Some(Arc::clone(old)), Some(Arc::clone(new)));
        let found = self.0.compare_and_swap(&held, new);
        found.as_ref().is_some_and(|found| Arc::ptr_eq(found, old))
    }
}
