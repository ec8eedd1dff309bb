//! What a database holds: keys with a value, and the end of their TTL. Knows no command.

use std::collections::BTreeMap;
use std::mem;

use indexmap::IndexMap;

use crate::stream::Stream;

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(Vec<u8>),
    /// In the order in which the fields were set first, as a small hash of Redis has them.
    Hash(IndexMap<Vec<u8>, Vec<u8>>),
    List(Vec<Vec<u8>>),
    Stream(Stream),
}

impl Value {
    /// As `TYPE` names it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Hash(_) => "hash",
            Self::List(_) => "list",
            Self::Stream(_) => "stream",
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Hash(fields) => (fields.iter())
                .map(|(field, value)| field.len() + value.len() + PART)
                .sum(),
            Self::List(items) => items.iter().map(|item| item.len() + PART).sum(),
            Self::Stream(stream) => stream.size(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    /// In ms of the server's time.
    pub(crate) expires_at: Option<u64>,
    /// The number of the command that used it last.
    used: u64,
}

impl Entry {
    /// In Redis a key is there for the last millisecond of its TTL, too.
    fn has_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at < now)
    }
}

/// About what a key, and a part of a value, take besides their bytes.
const KEY: usize = 64;
const PART: usize = 16;

/// The keys of a database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyspace {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// The time of the command that is being executed, in ms.
    pub(crate) now: u64,
    /// The number of that command.
    pub(crate) command: u64,
}

impl Keyspace {
    /// The entry of a key that has not expired.
    pub(crate) fn entry(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let now = self.now;
        if (self.entries.get(key)).is_some_and(|entry| entry.has_expired(now)) {
            self.entries.remove(key);
        }
        let entry = self.entries.get_mut(key)?;
        entry.used = self.command;
        Some(entry)
    }

    pub(crate) fn value(&mut self, key: &[u8]) -> Option<&mut Value> {
        Some(&mut self.entry(key)?.value)
    }

    /// Stores a value in the place of any other one.
    pub(crate) fn set(&mut self, key: &[u8], value: Value, expires_at: Option<u64>) {
        let used = self.command;
        let entry = Entry {
            value,
            expires_at,
            used,
        };
        self.put(key, entry);
    }

    pub(crate) fn take(&mut self, key: &[u8]) -> Option<Entry> {
        self.entry(key)?;
        self.entries.remove(key)
    }

    pub(crate) fn put(&mut self, key: &[u8], entry: Entry) {
        self.entries.insert(key.to_vec(), entry);
    }

    /// All keys that have not expired, in their order.
    pub(crate) fn keys(&mut self) -> Vec<Vec<u8>> {
        let now = self.now;
        self.entries.retain(|_, entry| !entry.has_expired(now));
        self.entries.keys().cloned().collect()
    }

    /// The entry of a key, also if it has ended.
    pub(crate) fn entry_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// All keys and values, and when they end, also of those that have ended.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Vec<u8>, &Value, Option<u64>)> {
        let parts = |(key, entry)| {
            let entry: &Entry = entry;
            (key, &entry.value, entry.expires_at)
        };
        self.entries.iter().map(parts)
    }

    pub(crate) fn clear(&mut self) {
        mem::take(&mut self.entries);
    }

    /// How many keys there are, with their parts.
    pub(crate) fn parts(&self) -> usize {
        let parts = |entry: &Entry| match &entry.value {
            Value::Text(_) => 1,
            Value::Hash(fields) => fields.len(),
            Value::List(items) => items.len(),
            Value::Stream(stream) => stream.len(),
        };
        self.entries.values().map(parts).sum()
    }

    /// About how many bytes the keys and the values take.
    pub(crate) fn size(&self) -> usize {
        let size = |(key, entry): (&Vec<u8>, &Entry)| KEY + key.len() + entry.value.size();
        self.entries.iter().map(size).sum()
    }

    /// The key that was used least recently, or that ends first; of all keys, or of those with a TTL. Ties go to the
    /// first key.
    pub(crate) fn victim(&self, with_ttl: bool, by_ttl: bool) -> Option<Vec<u8>> {
        let may_go = |entry: &Entry| !with_ttl || entry.expires_at.is_some();
        let candidates = self.entries.iter().filter(|(_, entry)| may_go(entry));
        let rank = |entry: &Entry| match entry.expires_at {
            Some(at) if by_ttl => at,
            _ => entry.used,
        };
        let victim = candidates.min_by_key(|(_, entry)| rank(entry));
        victim.map(|(key, _)| key.clone())
    }
}
