//! The names of one partition's keys: the prefix of all keys, the partition's hash tag, the kind of the key, and a text for
//! all but the keys that a partition has once. And the names of the partition's channel and connections.

use std::io::Write;
use std::sync::Arc;

use deadpool_redis::redis::{RedisResult, RedisWrite, ToRedisArgs};

use crate::l2::{PartitionName, PartitionNumber};
use crate::util::crc16::{part, slot};
use crate::util::logged_once::LoggedOnce;
use crate::util::per_runtime::PerRuntime;
use crate::util::shared_work::SharedWork;

/// The kind of a user's key.
pub(crate) const VALUE: &str = ":";
pub(crate) const LEASE: &str = "!lease:";
pub(crate) const HOLD: &str = "!hold:";
/// The version of the last invalidation of a tag.
pub(crate) const TAG_VERSION: &str = "!tag:";
/// The kind of the answer to one request; its text is a random number.
pub(crate) const DONE: &str = "!done:";
/// The kind of a body that waits for a script; its text is a random number.
pub(super) const STAGED: &str = "!staged:";
pub(crate) const CLOCK: &str = "!clock";
pub(crate) const LOG: &str = "!log";
pub(crate) const MEMBERS: &str = "!live";
pub(super) const SWEEPER: &str = "!sweeper";
pub(super) const STATS: &str = "!stats";
/// The prefixes of keys that all instances leave out of the cache.
pub(super) const BYPASS: &str = "!bypass";
pub(super) const WRITES: &str = "!writes";
#[cfg(any(feature = "inspect", feature = "write-behind"))]
pub(super) const DEAD: &str = "!dead";
#[cfg(any(feature = "inspect", feature = "write-behind"))]
pub(super) const WORKER: &str = "!worker";

/// Where an L2 has its keys, and how their names begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeySpace {
    /// The database; a cluster has none.
    pub(crate) database: Option<i64>,
    /// The text before the hash tags, see [`RedisL2::key_prefix`](crate::RedisL2::key_prefix).
    pub(crate) prefix: Arc<str>,
}

// The two fields that are shared with other partitions are here as each request and each connection has the names.
pub(crate) struct Names {
    pub(super) namespace: String,
    /// How many partitions the namespace has.
    pub(super) partitions: u16,
    pub(super) space: KeySpace,
    /// The prefix and the hash tag, with which all keys of the partition begin.
    start: String,
    /// The slot of all keys and of the channel in a cluster: a request is for one slot.
    pub(super) slot: Option<u16>,
    /// The channel of the partition's messages.
    pub(crate) channel: String,
    /// The name of the connections in `CLIENT LIST`.
    pub(super) client: String,
    pub(super) missing_features: Arc<MissingFeatures>,
    pub(super) partition_checks: Arc<PartitionChecks>,
}

/// By namespaces and numbers of partitions: whether these partitions may be used, which all partitions find out together.
pub(super) type PartitionChecks = PerRuntime<SharedWork<(String, u16), RedisResult<()>>>;

/// Which missing features of the servers of a [`RedisL2`](super::RedisL2) the log has already named: once for all
/// partitions.
#[derive(Default)]
pub(crate) struct MissingFeatures {
    pub(super) names: LoggedOnce,
    pub(super) process: LoggedOnce,
    pub(super) incarnation: LoggedOnce,
}

/// The parts of one argument, which are written into a command one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Joined<P, const N: usize>(pub(crate) [P; N]);

/// The prefix with the hash tag, the kind, and the text of a key.
pub(crate) type Name<'a> = Joined<&'a str, 3>;

/// A hash tag keeps all keys of a partition in one slot. Of several partitions each has its own part of all slots, into
/// which a number at the end of the tag brings it: so servers with as many slots have as many partitions. By their hashes
/// alone, of 16 partitions on 6 servers the busiest would have 1.67 times the mean.
fn hash_tag(namespace: &str, PartitionNumber { number, of }: PartitionNumber) -> String {
    if of == 1 {
        return format!("{namespace}.0");
    }
    let mut tag = format!("{namespace}.{number}of{of}.");
    let (before_salt, mut salt) = (tag.len(), 0_u32);
    // One of as many as there are partitions, about.
    loop {
        salt += 1;
        tag.truncate(before_salt);
        tag.push_str(itoa::Buffer::new().format(salt));
        if part(slot(&tag), of) == number {
            return tag;
        }
    }
}

/// The name of a partition's clock alone, for a request that reads many of them.
pub(super) struct ClockName {
    start: String,
    pub(super) slot: Option<u16>,
}

impl ClockName {
    pub(super) fn new(name: PartitionName<'_>, space: &KeySpace) -> Self {
        let tag = hash_tag(name.namespace, name.partition);
        Self {
            slot: space.database.is_none().then(|| slot(&tag)),
            start: format!("{}{{{tag}}}", space.prefix),
        }
    }

    pub(super) fn name(&self) -> Name<'_> {
        Joined([&self.start, CLOCK, ""])
    }
}

impl Names {
    pub(crate) fn new(name: PartitionName<'_>, space: KeySpace) -> Self {
        let ClockName { start, slot } = ClockName::new(name, &space);
        let PartitionName {
            namespace,
            partition,
            ..
        } = name;
        let channel = match space.database {
            // By this, scripts publish in the slot alone: not on all nodes.
            None => format!("{start}!sharded"),
            Some(0) => format!("{start}!events"),
            // Channels are not part of a database: without its number, two databases would receive each other's
            // messages.
            Some(number) => format!("{start}!events@{number}"),
        };
        // Redis takes printable ASCII without spaces.
        let printable = namespace.replace(|char: char| !char.is_ascii_graphic(), "_");
        Self {
            namespace: namespace.to_owned(),
            partitions: partition.of,
            slot,
            channel,
            client: format!("larder:{printable}"),
            missing_features: Arc::default(),
            partition_checks: Arc::default(),
            space,
            start,
        }
    }

    /// The name of a key of one of the kinds above.
    pub(crate) fn name<'a>(&'a self, kind: &'a str, text: &'a str) -> Name<'a> {
        Joined([&self.start, kind, text])
    }

    /// A pattern of `SCAN` that matches the values whose key begins with `prefix`, and nothing else.
    pub(crate) fn values_under(&self, prefix: &str) -> String {
        // A namespace may contain characters of patterns, too.
        let parts = self.name(VALUE, prefix).0.map(literal);
        format!("{}*", parts.concat())
    }
}

/// A text as a part of a pattern of `SCAN`, which stands for itself.
pub(super) fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for char in text.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern
}

impl Name<'_> {
    pub(super) fn len(self) -> usize {
        self.0.map(str::len).iter().sum()
    }
}

impl<P: AsRef<[u8]>, const N: usize> ToRedisArgs for Joined<P, N> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut arg = out.writer_for_next_arg();
        for part in &self.0 {
            // Into memory, so it does not fail.
            let _ = arg.write_all(part.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_part_of_the_slots() {
        for of in 2..=16 {
            for number in 0..of {
                let tag = hash_tag("shop:price", PartitionNumber { number, of });
                assert_eq!(part(slot(&tag), of), number, "{tag}");
            }
        }
        // As other programs make them.
        assert_eq!(
            hash_tag("shop:price", PartitionNumber::ONLY),
            "shop:price.0"
        );
        let second = PartitionNumber { number: 1, of: 4 };
        assert_eq!(hash_tag("shop:price", second), "shop:price.1of4.1");
    }
}
