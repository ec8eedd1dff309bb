//! Types that L1 and L2 have in common, so that neither needs to know the other; and the bounds on values.

use std::fmt;

/// A value that can be cached: threads share it, and it borrows nothing.
pub(crate) trait Value: Send + Sync + 'static {}

impl<V: Send + Sync + 'static> Value for V {}

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) usize);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0 bytes"),
            1 => f.write_str("1 byte"),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// A lane's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneClock {
    /// Names this life of the store: the process and the history of its data. After a restart or a failover it is
    /// another one, and so is the epoch.
    pub life: u64,
    /// Names the time since the lane began, was cleared, or may have lost something. All of it lies in one life.
    pub epoch: u64,
    /// The number of the last message.
    pub seq: u64,
    /// The last version that was issued: no message up to `seq` has a higher one.
    pub ver: u64,
    /// Milliseconds of the store's own time.
    pub now: u64,
}

/// The level that answered a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The memory of this process.
    L1,
    /// The store that all instances share.
    L2,
    /// The loader, called by this instance.
    Loader,
}

/// Names one write of a key: [`Meta::version`](crate::Meta::version) of the entry that it stored, for
/// [`insert_if`](crate::Cache::insert_if).
///
/// Each write of a key has another one, also after a restart of Redis. Which of two is the later does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    pub(crate) epoch: u64,
    pub(crate) ver: u64,
}

impl Version {
    /// That there is no value.
    pub const ABSENT: Self = Self { epoch: 0, ver: 0 };
}

/// A removal that another program asks for, as [`Builder::listen_to`](crate::Builder::listen_to) reads it from a message.
///
/// ```
/// use larder::Invalidation;
///
/// /// Of messages such as `product 42`.
/// fn parse(payload: &[u8]) -> Vec<Invalidation> {
///     let text = std::str::from_utf8(payload).unwrap_or_default();
///     let product = text.strip_prefix("product ");
///     product.map(Invalidation::key).into_iter().collect()
/// }
/// assert_eq!(parse(b"product 42"), [Invalidation::key("42")]);
/// assert_eq!(parse(b"customer 7"), []);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidation(pub(crate) What);

/// The values that an [`Invalidation`] removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Key(String),
    Tag(String),
    Prefix(String),
    All,
}

impl Invalidation {
    /// A key, by the text that Redis shows and [`redis_key`](crate::redis_key) returns: `tea`, `42`, or `eu:42` for
    /// `("eu", 42)`.
    #[must_use]
    pub fn key(text: impl Into<String>) -> Self {
        Self(What::Key(text.into()))
    }

    /// All values with a tag, by its text.
    #[must_use]
    pub fn tag(text: impl Into<String>) -> Self {
        Self(What::Tag(text.into()))
    }

    /// All keys whose text begins so. Passes over the whole Redis database, so a tag is better for a frequent removal.
    #[must_use]
    pub fn prefix(text: impl Into<String>) -> Self {
        Self(What::Prefix(text.into()))
    }

    /// Everything in the namespace.
    #[must_use]
    pub fn all() -> Self {
        Self(What::All)
    }
}

/// Which stored values a [`Lane::acquire_lease`](crate::l2::Lane::acquire_lease) is content with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Any usable one.
    Any,
    /// A usable one of another version: this one is about to be refreshed.
    NewerThan(u64),
    /// None: the stored one cannot be read.
    Nothing,
    /// None: the value is to be loaded anew. The lease of a load that is under way is taken over, so that its fill is
    /// rejected.
    Anew,
    /// Any one of this epoch, also one that is kept past its TTL: a load has failed.
    Kept,
}
