//! The writes that wait for their source, the dead letters, and the marks of their keys.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::millis;
use crate::l2::write_stream::MOST_BYTES;
use crate::l2::{Stamp, StreamId, Version, Waiting};

#[derive(Clone, Default)]
pub(super) struct Writes {
    pub(super) waiting: Entries,
    pub(super) dead: Entries,
    /// Of the keys of which a write waits.
    pub(super) marks: HashMap<Box<str>, Mark>,
    /// The fence of the worker, and until when it lasts.
    worker: Option<(u64, u64)>,
}

/// Says that a write of a key waits: while it is there, no lease is granted.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    /// The newest one.
    pub(super) id: StreamId,
    /// The version of the value that was stored with it, if one was.
    pub(super) version: Option<Version>,
}

/// A stream.
#[derive(Clone, Default)]
pub(super) struct Entries {
    by_id: BTreeMap<StreamId, Waiting>,
    last_id: StreamId,
}

impl Entries {
    pub(super) fn len(&self) -> u64 {
        self.by_id.len() as u64
    }

    pub(super) fn oldest(&self) -> Option<StreamId> {
        self.by_id.keys().next().copied()
    }

    pub(super) fn newest(&self) -> Option<StreamId> {
        self.by_id.keys().next_back().copied()
    }

    /// The next id, which is above all that there were.
    fn next(&mut self, now: u64) -> StreamId {
        // A clock that goes back must not reorder writes: then the time of the last id goes on, as in a stream of Redis.
        let last = self.last_id;
        self.last_id = if now > last.ms {
            StreamId { ms: now, number: 0 }
        } else {
            StreamId {
                number: last.number + 1,
                ..last
            }
        };
        debug_assert!(last < self.last_id);
        self.last_id
    }

    pub(super) fn first(&self, most: usize) -> Vec<Waiting> {
        let mut bytes = 0;
        let few = self.by_id.values().take(most).take_while(|entry| {
            // The first one fits whatever its size: otherwise nothing behind it would ever be written.
            let fits = bytes < MOST_BYTES;
            bytes += entry.key.len() + entry.encoded_key.len() + entry.body.len();
            fits
        });
        few.cloned().collect()
    }
}

impl Writes {
    /// Adds a write, and marks its key. Its version is the id of its place, unless it has one.
    pub(super) fn append(&mut self, mut write: Waiting, stored: Option<Stamp>, now: u64) {
        let id = self.waiting.next(now);
        (write.id, write.reason) = (id, None);
        // A dead letter keeps the number by which the source orders writes of a key.
        if write.version == StreamId::default() {
            write.version = id;
        }
        let version = stored.map(Stamp::version);
        let mark = Mark { id, version };
        self.marks.insert(write.key.as_str().into(), mark);
        self.waiting.by_id.insert(id, write);
    }

    /// Whether a worker may settle, as no other one has the fence.
    pub(super) fn admits(&self, fence: u64, now: u64) -> bool {
        self.worker
            .is_none_or(|(other, until)| other == fence || until <= now)
    }

    pub(super) fn take(
        &mut self,
        fence: u64,
        ttl: Duration,
        most: usize,
        now: u64,
    ) -> Option<Vec<Waiting>> {
        if !self.admits(fence, now) {
            return None;
        }
        self.worker = Some((fence, now.saturating_add(millis(ttl))));
        Some(self.waiting.first(most))
    }

    /// Removes a write; it becomes a dead letter if there is a reason.
    pub(super) fn end(&mut self, id: StreamId, reason: Option<&str>, now: u64) {
        let ended = self.waiting.by_id.remove(&id);
        if let (Some(mut write), Some(reason)) = (ended, reason) {
            (write.id, write.reason) = (self.dead.next(now), Some(reason.to_owned()));
            self.dead.by_id.insert(write.id, write);
        }
    }

    /// Takes a dead letter out, and whether it is to wait again: not if a newer write of its key waits.
    pub(super) fn unbury(&mut self, id: StreamId) -> Option<(Waiting, bool)> {
        let letter = self.dead.by_id.remove(&id)?;
        // The mark may be of an older dead letter of the key, which was put back before this one.
        let mark = self.marks.get(&*letter.key);
        let newest = mark.and_then(|mark| self.waiting.by_id.get(&mark.id));
        let is_newest = newest.is_none_or(|newest| newest.version < letter.version);
        Some((letter, is_newest))
    }

    pub(super) fn has_worker(&self, now: u64) -> bool {
        self.worker.is_some_and(|(_, until)| now < until)
    }
}
