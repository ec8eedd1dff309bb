//! Types that several layers name, so that none of these needs to know the other.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// A value that can be cached: threads share it, and it borrows nothing.
pub(crate) trait Value: Send + Sync + 'static {}

impl<V: Send + Sync + 'static> Value for V {}

/// A value without its type, shared by L1 and all callers.
///
/// The engine and L1 handle values only like this, so they are compiled once, with this crate. The handle of a cache
/// and the functions that its builder was given know the type.
#[derive(Clone, Debug)]
pub(crate) struct AnyValue(Arc<dyn Any + Send + Sync>);

impl AnyValue {
    pub(crate) fn new(value: impl Value) -> Self {
        Self(Arc::new(value))
    }

    /// The value, by its type.
    #[inline]
    pub(crate) fn typed<V: Value>(&self) -> &V {
        match self.0.downcast_ref() {
            Some(value) => value,
            None => has_other_type(),
        }
    }

    /// The value, by its type. No other owner shares it.
    #[cfg(feature = "write-behind")]
    pub(crate) fn unshared<V: Value>(self) -> V {
        match self.0.downcast().map(Arc::into_inner) {
            Ok(Some(value)) => value,
            Ok(None) => unreachable!("a value that was just decoded has one owner"),
            Err(_) => has_other_type(),
        }
    }
}

/// For a handle of keys or values of type `T` that holds none. Invariant: two types may have the same values, and the
/// compiler may take one for the other, such as two types of functions; a value is found by its own type only.
///
/// ```compile_fail,E0308
/// type Any = for<'a> fn(&'a str);
/// type Static = fn(&'static str);
///
/// fn other(entry: larder::Entry<Any>) -> larder::Entry<Static> {
///     entry
/// }
/// ```
pub type Invariant<T> = PhantomData<fn(T) -> T>;

/// Gives a value back the type with which it was boxed.
#[must_use]
pub fn downcast<T: 'static>(any: Box<dyn Any + Send>) -> T {
    match any.downcast() {
        Ok(typed) => *typed,
        Err(_) => has_other_type(),
    }
}

/// Ends a call that finds another type than the handle or the service has, which no call of this crate makes.
#[cold]
fn has_other_type() -> ! {
    unreachable!(
        "keys, values, bodies and errors come back with the types that they were given with"
    )
}

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

/// A partition's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionClock {
    /// Names this incarnation of the store: the process and the history of its data. After a restart or a failover it
    /// is another one, and so is the epoch.
    pub incarnation: u64,
    /// Names the time since the partition began, was cleared, or may have lost something. All of it lies in one
    /// incarnation.
    pub epoch: u64,
    /// The number of the last message.
    pub seq: u64,
    /// The last version that was issued: no message up to `seq` has a higher one.
    pub ver: u64,
    /// The nonce of the last message, see [`Message::nonce`](crate::l2::Message::nonce).
    pub nonce: u64,
    /// Milliseconds of the store's own time.
    pub now: u64,
    /// Whether all instances are to be off.
    pub is_off: bool,
}

/// What an instance that subscribes knows of the partition's history (rule 31: histories).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KnownHistory {
    /// It has not subscribed before.
    Unknown,
    /// What it knows fits the clock that it found last.
    Fits,
    /// The data that it found in this epoch are of another history than the one which it knows.
    Contradicted {
        /// The epoch, which has to end.
        epoch: u64,
    },
}

/// The numbers of a [`PartitionClock`], as the answer to a write names them: as the write left them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockNumbers {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) ver: u64,
    pub(crate) nonce: u64,
}

impl From<&PartitionClock> for ClockNumbers {
    fn from(clock: &PartitionClock) -> Self {
        let &PartitionClock {
            epoch,
            seq,
            ver,
            nonce,
            ..
        } = clock;
        Self {
            epoch,
            seq,
            ver,
            nonce,
        }
    }
}

/// The most partitions that a namespace can have.
pub(crate) const MAX_PARTITIONS: u16 = 16;

/// The most prefixes that all instances leave out of the cache together: each look-up goes over them.
pub(crate) const MAX_BYPASSED_BY_FLEET: usize = 16;

/// The number of a partition, among the partitions of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionNumber {
    /// The number, from zero on.
    pub number: u16,
    /// How many the namespace has.
    pub of: u16,
}

impl PartitionNumber {
    /// The partition of a namespace that has no other.
    pub const ONLY: Self = Self { number: 0, of: 1 };

    /// All partitions of a namespace of this many.
    pub(crate) fn all(of: u16) -> impl Iterator<Item = Self> {
        (0..of).map(move |number| Self { number, of })
    }
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

/// The answers of L1 while this instance cannot prove that it has applied all changes, because its connection to L2
/// is lost or silent for longer than [`max_staleness`](crate::Builder::max_staleness).
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use larder::{Cache, Mode};
///
/// let prices: Cache<String, u32> = Cache::builder("docs:prices")
///     .mode(Mode::Available { limit: Duration::from_secs(60) })
///     .build()?;
/// let price = prices.get_or_load("tea", || async { Ok::<_, std::io::Error>(450) }).await?;
/// if price.meta().is_unproven() {
///     println!("{} cents, as far as we know", *price);
/// }
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Nothing. Look-ups go to L2, and then to the loader.
    #[default]
    Strict,
    /// If L2 does not answer either: its entries, for `limit` after the last proof has expired, flagged by
    /// [`Meta::is_unproven`](crate::Meta::is_unproven). Such an entry may have been invalidated by another instance
    /// longer than `max_staleness` ago, but not by this one, and not by a clear that this one called or whose message
    /// it received.
    Available {
        /// How long after the last proof has expired L1 may answer. From 1 ms to 100 years.
        limit: Duration,
    },
    /// As `Strict`; and a call with a loader whose key has a value is not answered by that value. The call looks its
    /// key up, calls its loader, and returns the loaded value. The value that was found is compared with the loaded
    /// one, as for [`Builder::verify`](crate::Builder::verify), which counts and reports differences.
    ///
    /// For the time before a service trusts a cache: answers come from the source, and
    /// [`Stats`](crate::Stats) has the hits that the cache would have had.
    ///
    /// A missing key is loaded and stored as ever, so its callers may share a load, or get the value that another
    /// instance has just loaded. A value that was found is not stored again, nor refreshed when it is stale. Calls that
    /// find a value do not share a load, and an error of the loader is returned: no fallback, and no error of an
    /// earlier load. Calls without a loader, such as [`Cache::get`](crate::Cache::get), have no source and are answered
    /// from the cache. A `CacheLayer` forwards each request.
    Shadow,
}

