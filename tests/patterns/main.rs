//! What services put around a cache, on a real Redis.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

#[cfg(all(feature = "outbox-rusqlite", feature = "outbox-sqlx"))]
mod outbox;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "write-behind")]
mod write_behind;
