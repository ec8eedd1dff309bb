//! A row of the table: how it is written, and how rows are read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::{OutboxError, Reason};
use crate::key::key_text;
use crate::key::{CacheKey, Key};

/// The `kind` of a row that names a key.
pub(super) const KEY: &str = "key";
/// The `kind` of a row that names a tag. The statements that read rows ask for no others: those that a later version
/// adds are left to its relays.
pub(super) const TAG: &str = "tag";

/// How many rows are read together, if there are as many.
pub(super) const MOST: u32 = 1024;

/// A row that was read.
pub struct Row {
    pub(super) id: i64,
    pub(super) is_tag: bool,
    pub(super) name: String,
    /// When it was written, by the clock of its writer, in ms since 1970: for the lag alone.
    pub(super) written_ms: i64,
}

/// When the oldest of these rows was written.
pub(super) fn oldest(rows: &[Row]) -> Option<i64> {
    rows.iter().map(|row| row.written_ms).min()
}

/// A statement on the table, for the drivers of sqlx.
#[cfg(feature = "outbox-sqlx")]
pub enum Statement<'a> {
    /// Rows of one kind, for these names.
    Insert(&'a str, &'static str, &'a [Key]),
    /// The first rows of a namespace.
    Read(&'a str),
    Delete(&'a [i64]),
}

/// The texts of keys or tags. An error if one of them is too long, as nothing is written then.
pub(super) fn texts<T: CacheKey>(
    names: impl IntoIterator<Item = T>,
) -> Result<Vec<Key>, OutboxError> {
    // All texts before the first insert: an error leaves the transaction as it was.
    let texts = names.into_iter().map(|name| key_text(&name));
    Ok(texts.collect::<Result<_, _>>().map_err(Reason::Key)?)
}

/// In ms since 1970, by the clock of this machine.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(i64::MAX)
}
