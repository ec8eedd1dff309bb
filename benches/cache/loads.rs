//! Keys that are in neither level, and values that have become stale.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures::future::join_all;
use larder::Cache;
use tokio::time::sleep;

use crate::support::callers::Call;
use crate::support::redis::Redis;
use crate::support::user::User;
use crate::timing;

/// Looks up a key that no caller has looked up before.
#[derive(Clone)]
struct Miss {
    cache: Cache<u64, User>,
    next: Arc<AtomicU64>,
}

impl Call for Miss {
    async fn call(&mut self, _: u64) {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        get_or_load(&self.cache, key).await;
    }
}

async fn get_or_load(cache: &Cache<u64, User>, key: u64) {
    let load = move || async move { Ok::<_, Infallible>(User::new(key)) };
    assert_eq!(cache.get_or_load(&key, load).await.unwrap().id, key);
}

pub(crate) fn miss(c: &mut Criterion) {
    let redis = Redis::start();
    let miss = Miss {
        cache: redis.cache("bench:miss", |cache| cache),
        next: Arc::default(),
    };
    let mut group = c.benchmark_group("load by callers");
    for callers in [1, 64] {
        group.throughput(Throughput::Elements(callers));
        group.bench_function(BenchmarkId::from_parameter(callers), |b| {
            timing::callers(b, &redis, &miss, callers, callers);
        });
    }
}

/// All callers look up the same missing key in one instance.
pub(crate) fn stampede(c: &mut Criterion) {
    let redis = Redis::start();
    let cache = redis.cache("bench:stampede", |cache| cache);
    let mut key = 0;
    let mut group = c.benchmark_group("stampede by callers");
    for callers in [1, 16, 256, 1_024] {
        group.throughput(Throughput::Elements(callers));
        group.bench_function(BenchmarkId::from_parameter(callers), |b| {
            timing::each(b, &redis, async || {
                key += 1;
                let (start, key) = (Instant::now(), key);
                let calls = (0..callers).map(|_| {
                    let cache = cache.clone();
                    tokio::spawn(async move { get_or_load(&cache, key).await })
                });
                for call in join_all(calls).await {
                    call.unwrap();
                }
                start.elapsed()
            });
        });
    }
}

/// The time from the look-up that finds a stale value until the new value is stored.
pub(crate) fn refresh(c: &mut Criterion) {
    const SOFT: Duration = Duration::from_millis(1);
    let redis = Redis::start();
    let cache = redis.cache("bench:refresh", |cache| cache.soft_ttl(SOFT));
    c.bench_function("refresh", |b| {
        timing::each(b, &redis, async || {
            get_or_load(&cache, 0).await;
            sleep(SOFT * 2).await;
            let (start, before) = (Instant::now(), cache.stats().refreshes);
            get_or_load(&cache, 0).await;
            while cache.stats().refreshes == before {
                // All other tasks run on the runtime's own threads.
                thread::yield_now();
            }
            start.elapsed()
        });
    });
}
