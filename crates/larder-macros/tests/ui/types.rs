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

#[cached(namespace = "shop:tagged", tags = ["prices", 1.5])]
async fn no_tag(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[derive(Clone)]
struct Unstored;

#[cached(namespace = "shop:unstored")]
async fn not_stored(id: u64) -> Result<Unstored, LoadError> {
    let _ = id;
    Ok(Unstored)
}

#[cached(namespace = "shop:sent")]
async fn argument_of_one_thread(id: u64, #[skip] shared: std::rc::Rc<u64>) -> Result<u64, LoadError> {
    Ok(id + *shared)
}

#[cached(namespace = "shop:sent", key = "(id)")]
async fn body_of_one_thread(id: u64) -> Result<u64, LoadError> {
    let shared = std::rc::Rc::new(id);
    std::future::ready(()).await;
    Ok(*shared)
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
