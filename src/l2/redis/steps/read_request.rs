//! Requests for values: each for some keys, over the one of two connections that expects fewer bytes.
//!
//! One key is a GET. More are an MGET, which costs the client and the server about half as much per key. MGET answers
//! nil for a value that is not a string; an error of GET for such a value is treated alike. When to send, and which
//! keys together, is decided in [`read_batcher`](super::read_batcher).
//!
//! The keys of several partitions go in one request if the partitions have one connection. Each partition keeps its own
//! time limit, and judges by itself whether the connection is still good. If the server does not answer such a request with
//! values, each partition sends its own, so that what fails one of them fails no other.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, RedisResult, Value, pipe};
use futures::future::join_all;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::l2::redis::connections::connect::{Failure, LiveConnection, is_not_executed};
use crate::l2::redis::connections::connection::ConnectionSlot;
use crate::l2::redis::error::l2_error;
use crate::l2::redis::names::{Name, Names, VALUE};
use crate::l2::{L2Error, ReadResult};
use crate::util::late::timeout_at;
use crate::util::on_drop::OnDrop;

/// The most keys of a request.
const MAX_KEYS_PER_MGET: usize = 256;
/// About how many bytes an answer should bring, judged by the last one: a value waits for its whole request.
pub(super) const ANSWER_BYTES: usize = 256 * 1024;
/// Requests of one call that are under way at a time.
const PARTS_AT_ONCE: usize = 8;

pub(crate) struct ReadRequests {
    names: Arc<Names>,
    /// The first also carries all other requests of the partition. The second is made when a read begins while the first
    /// is busy. With one alone, 64 callers on one thread read 0.64 as many a second.
    connections: [Arc<ConnectionSlot>; 2],
    /// How many bytes a key had on average, the last time.
    bytes_each: AtomicUsize,
    /// Whether the server has refused a key of the last request: then the next one is not shared with other partitions.
    was_refused: AtomicBool,
}

/// Keys of one partition, to be answered until then. `H` is dropped when they are.
pub(super) struct ReadPart<K, H> {
    pub(super) requests: Arc<ReadRequests>,
    pub(super) keys: Vec<K>,
    pub(super) until: Instant,
    pub(super) held: H,
}

/// Parts of several partitions that have one connection, or one part.
pub(super) struct ReadGroup<K, H>(Vec<GroupPart<K, H>>);

/// A part in a group, with the connection that it goes over.
struct GroupPart<K, H> {
    /// How many keys it has in the request.
    keys: usize,
    /// `None` once it was answered.
    part: Option<ReadPart<K, H>>,
    over: Option<ReadConnection>,
}

/// The connection of a request, as it is now.
type ReadConnection = (Arc<ConnectionSlot>, Arc<LiveConnection>);

impl ReadRequests {
    pub(crate) fn new(names: Arc<Names>, connections: [Arc<ConnectionSlot>; 2]) -> Self {
        Self {
            names,
            connections,
            bytes_each: AtomicUsize::new(0),
            was_refused: AtomicBool::new(false),
        }
    }

    /// Discards connections as [`ConnectionSlot::keep_only`] does. `false` if one of them led to another incarnation.
    pub(super) fn keep_only(&self, incarnation: u64) -> bool {
        let [first, second] = &self.connections;
        // Both, whatever the first one returns: `&&` would leave the second connection with the old server.
        first.keep_only(incarnation) & second.keep_only(incarnation)
    }

    /// How long a read may take.
    pub(super) fn limit(&self) -> Duration {
        self.connections[0].limit()
    }

    /// How many of the [`ANSWER_BYTES`] of a request a key takes. A small value takes more than it has, so that a request has
    /// [`MAX_KEYS_PER_MGET`] keys at most.
    pub(super) fn weight(&self) -> usize {
        weight(self.bytes_each.load(Ordering::Relaxed))
    }

    /// How many keys the next request may have.
    fn most(&self) -> usize {
        (ANSWER_BYTES / self.weight()).max(1)
    }

