//! Writes that wait in a store until a worker has written them to their source.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Bytes, Reply, Version};

/// The stream of writes of a [`Partition`](super::Partition), for write-behind.
///
/// While a write of a key waits, no lease is granted for the key: the source does not have the write yet, so a load
/// would store an older value.
pub trait WriteStream: Send + Sync {
    /// The first writes, as many as `most` and no more once they have 1 MiB together, for the worker that `fence`
    /// names. Keeps other workers away for `ttl`; with a `ttl` of zero the worker gives the stream up, and is given no
    /// writes. `None` while another worker has the stream.
    fn take(&self, fence: u64, ttl: Duration, most: usize) -> Reply<'_, Option<Vec<Waiting>>>;

    /// Removes writes. From here on leases on their keys are granted, and in the same step the keys are invalidated,
    /// but for those that keep their value (see [`Settled::outcome`]). A key of which a newer write waits is left
    /// alone. `false` if another worker has come meanwhile: then nothing is changed. A late copy finds the writes and
    /// their marks gone, and invalidates their keys: a miss, which does no harm.
    fn settle<'a>(&'a self, fence: u64, settled: Settled<'a>) -> Reply<'a, bool>;

    /// The first dead letters, within the same bounds.
    fn dead_letters(&self, most: usize) -> Reply<'_, Vec<Waiting>>;

    /// Has a dead letter wait again, unless a newer write of its key waits: then it is removed. Returns which.
    fn requeue<'a>(&'a self, letter: &'a Waiting, payload: &'a [u8]) -> Reply<'a, bool>;

    /// How much waits.
    fn pending(&self) -> Reply<'_, Pending>;
}

/// How a value is appended, for [`Step::Append`](super::Step::Append).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The key itself.
    pub encoded_key: Vec<u8>,
    /// How many writes may wait or be dead letters.
    pub most: u64,
    /// The version of the value in whose place it is stored, never [`ABSENT`](Version::ABSENT). `None` if whatever is
    /// stored is replaced.
    pub version: Option<Version>,
}

/// A write that waits, or is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where it is in its stream.
    pub id: StreamId,
    /// Where it was when it was first appended.
    pub version: StreamId,
    /// The text of the key.
    pub key: String,
    /// The key itself.
    pub encoded_key: Bytes,
    /// The value without its stamp.
    pub body: Bytes,
    /// Why it is a dead letter.
    pub reason: Option<String>,
}

/// The name of an entry of a stream: a time of the store in milliseconds, and a number. It rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// The time, at which the store's clock was, or later.
    pub ms: u64,
    /// Tells apart the entries of one time.
    pub number: u64,
}

/// The bytes of the entries that are handed out at a time: all of them in one answer might not come in time.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The writes that a worker has settled.
#[derive(Clone, Copy, Debug)]
pub struct Settled<'a> {
    /// These writes, of which the last one of each key counts.
    pub writes: &'a [&'a Waiting],
    /// The texts of the keys whose last write the source has stored as it was: such a key keeps its value in L2, if
    /// that has the version of this write, in the present epoch. Or the reason why all of them are dead letters.
    pub outcome: Result<&'a BTreeSet<&'a str>, &'a str>,
    /// The instance that tells the others which keys were invalidated.
    pub origin: u64,
}

impl<'a> Settled<'a> {
    /// The keys, and the last write of each.
    pub(super) fn last_of_each(&self) -> BTreeMap<&'a str, StreamId> {
        let mut keys: BTreeMap<&str, StreamId> = BTreeMap::new();
        for write in self.writes {
            // In any order: a worker may have put dead letters that wait again between others.
            let last = keys.entry(&write.key).or_default();
            *last = write.id.max(*last);
        }
        keys
    }
}

/// How much waits in a stream of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many writes.
    pub length: u64,
    /// The oldest.
    pub first: Option<StreamId>,
    /// The newest.
    pub last: Option<StreamId>,
    /// How many dead letters there are.
    pub dead_letters: u64,
    /// The newest of them.
    pub last_dead: Option<StreamId>,
    /// The store's time in milliseconds.
    pub now: u64,
    /// Whether a worker is alive.
    pub has_worker: bool,
    /// Names the store's history, and the stream in it. If another one is named later, writes may have been lost.
    pub history: String,
}
