//! The monotonic time that the crate goes by, which tests can set.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A point of monotonic time, in nanoseconds since some moment before the process started.
pub(crate) type Tick = u64;

/// Where every clock starts. Far from zero, so that "an hour before the process started" is still a
/// [`Tick`]: values in L2 are older than the instance that reads them.
const START: Tick = 1 << 60;

/// The time by which values expire and turn stale. Monotonic, and read once per look-up.
///
/// The default is the system's monotonic clock. A test that wants an hour to pass at once builds its
/// [`MemoryL2`](crate::MemoryL2) with a [`Clock::manual`], or with [`Clock::tokio`] if it pauses tokio's time: a cache
/// takes the clock of the `MemoryL2` that it is on. A cache with L1 alone is given the clock by
/// [`clock`](crate::Builder::clock). A step longer than `max_staleness` also ends the proof that L1 is current: L1 is
/// used again after [`ready`](crate::Cache::ready).
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use larder::{Cache, Clock, MemoryL2};
///
/// let clock = Clock::manual();
/// let cache: Cache<u64, String> = Cache::builder("docs:clock")
///     .l2(MemoryL2::with_clock(clock.clone()))
///     .l2_ttl(Duration::from_secs(60))
///     .build()?;
/// cache.insert(&1, "one".to_owned()).await?;
/// clock.advance(Duration::from_secs(3600));
/// assert!(cache.get(&1).await.is_none(), "it has expired");
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone)]
pub struct Clock(TimeSource);

#[derive(Clone)]
enum TimeSource {
    /// The time of the clock when the system's monotonic time was zero.
    System(Tick),
    Tokio(tokio::time::Instant),
    Manual(Arc<AtomicU64>),
    Other(Arc<dyn Fn() -> Duration + Send + Sync>),
}

impl Clock {
    /// The system's monotonic clock.
    #[must_use]
    pub fn system() -> Self {
        Self(TimeSource::System(START.wrapping_sub(monotonic())))
    }

    /// A clock that stands still until [`advance`](Self::advance) moves it. Clones share the time.
    #[must_use]
    pub fn manual() -> Self {
        Self(TimeSource::Manual(Arc::new(AtomicU64::new(START))))
    }

    /// Tokio's clock, which stands still and jumps with `tokio::time::pause` and `advance`: delays, time limits and
    /// expiry then agree. While tokio's time is not paused it is the system's clock.
    ///
    /// For tests with `#[tokio::test(start_paused = true)]` and a [`MemoryL2`](crate::MemoryL2). A cache that goes by
    /// another clock says so at WARN when it is built on a runtime whose time is paused. A pause holds in one runtime;
    /// threads outside of the runtime read the system's clock. With Redis do not pause tokio's time: it jumps while
    /// tasks wait for an answer, so requests time out.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Clock, MemoryL2};
    ///
    /// tokio::time::pause();
    /// let cache: Cache<u64, String> = Cache::builder("docs:clock")
    ///     .l2(MemoryL2::with_clock(Clock::tokio()))
    ///     .l2_ttl(Duration::from_secs(60))
    ///     .build()?;
    /// cache.insert(&1, "one".to_owned()).await?;
    /// tokio::time::sleep(Duration::from_secs(3600)).await; // does not wait
    /// assert!(cache.get(&1).await.is_none(), "it has expired");
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn tokio() -> Self {
        Self(TimeSource::Tokio(tokio::time::Instant::now()))
    }

    /// A clock that reads `time`: the time since some fixed moment. It must never go back.
    ///
    /// For simulations in which instances have clocks of their own.
    pub fn from_fn(time: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(TimeSource::Other(Arc::new(time)))
    }

    /// Moves a manual clock and all its clones forward. Does nothing to other clocks.
    pub fn advance(&self, by: Duration) {
        if let TimeSource::Manual(now) = &self.0 {
            // Sequentially consistent, so that a test may order its steps by the clock; only tests use this one.
            now.fetch_add(nanos(by), Ordering::SeqCst);
        }
    }

    pub(crate) fn is_system(&self) -> bool {
        matches!(self.0, TimeSource::System(_))
    }

    /// Whether it goes on while the time of the runtime is paused.
    pub(crate) fn ignores_pause(&self) -> bool {
        if !self.is_system() {
            return false;
        }
        let (paused, since) = (tokio::time::Instant::now(), Instant::now());
        // Time that is not paused goes on in between.
        while since.elapsed().is_zero() {}
        tokio::time::Instant::now() == paused
    }

    #[inline]
    pub(crate) fn now(&self) -> Tick {
        match &self.0 {
            TimeSource::System(offset) => offset.wrapping_add(monotonic()),
            other => other.now(),
        }
    }
}

impl TimeSource {
    /// The time of any clock. Apart from the system's, which hits read inline: with all of this inline, a hit by an
    /// integer takes 6 % more instructions.
    fn now(&self) -> Tick {
        match self {
            Self::System(offset) => offset.wrapping_add(monotonic()),
            Self::Tokio(start) => START + nanos(start.elapsed()),
            Self::Manual(now) => now.load(Ordering::SeqCst),
            Self::Other(time) => START + nanos(time()),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            TimeSource::System(_) => "Clock::system",
            TimeSource::Tokio(_) => "Clock::tokio",
            TimeSource::Manual(_) => "Clock::manual",
            TimeSource::Other(_) => "Clock::from_fn",
        })
    }
}

/// The system's monotonic time in nanoseconds. Unix gives it as a number. Elsewhere two [`Instant`]s are subtracted,
/// which would be a sixth of the instructions of a hit.
#[inline]
fn monotonic() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since_origin = || nanos(ORIGIN.elapsed());
    #[cfg(unix)]
    {
        use nix::time::{ClockId, clock_gettime};
        // The parts have 32 bits on some targets.
        fn wide(part: impl Into<i64>) -> u64 {
            part.into().cast_unsigned()
        }
        let of = |now: nix::sys::time::TimeSpec| {
            wide(now.tv_sec()) * 1_000_000_000 + wide(now.tv_nsec())
        };
        // It fails always or never, so times of the two origins are not mixed.
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or_else(|_| since_origin(), of)
    }
    #[cfg(not(unix))]
    since_origin()
}

/// A duration in nanoseconds, at most five hundred years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    // In 64 bits: this is on the way of every look-up.
    let seconds = duration.as_secs().checked_mul(1_000_000_000);
    let nanos = seconds.and_then(|nanos| nanos.checked_add(duration.subsec_nanos().into()));
    nanos.unwrap_or(u64::MAX >> 1)
}

/// A duration in milliseconds, rounded up, so that no TTL becomes zero.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
