//! What requests change, for a test that looks on.

use std::collections::BTreeMap;
use std::time::Duration;

use indexmap::IndexMap;

use crate::keyspace::Value;

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// A text.
    Text(Vec<u8>),
    /// The fields of a hash.
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// A stream, of which [`Entry`] says what has changed; or a list.
    Other,
}

impl Held {
    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Text(text) => Self::Text(text.clone()),
            Value::Hash(fields) => Self::Hash(fields.clone().into_iter().collect()),
            Value::List(_) | Value::Stream(_) => Self::Other,
        }
    }
}

/// A key that a request has changed: what it holds, or when it ends.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name.
    pub key: Vec<u8>,
    /// What it held before; `None` if it was not there.
    pub before: Option<Held>,
    /// What it holds now.
    pub after: Option<Held>,
    /// How long it has that at most, if it ends.
    pub ttl: Option<Duration>,
}

/// An entry that a request has added to a stream, or deleted.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key of the stream.
    pub stream: Vec<u8>,
    /// Its id.
    pub id: String,
    /// Names and values in turn.
    pub fields: Vec<Vec<u8>>,
    /// Whether it was added.
    pub is_added: bool,
}

/// What a request, with all that its script has called, has changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The keys, in the order in which they were written first.
    pub keys: Vec<Change>,
    /// The entries of streams, in the order in which they were added and deleted.
    pub entries: Vec<Entry>,
}

/// Is told what each request has changed.
pub(crate) type Observer = Box<dyn FnMut(&Changes) + Send>;

/// What a key holds, and when it ends.
pub(crate) type Seen = (Held, Option<u64>);

/// What the request that is being executed has changed so far.
#[derive(Default)]
pub(crate) struct Noted {
    /// What the keys that it writes were before, in the order in which it wrote them first.
    pub(crate) before: IndexMap<Vec<u8>, Option<Seen>>,
    pub(crate) entries: Vec<Entry>,
}
