//! Of which look-ups moka is told, by a `get`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use crate::traces::mixed;

/// Which hits and misses are recorded.
pub(crate) struct Feed {
    hits: Hits,
    misses: Misses,
    /// How many hits there were.
    nth: u64,
    /// How many misses there were, each of which is an insert.
    inserts: u64,
    /// A small number in each entry. Kept after the entry has gone, for [`Misses::First`].
    marks: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Hits {
    All,
    /// One of so many.
    OneOf(u64),
    /// Of each entry the first so many since it was inserted, and then one of so many.
    FirstThenOneOf(u64, u64),
    /// Of each entry the 1st, 2nd, 4th, 8th, 16th, and each 16th from then on.
    PowersOfTwo,
    /// Of each entry the first one since so many inserts.
    FirstInInserts(u64),
}

#[derive(Clone, Copy)]
pub(crate) enum Misses {
    All,
    OneOf(u64),
    /// Unless a look-up of the key was recorded since so many inserts, as of hits.
    First,
}

impl Feed {
    pub(crate) fn new(hits: Hits, misses: Misses) -> Self {
        Self {
            hits,
            misses,
            nth: 0,
            inserts: 0,
            marks: HashMap::default(),
        }
    }

    pub(crate) fn all() -> Self {
        Self::new(Hits::All, Misses::All)
    }

    /// Begins anew for the entries that are there: the next hit of each is recorded.
    pub(crate) fn forget(&mut self) {
        self.marks.clear();
    }

    pub(crate) fn is_miss_recorded(&mut self, key: u64) -> bool {
        self.inserts += 1;
        let inserted = match self.hits {
            Hits::FirstInInserts(many) => self.inserts / many,
            _ => 0,
        };
        let former = self.marks.insert(key, inserted);
        match self.misses {
            Misses::All => true,
            Misses::OneOf(many) => is_one_of(many, self.inserts),
            Misses::First => former != Some(inserted),
        }
    }

    pub(crate) fn is_hit_recorded(&mut self, key: u64) -> bool {
        self.nth += 1;
        let mark = self.marks.entry(key).or_default();
        match self.hits {
            Hits::All => true,
            Hits::OneOf(many) => is_one_of(many, self.nth),
            Hits::FirstThenOneOf(first, many) => {
                *mark += 1;
                *mark <= first || is_one_of(many, self.nth)
            }
            Hits::PowersOfTwo => {
                *mark += 1;
                mark.is_power_of_two() && *mark <= 16 || mark.is_multiple_of(16)
            }
            Hits::FirstInInserts(many) => {
                let now = self.inserts / many;
                let former = std::mem::replace(mark, now);
                former != now
            }
        }
    }
}

/// As larder chooses a sample: mixed well, or of keys that are looked up round and round some would never be in it.
fn is_one_of(many: u64, nth: u64) -> bool {
    mixed(nth) < u64::MAX / many
}
