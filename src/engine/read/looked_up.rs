//! The keys of one call, after a look into L1.

use crate::clock::Tick;
use crate::entry::AnyEntry;
use crate::key::Key;

/// The entries of a call for many keys, in the order of the keys.
pub(crate) type Entries = Vec<Option<AnyEntry>>;

/// The entries that L1 has for the keys of one call, and the keys for which these are not enough.
pub(crate) struct LookedUp {
    /// One time for all keys: to read the clock takes as long as half a hit.
    pub(crate) now: Tick,
    /// In the order of the keys.
    pub(crate) entries: Entries,
    pub(crate) rest: Vec<RestKey>,
}

/// A key for which L1 is not enough.
pub(crate) struct RestKey {
    /// The index of the key in the call.
    pub(crate) index: usize,
    pub(crate) key: Key,
    /// The entry that is to be refreshed, or compared with its source. `None` if L1 has none.
    pub(crate) due: Option<AnyEntry>,
}

impl LookedUp {
    pub(crate) fn new(now: Tick, keys: usize) -> Self {
        Self {
            now,
            entries: Vec::with_capacity(keys),
            rest: Vec::new(),
        }
    }

    /// Adds the next key, with its entry.
    pub(crate) fn push(&mut self, key: &str, entry: Option<AnyEntry>, is_enough: bool) {
        if !is_enough {
            self.rest.push(RestKey {
                index: self.entries.len(),
                key: key.into(),
                due: entry.clone(),
            });
        }
        self.entries.push(entry);
    }

    /// Puts an entry that was found later at the index of its key.
    pub(crate) fn put(&mut self, index: usize, entry: Option<AnyEntry>) {
        if let Some(missing) = self.entries.get_mut(index) {
            *missing = entry;
        }
    }
}
