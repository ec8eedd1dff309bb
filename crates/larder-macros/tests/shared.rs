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

const NET: &str = "net";
const GROSS: &str = "gross";

#[derive(Clone, larder::CacheKey)]
enum Kind {
    Net,
    Gross,
}

/// Keys that differ in a constant, at any place.
#[derive(Clone)]
struct Shop {
    names: Cache<(String, u64), u32>,
    ends: Cache<(u64, String), u32>,
    kinds: Cache<(Kind, u64), u32>,
    numbers: Cache<(u8, u64), u32>,
}

impl Shop {
    #[cached(cache = "self.names", key = "(NET, id)")]
    async fn net(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap()
    }

    #[cached(cache = "self.names", key = "(GROSS, id)")]
    async fn gross(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap() + 1
    }

    #[cached(cache = "self.ends", key = "(id, \"m²\")")]
    async fn net_at_the_end(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap()
    }

    #[cached(cache = "self.ends", key = "(id, \"M²\")")]
    async fn gross_at_the_end(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap() + 1
    }

    #[cached(cache = "self.kinds", key = "(Kind::Net, id)")]
    async fn net_of_kind(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap()
    }

    #[cached(cache = "self.kinds", key = "(Kind::Gross, id)")]
    async fn gross_of_kind(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap() + 1
    }

    #[cached(cache = "self.numbers", key = "(1_u8, id)")]
    async fn net_of_number(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap()
    }

    #[cached(cache = "self.numbers", key = "(2_u8, id)")]
    async fn gross_of_number(&self, id: u64) -> u32 {
        u32::try_from(id).unwrap() + 1
    }
}

#[tokio::test]
async fn keys_that_differ_in_a_constant() {
    let shop = Shop {
        names: Cache::builder("test:name").build().unwrap(),
        ends: Cache::builder("test:end").build().unwrap(),
        kinds: Cache::builder("test:kind").build().unwrap(),
        numbers: Cache::builder("test:number").build().unwrap(),
    };
    assert_eq!((shop.net(7).await, shop.gross(7).await), (7, 8));
    assert_eq!(
        (shop.net_at_the_end(7).await, shop.gross_at_the_end(7).await),
        (7, 8)
    );
    assert_eq!(
        (shop.net_of_kind(7).await, shop.gross_of_kind(7).await),
        (7, 8)
    );
    assert_eq!(
        (shop.net_of_number(7).await, shop.gross_of_number(7).await),
        (7, 8)
    );
}

/// Arguments with the names of variables of the macro.
#[derive(Clone)]
struct Odd(Cache<(String, u64, u64, u64), String>);

impl Odd {
    #[cached(cache = "self.0", tags = ["odd", tag_for(entry)])]
    async fn all(
        &self,
        entry: &str,
        how: u64,
        loader: u64,
        error: u64,
        #[skip] tags: &[u64],
        #[skip] this: u64,
    ) -> String {
        format!("{entry} {how} {loader} {error} {tags:?} {this}")
    }
}

fn tag_for(entry: &str) -> (&str, u8) {
    (entry, 7)
}

#[tokio::test]
async fn arguments_may_have_any_names() {
    let odd = Odd(Cache::builder("test:odd").build().unwrap());
    assert_eq!(odd.all("a", 1, 2, 3, &[4], 5).await, "a 1 2 3 [4] 5");
    odd.0.invalidate_tag(&("a", 7)).await.unwrap();
    assert_eq!(odd.all("a", 1, 2, 3, &[6], 7).await, "a 1 2 3 [6] 7");
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
            error.is_misuse()
                && error
                    .to_string()
                    .contains("shared::price (crates/larder-macros/tests"),
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
