//! The changes that the logs of the partitions still have.

use std::collections::BTreeSet;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;

use super::connections::in_time;
use super::{Connected, Namespace};
use crate::key::Key;
use crate::l2::redis::names::{CLOCK, LOG, Names};
use crate::l2::redis::script_call::unpack_numbers;
use crate::l2::redis::steps::partition::Entry;
use crate::l2::{Kind, L2Error, Message, PartitionNumber};
use crate::wire::message;

/// Messages that one request reads: each may have 256 keys.
const ENTRIES_AT_ONCE: u64 = 100;

/// A change, as the log of its partition has it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoggedChange {
    /// The partition of its keys.
    pub partition: PartitionNumber,
    /// What the instances were told.
    pub message: Message,
    /// When it happened, in milliseconds since 1970 by the clock of the server. `None` if the release of larder that
    /// has sent it notes no times.
    pub at: Option<u64>,
    /// Whether a change of the kind [`Invalidate`](Kind::Invalidate) was an [`expire`](crate::Cache::expire): the
    /// messages are alike. `false` also if a release of larder has sent it that does not say so.
    pub is_expire: bool,
}

impl Namespace {
    /// Reads the last changes that the logs of all partitions have, `most` of them, the oldest first. With a key only those
    /// that may concern the key: changes of the key, of a prefix of it, and of the tags that its values in Redis have
    /// now.
    ///
    /// A log has the last 10 000 changes of its partition or so. A clear is in no log, and empties it.
    ///
    /// Cost: for each partition a connection, and a round trip for each hundred changes. With a key only its partition is
    /// read, and the value first. Needs `+xrange`.
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
    /// let prices = Namespace::find(&l2, "shop:price").await?;
    /// for change in prices.last_changes(10, Some("tea")).await? {
    ///     println!("{:?}: {:?} by {:016x}", change.at, change.message.kind, change.message.origin);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn last_changes(
        &self,
        most: usize,
        key: Option<&str>,
    ) -> Result<Vec<LoggedChange>, L2Error> {
        let mut changes = Vec::new();
        if let Some(key) = key {
            let stored = self.key(key).await?;
            let tags = stored.values.into_iter().flatten();
            let tags: BTreeSet<Key> = tags.flat_map(|value| value.tags).collect();
            let mut partition = self.connect(stored.partition.partition).await?;
            changes = partition
                .read_back(most, |message| may_concern(message, key, &tags))
                .await?;
        } else {
            for partition in PartitionNumber::all(self.partitions) {
                let mut partition = self.connect(partition).await?;
                changes.append(&mut partition.read_back(most, |_| true).await?);
            }
            changes.sort_by_key(|(after, _)| *after);
        }
        let last = changes.split_off(changes.len().saturating_sub(most));
        Ok(last.into_iter().map(|(_, change)| change).collect())
    }
}

impl Connected {
    /// The last changes that count, the oldest first, each behind the latest time up to it. By that, the changes of a
    /// partition stay in its order if the clock of the server has stepped back.
    async fn read_back(
        &mut self,
        most: usize,
        counts: impl Fn(&Message) -> bool,
    ) -> Result<Vec<(Option<u64>, LoggedChange)>, L2Error> {
        let mut ask = cmd("HGET");
        ask.arg(self.names.name(CLOCK, "")).arg("at");
        let at: Option<Vec<u8>> = in_time(ask.query_async(&mut self.connection)).await?;
        // Without a clock the next instance begins a new log.
        let [_, mut last, _, _] = at
            .and_then(|at| unpack_numbers(&at).ok())
            .unwrap_or_default();
        let mut found = Vec::new();
        while found.len() < most && last > 0 {
            let first = last.saturating_sub(ENTRIES_AT_ONCE - 1).max(1);
            let entries = read_log(&self.names, self.connection.clone(), first, last).await?;
            if entries.is_empty() {
                break;
            }
            let changes = entries.iter().rev();
            let changes = changes.filter_map(|entry| LoggedChange::read(self.partition, entry));
            let changes = changes.filter(|change| counts(&change.message));
            found.extend(changes.take(most - found.len()));
            last = first - 1;
        }
        let mut latest = None;
        let found = found.into_iter().rev().map(|change| {
            latest = latest.max(change.at);
            (latest, change)
        });
        Ok(found.collect())
    }
}

impl LoggedChange {
    /// `None` if its message is damaged, or of another format.
    pub(super) fn read(partition: PartitionNumber, (_, fields): &Entry) -> Option<Self> {
        let field = |name| fields.iter().find(|(field, _)| field == name);
        let message = message::parse(&field("m")?.1)?;
        let at = field("at").and_then(|(_, at)| str::from_utf8(at).ok()?.parse().ok());
        let is_expire = field("by").is_some_and(|(_, by)| **by == *b"expire");
        Some(Self {
            partition,
            message,
            at,
            is_expire,
        })
    }
}

/// Entries of a log, from one number to another.
pub(super) async fn read_log(
    names: &Names,
    mut connection: MultiplexedConnection,
    first: u64,
    last: u64,
) -> Result<Vec<Entry>, L2Error> {
    let mut range = cmd("XRANGE");
    range.arg(names.name(LOG, "")).arg(first).arg(last);
    in_time(range.query_async(&mut connection)).await
}

/// Whether a change may have removed or replaced a value of a key that has these tags.
fn may_concern(change: &Message, key: &str, tags: &BTreeSet<Key>) -> bool {
    let mut names = change.keys.iter();
    match change.kind {
        Kind::Invalidate | Kind::InvalidateAwaited | Kind::Insert => {
            names.any(|name| **name == *key)
        }
        Kind::Prefix => names.any(|prefix| key.starts_with(&**prefix)),
        Kind::Tags => names.any(|tag| tags.contains(tag)),
        Kind::Clear | Kind::Unknown(_) => true,
    }
}
