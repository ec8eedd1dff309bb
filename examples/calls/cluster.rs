//! A Redis Cluster.

use std::error::Error;

use larder::{Cache, RedisL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // Some of its nodes: the others are learnt from one that answers. Caches on clones share connections.
    let l2 = RedisL2::cluster(["redis://:secret@127.0.0.1:1", "redis://127.0.0.1:2"])?;
    let names: Cache<u64, String> = Cache::builder("crm:name").l2(l2.clone()).build()?;
    let prices: Cache<u64, u64> = Cache::builder("crm:price").l2(l2).partitions(8).build()?;
    // Nobody is there, which is a miss as with any other Redis.
    assert!(names.get(&7).await.is_none());
    assert!(prices.get(&7).await.is_none());
    Ok(())
}
