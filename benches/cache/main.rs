//! What a look-up costs that L2 answers, beside what it is made of; of one that L1 answers, see `hit.rs`.
//!
//! Compare figures of one run only, and see how far they spread: machines are noisy.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the bench")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod l2;

criterion::criterion_group!(benches, l2::hit);
criterion::criterion_main!(benches);
