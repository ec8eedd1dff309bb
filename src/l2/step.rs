//! The steps that change something, and their answers.

use std::time::Duration;

#[cfg(feature = "write-behind")]
use super::Append;
use super::{ClockNumbers, EncodedValue, Kind, Stamp, Version};

/// A change of a partition, for [`Partition::write`](super::Partition::write). It is one atomic step for all keys of its
/// [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stores values whatever was there, and ends all leases on the keys. All values get one version, so no key may be
    /// there twice.
    ///
    /// After the deadline it is refused. Once it is answered, every copy of the request that is still on its way must
    /// be refused: it could undo a later invalidation.
    Insert,
    /// Stores one value as [`Insert`](Self::Insert) does, if the usable value that is stored has this version, or if
    /// there is none and the version is [`Version::ABSENT`]. If the key has values of several types, it is the usable
    /// value of its own type, or else the one that was stored last.
    ///
    /// A copy of the request that is sent again has the answer of the first one.
    InsertIf(Version),
    /// Stores one value as [`Insert`](Self::Insert) does, and appends it to the
    /// [`WriteStream`](super::WriteStream).
    #[cfg(feature = "write-behind")]
    Append(Box<Append>),
    /// Removes values and leases of keys. Without keys it only publishes.
    Invalidate {
        /// For so long no load of the keys is stored; a hold that lasts longer is not cut short.
        hold: Duration,
        /// Whether the caller waits for all members.
        is_awaited: bool,
    },
    /// Makes the values of keys stale from now on, and removes their leases. The values keep their versions, and the
    /// message has the version of the answer. A late copy makes values stale that were stored since.
    Expire,
    /// Makes all values with one of these tags misses, however many they are. The keys of the batch are the tags. No
    /// load that began before and returns such a value is stored: as to its lease, the fill is rejected.
    ///
    /// A late copy does the same to values that were stored since.
    InvalidateTags,
    /// Starts a new epoch, so that every stored value is a miss. Each copy of the request starts another epoch, so that
    /// a late one cannot bring back values that were stored since.
    Clear,
    /// Ends all leases, of whatever key, and issues a version that no value gets. So a value with a higher version was
    /// stored later, and not by a load whose lease was granted before. Loads that wait for a lease find out when they
    /// ask again. The batch has no keys, and nothing is published.
    ///
    /// A late copy ends the leases of later loads, whose values are not stored then.
    EndLeases,
}

impl Step {
    /// Invalidates keys without a hold.
    pub const INVALIDATE: Self = Self::Invalidate {
        hold: Duration::ZERO,
        is_awaited: false,
    };

    /// The kind of the message that says so. `None` for a step that publishes nothing.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Insert | Self::InsertIf(_) => Some(Kind::Insert),
            #[cfg(feature = "write-behind")]
            Self::Append(_) => Some(Kind::Insert),
            Self::Invalidate { is_awaited, .. } if *is_awaited => Some(Kind::InvalidateAwaited),
            Self::Invalidate { .. } | Self::Expire => Some(Kind::Invalidate),
            Self::InvalidateTags => Some(Kind::Tags),
            Self::Clear => Some(Kind::Clear),
            Self::EndLeases => None,
        }
    }

    /// The name of the step in spans.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::InsertIf(_) => "insert_if",
            #[cfg(feature = "write-behind")]
            Self::Append(_) => "append",
            Self::Invalidate { .. } => "invalidate",
            Self::Expire => "expire",
            Self::InvalidateTags => "invalidate_tags",
            Self::Clear => "clear",
            Self::EndLeases => "end_leases",
        }
    }

    /// Whether it stores values.
    pub(crate) fn is_insert(&self) -> bool {
        self.kind() == Some(Kind::Insert)
    }

    /// Whether it changes nothing unless a value with a certain version is stored.
    pub(crate) fn names_version(&self) -> bool {
        let version = match self {
            Self::InsertIf(version) => Some(*version),
            #[cfg(feature = "write-behind")]
            Self::Append(append) => append.version,
            _ => None,
        };
        version.is_some_and(|version| version != Version::ABSENT)
    }

    /// Whether it stores one value, and may change nothing.
    pub(crate) fn is_conditional(&self) -> bool {
        self.is_insert() && *self != Self::Insert
    }
}

/// The keys of one [`Step`], and all else that it needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Keys, tags or prefixes.
    pub keys: &'a [&'a str],
    /// The value of each key, if values are stored.
    pub values: &'a [&'a EncodedValue],
    /// The sender's part of the message, if the step publishes one.
    pub payload: &'a [u8],
    /// In milliseconds of the store's time: a step that stores values is refused after that.
    pub deadline: Option<u64>,
}

/// The answer to a [`Partition::write`](super::Partition::write).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Written {
    /// It was carried out.
    Done(WriteAck),
    /// Nothing was changed: another version of the value is stored, or none.
    OtherVersion,
    /// Nothing was changed: too many writes wait for their source.
    Full,
}

impl Written {
    /// Names the write, if anything was changed.
    pub(crate) fn version(self) -> Option<Version> {
        match self {
            Self::Done(ack) => Some(ack.stamp.version()),
            Self::OtherVersion | Self::Full => None,
        }
    }
}

/// A change that a partition has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteAck {
    /// The version that the write was given, and the time.
    pub stamp: Stamp,
    /// The number of the last message: of the write's own, if it has published one.
    pub seq: u64,
    /// The nonce of that message, see [`Message::nonce`](crate::l2::Message::nonce).
    pub nonce: u64,
    /// If the caller waits for all members: their longest `max_staleness`.
    pub longest_staleness: Duration,
    /// If it is awaited: the generation of the list of members.
    pub generation: u64,
    /// If it is awaited: for how long that generation has existed, at least. No wall clock may take part in this.
    pub members_age: Duration,
}

impl WriteAck {
    /// The partition's clock, as the write has left it.
    pub(crate) const fn numbers(&self) -> ClockNumbers {
        ClockNumbers {
            epoch: self.stamp.epoch,
            seq: self.seq,
            ver: self.stamp.ver,
            nonce: self.nonce,
        }
    }
}
