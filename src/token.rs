//! Tokens: the name of a write, so that any instance can answer with nothing older.
//!
//! For a service whose users read their own writes through another instance: [`Cache::at_least`] takes a [`Token`].
//! [`ParseTokenError`] is the error for a text that is no token.
//!
//! [`Cache::at_least`]: crate::Cache::at_least

use std::str::FromStr;
use std::{fmt, iter};

use crate::vocabulary::{MAX_PARTITIONS, PartitionNumber, Version};

/// The text of a token of a cache with one partition begins with this: another form of it would have another number.
const ONE_PARTITION: &str = "1.";
/// The text of a token of a cache with several partitions begins with this.
const MANY_PARTITIONS: &str = "2.";

/// Names a write that L2 has accepted, for [`Cache::at_least`](crate::Cache::at_least): look-ups on any instance that
/// are given it do not answer with an older value.
///
/// A service hands it to the user who caused the write, in a cookie or a header, and gets it back with the next request,
/// which may reach another instance. The text has at most 40 bytes, all of which may stand in a cookie; in a cache with
/// several partitions about as many for each partition that the write has reached. It says how often something was written
/// in the namespace, and nothing else. It needs no signature: the effect of a token that was made up is described at
/// [`Cache::at_least`](crate::Cache::at_least).
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::Token;
///
/// let names: larder::Cache<u64, String> = larder::Cache::builder("docs:names").build()?;
/// let token = names.invalidate(&7).await?;
/// let cookie = format!("seen={token}");
///
/// let text = cookie.strip_prefix("seen=").ok_or("it was set")?;
/// assert_eq!(text.parse::<Token>()?, token);
/// assert!("no token".parse::<Token>().is_err());
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// How many partitions the cache has.
    partitions: u16,
    first: TokenPart,
    /// The parts of the other partitions, in the order of the partitions.
    others: Vec<TokenPart>,
}

/// The last write of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TokenPart {
    partition: u16,
    version: Version,
}

impl Token {
    pub(crate) fn new(PartitionNumber { number, of }: PartitionNumber, version: Version) -> Self {
        debug_assert!(number < of, "partitions are numbered from zero");
        Self {
            partitions: of,
            first: TokenPart {
                partition: number,
                version,
            },
            others: Vec::new(),
        }
    }

    /// Names two writes of one cache, in whatever order: look-ups that are given it answer with nothing older than
    /// either.
    ///
    /// In a cache with one partition the token of the later write covers the earlier one, whatever their keys. With several
    /// [`partitions`](crate::Builder::partitions) it covers the writes of its own partitions: so a service adds up the
    /// tokens of a user.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let names: larder::Cache<u64, String> = larder::Cache::builder("docs:both").build()?;
    /// let both = names.invalidate(&7).await?.and(names.invalidate(&8).await?);
    /// assert!(names.at_least(&both).get(&7).await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let partitions = self.partitions;
        if partitions != other.partitions {
            // No partition of the one is one of the other.
            return Self::new(PartitionNumber::ONLY, UNPROVABLE);
        }
        let mut parts = self.into_parts();
        for part in other.into_parts() {
            match parts.binary_search_by_key(&part.partition, |known| known.partition) {
                Ok(at) => {
                    if let Some(known) = parts.get_mut(at) {
                        known.version = later(known.version, part.version);
                    }
                }
                Err(at) => parts.insert(at, part),
            }
        }
        Self {
            partitions,
            first: parts.remove(0),
            others: parts,
        }
    }

    fn into_parts(self) -> Vec<TokenPart> {
        let mut parts = self.others;
        parts.insert(0, self.first);
        parts
    }

    /// The write of this partition; `None` if there is none. While the namespace had another number of partitions, the keys
    /// of this one lay in others: then no version stands for them.
    pub(crate) fn of_partition(&self, partition: PartitionNumber) -> Option<Version> {
        if self.partitions != partition.of {
            return Some(UNPROVABLE);
        }
        let part = self.parts().find(|part| part.partition == partition.number);
        part.map(|part| part.version)
    }

    fn parts(&self) -> impl Iterator<Item = &TokenPart> {
        iter::once(&self.first).chain(&self.others)
    }
}

/// A write that only a look-up of L2 can meet; not an instance that does not know the epoch yet, either.
const UNPROVABLE: Version = Version {
    epoch: 0,
    ver: u64::MAX,
};

