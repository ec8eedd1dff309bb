//! Random steps do the same in `MemoryL2` and by the scripts, on the simulated Redis: many more of them than on a real
//! one.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unused_async,
    clippy::unwrap_used,
    reason = "a step that fails ends the test"
)]

#[path = "../../../l2/agreement.rs"]
mod agreement;
mod store;
mod support;
