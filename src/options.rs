//! The options of a cache, and the check whether they can work.

use std::time::Duration;

use crate::clock::Clock;
use crate::vocabulary::ByteSize;

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

/// The options of a cache that do not depend on its types.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) namespace: String,
    pub(crate) is_enabled: bool,
    /// [`DEFAULT_L1_ENTRIES`] unless set.
    pub(crate) l1_capacity: Option<u64>,
    pub(crate) l1_ttl: Option<Duration>,
    /// [`DEFAULT_TTL`] unless set; with `sliding`, unlimited.
    pub(crate) l2_ttl: Option<Duration>,
    pub(crate) sliding: Option<Duration>,
    pub(crate) soft_ttl: Option<Duration>,
    pub(crate) refresh_ahead: Option<RefreshAhead>,
    pub(crate) stale_if_error: Duration,
    pub(crate) fallback_throttle: Duration,
    pub(crate) stale_wait: Duration,
    pub(crate) error_ttl: Duration,
    pub(crate) jitter: f64,
    pub(crate) max_staleness: Duration,
    /// The share of hits that are compared with the source.
    pub(crate) verify: f64,
    pub(crate) track_hot_keys: bool,
    pub(crate) mode: Mode,
    pub(crate) max_value_size: usize,
    pub(crate) l2_timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) max_concurrent_loads: usize,
    pub(crate) lease_ttl: Duration,
    pub(crate) lease_wait: Duration,
    pub(crate) max_deferred: usize,
    /// How long single loads wait for others to be loaded with them, and how many there may be.
    pub(crate) batch_loads: Option<(Duration, usize)>,
    pub(crate) clock: Clock,
}

/// The longest encoded value that any setting allows.
const MAX_VALUE_BYTES: usize = 64 << 20;
/// As many as there can be.
const MOST_LOADS: usize = tokio::sync::Semaphore::MAX_PERMITS;

impl Mode {
    /// How long L1 may answer without proof.
    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            Self::Strict => None,
            Self::Available { limit } => Some(limit),
        }
    }
}

impl Options {
    pub(crate) fn new(namespace: String) -> Self {
        Self {
            namespace,
            is_enabled: true,
            l1_capacity: None,
            l1_ttl: None,
            l2_ttl: None,
            sliding: None,
            soft_ttl: None,
            refresh_ahead: None,
            stale_if_error: Duration::ZERO,
            fallback_throttle: DEFAULT_THROTTLE,
            stale_wait: Duration::ZERO,
            error_ttl: Duration::ZERO,
            jitter: 0.1,
            max_staleness: Duration::from_secs(2),
            verify: 0.0,
            track_hot_keys: false,
            mode: Mode::Strict,
            max_value_size: 8 << 20,
            l2_timeout: Duration::from_millis(500),
            load_timeout: Duration::from_secs(30),
            max_concurrent_loads: MOST_LOADS,
            lease_ttl: Duration::from_secs(2),
            lease_wait: Duration::from_secs(5),
            max_deferred: 10_000,
            batch_loads: None,
            clock: Clock::system(),
        }
    }

