//! A row of the table: how it is written, and how rows are read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::{OutboxError, Reason};
use crate::key::{CacheKey, KeyWriter};

/// The `kind` of a row that names a key.
pub(super) const KEY: &str = "key";
/// The `kind` of a row that names a tag. The statements that read rows ask for no others: those that a later version
/// adds are left to its relays.
pub(super) const TAG: &str = "tag";

/// A row that is to be written: one for each key or tag.
pub struct NewRow {
    pub(super) kind: &'static str,
    /// The text of the key or tag.
    pub(super) name: String,
}

/// A row that was read.
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) is_tag: bool,
    pub(super) name: String,
    pub(super) written_ms: WrittenMs,
}

/// When a row was written, by the clock of its writer, in ms since 1970: for the lag alone. `None` if it is no number.
pub(super) type WrittenMs = Option<i64>;

/// Since when rows wait.
#[derive(Clone, Copy, Default)]
pub(super) struct Waits {
    pub(super) oldest_ms: Option<i64>,
    /// Whether one of them does not say.
    pub(super) is_untimed: bool,
}

impl Waits {
    pub(super) fn with(self, time: WrittenMs) -> Self {
        Self {
            oldest_ms: self.oldest_ms.into_iter().chain(time).min(),
            is_untimed: self.is_untimed || time.is_none(),
        }
    }

    pub(super) fn with_rows(self, rows: &[Row]) -> Self {
        (rows.iter()).fold(self, |waits, row| waits.with(row.written_ms))
    }
}

/// Rows in the order of their ids, of one read or of several.
pub struct Window {
    pub(super) rows: Vec<Row>,
    /// How many rows have a name that is no text.
    pub(super) unreadable: u64,
    /// Since when these wait.
    pub(super) unreadable_wait: Waits,
    /// The id of the last row.
    pub(super) last: i64,
}

impl Window {
    /// How many rows are read together, if there are as many.
    pub(super) const MOST: u32 = 1024;

    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            unreadable: 0,
            unreadable_wait: Waits::default(),
            last: i64::MIN,
        }
    }

    /// Adds the next row. Its `name` is `None` if that is no text.
    pub(super) fn add(&mut self, id: i64, kind: &str, name: Option<String>, written_ms: WrittenMs) {
        // Also of a row that cannot be read, or the next read would find it again, and never get past it.
        self.last = id;
        match name {
            Some(name) => self.rows.push(Row {
                id,
                is_tag: kind == TAG,
                name,
                written_ms,
            }),
            None => {
                self.unreadable += 1;
                self.unreadable_wait = self.unreadable_wait.with(written_ms);
            }
        }
    }
}

/// A statement on the table, for the drivers of sqlx.
#[cfg(feature = "outbox-sqlx")]
pub enum Statement<'a> {
    Insert(&'a [NewRow]),
    /// Adds the next rows to a window.
    Read(Window),
    Delete(&'a [i64]),
}

/// One for each name. An error if one of them is too long, as nothing is written then.
pub(super) fn rows<T: CacheKey>(
    kind: &'static str,
    names: impl IntoIterator<Item = T>,
) -> Result<Vec<NewRow>, OutboxError> {
    // All texts before the first insert: an error leaves the transaction as it was.
    let rows = names.into_iter().map(|name| {
        let mut text = KeyWriter::new();
        let name = text.write(&name).map_err(Reason::Key)?.to_owned();
        Ok(NewRow { kind, name })
    });
    rows.collect()
}

/// In ms since 1970, by the clock of this machine.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(i64::MAX)
}
