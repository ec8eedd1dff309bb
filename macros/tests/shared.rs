//! Functions whose keys in one cache are the same, where the compiler does not see it: one of them would return the
//! values of the other.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Net(Cache<u64, u32>);

#[derive(Clone)]
struct Gross(Cache<u64, u32>);

impl Net {
    #[cached(cache = "self.0")]
    async fn price(&self, id: u64) -> Result<u32, LoadError> {
        Ok(100 + u32::try_from(id).unwrap())
    }
}

impl Gross {
    #[cached(cache = "self.0")]
    async fn price(&self, id: u64) -> Result<u32, LoadError> {
        Ok(119 + u32::try_from(id).unwrap())
    }

    #[cached(cache = "self.0", shares_keys = true)]
    async fn on_purpose(&self, id: u64) -> Result<u32, LoadError> {
        Ok(119 + u32::try_from(id).unwrap())
    }
}

#[cached(cache = "cache", key = "(\"net\", id)")]
async fn net(#[skip] cache: &Cache<(String, u64), u32>, id: u64) -> u32 {
    100 + u32::try_from(id).unwrap()
}

#[cached(cache = "cache", key = "(\"gross\", id)")]
async fn gross(#[skip] cache: &Cache<(String, u64), u32>, id: u64) -> u32 {
    119 + u32::try_from(id).unwrap()
}

#[tokio::test]
async fn methods_of_two_types() {
    let cache = || Cache::builder("test:shared").build().unwrap();
    let (one, other) = (cache(), cache());
    let (net, gross) = (Net(one.clone()), Gross(one.clone()));
    assert_eq!(net.price(7).await.unwrap(), 107);
    for _ in 0..2 {
        let error = gross.price(7).await.unwrap_err();
        assert!(
            error.is_misuse() && error.to_string().contains("shared::price (macros/tests"),
            "{error}"
        );
        assert!(gross.price_refresh(7).await.unwrap_err().is_misuse());
    }
    assert_eq!(gross.on_purpose(7).await.unwrap(), 107);
    // Each in a cache of its own, and again in the former one.
    assert_eq!(Gross(other).price(7).await.unwrap(), 126);
    assert_eq!(net.price(7).await.unwrap(), 107);
    assert!(gross.price(7).await.is_err());
}

#[tokio::test]
async fn keys_that_begin_with_other_names() {
    let cache = Cache::builder("test:shared").build().unwrap();
    assert_eq!((net(&cache, 7).await, gross(&cache, 7).await), (107, 126));
}
