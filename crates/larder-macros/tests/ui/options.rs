//! What is written in the brackets.

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<u64, String>,
}

impl Shop {
    #[cached(namespace = "shop:product")]
    async fn a_method(&self, id: u64) -> Result<String, LoadError> {
        Ok(id.to_string())
    }

    #[cached(ttl = "5m")]
    async fn no_cache(&self, id: u64) -> Result<String, LoadError> {
        Ok(id.to_string())
    }

    #[cached(cache = self.products)]
    async fn not_quoted(&self, id: u64) -> Result<String, LoadError> {
        Ok(id.to_string())
    }
}

#[cached]
async fn no_options(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(cache = "CACHE", namespace = "shop:product")]
async fn two_caches(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "product")]
async fn no_service(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:product", time_to_live = "5m")]
async fn unknown(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:product", ttl = "5m", ttl = "6m")]
async fn twice(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:product", ttl = 300)]
async fn no_text(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:product", ttl)]
async fn no_value(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached("shop:product")]
async fn no_name(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:product", tags = ["tenant:{tenant}"])]
async fn a_text_with_an_argument(tenant: &str) -> Result<u64, LoadError> {
    Ok(tenant.len() as u64)
}

#[cached(namespace = "shop:product", tags = "tenant:{tenant}")]
async fn no_list(tenant: &str) -> Result<u64, LoadError> {
    Ok(tenant.len() as u64)
}

#[cached(namespace = "shop:product", none_ttl = "5m")]
async fn never_none(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

fn main() {}
