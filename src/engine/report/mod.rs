//! Counters: those of the whole fleet, and those that the recorder of the process is given.
//!
//! Knows nothing of what is counted.

pub(crate) mod fleet_stats;
pub(crate) mod recording;
