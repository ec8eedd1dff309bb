//! TTLs that cannot be.

use std::sync::LazyLock;

use larder::{Cache, LoadError, cached};

static CACHE: LazyLock<Cache<u64, Option<u64>>> = LazyLock::new(|| Cache::builder("t").build().unwrap());

#[cached(namespace = "shop:a", ttl = "5 minutes")]
async fn no_unit(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:b", ttl = "1m", soft_ttl = "60s")]
async fn stale_too_late(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(cache = "CACHE", ttl = "5m", none_ttl = "0s")]
async fn zero(id: u64) -> Result<Option<u64>, LoadError> {
    Ok(Some(id))
}

fn main() {}
