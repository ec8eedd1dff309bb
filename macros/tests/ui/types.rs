//! Types that a cached function cannot have.

use larder::{Cache, LoadError, cached};
use serde::{Deserialize, Serialize};

#[derive(Clone)]
struct Shop {
    products: Cache<u64, String>,
    unshared: Cache<u64, Unshared>,
    of_tenants: Cache<(String, u64), String>,
}

#[derive(Serialize, Deserialize)]
struct Unshared;

struct Database;

#[derive(Debug)]
struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failed {}

impl Shop {
    #[cached(cache = "self.products")]
    async fn error(&self, id: u64) -> Result<String, Failed> {
        if id == 7 { Err(Failed) } else { Ok(id.to_string()) }
    }

    #[cached(cache = "self.products")]
    async fn other_value(&self, id: u64) -> Result<u64, LoadError> {
        Ok(id)
    }

    #[cached(cache = "self.products")]
    async fn argument(&self, id: u64, #[skip] database: &Database) -> Result<String, LoadError> {
        let _ = database;
        Ok(id.to_string())
    }

    #[cached(cache = "self.unshared")]
    async fn value(&self, id: u64) -> Result<Unshared, LoadError> {
        let _ = id;
        Ok(Unshared)
    }

    #[cached(cache = "self.of_tenants", key = "(tenant, identity)")]
    async fn no_such_argument(&self, tenant: &str, #[skip] id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }

    #[cached(cache = "self.of_tenants", key = "(id, tenant)")]
    async fn of_another_type(&self, tenant: &str, id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }
}

#[cached(namespace = "shop:product", tags = [("tenant", tenat)])]
async fn misspelled(tenant: &str) -> Result<u64, LoadError> {
    Ok(tenant.len() as u64)
}

struct NotClone {
    products: Cache<u64, String>,
}

impl NotClone {
    #[cached(cache = "self.products")]
    async fn product(&self, id: u64) -> Result<String, LoadError> {
        Ok(id.to_string())
    }
}

fn main() {}