    /// Reads any number of keys, in requests of a good size. After one that was not answered no more are sent: each
    /// would take as long as that one.
    pub(super) async fn fetch_all(&self, keys: &[&str]) -> Vec<ReadResult> {
        let most = self.most();
        // Most calls fit one request, whose answers need not pass through a stream.
        if (1..=most).contains(&keys.len()) {
            return self.fetch(keys, Instant::now() + self.limit()).await;
        }
        // Relaxed: a request that is begun in the same moment only waits once more.
        let unanswered = &AtomicBool::new(false);
        let parts = keys.chunks(most).map(|keys| async move {
            if unanswered.load(Ordering::Relaxed) {
                return vec![Err(L2Error::timed_out(self.limit())); keys.len()];
            }
            let answers = self.fetch(keys, Instant::now() + self.limit()).await;
            if let Some(Err(error)) = answers.first()
                && !error.is_refused()
            {
                unanswered.store(true, Ordering::Relaxed);
            }
            answers
        });
        let parts: Vec<_> = parts.collect();
        stream::iter(parts).buffered(PARTS_AT_ONCE).concat().await
    }

    /// Reads keys in one request, which is answered until then. Each key has an answer of its own.
    pub(super) async fn fetch(&self, keys: &[impl AsRef<str>], until: Instant) -> Vec<ReadResult> {
        let answers = self.ask(keys, until).await;
        self.learn(answers.as_deref().ok());
        let answers = answers.unwrap_or_else(|error| vec![Err(error); keys.len()]);
        debug_assert_eq!(answers.len(), keys.len());
        answers
    }

    /// Notes how large the values of an answer are.
    pub(super) fn learn(&self, answers: Option<&[ReadResult]>) {
        let bytes_each = match answers {
            Some(answers) => {
                let values = answers.iter().flatten().flatten();
                values.map(Bytes::len).sum::<usize>() / answers.len().max(1)
            }
            // The answer may have been too large: the next request has half as many keys.
            None => ANSWER_BYTES / (self.most() / 2).max(1),
        };
        // Relaxed, here and below: these numbers choose sizes and connections, and are allowed to be a request old.
        self.bytes_each.store(bytes_each, Ordering::Relaxed);
        let is_refused = |answer: &ReadResult| answer.as_ref().is_err_and(L2Error::is_refused);
        let was_refused = answers.is_some_and(|answers| answers.iter().any(is_refused));
        self.was_refused.store(was_refused, Ordering::Relaxed);
    }

    async fn ask<K: AsRef<str>>(
        &self,
        keys: &[K],
        deadline: Instant,
    ) -> Result<Vec<ReadResult>, L2Error> {
        let over = self.over(self.is_first_busier());
        let connection = over
            .as_ref()
            .map_or(&self.connections[0], |(connection, _)| connection);
        let _expected = over
            .as_ref()
            .map(|(_, live)| expect(live, self.bytes(keys.len())));
        let command = &request(keys.iter().map(|key| self.name(key)));
        let send = |mut connection: MultiplexedConnection| async move {
            match connection.send_packed_command(command).await? {
                // Not an answer about a key.
                Value::ServerError(error) if error.kind().is_some_and(is_not_executed) => {
                    Err(error.into())
                }
                value => Ok(value),
            }
        };
        match connection.send_until(deadline, send).await? {
            value if keys.len() == 1 => Ok(opened(vec![value])),
            // An array of another length could not be told apart by key: it is no answer at all.
            Value::Array(values) if values.len() == keys.len() => Ok(opened(values)),
            // One key that the server's ACL forbids fails a whole MGET, so each is read alone.
            Value::ServerError(error) if error.code() == "NOPERM" => {
                let mut gets = pipe();
                for key in keys {
                    gets.add_command(request([self.name(key)].into_iter()));
                }
                let gets = &*gets.ignore_errors();
                let send = |mut connection: MultiplexedConnection| async move {
                    gets.query_async(&mut connection).await
                };
                let values: Vec<Value> = connection.send_until(deadline, send).await?;
                Ok(opened(values))
            }
            Value::ServerError(error) => Err(l2_error(error.into())),
            _ => Err(L2Error::unexpected("its answer to MGET makes no sense")),
        }
    }