/// How large L1 is: of [`Settings`](crate::Settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L1Capacity {
    /// So many entries, see [`Builder::l1_capacity`](crate::Builder::l1_capacity). In settings a number.
    Entries(u64),
    /// So many bytes, see [`Builder::l1_capacity_bytes`](crate::Builder::l1_capacity_bytes). In settings a number and
    /// `GiB`, `MiB`, `KiB`, `GB`, `MB`, `kB` or `B`, such as `256MiB`.
    Bytes(u64),
}

impl L1Capacity {
    pub(crate) const fn number(self) -> u64 {
        let (Self::Entries(number) | Self::Bytes(number)) = self;
        number
    }

    /// Whether both are entries, or bytes.
    pub(crate) fn is_of_unit(self, other: Self) -> bool {
        matches!(self, Self::Bytes(_)) == matches!(other, Self::Bytes(_))
    }
}

/// When a value that is read is refreshed before it is stale: of
/// [`Builder::refresh_ahead`](crate::Builder::refresh_ahead).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RefreshAhead {
    /// When this share of the time until it is stale is over: between 0.0 and 1.0, such as 0.8. In settings a number.
    Share(f64),
    /// At random: each read refreshes the value with a probability that grows towards the end of its time. Above 0.0
    /// and up to 100.0; 1.0 is the common choice, and more refreshes earlier. In settings `xfetch:1.0`.
    ///
    /// A read refreshes if `now - beta * load * ln(random)` is past the time at which the value is stale, where `load`
    /// is how long loads in this instance take in the mean, and `random` is from 0 to 1. So values that take long to
    /// load are refreshed earlier, and so are those that are read often. From Vattani, Chierichetti and Lowenstein,
    /// "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015, which calls it `XFetch`. An instance that has
    /// loaded nothing yet does not know how long a load takes, and refreshes values when they are stale.
    ///
    /// The mean is of the whole cache. Of keys that take far longer to load than most, reads begin the refresh too late,
    /// and the values turn stale before it ends: give such keys a cache of their own, or a [`Share`](Self::Share), which
    /// goes by the age of the value alone.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, RefreshAhead};
    ///
    /// let rates: Cache<String, f64> = Cache::builder("docs:rates")
    ///     .soft_ttl(Duration::from_secs(300))
    ///     .refresh_ahead(RefreshAhead::XFetch(1.0))
    ///     .build()?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    XFetch(f64),
}

/// A [`Share`](RefreshAhead::Share).
impl From<f64> for RefreshAhead {
    fn from(share: f64) -> Self {
        Self::Share(share)
    }
}

impl Mode {
    /// How long L1 may answer without proof.
    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            Self::Strict | Self::Shadow => None,
            Self::Available { limit } => Some(limit),
        }
    }
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
    /// The version of a key without a value.
    pub const ABSENT: Self = Self { epoch: 0, ver: 0 };
}

/// A removal that another program asks for, as [`Builder::listen_to`](crate::Builder::listen_to) reads it from a
/// message.
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
pub struct Invalidation(pub(crate) Removal);

/// The values that an [`Invalidation`] removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Key(String),
    Tag(String),
    Prefix(String),
    All,
}

impl Invalidation {
    /// A key, by the text that Redis shows and [`redis_key`](crate::key::redis_key) returns: `tea`, `42`, or `eu:42`
    /// for `("eu", 42)`.
    #[must_use]
    pub fn key(text: impl Into<String>) -> Self {
        Self(Removal::Key(text.into()))
    }

    /// All values with a tag, by its text.
    #[must_use]
    pub fn tag(text: impl Into<String>) -> Self {
        Self(Removal::Tag(text.into()))
    }

    /// All keys whose text begins so. Passes over the whole Redis database, so a tag is better for a frequent removal.
    #[must_use]
    pub fn prefix(text: impl Into<String>) -> Self {
        Self(Removal::Prefix(text.into()))
    }

    /// Everything in the namespace.
    #[must_use]
    pub fn all() -> Self {
        Self(Removal::All)
    }
}

/// Which stored values a [`Partition::acquire_lease`](crate::l2::Partition::acquire_lease) is content with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedValue {
    /// Any usable one.
    Any,
    /// A usable one of another version: this one is about to be refreshed.
    OtherThan(u64),
    /// None: the stored one cannot be read.
    NoValue,
    /// None: the value is to be loaded anew. The lease of a load that is under way is taken over, so that its fill is
    /// rejected.
    NewLoad,
    /// Any one of this epoch, also one that is kept past its TTL: a load has failed.
    EvenExpired,
}
