//! A library with a public cached function: some lints are of what other crates can name. Clippy builds it with all
//! targets, and it has no tests.

// What is generated has no attribute that allows a lint: under `forbid` it would be an error by itself.
#![forbid(
    unused,
    nonstandard_style,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
#![deny(warnings)]

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
#[cached(namespace = "shop:price", ttl = "5m", soft_ttl = "1m", none_ttl = "30s", tags = ["price", ("id", id)])]
pub async fn price(id: u64) -> Result<Option<u64>, LoadError> {
    Ok(std::future::ready(Some(id)).await)
}

/// A length.
#[cached(cache = "cache")]
pub async fn length(#[skip] cache: &Cache<String, usize>, text: &str) -> usize {
    std::future::ready(text.len()).await
}

mod inner {
    use larder::{Cache, LoadError, cached};

    /// Public in a module that is not.
    #[cached(cache = "cache")]
    pub(crate) async fn width(
        #[skip] cache: &Cache<u64, u64>,
        id: u64,
        #[skip] _request: &str,
    ) -> Result<u64, LoadError> {
        Ok(std::future::ready(id).await)
    }
}

/// Calls a private one, and none of its companions.
///
/// # Errors
///
/// Those of the cache.
pub async fn width(cache: &Cache<u64, u64>) -> Result<u64, LoadError> {
    inner::width(cache, 7, "request").await
}
