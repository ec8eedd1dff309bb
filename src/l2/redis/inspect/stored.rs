//! What a key has in Redis, and whether an instance uses it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter;
use std::time::Duration;

use deadpool_redis::redis::cmd;

use super::connections::in_time;
use super::{Connected, Namespace, PartitionState};
use crate::key::Key;
use crate::l2::redis::names::{CLOCK, HOLD, LEASE, TAG_VERSION, VALUE, WRITES};
use crate::l2::redis::script_call::{LuaScript, ScriptCall, unpack_numbers};
use crate::l2::redis::scripts::{NO_FLAGS, lua};
use crate::l2::{L2Error, Lifetime, PartitionNumber, Stamp, TagVersion};
use crate::options::MAX_VALUE_BYTES;
use crate::util::crc16::nth;
use crate::wire::codec;
use crate::wire::envelope::{self, BODY_AT, ChecksumSeed, Envelope, PAYLOAD_AT};

lua! {
    INSPECT: NO_FLAGS [checked clock incarnation mark] inspect;
}

/// What a key has in Redis.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredKey {
    /// The partition of the key.
    pub partition: PartitionState,
    /// Its values, one for each type tag (rule 29: a change is of all types), the one that was stored last in front.
    pub values: Vec<Result<StoredValue, DamagedValue>>,
    /// The type of what is stored, as Redis names it, if that is not a string: then it counts as absent.
    pub other_type: Option<String>,
    /// For how long Redis keeps the key; `None` for no limit, or no key.
    pub kept: Option<Duration>,
    /// The loads that may fill it, one for each type tag.
    pub leases: Vec<StoredLease>,
    /// For how long no load of it is stored (rule 15: hold-off). `None` if it is not held.
    pub held: Option<Duration>,
    /// The write that waits for its source, with write-behind.
    pub mark: Option<PendingWrite>,
    /// The last invalidation of each tag of its values; `None` if Redis does not know it.
    pub tags: BTreeMap<Key, Option<TagVersion>>,
}

/// A value as it is stored, whose checksum matches.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredValue {
    /// When it was written.
    pub stamp: Stamp,
    /// Until when it is valid.
    pub lifetime: Lifetime,
    /// The type tag, by which instances tell values of their own type from values of other types.
    pub type_tag: u64,
    /// The number of its outermost format.
    pub codec: u8,
    /// The hash of the names and kinds of its parts, with bincode and postcard.
    pub shape: Option<u64>,
    /// The encoded value.
    pub payload: Vec<u8>,
    /// How many bytes it takes with its head and its tags.
    pub size: usize,
    /// The tags of the value.
    pub tags: Vec<Key>,
}

/// A value as its codec has written it, out of the layer that has compressed it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EncodedPayload<'a> {
    /// The number of the codec.
    pub codec: u8,
    /// The hash of the names and kinds of its parts, with bincode and postcard.
    pub shape: Option<u64>,
    /// The bytes.
    pub bytes: Cow<'a, [u8]>,
}

/// Bytes that are not a value: a miss for every instance.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(transparent)]
pub struct DamagedValue(envelope::Damage);

/// The right of a load to fill a key.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StoredLease {
    /// The epoch in which it was granted.
    pub epoch: u64,
    /// The last version that had been issued when it was granted.
    pub granted_at: u64,
    /// The type tag of the load.
    pub type_tag: u64,
    /// When it ends, in milliseconds of the server's time.
    pub ends_at: u64,
    /// Whether another load waits for its end.
    pub is_awaited: bool,
}

/// A write that waits for its source, and holds loads of its key off.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PendingWrite {
    /// The id of its entry in the stream of writes.
    pub entry: String,
    /// The epoch of the value that was stored with it; zero if there was none.
    pub epoch: u64,
    /// The version of that value.
    pub ver: u64,
    /// Whether the stream of writes lacks the entry: it was deleted or evicted, and the write with it.
    pub is_lost: bool,
}

/// Why no instance uses a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnusableReason {
    /// The clock of the partition is missing or damaged.
    NoClock,
    /// The server has restarted or failed over.
    Restarted,
    /// It is of this epoch, and the partition has another one.
    OtherEpoch(u64),
    /// The partition has not issued its version yet (rule 11: versions are compared).
    NotIssued,
    /// Its lifetime has ended, by this number of milliseconds. It may be kept for loads that fail.
    Expired(u64),
    /// Redis does not know when this tag was invalidated last.
    UnknownTag(Key),
    /// This tag was invalidated with this version.
    InvalidatedTag(Key, u64),
}

