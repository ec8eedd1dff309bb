//! Loads and refreshes.

mod cycles;
mod expected_misses;
mod fallbacks;
mod invalidate_after;
mod invalidations;
mod keep_warm;
mod leases;
mod load_limit;
mod many_loads;
mod read_through;
mod recent_errors;
mod refresh;
mod refresh_ahead;
mod shadow;
mod single_flight;
mod soft_ttl;
mod stale_wait;
mod unstorable;
mod verify;
mod warm;
mod write_through;
