//! Keys that the cache does not have: one error each, at the argument or the key.

use std::sync::LazyLock;

use larder::{Cache, LoadError, cached};

static LENGTHS: LazyLock<Cache<u64, usize>> =
    LazyLock::new(|| Cache::builder("shop:length").build().unwrap());
static OF_TENANTS: LazyLock<Cache<(String, u64), usize>> =
    LazyLock::new(|| Cache::builder("shop:of_tenant").build().unwrap());

#[derive(Clone)]
struct ProductId(u64);

#[cached(cache = "LENGTHS", shares_keys = true)]
async fn owned(id: String) -> Result<usize, LoadError> {
    Ok(id.len())
}

#[cached(cache = "LENGTHS", shares_keys = true)]
async fn borrowed(id: &str) -> Result<usize, LoadError> {
    Ok(id.len())
}

#[cached(cache = "LENGTHS", key = "id.clone()", shares_keys = true)]
async fn written(id: String) -> Result<usize, LoadError> {
    Ok(id.len())
}

#[cached(cache = "OF_TENANTS", shares_keys = true)]
async fn a_part_is_missing(tenant: &str) -> Result<usize, LoadError> {
    Ok(tenant.len())
}

#[cached(cache = "OF_TENANTS", shares_keys = true)]
async fn another_part(tenant: &str, id: u32) -> Result<usize, LoadError> {
    Ok(tenant.len() + id as usize)
}

#[cached(cache = "OF_TENANTS", key = "(\"net\", id + 1)", shares_keys = true)]
async fn another_part_is_written(id: u32) -> Result<usize, LoadError> {
    Ok(id as usize)
}

#[cached(namespace = "shop:no_key")]
async fn no_key(id: ProductId) -> Result<u64, LoadError> {
    Ok(id.0)
}

#[cached(namespace = "shop:no_part")]
async fn no_part(tenant: &str, price: f64) -> Result<u64, LoadError> {
    Ok(tenant.len() as u64 + price as u64)
}

fn main() {}
