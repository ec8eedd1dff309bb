//! How far a warm-up has come.

/// How far a [`Cache::warm`](crate::Cache::warm) has come, and what became of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warming {
    /// How many values have been dealt with, whatever became of them.
    pub done: u64,
    /// How many there are, if the stream says so: its [`size_hint`](futures::Stream::size_hint) names one number.
    pub total: Option<u64>,
    /// Of those that are done: how many were stored.
    pub stored: u64,
    /// How many were not, as their key had a value already or was being loaded. Such a value in L2 is now in L1, too.
    pub present: u64,
    /// How many were not, as their key, or a tag of theirs, was changed after `warm` was called, or may not be stored at the
    /// moment, as under [`invalidate_and_hold`](crate::Cache::invalidate_and_hold).
    pub changed: u64,
    /// How many cannot be stored: the key or the value is too large, the value cannot be encoded, or L2 did not take it.
    pub refused: u64,
}