impl fmt::Display for UnusableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClock => f.write_str("the partition has lost its clock"),
            Self::Restarted => f.write_str("the server has restarted since"),
            Self::OtherEpoch(epoch) => write!(f, "its epoch {epoch} is over"),
            Self::NotIssued => f.write_str("its version was never issued"),
            Self::Expired(ms) => write!(f, "expired {:?} ago", Duration::from_millis(*ms)),
            Self::UnknownTag(tag) => write!(f, "the version of tag {tag} is lost"),
            Self::InvalidatedTag(tag, ver) => write!(f, "tag {tag} was invalidated at {ver}"),
        }
    }
}

impl Namespace {
    /// Reads all that a key has, in one step; and then the versions of its tags.
    ///
    /// The key is given as text, as [`redis_key`](crate::key::redis_key) makes it.
    ///
    /// Cost: a connection, and one round trip; another one if a value has tags.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    pub async fn key(&self, key: &str) -> Result<StoredKey, L2Error> {
        let number = nth(key, usize::from(self.partitions));
        let partition = PartitionNumber {
            // There are 16 at most.
            number: u16::try_from(number).unwrap_or_default(),
            of: self.partitions,
        };
        self.connect(partition).await?.read(&self.name, key).await
    }

    /// Reads keys that have values, each as by [`key`](Self::key), until there were `most` of them in each partition. Needs
    /// `+scan`. Returns whether that was all. A key may be read twice while Redis resizes its table.
    ///
    /// Cost: a connection for each partition, and one round trip for each key, or two.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request.
    pub async fn each_key(
        &self,
        most: usize,
        mut look: impl FnMut(&str, &StoredKey),
    ) -> Result<bool, L2Error> {
        let mut are_all = true;
        for partition in PartitionNumber::all(self.partitions) {
            let mut partition = self.connect(partition).await?;
            let before_key = partition.names.name(VALUE, "").len();
            let (mut cursor, mut left) = (0, most);
            loop {
                let names;
                (cursor, names) = partition.scan("", cursor).await?;
                // A step of SCAN may return more names than it was asked for.
                are_all &= names.len() <= left;
                for name in names.iter().take(left) {
                    left -= 1;
                    let key = name.get(before_key..).unwrap_or_default();
                    // All keys of this crate are text.
                    if let Ok(key) = str::from_utf8(key) {
                        look(key, &partition.read(&self.name, key).await?);
                    }
                }
                if cursor == 0 || left == 0 {
                    are_all &= cursor == 0;
                    break;
                }
            }
        }
        Ok(are_all)
    }
}

/// What INSPECT answers.
type Answer = (
    (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>),
    [i64; 3],
    String,
    [u64; 6],
    String,
    u8,
    Option<(String, u64, u64, u64, u8)>,
);

impl Connected {
    async fn read(&mut self, namespace: &str, key: &str) -> Result<StoredKey, L2Error> {
        let mut call = ScriptCall::by("EVALSHA_RO", &INSPECT, &self.names, 5);
        call.keys(&[VALUE, LEASE, HOLD], &[key]);
        call.partition_keys(&[CLOCK, WRITES]);
        let answer: Answer = in_time(call.run(self.connection.clone())).await?;
        let ((value, lease, hold), left, kind, numbers, run, is_run, mark) = answer;
        // Redis answers with negative numbers where there is no key, or no limit.
        let [kept, _, held] = left.map(|ms| u64::try_from(ms).ok().map(Duration::from_millis));
        let partition = self.state(numbers, &run, is_run);
        let now = partition.clock.now;
        let seed = ChecksumSeed::namespace(namespace).key(key);
        let values: Vec<_> = (value.iter())
            .flat_map(|bytes| envelope::parse_each(bytes, seed))
            .map(|value| value.map(StoredValue::new).map_err(DamagedValue))
            .collect();
        let tags = values.iter().flatten().flat_map(|value| value.tags.clone());
        let tags = self.tag_versions(tags.collect()).await?;
        // Whatever the TTL of the key is: each lease has its own end, by which ACQUIRE_LEASE goes.
        let lease = lease.unwrap_or_default();
        let lease = String::from_utf8_lossy(&lease);
        let leases = lease.split(' ').filter_map(StoredLease::parse);
        let held = match mark {
            // A hold that was asked for meanwhile is in the mark.
            Some((_, till, ..)) => (till > now).then(|| Duration::from_millis(till - now)),
            // Of another type it is no hold, though it has a TTL.
            None => held.filter(|_| hold.is_some()),
        };
        Ok(StoredKey {
            values,
            other_type: Some(kind).filter(|kind| !matches!(&**kind, "none" | "string")),
            kept,
            leases: leases.filter(|lease| lease.ends_at > now).collect(),
            held,
            mark: mark.map(|(entry, _, epoch, ver, waits)| PendingWrite {
                entry,
                epoch,
                ver,
                is_lost: waits == 0,
            }),
            tags,
            partition,
        })
    }

