//! What happened in a run, as clients and the store saw it, and what must hold of it.
//!
//! The source numbers the values of each key: 1, 2, 3 and so on. Every cached value carries its number,
//! so a reader knows how old it is, whatever the cache reports.

mod check;

use std::fmt;
use std::time::Duration;

/// When, since the run began, by the clock of the recording process.
pub(crate) type At = Duration;

/// What must hold of every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Invariant {
    /// No read that starts later than `max_staleness` after an invalidation has returned gives what is older;
    /// and none at all that starts after one that has waited for that.
    I1Bound,
    /// No value that is older than an invalidation is stored after it.
    I2NoResurrection,
    /// Reads of stored values in one instance never go back, if loads from the source do not.
    I3MonotonicReads,
    /// An instance that has invalidated a key, or could not and said so, never answers with what is older.
    I4ReadYourWrites,
    /// Nothing is newer than the source.
    I5NotFromTheFuture,
    /// One load of a key at a time, unless something happened to the key, or to an instance that loads it.
    I6OneLoad,
    /// Every read is answered in time, and fails only if its loader does.
    I7Answered,
    /// At rest both levels hold what the source holds, or nothing.
    I8AtRest,
    /// A look-up with the token of a write never gives what is older than that write, or than what had been invalidated
    /// before it was called.
    I9Tokens,
    /// No two updates that were carried out have changed the same value.
    I10NoLostUpdate,
}

/// A look-up, as its caller saw it.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) instance: usize,
    pub(crate) key: u64,
    pub(crate) start: At,
    pub(crate) end: At,
    pub(crate) outcome: Outcome,
    /// The write whose token it was given.
    pub(crate) knows: Option<Known>,
}

/// A write that has returned a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// When it was called.
    pub(crate) called: At,
    /// What it wrote.
    pub(crate) key: u64,
    pub(crate) version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Value(Seen),
    /// A look-up without a loader that found nothing.
    Nothing,
    /// The loader failed, and this is its error.
    LoaderFailed,
    /// It failed for another reason.
    Failed(String),
    /// Its caller was cancelled.
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The source's number of the value.
    pub(crate) version: u64,
    pub(crate) level: Level,
    /// Whether the value is one that L2 holds or held, and not one that was loaded and could not be stored.
    pub(crate) stored: bool,
    /// Whether it was handed out without proof that it is current, and flagged so.
    pub(crate) unproven: bool,
    /// Whether it was handed out because a newer one could not be loaded, and flagged so. All that holds of other
    /// values holds of it, too.
    pub(crate) fallback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    L1,
    L2,
    Loader,
}

/// A change in the source that was then passed to the cache: as an insert, or as an invalidation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) instance: usize,
    pub(crate) key: u64,
    /// The source's number of what was committed before the call of the cache.
    pub(crate) version: u64,
    pub(crate) end: At,
    pub(crate) outcome: WriteOutcome,
    /// Whether the cache was to return only when what is older is gone from everywhere.
    pub(crate) everywhere: bool,
    /// Whether loads may still read what is older for a while, from a replica: of such a key, only stored
    /// values are held to the bound, and the write has to hold off their storing for as long.
    pub(crate) lagging: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// L2 has accepted it.
    Done,
    /// L2 did not accept it, and the instance will send an invalidation later.
    Deferred,
    /// The caller was cancelled, or it failed in a way that promises nothing.
    Unknown,
}

/// A value that was made from another one, and has taken its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    pub(crate) key: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) at: At,
}

/// A call of a loader.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) instance: usize,
    pub(crate) key: u64,
    pub(crate) start: At,
    pub(crate) end: At,
}

/// What the store did, in its own order; only a simulation can see it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// It invalidated what is older than `version`.
    Invalidated { at: At, key: u64, version: u64 },
    /// It stored what a load or an insert had brought.
    Stored { at: At, key: u64, version: u64 },
}

/// Something that excuses a second load: a fault, or a change of the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disturbance {
    pub(crate) from: At,
    pub(crate) to: At,
    /// `None`: all instances.
    pub(crate) instance: Option<usize>,
    /// `None`: all keys.
    pub(crate) key: Option<u64>,
}

/// Of what is promised of a key, what is not promised for a while: something has happened that no cache makes up for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuse {
    pub(crate) key: u64,
    pub(crate) from: At,
    pub(crate) to: At,
    pub(crate) promises: &'static [Invariant],
}

/// What one level of one instance held at the end, when all faults were over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) instance: usize,
    pub(crate) key: u64,
    pub(crate) at: At,
    pub(crate) level: Level,
    pub(crate) version: Option<u64>,
    /// The source's number at that time.
    pub(crate) source: u64,
}

/// A commit in the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) key: u64,
    pub(crate) version: u64,
    pub(crate) at: At,
}

/// Everything that was recorded of one run.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) reads: Vec<Read>,
    pub(crate) writes: Vec<Write>,
    pub(crate) loads: Vec<Load>,
    /// Only a simulation has any.
    pub(crate) updates: Vec<Update>,
    pub(crate) commits: Vec<Commit>,
    /// In the order in which the store took them.
    pub(crate) steps: Vec<Step>,
    pub(crate) disturbances: Vec<Disturbance>,
    pub(crate) excuses: Vec<Excuse>,
    pub(crate) rests: Vec<Rest>,
}

/// What the instances of a run promise.
pub(crate) struct Terms {
    /// That of each instance.
    pub(crate) max_staleness: Vec<Duration>,
    /// The longest that a read may take, when its instance is not paused.
    pub(crate) answered_within: Duration,
    /// How many schema versions the instances have, in turn: those of each load for themselves.
    pub(crate) types: usize,
}

/// Something that must not have happened.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    /// Of which key, and by when.
    pub(crate) key: u64,
    pub(crate) at: At,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}
