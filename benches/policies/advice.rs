//! How far off the advice about the capacity is, of a cache that is driven by a trace.

use larder::Cache;
use larder::stats::SizeAdvice;

use crate::feed::{Feed, Hits, Misses};
use crate::policies::Moka;
use crate::traces::{self, KEYS};

/// For each trace and each factor the hit rate of moka with that capacity and as L1 tells it of look-ups, and by how many points the advice of a cache
/// with the present one is off, in percent.
pub(crate) fn print(length: usize, filter: Option<&str>) {
    for percent in [1, 10] {
        let capacity = KEYS * percent / 100;
        println!("\nAdvice of a cache with room for {percent} % of the keys:\n");
        println!("| trace | 1/4 | 1/2 | 1 | 2 | 4 | 8 |");
        println!("| --- |{}", " ---: |".repeat(6));
        let chosen =
            |trace: &traces::Trace| filter.is_none_or(|filter| trace.name.contains(filter));
        for trace in traces::all(length, capacity).into_iter().filter(chosen) {
            let advice = advice(capacity, &trace.keys);
            let cells = advice.sizes().iter().map(|size| {
                let capacity = usize::try_from(size.capacity()).unwrap();
                let feed = Feed::new(Hits::FirstInInserts(capacity as u64 / 4), Misses::All);
                let mut moka = Moka::new(capacity, feed);
                let rate = crate::rates(&mut moka, &trace.keys).hits;
                format!(" {rate:.1} ({:+.1}) |", 100.0 * size.hit_rate() - rate)
            });
            println!("| {} |{}", trace.name, cells.collect::<String>());
        }
    }
}

fn advice(capacity: usize, keys: &[u64]) -> SizeAdvice {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cache: Cache<u64, ()> = Cache::builder("bench:advice")
            .l1_capacity(capacity as u64)
            .size_advice(true)
            .build()
            .unwrap();
        for key in keys {
            if cache.get(key).await.is_none() {
                cache.insert(key, ()).await.unwrap();
            }
        }
        cache.size_advice().unwrap()
    })
}
