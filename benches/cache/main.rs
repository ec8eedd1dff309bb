//! The cost of each operation, and how it grows.
//!
//! `cargo bench -p benches --bench cache [-- FILTER]`. Compare figures of one run only, and note how far they
//! spread: machines are noisy. For comparisons with other ways, see `ratios`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails ends the bench"
)]

#[path = "../support/mod.rs"]
mod support;

mod codecs;
mod instances;
mod l1;
mod l2;
mod loads;
mod timing;
mod writes;

use std::time::Duration;

use criterion::Criterion;

/// Short measurements: there are many, and a curve needs no exact figures.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
}

criterion::criterion_group! {
    name = benches;
    config = quick();
    targets =
        l1::entries, l1::threads, l2::callers, l2::value_size, loads::miss, loads::stampede, loads::refresh,
        writes::callers, writes::tags, instances::invalidation, instances::load, codecs::round_trip
}
criterion::criterion_main!(benches);
