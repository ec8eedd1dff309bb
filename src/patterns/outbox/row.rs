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
pub struct Row {
    pub(super) id: i64,
    pub(super) kind: Kind,
    pub(super) name: String,
    /// When it was written, by the clock of the writer, in ms since 1970: for the lag alone.
    pub(super) written_ms: i64,
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

/// In ms since 1970, by the clock of this machine.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(i64::MAX)
}
