//! The stream of writes, in memory: its steps, each under the store's lock.

use std::time::Duration;

use super::partition::MemoryPartition;
use super::state::PartitionState;
use super::writes::first;
use crate::clock::millis;
use crate::l2::{
    Append, Batch, Kind, Pending, Reply, Settled, StreamId, Waiting, WriteStream, Written,
};
use crate::wire::message;

impl PartitionState {
    /// Stores a value, and appends it to the stream.
    pub(super) fn append(&mut self, batch: Batch<'_>, append: &Append) -> Written {
        let (Some(key), Some(value)) = (batch.keys.first(), batch.values.first()) else {
            return Written::OtherVersion;
        };
        // Dead letters count: a source that refuses everything must not fill the store.
        let writes = &self.writes;
        if (writes.waiting.len() + writes.dead.len()) as u64 >= append.most {
            return Written::Full;
        }
        let written = self.insert_if(batch, append.version);
        let Written::Done(ack) = written else {
            return written;
        };
        let waiting = Waiting {
            id: StreamId::default(),
            version: StreamId::default(),
            key: (*key).to_owned(),
            encoded_key: append.encoded_key.clone().into(),
            body: value.body.clone().into(),
            reason: None,
        };
        self.writes.append(waiting, Some(ack.stamp), self.now.at);
        written
    }
}

impl WriteStream for MemoryPartition {
    fn take(&self, fence: u64, ttl: Duration, most: usize) -> Reply<'_, Option<Vec<Waiting>>> {
        self.step(|state| {
            let (writes, now) = (&mut state.writes, state.now.at);
            writes.admits(fence, now).then(|| {
                writes.worker = (fence, now.saturating_add(millis(ttl)));
                // The worker gives the stream up.
                let most = if ttl.is_zero() { 0 } else { most };
                first(&writes.waiting, most)
            })
        })
    }

    fn settle<'a>(&'a self, fence: u64, settled: Settled<'a>) -> Reply<'a, bool> {
        self.step(|state| {
            let (writes, at) = (&mut state.writes, state.now.at);
            // Before anything changes: a worker that was silent for too long may find the work of its successor.
            if !writes.admits(fence, at) {
                return false;
            }
            for write in settled.writes {
                writes.end(write.id, settled.outcome.err(), at);
            }
            let mut invalidated = Vec::new();
            for (key, last) in settled.last_of_each() {
                let marks = &mut state.writes.marks;
                // A newer write of the key waits: its mark, its value and the copies in L1 are left alone (rule 24:
                // values that were written behind).
                if marks.get(key).is_some_and(|mark| mark.id > last) {
                    continue;
                }
                let mark = marks.remove(key).filter(|mark| mark.id == last);
                let version = mark.and_then(|mark| mark.version);
                // No version is issued twice, so a value with this one is the one that was given to the source (rule
                // 24).
                // No load stores a value of another type beside it while the mark is there.
                let mut stored = state.all_stored(key).into_iter();
                let is_there = stored.any(|(_, stamp, _)| Some(stamp.version()) == version);
                let is_kept = settled.outcome.is_ok_and(|stored| stored.contains(key)) && is_there;
                if !is_kept {
                    state.remove(&[key], Duration::ZERO);
                    invalidated.push(key);
                }
            }
            if !invalidated.is_empty() {
                let payload = message::payload(Kind::Invalidate, settled.origin, &invalidated);
                state.announce(&payload);
            }
            true
        })
    }

    fn dead_letters(&self, most: usize) -> Reply<'_, Vec<Waiting>> {
        self.step(|state| first(&state.writes.dead, most))
    }

    fn requeue<'a>(&'a self, letter: &'a Waiting, payload: &'a [u8]) -> Reply<'a, bool> {
        self.step(|state| {
            let writes = &mut state.writes;
            let Some(letter) = writes.dead.remove(&letter.id) else {
                return false;
            };
            // The mark may be of an older dead letter of the key, which was put back before this one.
            let mark = writes.marks.get(&*letter.key);
            let newest = mark.and_then(|mark| writes.waiting.get(&mark.id));
            if newest.is_some_and(|newest| newest.version >= letter.version) {
                return false;
            }
            state.remove(&[&letter.key], Duration::ZERO);
            state.writes.append(letter, None, state.now.at);
            state.announce(payload);
            true
        })
    }

    fn pending(&self) -> Reply<'_, Pending> {
        self.step(|state| {
            let (writes, now) = (&state.writes, state.now);
            Pending {
                length: writes.waiting.len() as u64,
                first: writes.waiting.keys().next().copied(),
                last: writes.waiting.keys().next_back().copied(),
                dead_letters: writes.dead.len() as u64,
                last_dead: writes.dead.keys().next_back().copied(),
                now: now.at,
                has_worker: now.at < writes.worker.1,
                // Writes are lost only with an incarnation.
                history: now.link.run.to_string(),
            }
        })
    }
}
