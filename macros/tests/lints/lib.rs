//! A library with a public cached function: some lints are of what other crates can name. Clippy builds it with all
//! targets, and it has no tests.

#![deny(warnings, missing_docs, clippy::all, clippy::pedantic, clippy::nursery)]

use larder::{Cache, CacheKey, LoadError, cached};

/// A key.
#[derive(Clone, Copy, Debug, CacheKey)]
pub enum ProductId {
    /// By its number.
    Number(u64),
    /// By its shelf, and the place there.
    Place {
        /// The shelf.
        shelf: u32,
        /// The place.
        place: u32,
    },
}

/// A shop.
#[derive(Clone, Debug)]
pub struct Shop {
    products: Cache<ProductId, String>,
}

impl Shop {
    /// A product.
    ///
    /// # Errors
    ///
    /// Those of the cache.
    ///
    /// # Panics
    ///
    /// If the shelf is full.
    #[cached(cache = "self.products", ttl = "5m")]
    pub async fn product(&self, id: ProductId) -> Result<String, LoadError> {
        let name = std::future::ready(format!("{id:?}")).await;
        assert!(!name.is_empty());
        Ok(name)
    }
}

/// A price.
///
/// # Errors
///
/// Those of the cache.
#[cached(namespace = "shop:price", ttl = "5m", soft_ttl = "1m", none_ttl = "30s", tags = ["price"])]
pub async fn price(id: u64) -> Result<Option<u64>, LoadError> {
    Ok(std::future::ready(Some(id)).await)
}

/// A length.
#[cached(cache = "cache")]
pub async fn length(#[skip] cache: &Cache<String, usize>, text: &str) -> usize {
    std::future::ready(text.len()).await
}