    async fn tag_versions(
        &mut self,
        tags: BTreeSet<Key>,
    ) -> Result<BTreeMap<Key, Option<TagVersion>>, L2Error> {
        // MGET of nothing is an error.
        if tags.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut ask = cmd("MGET");
        for tag in &tags {
            ask.arg(self.names.name(TAG_VERSION, tag));
        }
        let stored: Vec<Option<Vec<u8>>> = in_time(ask.query_async(&mut self.connection)).await?;
        let version = |stored: Option<Vec<u8>>| {
            let [epoch, ver] = unpack_numbers(&stored?).ok()?;
            Some(TagVersion { epoch, ver })
        };
        Ok(iter::zip(tags, stored.into_iter().map(version)).collect())
    }
}

impl StoredKey {
    /// Why no instance uses a value of this key; nothing if those with its type tag do.
    #[must_use]
    pub fn why_not(&self, value: &StoredValue) -> Vec<UnusableReason> {
        let (Stamp { epoch, ver, .. }, clock) = (value.stamp, self.partition.clock);
        // Then there is nothing to compare the stamp with.
        if clock.epoch == 0 {
            return vec![UnusableReason::NoClock];
        }
        let mut why = Vec::new();
        if self.partition.has_restarted {
            why.push(UnusableReason::Restarted);
        }
        if epoch != clock.epoch {
            why.push(UnusableReason::OtherEpoch(epoch));
        } else if ver > clock.ver {
            // Versions compare within an epoch.
            why.push(UnusableReason::NotIssued);
        }
        if let Some(ago) = clock.now.checked_sub(value.lifetime.expires_at) {
            why.push(UnusableReason::Expired(ago));
        }
        // Tag versions compare within an epoch.
        let tags = value.tags.iter().filter(|_| epoch == clock.epoch);
        why.extend(tags.filter_map(|tag| match self.tags.get(tag)? {
            Some(version) if version.epoch == epoch && version.ver < ver => None,
            Some(version) if version.epoch == epoch => {
                Some(UnusableReason::InvalidatedTag(tag.clone(), version.ver))
            }
            _ => Some(UnusableReason::UnknownTag(tag.clone())),
        }));
        why
    }
}

impl StoredValue {
    fn new(value: Envelope<'_>) -> Self {
        let tags = value.tags.iter().map(|tag| 2 + tag.len()).sum::<usize>();
        Self {
            stamp: value.stamp,
            lifetime: value.lifetime,
            type_tag: value.format.type_tag,
            codec: value.format.codec,
            shape: codec::shape_of(value.format.codec, value.payload),
            payload: value.payload.to_vec(),
            size: BODY_AT + PAYLOAD_AT + value.payload.len() + tags,
            tags: value.tags,
        }
    }

    /// The name of its outermost format.
    #[must_use]
    pub fn format(&self) -> &'static str {
        codec::name_of(self.codec)
    }

    /// The bytes of its codec: the payload, or what a compressed payload is decompressed to, with the feature
    /// `compression`. `None` if the payload is encrypted, or cannot be decompressed.
    ///
    /// Cost: for a compressed payload, time and memory for what it becomes, which is 64 MiB at most.
    #[must_use]
    pub fn encoded(&self) -> Option<EncodedPayload<'_>> {
        let (codec, bytes) = codec::below_layers(self.codec, &self.payload, MAX_VALUE_BYTES)?;
        let shape = codec::shape_of(codec, &bytes);
        Some(EncodedPayload {
            codec,
            shape,
            bytes,
        })
    }
}

impl EncodedPayload<'_> {
    /// The name of the codec.
    #[must_use]
    pub fn format(&self) -> &'static str {
        codec::name_of(self.codec)
    }
}

impl StoredLease {
    /// Reads `epoch:granted_at:token:type_tag_hex:ends_at` and the signs behind it, as lease.lua describes them.
    fn parse(lease: &str) -> Option<Self> {
        let mut fields = lease.split(':');
        let (epoch, granted_at) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // The token is the right to fill: it is shown to nobody.
        let _token = fields.next()?;
        let type_tag = u64::from_str_radix(fields.next()?, 16).ok()?;
        let marked = fields.next()?;
        let ends_at = marked.trim_end_matches(['+', '&']);
        Some(Self {
            epoch,
            granted_at,
            type_tag,
            ends_at: ends_at.parse().ok()?,
            is_awaited: marked.contains('+'),
        })
    }
}
