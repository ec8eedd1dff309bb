//! Growing numbers of instances, all in this process and on one Redis.

use std::cell::LazyCell;
use std::convert::Infallible;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion};
use futures::future::join_all;
use larder::Cache;

use crate::support::redis::Redis;
use crate::timing;

const INSTANCES: [usize; 4] = [1, 4, 16, 64];

fn start(redis: &Redis, namespace: &str, instances: usize) -> Vec<Cache<u64, u64>> {
    let instance = |_| redis.cache(&format!("{namespace}:{instances}"), |cache| cache);
    (0..instances).map(instance).collect()
}

/// The time until an instance knows that all instances have dropped a key that it has invalidated.
pub(crate) fn invalidation(c: &mut Criterion) {
    let redis = Redis::start();
    let mut group = c.benchmark_group("invalidate everywhere by instances");
    for instances in INSTANCES {
        let all = LazyCell::new(|| start(&redis, "bench:everywhere", instances));
        group.bench_function(BenchmarkId::from_parameter(instances), |b| {
            let all = &*all;
            timing::each(b, &redis, async || {
                let start = Instant::now();
                all[0].invalidate_and_wait(&0).await.unwrap();
                start.elapsed()
            });
        });
    }
}

/// The time until all instances have a missing key, which one of them loads.
pub(crate) fn load(c: &mut Criterion) {
    let redis = Redis::start();
    let mut group = c.benchmark_group("load by instances");
    let mut key = 0;
    for instances in INSTANCES {
        let all = LazyCell::new(|| start(&redis, "bench:load", instances));
        group.bench_function(BenchmarkId::from_parameter(instances), |b| {
            let all = &*all;
            timing::each(b, &redis, async || {
                key += 1;
                let load = move || async move { Ok::<_, Infallible>(key) };
                let start = Instant::now();
                let calls = all.iter().map(|cache| cache.get_or_load(&key, load));
                for loaded in join_all(calls).await {
                    assert_eq!(*loaded.unwrap(), key);
                }
                start.elapsed()
            });
        });
    }
}
