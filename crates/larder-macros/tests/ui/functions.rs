//! Functions that cannot be cached.

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<u64, String>,
}

impl Shop {
    #[cached(cache = "self.products")]
    fn not_async(&self, id: u64) -> Result<String, LoadError> {
        Ok(id.to_string())
    }

    #[cached(cache = "self.products")]
    async fn changes_self(&mut self, id: u64) -> Result<String, LoadError> {
        Ok(id.to_string())
    }

    #[cached(cache = "self.products")]
    async fn changes_an_argument(&self, id: &mut u64) -> Result<String, LoadError> {
        *id += 1;
        Ok(id.to_string())
    }

    #[cached(cache = "self.products")]
    async fn without_a_name(&self, (id, _): (u64, u64)) -> Result<String, LoadError> {
        Ok(id.to_string())
    }

    #[cached(cache = "self.products")]
    async fn borrows_inside(&self, id: Option<&u64>) -> Result<String, LoadError> {
        Ok(format!("{id:?}"))
    }

    #[cached(cache = "self.products")]
    async fn borrows_what_it_returns(&self, id: u64) -> Result<&str, LoadError> {
        Ok(if id == 7 { "tea" } else { "salt" })
    }

    #[cached(cache = "self.products")]
    async fn returns_nothing(&self, id: u64) {
        let _ = id;
    }
}

trait Product {
    #[cached(cache = "self.products")]
    async fn without_a_body(&self, id: u64) -> Result<String, LoadError>;
}

#[cached(namespace = "shop:text")]
struct NoFunction;

#[cached(namespace = "shop:text")]
async fn borrows_for_good(id: u64) -> Result<&'static str, LoadError> {
    Ok(if id == 7 { "tea" } else { "salt" })
}

#[cached(namespace = "shop:text")]
async fn generic<T: ToString + Clone>(value: T) -> Result<String, LoadError> {
    Ok(value.to_string())
}

#[cached(namespace = "shop:text")]
async fn of_a_length<const N: usize>(value: [u8; N]) -> Result<usize, LoadError> {
    Ok(value.len())
}

#[cached(namespace = "shop:text")]
async unsafe fn not_safe(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:text")]
async fn any_type(value: impl ToString) -> Result<String, LoadError> {
    Ok(value.to_string())
}

fn main() {}
