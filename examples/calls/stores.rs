//! What L2 is: a Redis, a pool that the service has already, or a store in memory for tests. Without any of them, the
//! cache has L1 only.

use std::error::Error;

use larder::l2::deadpool_redis::redis::IntoConnectionInfo as _;
use larder::l2::deadpool_redis::redis::io::tcp::TcpSettings;
use larder::l2::deadpool_redis::{Manager, Pool, Runtime};
use larder::{Cache, MemoryL2, RedisL2};

type Names = Cache<u64, String>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // L1 only: each instance has its own values.
    let a: Names = Cache::builder("crm:name").build()?;
    let b: Names = Cache::builder("crm:name").build()?;
    a.insert(&7, "Ann".to_owned()).await?;
    assert!(b.get(&7).await.is_none());

    // A store that clones share.
    let l2 = MemoryL2::new();
    let a: Names = Cache::builder("crm:name").l2(l2.clone()).build()?;
    let b: Names = Cache::builder("crm:name").l2(l2).build()?;
    a.insert(&7, "Ann".to_owned()).await?;
    assert_eq!(*b.get(&7).await.ok_or("it is shared")?, "Ann");
    Ok(())
}

/// The forms for Redis; not called here, as they need a server.
#[expect(dead_code, reason = "it shows how to write it")]
fn on_redis(url: &str) -> Result<[Names; 4], Box<dyn Error>> {
    // Caches with the same URL share their connections.
    let by_url = Cache::builder("crm:name").redis(url).build()?;

    let info = url.into_connection_info()?;
    let manager = Manager::new(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))?;
    let pool = Pool::builder(manager).runtime(Runtime::Tokio1).build()?;
    let your_pool = RedisL2::with_pool(pool, url)?;
    let your_pool = Cache::builder("crm:name").l2(your_pool).build()?;

    // Connections of their own, which these two share.
    let redis = RedisL2::open(url)?;
    let names = Cache::builder("crm:name").l2(redis.clone()).build()?;
    let towns = Cache::builder("crm:town").l2(redis).build()?;
    Ok([by_url, your_pool, names, towns])
}
