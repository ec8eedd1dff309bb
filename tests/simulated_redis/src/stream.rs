//! A stream: entries by rising ids.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

/// The id of an entry: milliseconds, and a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) u64, pub(crate) u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl Id {
    pub(crate) const MAX: Self = Self(u64::MAX, u64::MAX);

    /// Reads an id, whose second number may be missing.
    pub(crate) fn parse(text: &[u8], missing: u64) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (ms, number) = match text.split_once('-') {
            Some((ms, number)) => (ms, digits(number)?),
            None => (text, missing),
        };
        Some(Self(digits(ms)?, number))
    }

    pub(crate) fn next(self) -> Option<Self> {
        let carried = || Some(Self(self.0.checked_add(1)?, 0));
        self.1
            .checked_add(1)
            .map_or_else(carried, |number| Some(Self(self.0, number)))
    }

    pub(crate) fn previous(self) -> Option<Self> {
        let borrowed = || Some(Self(self.0.checked_sub(1)?, u64::MAX));
        self.1
            .checked_sub(1)
            .map_or_else(borrowed, |number| Some(Self(self.0, number)))
    }
}

fn digits(text: &str) -> Option<u64> {
    (!text.starts_with('+')).then(|| text.parse().ok())?
}

/// The fields of an entry and their values, one after the other.
pub(crate) type Fields = Vec<Vec<u8>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stream {
    entries: BTreeMap<Id, Fields>,
    /// Of the entry that was added last, also if it is gone.
    pub(crate) last: Id,
    /// The highest one of those that were deleted.
    pub(crate) deleted: Id,
    pub(crate) added: u64,
}

/// A stream is trimmed by whole nodes where a command allows that.
const NODE: usize = 100;

impl Stream {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn add(&mut self, id: Id, fields: Fields) {
        self.entries.insert(id, fields);
        self.last = id;
        self.added += 1;
    }

    /// The id of an entry that is added now; `None` if there is no higher one.
    pub(crate) fn next_id(&self, now: u64) -> Option<Id> {
        let by_time = Id(now, 0);
        if by_time > self.last {
            Some(by_time)
        } else {
            self.last.next()
        }
    }

    pub(crate) fn delete(&mut self, id: Id) -> Option<Fields> {
        let fields = self.entries.remove(&id)?;
        self.deleted = self.deleted.max(id);
        Some(fields)
    }

    /// Deletes the oldest entries, of which so many stay, or up to a node more if it is only about so many.
    pub(crate) fn trim(&mut self, most: usize, is_about: bool) -> usize {
        let over = self.len().saturating_sub(most);
        let many = if is_about { over / NODE * NODE } else { over };
        for _ in 0..many {
            self.entries.pop_first();
        }
        many
    }

    pub(crate) fn range(
        &self,
        from: Id,
        to: Id,
    ) -> impl DoubleEndedIterator<Item = (&Id, &Fields)> {
        // A range that ends before it begins would panic.
        let to = if from > to {
            Bound::Excluded(from)
        } else {
            Bound::Included(to)
        };
        self.entries.range((Bound::Included(from), to))
    }

    pub(crate) fn size(&self) -> usize {
        let size = |fields: &Fields| 32 + fields.iter().map(Vec::len).sum::<usize>();
        self.entries.values().map(size).sum()
    }
}
