//! Requests for values: each for some keys, over the one of two connections that expects fewer bytes.
//!
//! One key is a GET. More are an MGET, which costs the client and the server about half as much per key. MGET answers
//! nil for a value that is not a string; an error of GET for such a value is treated alike. When to send, and which
//! keys together, is decided in [`read_batcher`](super::read_batcher).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, Value, pipe};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::connection::{Connections, is_no_primary};
use super::error::l2_error;
use super::names::{Name, Names, VALUE};
use crate::l2::{L2Error, ReadResult};
use crate::util::on_drop::OnDrop;

/// The most keys of a request.
const KEYS: usize = 256;
/// About how many bytes an answer should bring, judged by the last one: a value waits for its whole request.
const BYTES: usize = 256 * 1024;
/// Requests of one call that are under way at a time.
const AT_ONCE: usize = 8;

pub(super) struct ReadRequests {
    names: Arc<Names>,
    /// The first also carries all other requests of the lane. The second is made when a read begins while the first
    /// is busy. With one alone, 64 callers on one thread read 0.64 as many a second.
    lines: [Arc<Connections>; 2],
    /// How many bytes a key had on average, the last time.
    bytes_each: AtomicUsize,
}

impl ReadRequests {
    pub(super) fn new(names: Arc<Names>, lines: [Arc<Connections>; 2]) -> Self {
        Self {
            names,
            lines,
            bytes_each: AtomicUsize::new(0),
        }
    }

    /// Discards connections as [`Connections::keep_only`] does. `false` if one of them led to another life.
    pub(super) fn keep_only(&self, life: u64) -> bool {
        let [first, second] = &self.lines;
        // Both, whatever the first one returns: `&&` would leave the second connection with the old server.
        first.keep_only(life) & second.keep_only(life)
    }

    /// How long a read may take.
    pub(super) fn limit(&self) -> Duration {
        self.lines[0].limit()
    }

    /// How many keys the next request may have.
    pub(super) fn most(&self) -> usize {
        most(self.bytes_each.load(Ordering::Relaxed))
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
        stream::iter(parts).buffered(AT_ONCE).concat().await
    }

    /// Reads keys in one request, which is answered until then. Each key has an answer of its own.
    pub(super) async fn fetch(&self, keys: &[impl AsRef<str>], until: Instant) -> Vec<ReadResult> {
        let answers = self.ask(keys, until).await;
        let bytes_each = match &answers {
            Ok(answers) => {
                let values = answers.iter().flatten().flatten();
                values.map(Bytes::len).sum::<usize>() / keys.len().max(1)
            }
            // The answer may have been too large: the next request has half as many keys.
            Err(_) => BYTES / (self.most() / 2).max(1),
        };
        // Relaxed, here and below: these numbers choose sizes and connections, and are allowed to be a request old.
        self.bytes_each.store(bytes_each, Ordering::Relaxed);
        let answers = answers.unwrap_or_else(|error| vec![Err(error); keys.len()]);
        debug_assert_eq!(answers.len(), keys.len());
        answers
    }

    async fn ask<K: AsRef<str>>(
        &self,
        keys: &[K],
        deadline: Instant,
    ) -> Result<Vec<ReadResult>, L2Error> {
        let (connections, _expected) = self.expect(keys.len());
        let command = &self.command(keys);
        let send = |mut connection: MultiplexedConnection| async move {
            match connection.send_packed_command(command).await? {
                // Not an answer about a key: this connection is of no use.
                Value::ServerError(error) if error.kind().is_some_and(is_no_primary) => {
                    Err(error.into())
                }
                value => Ok(value),
            }
        };
        match connections.with_until(deadline, send).await? {
            value if keys.len() == 1 => Ok(opened(vec![value])),
            // An array of another length could not be told apart by key: it is no answer at all.
            Value::Array(values) if values.len() == keys.len() => Ok(opened(values)),
            // One key that the server's ACL forbids fails a whole MGET, so each is read alone.
            Value::ServerError(error) if error.code() == "NOPERM" => {
                let mut gets = pipe();
                for key in keys {
                    gets.add_command(self.command(&[key]));
                }
                let gets = &*gets.ignore_errors();
                let send = |mut connection: MultiplexedConnection| async move {
                    gets.query_async(&mut connection).await
                };
                let values: Vec<Value> = connections.with_until(deadline, send).await?;
                Ok(opened(values))
            }
            Value::ServerError(error) => Err(l2_error(error.into())),
            _ => Err(L2Error::unexpected("its answer to MGET makes no sense")),
        }
    }

    fn command<K: AsRef<str>>(&self, keys: &[K]) -> Cmd {
        let name = if keys.len() == 1 { "GET" } else { "MGET" };
        let key_names = || keys.iter().map(|key| self.names.name(VALUE, key.as_ref()));
        let bytes: usize = key_names().map(Name::len).sum();
        let mut command = Cmd::with_capacity(1 + keys.len(), name.len() + bytes);
        command.arg(name);
        for key in key_names() {
            command.arg(key);
        }
        command
    }

    /// Chooses the line that has fewer bytes to bring: a large value delays those behind it. It expects those of this
    /// request until the second part is dropped.
    fn expect(&self, keys: usize) -> (&Connections, OnDrop<impl Fn()>) {
        let [first, second] = &self.lines;
        let expected = |line: &Connections| line.expected().load(Ordering::Relaxed);
        // While the first is being made again, it has precedence in the pool.
        let is_busier = expected(first) > expected(second);
        let is_second = is_busier && first.is_there() && second.is_there_or_made();
        let line = if is_second { second } else { first };
        // At least one byte for each key: before the first answer, the number of keys is all that is known.
        let bytes = keys * self.bytes_each.load(Ordering::Relaxed).max(1);
        line.expected().fetch_add(bytes, Ordering::Relaxed);
        let end = move || _ = line.expected().fetch_sub(bytes, Ordering::Relaxed);
        (line, OnDrop(end))
    }
}

/// How many keys a request may have, if those of the last one had so many bytes each.
fn most(bytes_each: usize) -> usize {
    (BYTES / bytes_each.max(1)).clamp(1, KEYS)
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
        for (bytes_each, keys) in [(0, 256), (128, 256), (4096, 64), (1 << 30, 1)] {
            assert_eq!(most(bytes_each), keys);
        }
    }
}
