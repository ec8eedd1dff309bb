//! The writes that wait for their source, the dead letters, and the marks of their keys.

use std::collections::{BTreeMap, HashMap};

use crate::l2::write_stream::MAX_BYTES;
use crate::l2::{Stamp, StreamId, Version, Waiting};

#[derive(Clone, Default)]
pub(super) struct WaitingWrites {
    pub(super) waiting: Entries,
    pub(super) dead: Entries,
    /// The last id in either stream.
    last: StreamId,
    /// A mark for each key of which a write waits.
    pub(super) marks: HashMap<Box<str>, Mark>,
    /// The fence of the last worker, and until when it lasts.
    pub(super) worker: (u64, u64),
}

/// A stream.
pub(super) type Entries = BTreeMap<StreamId, Waiting>;

/// Says that a write of a key waits: while it is there, no lease is granted.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    /// The newest one.
    pub(super) id: StreamId,
    /// The version of the value that was stored with it, if one was.
    pub(super) version: Option<Version>,
}

/// The first entries, within the bounds of [`WriteStream::take`](crate::l2::WriteStream::take).
pub(super) fn first(entries: &Entries, most: usize) -> Vec<Waiting> {
    let mut bytes = 0;
    let few = entries.values().take(most).take_while(|entry| {
        // The first one fits whatever its size: otherwise nothing behind it would ever be written.
        let fits = bytes < MAX_BYTES;
        bytes += entry.key.len() + entry.encoded_key.len() + entry.body.len();
        fits
    });
    few.cloned().collect()
}

impl WaitingWrites {
    /// The next id, which is above all that there were.
    fn next(&mut self, now: u64) -> StreamId {
        // A clock that goes back must not reorder writes: then the time of the last id goes on, as in a stream of
        // Redis.
        let last = self.last;
        let number = last.number + 1;
        let after = StreamId { number, ..last };
        self.last = after.max(StreamId { ms: now, number: 0 });
        debug_assert!(last < self.last);
        self.last
    }

    /// Adds a write, and marks its key. Its version is the id of its place, unless it has one.
    pub(super) fn append(&mut self, mut write: Waiting, stored: Option<Stamp>, now: u64) {
        let id = self.next(now);
        (write.id, write.reason) = (id, None);
        // A dead letter keeps the number by which the source orders writes of a key.
        if write.version == StreamId::default() {
            write.version = id;
        }
        let version = stored.map(Stamp::version);
        (self.marks).insert(write.key.as_str().into(), Mark { id, version });
        self.waiting.insert(id, write);
    }

    /// Whether a worker may take and settle, as no other one has the fence.
    pub(super) fn admits(&self, fence: u64, now: u64) -> bool {
        let (other, until) = self.worker;
        other == fence || until <= now
    }

    /// Removes a write; it becomes a dead letter if there is a reason.
    pub(super) fn end(&mut self, id: StreamId, reason: Option<&str>, now: u64) {
        if let (Some(mut write), Some(reason)) = (self.waiting.remove(&id), reason) {
            (write.id, write.reason) = (self.next(now), Some(reason.to_owned()));
            self.dead.insert(write.id, write);
        }
    }
}
