//! An L1 hit, beside a hit in moka itself with a TTL.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use larder::Cache;

const KEYS: u64 = 10_000;

pub(crate) fn hit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cache: Cache<u64, u64> = Cache::builder("bench:l1")
        .l1_capacity(2 * KEYS)
        .build()
        .unwrap();
    let moka = moka::sync::Cache::builder()
        .max_capacity(2 * KEYS)
        .time_to_live(Duration::from_secs(3600))
        .build();
    for key in 0..KEYS {
        runtime.block_on(cache.insert(&key, key)).unwrap();
        moka.insert(key.to_string(), key);
    }

    let mut group = c.benchmark_group("l1 hit");
    let mut keys = (0..KEYS).cycle();
    group.bench_function("moka::sync, String keys, TTL", |b| {
        let texts: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
        let mut texts = texts.iter().cycle();
        b.iter(|| black_box(moka.get(texts.next().unwrap().as_str())));
    });
    group.bench_function("get_local", |b| {
        b.iter(|| black_box(cache.get_local(&keys.next().unwrap())));
    });
    group.bench_function("get", |b| {
        b.iter_custom(|n| {
            runtime.block_on(async {
                let start = std::time::Instant::now();
                for key in (0..KEYS).cycle().take(usize::try_from(n).unwrap()) {
                    black_box(cache.get(&key).await);
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("get_or_load", |b| {
        b.iter_custom(|n| {
            runtime.block_on(async {
                let start = std::time::Instant::now();
                for key in (0..KEYS).cycle().take(usize::try_from(n).unwrap()) {
                    let entry = cache
                        .get_or_load(&key, move || async move { Ok::<_, std::io::Error>(key) });
                    black_box(entry.await.unwrap());
                }
                start.elapsed()
            })
        });
    });
    group.finish();
}
