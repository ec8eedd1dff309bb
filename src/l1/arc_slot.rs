//! A shared entry, or none, that is read without waiting.

use std::mem;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

pub(super) struct ArcSlot<T>(ArcSwapOption<T>);

impl<T> ArcSlot<T> {
    pub(super) fn of(value: Option<Arc<T>>) -> Self {
        Self(ArcSwapOption::new(value))
    }

    #[inline(always)]
    pub(super) fn get_if(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> Option<Arc<T>> {
        // An entry that is not taken is not counted up, which others that read it would notice.
        let value = self.0.load();
        if !condition(value.as_ref()?) {
            return None;
        }
        Guard::into_inner(value)
    }

    pub(super) fn holds(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> bool {
        self.0.load().as_ref().is_some_and(condition)
    }

    pub(super) fn replace(&self, by: Option<Arc<T>>) -> Option<Arc<T>> {
        self.0.swap(by)
    }

    /// Looks at the entry, if there is one, without counting it up.
    pub(super) fn map<R>(&self, look: impl FnOnce(&Arc<T>) -> R) -> Option<R> {
        self.0.load().as_ref().map(look)
    }

    /// Does without the drop of an empty slot, which looks for readers in all threads.
    pub(super) fn skip_drop_if_empty(self) {
        if self.0.load().is_none() {
            // There is nothing in it to be given back.
            mem::forget(self);
        }
    }
}
