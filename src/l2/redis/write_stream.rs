//! The stream of writes, in Redis.

use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use futures::FutureExt;

use super::call::{Call, numbers};
use super::lane::{RedisLane, kept, senseless, stamp, written};
use crate::clock::millis;
use crate::key::Key;
use crate::l2::write_stream::MOST_BYTES;
use crate::l2::{
    Append, Appended, Bytes, Kind, L2Error, Pending, Reply, Settled, StreamId, Waiting,
    WriteStream, random,
};
use crate::wire::{envelope, message};

/// An entry's id, then names and values in turn: there is one of each.
type Entry = (String, Vec<(String, Bytes)>);

impl WriteStream for RedisLane {
    fn append<'a>(
        &'a self,
        write: Append<'a>,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Appended> {
        async move {
            // The same in each copy.
            let this = random();
            let own = &envelope::tags_of(&write.value.body);
            let send = |mut connection: MultiplexedConnection, stored: &[u8], tags: &[Key]| {
                let sizes = std::iter::once(write.value.body.len());
                let keys = 8 + own.len() + tags.len();
                let mut call = Call::with_values(&self.scripts.append, keys, sizes);
                let name = &mut String::new();
                call.arg(self.names.value(name, write.key))
                    .arg(self.names.lease(name, write.key))
                    .arg(self.names.hold(name, write.key))
                    .arg(&self.names.clock)
                    .arg(&self.names.log)
                    .arg(&self.names.writes)
                    .arg(&self.names.dead)
                    .arg(self.names.done(name, this));
                self.markers(&mut call, own);
                self.markers(&mut call, tags);
                call.arg(&self.names.events).arg(random()).arg(payload);
                call.arg(written(deadline));
                call.arg(&write.value.body).arg(kept(write.value.ttls));
                call.arg(write.most).arg(write.key).arg(write.encoded_key);
                if let Some(version) = write.version {
                    call.arg(version.epoch).arg(version.ver).arg(stored);
                }
                async move { call.run(&mut connection).await }
            };
            let read = |answer: &[u8]| {
                // Any other answer begins with a time or an epoch, which is not that large.
                if let Some((b'F', at)) = answer.split_first() {
                    let [at] = numbers(at)?;
                    return Ok((Appended::Full, at));
                }
                if let Ok([at]) = numbers(answer) {
                    return Ok((Appended::OtherVersion, at));
                }
                let stamp = stamp(answer)?;
                Ok((Appended::Stored(stamp), stamp.written_at))
            };
            self.before_with_tags(deadline, send, read).await
        }
        .boxed()
    }

    fn take(&self, fence: u64, ttl: Duration, most: usize) -> Reply<'_, Option<Vec<Waiting>>> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.take, 2);
                call.arg(&self.names.worker).arg(&self.names.writes);
                call.arg(fence).arg(millis(ttl)).arg(most).arg(MOST_BYTES);
                call
            };
            let entries: Option<Vec<Entry>> = self.run(call).await?;
            entries.map(waiting).transpose()
        }
        .boxed()
    }

    fn settle<'a>(&'a self, fence: u64, settled: Settled<'a>) -> Reply<'a, bool> {
        async move {
            let keys = settled.last_of_each();
            let call = || {
                let mut call = Call::new(&self.scripts.settle, 5 + 3 * keys.len());
                let name = &mut String::new();
                call.arg(&self.names.worker)
                    .arg(&self.names.writes)
                    .arg(&self.names.dead)
                    .arg(&self.names.clock)
                    .arg(&self.names.log);
                for key in keys.keys() {
                    call.arg(self.names.value(name, key))
                        .arg(self.names.lease(name, key))
                        .arg(self.names.hold(name, key));
                }
                let head = &mut Vec::new();
                message::head(Kind::Invalidate, settled.origin, head);
                call.arg(fence).arg(&self.names.events).arg(random());
                call.arg(&*head);
                call.arg(u8::from(settled.outcome.is_err()));
                call.arg(settled.outcome.err().unwrap_or_default());
                call.arg(keys.len());
                for (key, last) in &keys {
                    let is_stored = settled.outcome.is_ok_and(|stored| stored.contains(key));
                    call.arg(key).arg(text(*last)).arg(u8::from(is_stored));
                }
                for write in settled.writes {
                    call.arg(text(write.id));
                }
                call
            };
            self.run(call).await
        }
        .boxed()
    }

    fn dead_letters(&self, most: usize) -> Reply<'_, Vec<Waiting>> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.letters, 1);
                call.arg(&self.names.dead).arg(most).arg(MOST_BYTES);
                call
            };
            waiting(self.run(call).await?)
        }
        .boxed()
    }

    fn requeue<'a>(&'a self, letter: &'a Waiting, payload: &'a [u8]) -> Reply<'a, bool> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.requeue, 7);
                let name = &mut String::new();
                call.arg(&self.names.dead)
                    .arg(&self.names.writes)
                    .arg(self.names.value(name, &letter.key))
                    .arg(self.names.lease(name, &letter.key))
                    .arg(self.names.hold(name, &letter.key))
                    .arg(&self.names.clock)
                    .arg(&self.names.log);
                call.arg(text(letter.id)).arg(&self.names.events);
                call.arg(random()).arg(payload);
                call
            };
            self.run(call).await
        }
        .boxed()
    }

    fn pending(&self) -> Reply<'_, Pending> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.pending, 4);
                call.arg(&self.names.writes).arg(&self.names.dead);
                call.arg(&self.names.worker).arg(&self.names.clock);
                call
            };
            let answer: (u64, String, String, u64, String, u64, bool, String) =
                self.run(call).await?;
            let (length, first, last, dead_letters, last_dead, now, has_worker, history) = answer;
            Ok(Pending {
                length,
                first: id(&first),
                last: id(&last),
                dead_letters,
                last_dead: id(&last_dead),
                now,
                has_worker,
                history,
            })
        }
        .boxed()
    }
}

fn waiting(entries: Vec<Entry>) -> Result<Vec<Waiting>, L2Error> {
    entries.into_iter().map(one).collect()
}

/// An entry that another program has written may lack anything: it becomes a dead letter.
fn one((at, fields): Entry) -> Result<Waiting, L2Error> {
    let field = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.clone())
    };
    let words = |name: &str| {
        let bytes = field(name)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let id_here = id(&at).ok_or_else(senseless)?;
    Ok(Waiting {
        id: id_here,
        version: words("v").and_then(|text| id(&text)).unwrap_or(id_here),
        key: words("k").unwrap_or_default(),
        encoded_key: field("i").unwrap_or_default(),
        body: field("b").unwrap_or_default(),
        reason: words("e"),
    })
}

fn id(text: &str) -> Option<StreamId> {
    let (ms, number) = text.split_once('-')?;
    Some(StreamId {
        ms: ms.parse().ok()?,
        number: number.parse().ok()?,
    })
}

fn text(StreamId { ms, number }: StreamId) -> String {
    format!("{ms}-{number}")
}