/// The later of two writes of one partition, or a version that stands for both.
pub(crate) fn later(one: Version, other: Version) -> Version {
    // Within an epoch versions are ordered: an instance that has the later write has the earlier one.
    if one.epoch == other.epoch {
        let ver = one.ver.max(other.ver);
        return Version { ver, ..one };
    }
    // Between them the partition was cleared or lost, and which of them came first does not show.
    UNPROVABLE
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.partitions == 1 {
            let Version { epoch, ver } = self.first.version;
            return write!(f, "{ONE_PARTITION}{epoch:x}.{ver:x}");
        }
        write!(f, "{MANY_PARTITIONS}{:x}", self.partitions)?;
        for TokenPart { partition, version } in self.parts() {
            let Version { epoch, ver } = version;
            write!(f, ".{partition:x}.{epoch:x}.{ver:x}")?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    /// Accepts exactly the texts that `Display` writes.
    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let parse = || {
            let (form, numbers) = text.split_at_checked(ONE_PARTITION.len())?;
            let mut numbers = numbers
                .split('.')
                .map(|digits| u64::from_str_radix(digits, 16).ok());
            let mut next = || numbers.next()?;
            let version = |epoch, ver| Version { epoch, ver };
            if form == ONE_PARTITION {
                return Some(Self::new(PartitionNumber::ONLY, version(next()?, next()?)));
            }
            let of = u16::try_from(next()?)
                .ok()
                .filter(|_| form == MANY_PARTITIONS)?;
            let mut token: Option<Self> = None;
            // As many as there are partitions at most: a text that was made up must not cost much.
            for _ in 0..of.min(MAX_PARTITIONS) {
                let Some(number) = next() else { break };
                let number = u16::try_from(number).ok().filter(|number| *number < of)?;
                let part = Self::new(PartitionNumber { number, of }, version(next()?, next()?));
                token = Some(match token {
                    Some(token) => token.and(part),
                    None => part,
                });
            }
            token
        };
        // Signs, capitals and leading zeros are none of ours.
        let ours = parse().filter(|token| token.to_string() == text);
        ours.ok_or(ParseTokenError(()))
    }
}

/// The error for a text that is not the text of a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the text of a token: go on without one")]
pub struct ParseTokenError(());

#[cfg(test)]
mod tests {
    use super::*;

    fn version(epoch: u64, ver: u64) -> Version {
        Version { epoch, ver }
    }

    fn partition(number: u16, of: u16) -> PartitionNumber {
        PartitionNumber { number, of }
    }

    #[test]
    fn each_partition_finds_its_own_write() {
        let one = Token::new(partition(2, 4), version(7, 5));
        let both = one.clone().and(Token::new(partition(0, 4), version(9, 3)));
        let both = both.and(Token::new(partition(2, 4), version(7, 4)));
        assert_eq!(
            both.of_partition(partition(2, 4)),
            Some(version(7, 5)),
            "the later one"
        );
        assert_eq!(both.of_partition(partition(0, 4)), Some(version(9, 3)));
        assert_eq!(both.of_partition(partition(1, 4)), None);
        assert_eq!(both.to_string(), "2.4.0.9.3.2.7.5");
        assert_eq!("2.4.0.9.3.2.7.5".parse(), Ok(both));
        // After another epoch has begun in between, no partition can say that it has both.
        let clear = one.and(Token::new(partition(2, 4), version(8, 1)));
        assert_eq!(clear.of_partition(partition(2, 4)), Some(UNPROVABLE));
        assert_eq!(
            clear.of_partition(partition(2, 8)),
            Some(UNPROVABLE),
            "of another number"
        );
        let mixed = clear.and(Token::new(PartitionNumber::ONLY, version(7, 5)));
        for of in [1, 4] {
            assert_eq!(mixed.of_partition(partition(0, of)), Some(UNPROVABLE));
        }
        assert_eq!(mixed.to_string().parse(), Ok(mixed));
    }

    #[test]
    fn texts_that_are_none_of_ours_are_refused() {
        for text in [
            "2.4",
            "2.4.4.1.1",
            "2.4.2.1.1.0.1.1",
            "2.4.0.1.1.0.1.1",
            "2.1.0.1.1",
            "3.4.0.1.1",
            "1.1.1.1",
            "2.4.0.1",
            "2.",
        ] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
