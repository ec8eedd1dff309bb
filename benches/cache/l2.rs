//! A hit in L2, decoded.

use std::cell::LazyCell;

use criterion::{BenchmarkId, Criterion, Throughput};
use larder::Cache;

use crate::support::callers::Call;
use crate::support::redis::Redis;
use crate::timing;

const KEYS: u64 = 1_024;

#[derive(Clone)]
struct Hit(Cache<u64, String>);

impl Call for Hit {
    async fn call(&mut self, key: u64) {
        assert!(self.0.get(&key).await.is_some());
    }
}

/// A cache with `keys` values of `size` bytes. It has no L1, so that each look-up goes to L2.
fn filled(redis: &Redis, keys: u64, size: usize) -> Hit {
    let cache = redis.cache(&format!("bench:l2:{size}"), |cache| cache.l1_capacity(0));
    redis.runtime.block_on(async {
        for key in 0..keys {
            cache.insert(&key, "x".repeat(size)).await.unwrap();
        }
    });
    Hit(cache)
}

pub(crate) fn callers(c: &mut Criterion) {
    let redis = Redis::start();
    let hit = filled(&redis, KEYS, 128);
    let mut group = c.benchmark_group("L2 hit by callers");
    for callers in [1, 4, 16, 64, 256, 1_024] {
        group.throughput(Throughput::Elements(callers));
        group.bench_function(BenchmarkId::from_parameter(callers), |b| {
            timing::callers(b, &redis, &hit, callers, KEYS);
        });
    }
}

pub(crate) fn value_size(c: &mut Criterion) {
    let redis = Redis::start();
    let mut group = c.benchmark_group("L2 hit by value size");
    for size in [16, 256, 4 << 10, 64 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(size));
        let hit = LazyCell::new(|| filled(&redis, 1, usize::try_from(size).unwrap()));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            timing::callers(b, &redis, &*hit, 1, 1);
        });
    }
}
