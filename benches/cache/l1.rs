//! A hit in L1.

use std::cell::LazyCell;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use larder::Cache;

use crate::timing;

/// A filled cache without L2, which takes no part in a hit.
fn filled(entries: u64) -> Cache<u64, u64> {
    let cache = Cache::builder("bench:l1")
        .l1_capacity(entries * 2)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        for key in 0..entries {
            cache.insert(&key, key).await.unwrap();
        }
    });
    cache
}

/// Hits in scattered order, as the processor would predict consecutive keys.
fn hits(cache: &Cache<u64, u64>, entries: u64, first: u64, times: u64) {
    for i in first..first + times {
        let key = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % entries;
        black_box(cache.get_local(black_box(&key)).unwrap());
    }
}

pub(crate) fn entries(c: &mut Criterion) {
    let mut group = c.benchmark_group("L1 hit by entries");
    for entries in [1_000, 10_000, 100_000, 1_000_000] {
        let cache = LazyCell::new(|| filled(entries));
        group.bench_function(BenchmarkId::from_parameter(entries), |b| {
            let cache = &*cache;
            timing::threads(b, 1, |_, times| hits(cache, entries, 0, times));
        });
    }
}

pub(crate) fn threads(c: &mut Criterion) {
    const ENTRIES: u64 = 10_000;
    let mut group = c.benchmark_group("L1 hit by threads");
    let cache = LazyCell::new(|| filled(ENTRIES));
    for threads in [1, 2, 4, 8] {
        group.throughput(Throughput::Elements(threads));
        group.bench_function(BenchmarkId::from_parameter(threads), |b| {
            let cache = &*cache;
            timing::threads(b, threads, |thread, times| {
                hits(cache, ENTRIES, thread << 32, times);
            });
        });
    }
}
