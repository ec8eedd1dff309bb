//! The companions of a method are no members of a trait.

use std::pin::Pin;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<u64, String>,
}

trait Product {
    async fn product(&self, id: u64) -> Result<String, LoadError>;
}

impl Product for Shop {
    #[cached(cache = "self.products")]
    async fn product(&self, id: u64) -> Result<String, LoadError> {
        Ok(id.to_string())
    }
}

trait Boxed {
    fn product<'life0, 'async_trait>(
        &'life0 self,
        id: u64,
    ) -> Pin<Box<dyn Future<Output = Result<String, LoadError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait;
}

/// As the macro `async_trait` writes it.
impl Boxed for Shop {
    #[cached(cache = "self.products")]
    fn product<'life0, 'async_trait>(
        &'life0 self,
        id: u64,
    ) -> Pin<Box<dyn Future<Output = Result<String, LoadError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move { Ok(id.to_string()) })
    }
}

fn main() {}
