//! Inserts and invalidations.

use criterion::{BenchmarkId, Criterion, Throughput};
use larder::Cache;

use crate::support::callers::Call;
use crate::support::redis::Redis;
use crate::support::user::User;
use crate::timing;

const KEYS: u64 = 1_024;

#[derive(Clone)]
struct Insert(Cache<u64, User>);

impl Call for Insert {
    async fn call(&mut self, key: u64) {
        self.0.insert(&key, User::new(key)).await.unwrap();
    }
}

#[derive(Clone)]
struct Invalidate(Cache<u64, User>);

impl Call for Invalidate {
    async fn call(&mut self, key: u64) {
        self.0.invalidate(&key).await.unwrap();
    }
}

pub(crate) fn callers(c: &mut Criterion) {
    let redis = Redis::start();
    let cache = redis.cache("bench:writes", |cache| cache);
    measure(c, &redis, "insert by callers", &Insert(cache.clone()));
    measure(c, &redis, "invalidate by callers", &Invalidate(cache));
}

fn measure(c: &mut Criterion, redis: &Redis, name: &str, way: &impl Call) {
    let mut group = c.benchmark_group(name);
    for callers in [1, 16, 256] {
        group.throughput(Throughput::Elements(callers));
        group.bench_function(BenchmarkId::from_parameter(callers), |b| {
            timing::callers(b, redis, way, callers, KEYS);
        });
    }
}
