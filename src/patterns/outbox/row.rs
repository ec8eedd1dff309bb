//! What a row says, and how it is written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::OutboxError;
use crate::key::{CacheKey, KeyWriter};

/// A row that is to be written: one for each key or tag.
pub struct NewRow {
    pub(super) kind: Kind,
    /// The text of the key or tag.
    pub(super) name: String,
}

/// A row that was read.
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) written_ms: WrittenMs,
}

/// When a row was written, by the clock of its writer, in ms since 1970: for the lag alone. `None` if it is no number.
pub(super) type WrittenMs = Option<i64>;

/// Rows that were read together, in the order of their ids.
#[derive(Default)]
pub struct Window {
    pub(super) rows: Vec<Row>,
    /// When those were written whose name is no text.
    pub(super) unreadable: Vec<WrittenMs>,
    /// The id of the last one.
    last: i64,
}

impl Window {
    /// How many rows are read together, if there are as many.
    pub(super) const MOST: usize = 1024;

    /// Adds the next row. Its `name` is `None` if that is no text.
    pub(super) fn add(&mut self, id: i64, kind: Kind, name: Option<String>, written_ms: WrittenMs) {
        self.last = id;
        match name {
            Some(name) => self.rows.push(Row {
                id,
                kind,
                name,
                written_ms,
            }),
            None => self.unreadable.push(written_ms),
        }
    }

    /// The id behind which there may be more rows.
    pub(super) fn next(&self) -> Option<i64> {
        (self.rows.len() + self.unreadable.len() >= Self::MOST).then_some(self.last)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Tag,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Key => KEY,
            Self::Tag => TAG,
        }
    }

    /// The statements that read rows ask for no others: those that a later version adds are left to its relays.
    pub(super) fn read(text: &str) -> Self {
        if text == TAG { Self::Tag } else { Self::Key }
    }
}

const KEY: &str = "key";
const TAG: &str = "tag";

/// One for each name. An error if one of them is too long, as nothing is written then.
pub(super) fn rows<T: CacheKey>(
    kind: Kind,
    names: impl IntoIterator<Item = T>,
) -> Result<Vec<NewRow>, OutboxError> {
    let rows = names.into_iter().map(|name| {
        let name = KeyWriter::new().write(&name)?.to_owned();
        Ok(NewRow { kind, name })
    });
    rows.collect()
}

/// A number of milliseconds without its fraction.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a cast takes the nearest number there is"
)]
pub(super) fn whole(ms: f64) -> i64 {
    ms as i64
}

/// In ms since 1970, by the clock of this machine.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(i64::MAX)
}
