//! Documentation and attributes are kept, and companions are documented.

#![deny(missing_docs, unused_must_use, unreachable_pub, warnings)]
#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use larder::{Cache, LoadError, cached};

/// A shop.
#[derive(Clone)]
pub struct Shop {
    products: Cache<u64, String>,
}

impl Shop {
    /// A product.
    #[cached(cache = "self.products")]
    #[must_use]
    #[expect(unused_variables, reason = "of the body")]
    pub async fn product(&self, id: u64) -> Result<String, LoadError> {
        let unused = 7;
        Ok(id.to_string())
    }

    /// A product that is not there on other machines.
    #[cfg(any())]
    #[cached(cache = "self.products", key = "id")]
    pub async fn never(&self, id: u64) -> Result<Unknown, LoadError> {}

    /// Another one.
    #[cached(cache = "self.products", key = "id")]
    #[cfg(any())]
    pub async fn nor_this(&self, id: u64) -> Result<Unknown, LoadError> {}
}

/// A price.
#[cached(namespace = "shop:price")]
#[allow(non_snake_case)]
#[deprecated = "ask for the product"]
pub async fn Price(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

/// An old price.
#[cached(namespace = "shop:price")]
#[cfg(any())]
pub async fn old_price(id: Unknown) -> Result<u64, LoadError> {
    Ok(id)
}

/// A price in one line: its braces are the function's.
#[rustfmt::skip]
#[cached(cache = "cache")]
pub async fn in_one_line(#[skip] cache: &Cache<u64, u64>, id: u64) -> Result<u64, LoadError> { Ok(id) }

/// A price whose cache is no argument of the body.
#[rustfmt::skip]
#[cached(namespace = "shop:in_one_line")]
pub async fn alone_in_one_line(id: u64) -> Result<u64, LoadError> { Ok(id) }

/// Attributes at the start of the body are the function's.
#[cached(namespace = "shop:inner")]
pub async fn inner(id: u64) -> Result<u64, LoadError> {
    //! They may document it.
    #![allow(unused_variables)]
    let unused = 7;
    Ok(id)
}

#[tokio::test]
async fn they_are_called() {
    #[expect(deprecated)]
    let price = Price(7).await;
    // The caches of the process are not set.
    assert!(price.is_err() && Price::get(7).await.is_none());
    let products = Cache::builder("t").build().unwrap();
    assert_eq!(Shop { products }.product(7).await.unwrap(), "7");
}
