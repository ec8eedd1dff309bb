//! Inserts and invalidations.

use criterion::{BenchmarkId, Criterion, Throughput};
use larder::{Cache, Loaded};

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

/// Values with tags of their own, as pages of rows have them.
#[derive(Clone)]
struct Tagged {
    cache: Cache<u64, User>,
    tags: u64,
}

impl Call for Tagged {
    async fn call(&mut self, key: u64) {
        let tags = (0..self.tags).map(|tag| ("row", key, tag));
        let page = Loaded::new(User::new(key)).tags(tags);
        self.cache.insert(&key, page).await.unwrap();
    }
}

/// Reads them from L2, and asks for all their tags each time, as there is no L1.
#[derive(Clone)]
struct Read(Cache<u64, User>);

impl Call for Read {
    async fn call(&mut self, key: u64) {
        assert!(self.0.get(&key).await.is_some());
    }
}

pub(crate) fn tags(c: &mut Criterion) {
    let redis = Redis::start();
    let (callers, keys) = (16, 64);
    for tags in [0, 4, 16, 128] {
        let name = format!("bench:tags:{tags}");
        let cache = redis.cache(&name, |cache| cache.l1_capacity(0));
        let (inserts, reads) = (
            Tagged {
                cache: cache.clone(),
                tags,
            },
            Read(cache),
        );
        let mut group = c.benchmark_group("insert by tags, 16 callers");
        group.throughput(Throughput::Elements(callers));
        group.bench_function(BenchmarkId::from_parameter(tags), |b| {
            timing::callers(b, &redis, &inserts, callers, keys);
        });
        group.finish();
        let mut group = c.benchmark_group("L2 hit by tags, 16 callers");
        group.throughput(Throughput::Elements(callers));
        group.bench_function(BenchmarkId::from_parameter(tags), |b| {
            redis.runtime.block_on(async {
                for key in 0..keys {
                    inserts.clone().call(key).await;
                }
            });
            timing::callers(b, &redis, &reads, callers, keys);
        });
    }
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