    fn name<'a>(&'a self, key: &'a impl AsRef<str>) -> Name<'a> {
        self.names.name(VALUE, key.as_ref())
    }

    /// About how many bytes the values of `keys` keys will bring.
    fn bytes(&self, keys: usize) -> usize {
        // At least one byte for each key: before the first answer, the number of keys is all that is known.
        keys * self.bytes_each.load(Ordering::Relaxed).max(1)
    }

    /// Whether the first connection has more bytes to bring than the second: a large value delays those behind it.
    fn is_first_busier(&self) -> bool {
        let [first, second] = &self.connections;
        first.expected() > second.expected()
    }

    /// The connections for the next request, with the one that works; `None` if neither works.
    fn over(&self, is_first_busier: bool) -> Option<ReadConnection> {
        let [first, second] = &self.connections;
        let over =
            |connection: &Arc<ConnectionSlot>| Some((Arc::clone(connection), connection.live()?));
        // While the first is being made again, it has precedence in the pool.
        let is_second = is_first_busier && first.is_there();
        is_second
            .then(|| over(second))
            .flatten()
            .or_else(|| over(first))
    }
}

/// Puts parts together that can share a request.
pub(super) fn grouped<K, H>(parts: Vec<ReadPart<K, H>>) -> Vec<ReadGroup<K, H>> {
    let is_one = parts.len() == 1;
    let mut chosen = None;
    let mut groups = Vec::<ReadGroup<K, H>>::new();
    for part in parts {
        let requests = &part.requests;
        let slot = requests.names.slot;
        // All that may share a request choose the same connection, as the partitions on a server share what is expected. If
        // each chose for itself, there would be two requests.
        let is_first_busier = match chosen {
            Some((of, is_first_busier)) if of == slot => is_first_busier,
            _ => requests.is_first_busier(),
        };
        chosen = Some((slot, is_first_busier));
        // After the reads were asked for, so they go over no connection that `keep_only` has discarded before (rule
        // 13).
        let is_alone = is_one || requests.was_refused.load(Ordering::Relaxed);
        let over = if is_alone {
            None
        } else {
            requests.over(is_first_busier)
        };
        let shares =
            |group: &&mut ReadGroup<K, H>| group.slot() == slot && group.shares(over.as_ref());
        let group = groups.iter_mut().find(shares);
        let one = GroupPart {
            keys: part.keys.len(),
            part: Some(part),
            over,
        };
        match group {
            Some(group) => group.0.push(one),
            None => groups.push(ReadGroup(vec![one])),
        }
    }
    groups
}

impl<K, H> ReadGroup<K, H> {
    pub(super) fn keys(&self) -> usize {
        self.0.iter().map(|one| one.keys).sum()
    }

    fn slot(&self) -> Option<u16> {
        let first = self.0.first().and_then(|one| one.part.as_ref());
        first.and_then(|part| part.requests.names.slot)
    }

    fn shares(&self, over: Option<&ReadConnection>) -> bool {
        let first = self.0.first().and_then(|one| one.over.as_ref());
        let both = first.zip(over);
        both.is_some_and(|((_, live), (_, other))| live.is_same_as(other))
    }
}

impl<K, H> GroupPart<K, H> {
    /// Has the partition judge its connection by the answer, or by none in time. Returns what that is for its callers, if
    /// it is an error.
    fn judge(&self, answer: Option<RedisResult<()>>) -> Option<L2Error> {
        let (connection, live) = self.over.as_ref()?;
        connection
            .judge(live, answer)
            .err()
            .map(Failure::into_error)
    }
}

impl<K: AsRef<str>, H> ReadGroup<K, H> {
    /// Reads the keys, and hands out the answer to each, in the order of the keys.
    pub(super) async fn fetch(mut self, hand_out: impl Fn(Vec<K>, Vec<ReadResult>)) {
        if self.0.len() > 1 {
            self.fetch_together(&hand_out).await;
        }
        // Those that have no answer yet.
        let parts = self.0.into_iter().filter_map(|one| one.part);
        let each = parts.map(async |part| {
            let answers = part.requests.fetch(&part.keys, part.until).await;
            hand_out(part.keys, answers);
            drop(part.held);
        });
        join_all(each).await;
    }

