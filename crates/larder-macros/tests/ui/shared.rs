//! Two functions whose keys in one cache are the same.

use std::sync::LazyLock;

use larder::{Cache, LoadError, cached};

static PRICES: LazyLock<Cache<u64, u32>> =
    LazyLock::new(|| Cache::builder("shop:price").build().unwrap());

#[cached(cache = "PRICES")]
async fn net(id: u64) -> Result<u32, LoadError> {
    Ok(100 + id as u32)
}

#[cached(cache = "PRICES", key = "id")]
async fn gross(id: u64) -> Result<u32, LoadError> {
    Ok(119 + id as u32)
}

#[derive(Clone)]
struct Shop {
    prices: Cache<(String, u64), u32>,
}

impl Shop {
    #[cached(cache = "self.prices", key = "(\"net\", id)")]
    async fn net(&self, id: u64) -> Result<u32, LoadError> {
        Ok(100 + id as u32)
    }

    #[cached(cache = "self.prices", key = "(\"gross\", id)")]
    async fn gross(&self, id: u64) -> Result<u32, LoadError> {
        Ok(119 + id as u32)
    }
}

impl Shop {
    #[cached(cache = "self.prices", key = "(\"net\", number)")]
    async fn by_number(&self, number: u64) -> Result<u32, LoadError> {
        Ok(number as u32)
    }

    #[cached(cache = "self.prices", key = "(\"net\", id)", shares_keys = true)]
    async fn net_again(&self, id: u64) -> Result<u32, LoadError> {
        self.net(id).await
    }
}

fn main() {}
