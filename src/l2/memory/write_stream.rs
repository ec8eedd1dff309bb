//! The stream of writes, in memory: its steps, each under the store's lock.

use std::time::Duration;

use super::lane::MemoryLane;
use super::state::{Now, State};
use crate::ablation::{Rule, without};
use crate::l2::{Append, Appended, Kind, Pending, Reply, Settled, StreamId, Waiting, WriteStream};
use crate::wire::message;

impl WriteStream for MemoryLane {
    fn append<'a>(
        &'a self,
        write: Append<'a>,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Appended> {
        self.by_deadline(deadline, move |state, now| {
            append(state, write, payload, now)
        })
    }

    fn take(&self, fence: u64, ttl: Duration, most: usize) -> Reply<'_, Option<Vec<Waiting>>> {
        self.step(move |state, now| state.data.writes.take(fence, ttl, most, now.at))
    }

    fn settle<'a>(&'a self, fence: u64, settled: Settled<'a>) -> Reply<'a, bool> {
        self.step(move |state, now| settle(state, fence, settled, now))
    }

    fn dead_letters(&self, most: usize) -> Reply<'_, Vec<Waiting>> {
        self.step(move |state, _| state.data.writes.dead_letters(most))
    }

    fn requeue<'a>(&'a self, letter: &'a Waiting, payload: &'a [u8]) -> Reply<'a, bool> {
        self.step(move |state, now| requeue(state, letter.id, payload, now))
    }

    fn pending(&self) -> Reply<'_, Pending> {
        self.step(|state, now| {
            let writes = &state.data.writes;
            let (first, last, length) = writes.waiting();
            let (last_dead, dead_letters) = writes.dead();
            Pending {
                length,
                first,
                last,
                dead_letters,
                last_dead,
                now: now.at,
                has_worker: writes.has_worker(now.at),
                // What was lost was lost with a life.
                history: now.run.to_string(),
            }
        })
    }
}

fn append(state: &mut State, write: Append<'_>, payload: &[u8], now: Now) -> Appended {
    if state.data.writes.len() >= write.most {
        return Appended::Full;
    }
    let stamp = match write.version {
        Some(version) => state.insert_if(write.key, write.value, version, payload, now),
        None => Some(state.insert(&[(write.key, write.value)], payload, now)),
    };
    let Some(stamp) = stamp else {
        return Appended::OtherVersion;
    };
    let waiting = Waiting {
        id: StreamId::default(),
        version: StreamId::default(),
        key: write.key.to_owned(),
        encoded_key: write.encoded_key.to_vec().into(),
        body: write.value.body.clone().into(),
        reason: None,
    };
    let writes = &mut state.data.writes;
    writes.append(waiting, None, Some(stamp), now.at);
    Appended::Stored(stamp)
}

fn settle(state: &mut State, fence: u64, settled: Settled<'_>, now: Now) -> bool {
    if !state.data.writes.admits(fence, now.at) {
        return false;
    }
    for write in settled.writes {
        let reason = settled.outcome.err();
        state.data.writes.end(write.id, reason, now.at);
    }
    let mut invalidated = Vec::new();
    for (key, last) in settled.last_of_each() {
        let mark = state.data.writes.mark(key);
        if mark.is_some_and(|mark| mark.id > last) {
            continue;
        }
        state.data.writes.end_mark(key);
        let version = mark.filter(|mark| mark.id == last);
        let version = version.and_then(|mark| mark.version);
        // No version is issued twice, so a value with this one is the one that was given to the source (rule 24).
        let is_there = version.is_some() && state.version_of(key, now) == version;
        let is_kept = settled.outcome.is_ok_and(|stored| stored.contains(key)) && is_there;
        if !is_kept && !without(Rule::Settled) {
            state.remove(&[key], Duration::ZERO, now);
            invalidated.push(key);
        }
    }
    if !invalidated.is_empty() {
        let payload = message::payload(Kind::Invalidate, settled.origin, &invalidated);
        state.announce(&payload, now);
    }
    true
}

fn requeue(state: &mut State, id: StreamId, payload: &[u8], now: Now) -> bool {
    let Some((letter, waits)) = state.data.writes.unbury(id) else {
        return false;
    };
    if waits {
        let key = letter.key.clone();
        let version = Some(letter.version);
        state.data.writes.append(letter, version, None, now.at);
        state.remove(&[&key], Duration::ZERO, now);
        state.announce(payload, now);
    }
    waits
}
