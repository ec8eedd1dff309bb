//! A hit in L2 by 64 callers, beside a checkout from the pool for each request.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures::future::join_all;
use larder::deadpool_redis::redis::cmd;
use larder::deadpool_redis::{Manager, Pool};
use larder::{Cache, RedisL2};

use crate::support::redis_server::RedisServer;

const CALLERS: u64 = 64;
const KEYS: u64 = 1_000;

pub(crate) fn hit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(RedisServer::start());
    let pool = Pool::builder(Manager::new(server.url()).unwrap())
        .max_size(16)
        .build()
        .unwrap();
    let l2 = RedisL2::open(&server.url()).unwrap();
    let cache: Cache<u64, Vec<u8>> = Cache::builder("bench:l2")
        .l1_capacity(0)
        .l2(l2)
        .build()
        .unwrap();
    runtime.block_on(async {
        cache.ready().await;
        for key in 0..KEYS {
            cache.insert(&key, vec![0; 128]).await.unwrap();
        }
    });

    let mut group = c.benchmark_group("l2 hit, 64 callers");
    group
        .throughput(Throughput::Elements(CALLERS))
        .sample_size(20)
        .measurement_time(Duration::from_secs(3));
    group.bench_function("a checkout for each request", |b| {
        b.iter_custom(|rounds| {
            let callers = (0..CALLERS).map(|caller| {
                let pool = pool.clone();
                async move {
                    for round in 0..rounds {
                        let mut connection = pool.get().await.unwrap();
                        let key = format!("{{bench:l2.0}}:{}", (caller + round) % KEYS);
                        let bytes: Vec<u8> = cmd("GET")
                            .arg(key)
                            .query_async(&mut connection)
                            .await
                            .unwrap();
                        assert!(!bytes.is_empty());
                    }
                }
            });
            timed(&runtime, callers)
        });
    });
    group.bench_function("get", |b| {
        b.iter_custom(|rounds| {
            let callers = (0..CALLERS).map(|caller| {
                let cache = cache.clone();
                async move {
                    for round in 0..rounds {
                        // Far apart, so that callers do not share reads.
                        let key = (caller * (KEYS / CALLERS) + round) % KEYS;
                        assert!(cache.get(&key).await.is_some());
                    }
                }
            });
            timed(&runtime, callers)
        });
    });
    group.finish();
    runtime.block_on(cache.close());
}

fn timed(
    runtime: &tokio::runtime::Runtime,
    callers: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>,
) -> Duration {
    let start = Instant::now();
    runtime.block_on(join_all(callers.map(|caller| runtime.spawn(caller))));
    start.elapsed()
}
