//! Writes of write-behind that wait for their source, and dead letters.

use std::time::Duration;

use super::connections::in_time;
use super::{Connected, Namespace};
use crate::l2::redis::names::{CLOCK, DEAD, WORKER, WRITES};
use crate::l2::redis::script_call::ScriptCall;
use crate::l2::redis::steps::write_stream::{
    DEAD_LETTERS, PENDING, PendingAnswer, as_pending, as_waiting,
};
use crate::l2::write_stream::MAX_BYTES;
use crate::l2::{L2Error, PartitionNumber, Pending, Waiting};

/// The writes of a namespace that have not reached their source.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoredWrites {
    /// How many wait.
    pub pending: u64,
    /// For how long the oldest one has waited; zero if none waits.
    pub lag: Duration,
    /// How many are dead letters.
    pub dead_letters: u64,
    /// Whether each partition has a worker.
    pub has_worker: bool,
    /// The first dead letters of each partition, the oldest first.
    pub letters: Vec<StoredDeadLetter>,
}

/// A write that could not be written to its source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredDeadLetter {
    /// The text of its key.
    pub key: String,
    /// Why it failed: that `store` returned an error, panicked or took too long, or that it could not be read.
    pub reason: String,
    /// How long ago it was acknowledged.
    pub written: Duration,
    /// How long ago it became a dead letter.
    pub buried: Duration,
    /// How many bytes its value takes, as the cache stores it.
    pub size: usize,
}

impl Namespace {
    /// Reads how many writes wait for their source, and the first dead letters: no more than `most`, and of each partition
    /// no more once their values have 1 MiB together. Needs the rights of write-behind, `+xlen +xrevrange +exists`.
    ///
    /// Cost: for each partition a connection, and two round trips.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::RedisL2;
    /// use larder::inspect::Namespace;
    ///
    /// let l2 = RedisL2::open("redis://127.0.0.1:6379")?;
    /// let views = Namespace::find(&l2, "shop:views").await?;
    /// for letter in views.writes(100).await?.letters {
    ///     println!("{}: {}", letter.key, letter.reason);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn writes(&self, most: usize) -> Result<StoredWrites, L2Error> {
        let mut writes = StoredWrites {
            // Until a partition has none.
            has_worker: true,
            ..StoredWrites::default()
        };
        for partition in PartitionNumber::all(self.partitions) {
            let mut partition = self.connect(partition).await?;
            let pending = partition.pending().await?;
            writes.pending += pending.length;
            // An id begins with the time of Redis.
            let ago = |ms| Duration::from_millis(pending.now.saturating_sub(ms));
            let oldest = pending.first.map(|first| ago(first.ms));
            writes.lag = writes.lag.max(oldest.unwrap_or_default());
            writes.dead_letters += pending.dead_letters;
            writes.has_worker &= pending.has_worker;
            // A partition that comes late gets what the others have left: the bound is for the whole answer.
            let letters = partition.dead_letters(most - writes.letters.len()).await?;
            let letters = letters.into_iter().map(|letter| StoredDeadLetter {
                written: ago(letter.version.ms),
                buried: ago(letter.id.ms),
                size: letter.body.len(),
                reason: letter.reason.unwrap_or_default(),
                key: letter.key,
            });
            writes.letters.extend(letters);
        }
        Ok(writes)
    }
}

impl Connected {
    async fn pending(&mut self) -> Result<Pending, L2Error> {
        let mut call = ScriptCall::by("EVALSHA_RO", &PENDING, &self.names, 4);
        call.partition_keys(&[WRITES, DEAD, WORKER, CLOCK]);
        let answer: PendingAnswer = in_time(call.run(self.connection.clone())).await?;
        Ok(as_pending(answer))
    }

    async fn dead_letters(&mut self, most: usize) -> Result<Vec<Waiting>, L2Error> {
        let mut call = ScriptCall::by("EVALSHA_RO", &DEAD_LETTERS, &self.names, 1);
        call.partition_keys(&[DEAD]).arg(most).arg(MAX_BYTES);
        as_waiting(in_time(call.run(self.connection.clone())).await?)
    }
}
