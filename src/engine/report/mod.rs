//! The counters of the whole fleet, and the counters that the recorder of the process is given.
//!
//! Knows nothing of the meaning of a counter.

pub(crate) mod fleet_stats;
pub(crate) mod recording;
