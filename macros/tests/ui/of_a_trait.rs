//! The companions of a method are no members of a trait.

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

fn main() {}
