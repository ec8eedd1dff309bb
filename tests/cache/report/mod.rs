//! Counters.

mod global_stats;
