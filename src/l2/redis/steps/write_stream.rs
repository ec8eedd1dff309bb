//! The stream of writes, in Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::millis;
use crate::l2::redis::names::{CLOCK, DEAD, HOLD, LEASE, LOG, VALUE, WORKER, WRITES};
use crate::l2::redis::script_call::{LuaScript, ScriptCall, malformed_answer};
use crate::l2::redis::scripts::{ALLOW_OOM, NO_FLAGS, lua};
use crate::l2::redis::steps::partition::{Entry, RedisPartition};
use crate::l2::write_stream::MAX_BYTES;
use crate::l2::{
    Append, Batch, Bytes, Kind, L2Error, Pending, Reply, Settled, StreamId, Waiting, WriteStream,
    Written,
};
use crate::wire::message;

// `stream` needs `clock` for the time, when it makes a stream anew.
lua! {
    APPEND: NO_FLAGS
        [checked clock send publish layout stamp values stored mark stream staged tag_list tags body_tags once version] append;
    TAKE: ALLOW_OOM [checked clock stream] take;
    SETTLE: ALLOW_OOM [checked clock send publish layout values stored mark stream] settle;
    REQUEUE: ALLOW_OOM [checked clock send publish mark stream] requeue;
    PENDING: NO_FLAGS [checked clock stream] pending;
    DEAD_LETTERS: NO_FLAGS [checked clock stream] dead_letters;
}

impl RedisPartition {
    /// Stores a value, and appends it to the stream in the same step.
    pub(super) async fn append(&self, batch: Batch<'_>, how: &Append) -> Result<Written, L2Error> {
        let kinds: [&[&str]; 2] = [&[VALUE, LEASE, HOLD], &[CLOCK, LOG, WRITES, DEAD]];
        let more = |call: &mut ScriptCall<'_>, key: &str| {
            call.arg(how.most).arg(key).arg(&how.encoded_key);
        };
        self.store_one(&APPEND, batch, kinds, more, how.version)
            .await
    }
}

impl WriteStream for RedisPartition {
    fn take(&self, fence: u64, ttl: Duration, most: usize) -> Reply<'_, Option<Vec<Waiting>>> {
        let read = |entries: Option<Vec<Entry>>| entries.map(as_waiting).transpose();
        self.step(&TAKE, 2, read, move |call| {
            call.partition_keys(&[WORKER, WRITES])
                .arg(fence)
                .arg(millis(ttl));
            call.arg(most).arg(MAX_BYTES);
        })
    }

    fn settle<'a>(&'a self, fence: u64, settled: Settled<'a>) -> Reply<'a, bool> {
        let keys = settled.last_of_each();
        let parts = 5 + 3 * keys.len();
        self.step(&SETTLE, parts, Ok, move |call| {
            call.partition_keys(&[WORKER, WRITES, DEAD, CLOCK, LOG]);
            call.keys(&[VALUE, LEASE, HOLD], keys.keys());
            let mut head = Vec::new();
            message::write_prefix(Kind::Invalidate, settled.origin, &mut head);
            call.arg(fence).message(&head);
            call.arg(settled.outcome.is_err());
            call.arg(settled.outcome.err().unwrap_or_default());
            call.arg(keys.len());
            for (key, last) in &keys {
                let is_stored = settled.outcome.is_ok_and(|stored| stored.contains(key));
                call.arg(key).arg(text(*last)).arg(is_stored);
            }
            for write in settled.writes {
                call.arg(text(write.id));
            }
        })
    }

    fn dead_letters(&self, most: usize) -> Reply<'_, Vec<Waiting>> {
        self.step(&DEAD_LETTERS, 1, as_waiting, move |call| {
            call.partition_keys(&[DEAD]).arg(most).arg(MAX_BYTES);
        })
    }

    fn requeue<'a>(&'a self, letter: &'a Waiting, payload: &'a [u8]) -> Reply<'a, bool> {
        self.step(&REQUEUE, 7, Ok, move |call| {
            call.partition_keys(&[DEAD, WRITES]);
            call.keys(&[VALUE, LEASE, HOLD], &[&*letter.key]);
            call.partition_keys(&[CLOCK, LOG]).arg(text(letter.id));
            call.message(payload);
        })
    }

    fn pending(&self) -> Reply<'_, Pending> {
        let read = |answer| Ok(as_pending(answer));
        self.step(&PENDING, 4, read, |call| {
            call.partition_keys(&[WRITES, DEAD, WORKER, CLOCK]);
        })
    }
}

/// What PENDING answers.
pub(crate) type PendingAnswer = (u64, String, String, u64, String, u64, bool, String);

pub(crate) fn as_pending(answer: PendingAnswer) -> Pending {
    let (length, first, last, dead_letters, last_dead, now, has_worker, history) = answer;
    Pending {
        length,
        first: id(&first),
        last: id(&last),
        dead_letters,
        last_dead: id(&last_dead),
        now,
        has_worker,
        history,
    }
}

pub(crate) fn as_waiting(entries: Vec<Entry>) -> Result<Vec<Waiting>, L2Error> {
    entries.into_iter().map(read_waiting).collect()
}

/// An entry that another program has written may lack anything: it becomes a dead letter.
fn read_waiting((at, fields): Entry) -> Result<Waiting, L2Error> {
    // An id that is no time and number is not one of a stream: the server answers something else than asked.
    let at = id(&at).ok_or_else(malformed_answer)?;
    let mut fields: BTreeMap<_, _> = fields.into_iter().collect();
    let mut field = |name: &str| fields.remove(name);
    let words = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let id_then = field("v").and_then(|text| id(&words(text)));
    Ok(Waiting {
        id: at,
        version: id_then.unwrap_or(at),
        key: field("k").map(words).unwrap_or_default(),
        encoded_key: field("i").unwrap_or_default(),
        body: field("b").unwrap_or_default(),
        reason: field("e").map(words),
    })
}

fn id(text: &str) -> Option<StreamId> {
    let (ms, number) = text.split_once('-')?;
    let (ms, number) = (ms.parse().ok()?, number.parse().ok()?);
    Some(StreamId { ms, number })
}

fn text(StreamId { ms, number }: StreamId) -> String {
    format!("{ms}-{number}")
}
