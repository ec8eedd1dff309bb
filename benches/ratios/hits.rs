//! Hits in L1, and in moka with a TTL.

use std::borrow::Borrow;
use std::hint::black_box;
use std::time::Duration;

use larder::{Cache, CacheKey, Loaded};
use tokio::runtime::{Builder, Runtime};

pub(crate) const KEYS: usize = 1_000;
const CAPACITY: u64 = 10_000;
pub(crate) const TTL: Duration = Duration::from_secs(3600);

/// Looks up keys. The arguments are the number of the first key and the number of look-ups.
pub(crate) type Hits = Box<dyn Fn(usize, usize) + Sync>;

/// Runs one kind of hit, for a tool that counts instructions. Returns `false` if there is none of this name.
pub(crate) fn repeat(name: &str, times: u64) -> bool {
    let Some((_, hits)) = cases().into_iter().find(|case| case.0 == name) else {
        return false;
    };
    hits(0, times.try_into().unwrap());
    true
}

pub(crate) fn cases() -> Vec<(String, Hits)> {
    let texts: Vec<_> = (0..KEYS).map(|key| format!("product:{key}")).collect();
    let texts: &[String] = texts.leak();
    let numbers: &[usize] = (0..KEYS).collect::<Vec<_>>().leak();
    let mut cases = moka(texts);
    cases.extend(ours::<_, str>("", texts, &[], false));
    cases.extend(ours::<_, usize>(", integers", numbers, &[], false));
    cases.extend(ours::<_, str>(", tags", texts, &["one", "another"], false));
    cases.extend(ours::<_, str>(", size_advice", texts, &[], true));
    cases
}

fn moka(keys: &'static [String]) -> Vec<(String, Hits)> {
    let sync = moka::sync::Cache::builder();
    let sync = sync.time_to_live(TTL).max_capacity(CAPACITY).build();
    let future = moka::future::Cache::builder();
    let future = future.time_to_live(TTL).max_capacity(CAPACITY).build();
    for (value, key) in keys.iter().enumerate() {
        sync.insert(key.clone(), value);
        runtime().block_on(future.insert(key.clone(), value));
    }
    vec![
        (
            "moka::sync".to_owned(),
            Box::new(move |first, n| {
                for key in order::<_, str>(keys, first, n) {
                    black_box(sync.get(key).unwrap());
                }
            }),
        ),
        (
            "moka::future".to_owned(),
            Box::new(move |first, n| {
                runtime().block_on(async {
                    for key in order::<_, str>(keys, first, n) {
                        black_box(future.get(key).await.unwrap());
                    }
                });
            }),
        ),
    ]
}

fn ours<K, Q>(
    of_what: &str,
    keys: &'static [K],
    tags: &[&str],
    size_advice: bool,
) -> Vec<(String, Hits)>
where
    K: CacheKey + Borrow<Q> + Sync + 'static,
    Q: CacheKey + ?Sized + 'static,
{
    let cache: Cache<K, usize> = Cache::builder("bench:hits")
        .l1_capacity(CAPACITY)
        .l1_ttl(TTL)
        .size_advice(size_advice)
        .build()
        .unwrap();
    for (value, key) in keys.iter().enumerate() {
        let value = Loaded::new(value).tags(tags);
        runtime()
            .block_on(cache.insert(key.borrow(), value))
            .unwrap();
    }
    let (local, get, load) = (cache.clone(), cache.clone(), cache);
    let none = || async { Ok::<_, std::io::Error>(0) };
    vec![
        (
            format!("get_local{of_what}"),
            Box::new(move |first, n| {
                for key in order(keys, first, n) {
                    black_box(local.get_local(key).unwrap());
                }
            }),
        ),
        (
            format!("get{of_what}"),
            Box::new(move |first, n| {
                runtime().block_on(async {
                    for key in order(keys, first, n) {
                        black_box(get.get(key).await.unwrap());
                    }
                });
            }),
        ),
        (
            format!("get_or_load{of_what}"),
            Box::new(move |first, n| {
                runtime().block_on(async {
                    for key in order(keys, first, n) {
                        black_box(load.get_or_load(key, none).await.unwrap());
                    }
                });
            }),
        ),
    ]
}

pub(crate) fn runtime() -> Runtime {
    // Writes need timers.
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// The keys in scattered order, as the processor would predict consecutive ones.
fn order<K: Borrow<Q>, Q: ?Sized + 'static>(
    keys: &'static [K],
    first: usize,
    n: usize,
) -> impl Iterator<Item = &'static Q> {
    (first..first + n).map(|i| black_box(keys[i * 7919 % KEYS].borrow()))
}