    /// The options that cannot work, and the values that would. Empty if there are none.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes: Vec<_> = mistake_in_namespace(&self.namespace).into_iter().collect();
        let at_least_1_ms = [
            ("l1_ttl", self.l1_ttl),
            ("l2_ttl", self.l2_ttl),
            ("sliding", self.sliding),
            ("soft_ttl", self.soft_ttl),
            ("the limit of Mode::Available", self.mode.limit()),
            ("l2_timeout", Some(self.l2_timeout)),
            ("load_timeout", Some(self.load_timeout)),
            ("lease_ttl", Some(self.lease_ttl)),
            (
                "the window of batch_loads",
                self.batch_loads.map(|(window, _)| window),
            ),
        ];
        for (name, duration) in at_least_1_ms {
            if let Some(duration) = duration.filter(|duration| !works(*duration)) {
                mistakes.push(format!(
                    "{name} must be from 1 ms to 100 years, and not {duration:?}"
                ));
            }
        }
        if !(SHORTEST_STALENESS..=LONGEST_STALENESS).contains(&self.max_staleness) {
            mistakes.push(format!(
                "max_staleness must be from 10 ms to 1 hour, and not {:?}: L2 is asked three times in it, and others may wait as long",
                self.max_staleness
            ));
        }
        let at_most = [
            ("stale_if_error", self.stale_if_error),
            ("fallback_throttle", self.fallback_throttle),
            ("error_ttl", self.error_ttl),
            ("lease_wait", self.lease_wait),
        ];
        for (name, duration) in at_most {
            if duration > LONGEST {
                mistakes.push(format!(
                    "{name} must be at most 100 years, and not {duration:?}"
                ));
            }
        }
        if self.stale_wait > LONGEST && self.stale_wait != Duration::MAX {
            mistakes.push(format!(
                "stale_wait must be at most 100 years, or Duration::MAX, and not {:?}",
                self.stale_wait
            ));
        }
        mistakes.extend(self.mistakes_in_order_of_ttls());
        mistakes.extend(self.mistakes_in_shares());
        if !(1..=MAX_VALUE_BYTES).contains(&self.max_value_size) {
            mistakes.push(format!(
                "max_value_size must be from 1 byte to {}, and not {}",
                ByteSize(MAX_VALUE_BYTES),
                ByteSize(self.max_value_size)
            ));
        }
        if !(1..=MOST_LOADS).contains(&self.max_concurrent_loads) {
            mistakes.push(format!(
                "max_concurrent_loads must be from 1 to {MOST_LOADS}, and not {}",
                self.max_concurrent_loads
            ));
        }
        if let Some((_, max)) = self.batch_loads
            && !(1..=MOST_IN_A_LOAD).contains(&max)
        {
            mistakes.push(format!(
                "the max of batch_loads must be from 1 to {MOST_IN_A_LOAD} keys, and not {max}"
            ));
        }
        if self.max_deferred == 0 {
            mistakes.push("max_deferred must be at least 1".to_owned());
        }
        mistakes
    }

    /// Options without an effect, each with the one that it needs. No mistakes: an operator may set them for all
    /// caches.
    pub(crate) fn without_effect(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let throttle = self.fallback_throttle != DEFAULT_THROTTLE && self.stale_if_error.is_zero();
        let wait = !self.stale_wait.is_zero() && self.soft_ttl.is_none();
        [
            throttle.then_some(("fallback_throttle", "stale_if_error")),
            wait.then_some(("stale_wait", "soft_ttl, or expire")),
        ]
        .into_iter()
        .flatten()
    }

    fn mistakes_in_shares(&self) -> Vec<String> {
        let shares = [
            ("jitter", self.jitter, 0.5, "TTL"),
            ("verify", self.verify, 1.0, "hits"),
        ];
        let wrong = shares
            .into_iter()
            .filter(|(_, share, most, _)| !(0.0..=*most).contains(share));
        let mistakes = wrong.map(|(name, share, most, of)| {
            format!("{name} must be from 0.0 to {most:.1}, as a share of the {of}, and not {share}")
        });
        mistakes
            .chain(self.refresh_ahead.and_then(RefreshAhead::mistake))
            .collect()
    }

    /// TTLs that another one makes pointless.
    fn mistakes_in_order_of_ttls(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        // Without a limit, where reads extend the life of a value.
        let l2_ttl = self
            .l2_ttl
            .or(self.sliding.is_none().then_some(DEFAULT_TTL));
        // An option that cannot work by itself says nothing of the others.
        let Some(l2_ttl) = l2_ttl.filter(|ttl| works(*ttl)) else {
            return mistakes;
        };
        let [soft_ttl, sliding, l1_ttl] =
            [self.soft_ttl, self.sliding, self.l1_ttl].map(|ttl| ttl.filter(|ttl| works(*ttl)));
        if let Some(soft_ttl) = soft_ttl.filter(|ttl| *ttl >= l2_ttl) {
            mistakes.push(format!(
                "soft_ttl ({soft_ttl:?}) must be shorter than l2_ttl ({l2_ttl:?}): a value turns stale before it expires"
            ));
        }
        if let Some(sliding) = sliding.filter(|ttl| *ttl >= l2_ttl) {
            mistakes.push(format!(
                "sliding ({sliding:?}) must be shorter than l2_ttl ({l2_ttl:?}), which is the longest life of a value"
            ));
        }
        if let Some(l1_ttl) = l1_ttl.filter(|ttl| *ttl > l2_ttl) {
            mistakes.push(format!(
                "l1_ttl ({l1_ttl:?}) must not be longer than l2_ttl ({l2_ttl:?}): L1 holds copies of what is in L2"
            ));
        }
        mistakes
    }

    /// A TTL, longer or shorter by up to the jitter, so that values that were stored together do not expire together.
    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 + self.jitter * (2.0 * fastrand::f64() - 1.0))
    }

    /// The TTL of one entry, shorter by up to the jitter.
    pub(crate) fn shortened(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 - self.jitter * fastrand::f64())
    }
}

impl RefreshAhead {
    fn mistake(self) -> Option<String> {
        match self {
            Self::Share(share) if !(share > 0.0 && share < 1.0) => Some(format!(
                "refresh_ahead must be between 0.0 and 1.0, as a share of the time until a value is stale, and not {share}"
            )),
            Self::XFetch(beta) if !(beta > 0.0 && beta <= 100.0) => Some(format!(
                "the beta of xfetch must be above 0.0 and up to 100.0, and not {beta}"
            )),
            Self::Share(_) | Self::XFetch(_) => None,
        }
    }
}

fn mistake_in_namespace(namespace: &str) -> Option<String> {
    const EXAMPLE: &str = "name it after the service and what it holds, like catalog:product";
    let what = if namespace.is_empty() {
        "is empty"
    } else if namespace.contains(['{', '}']) {
        "has a brace, which Redis Cluster gives a meaning"
    } else if namespace.len() > 256 {
        "is over 256 bytes"
    } else if namespace.contains(char::is_control) {
        "has a control character"
    } else if namespace.contains(char::is_whitespace) {
        "has a space, which ends a name in the log and in redis-cli"
    } else {
        return None;
    };
    Some(format!("the namespace {what}; {EXAMPLE}"))
}

/// How many entries L1 holds unless something else is said.
pub(crate) const DEFAULT_L1_ENTRIES: u64 = 10_000;

const DEFAULT_THROTTLE: Duration = Duration::from_secs(1);

/// How long a value is valid unless something else is said.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// A hundred years: a longer time is a mistake, and would overflow somewhere.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How many keys are loaded by one call of a loader: their leases are not renewed before it begins and after it ends.
pub(crate) const MOST_IN_A_LOAD: usize = 1024;
const SHORTEST: Duration = Duration::from_millis(1);
const SHORTEST_STALENESS: Duration = Duration::from_millis(10);
/// No member can claim more: an invalidation that is waited for waits for up to this time.
const LONGEST_STALENESS: Duration = Duration::from_secs(3600);

fn works(duration: Duration) -> bool {
    (SHORTEST..=LONGEST).contains(&duration)
}