    /// Reads the keys in one request. If the server answers anything but values, this hands out nothing.
    async fn fetch_together(&mut self, hand_out: &impl Fn(Vec<K>, Vec<ReadResult>)) {
        let parts = || self.0.iter().filter_map(|one| one.part.as_ref());
        let names = parts().flat_map(|part| part.keys.iter().map(|key| part.requests.name(key)));
        let command = request(names);
        let bytes = parts()
            .map(|part| part.requests.bytes(part.keys.len()))
            .sum();
        let Some((_, live)) = self.0.first().and_then(|one| one.over.clone()) else {
            return;
        };
        let (_expected, mut connection) = (expect(&live, bytes), live.connection.clone());
        let mut request = pin!(connection.send_packed_command(&command));
        // A partition whose time is up is answered, and the others go on waiting.
        let answer = loop {
            let until = |one: &GroupPart<K, H>| one.part.as_ref().map(|part| part.until);
            let Some(until) = self.0.iter().filter_map(until).min() else {
                return;
            };
            if let Ok(answer) = timeout_at(until, &mut request).await {
                break answer;
            }
            for one in &mut self.0 {
                if let Some(part) = one.part.take_if(|part| part.until <= until) {
                    part.requests.learn(None);
                    let error = one.judge(None).unwrap_or_else(L2Error::closed);
                    hand_out(part.keys, vec![Err(error); one.keys]);
                }
            }
        };
        let mut answers = match answer {
            // An array of another length could not be told apart by key: it is no answer at all.
            Ok(Value::Array(values)) if values.len() == self.keys() => opened(values),
            _ => return,
        };
        let (mut keys, mut held) = (Vec::with_capacity(answers.len()), Vec::new());
        for one in &mut self.0 {
            let own = keys.len()..keys.len() + one.keys;
            let Some(mut part) = one.part.take() else {
                answers.drain(own);
                continue;
            };
            part.requests.learn(answers.get(own));
            _ = one.judge(Some(Ok(())));
            keys.append(&mut part.keys);
            held.push(part.held);
        }
        hand_out(keys, answers);
    }
}

/// A request of these names.
fn request<'a>(names: impl Iterator<Item = Name<'a>> + Clone) -> Cmd {
    let (keys, bytes) = names
        .clone()
        .fold((0, 0), |(keys, bytes), name| (keys + 1, bytes + name.len()));
    let name = if keys == 1 { "GET" } else { "MGET" };
    let mut command = Cmd::with_capacity(1 + keys, name.len() + bytes);
    command.arg(name);
    for name in names {
        command.arg(name);
    }
    command
}

/// The connection expects this number of bytes until this is dropped.
fn expect(live: &LiveConnection, bytes: usize) -> OnDrop<impl Fn()> {
    live.expected().fetch_add(bytes, Ordering::Relaxed);
    OnDrop(move || {
        let before = live.expected().fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "what is answered was expected");
    })
}

/// How many bytes a key counts for, by the mean of the last request.
fn weight(bytes_each: usize) -> usize {
    bytes_each.max(ANSWER_BYTES / MAX_KEYS_PER_MGET)
}

/// The values of one answer.
fn opened(values: Vec<Value>) -> Vec<ReadResult> {
    let answer = |value| match value {
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        Value::Nil => Ok(None),
        // The answer of GET for a value that is not a string.
        Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(None),
        Value::ServerError(error) => Err(l2_error(error.into())),
        _ => Err(L2Error::unexpected("a value that is not a string")),
    };
    values.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_the_values_the_smaller_the_request() {
        for (bytes_each, keys) in [(0, 256), (128, 256), (4096, 64), (1 << 30, 0)] {
            assert_eq!(ANSWER_BYTES / weight(bytes_each), keys);
        }
    }
}
