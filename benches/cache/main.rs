//! What a look-up costs, level by level, beside what it is made of.
//!
//! `cargo bench` runs all; `cargo bench -- l1` those whose name has `l1` in it. Compare figures of one
//! run only, and see how far they spread: machines are noisy.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the bench")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod l1;
mod l2;

criterion::criterion_group!(benches, l1::hit, l2::hit);
criterion::criterion_main!(benches);
