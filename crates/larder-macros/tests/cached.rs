//! What callers see of functions with `#[cached]`.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::join_all;
use larder::{Cache, Clock, Entry, LoadError, MemoryL2, cached};
use tokio::sync::Semaphore;

/// An error that each caller gets as the function has returned it.
#[derive(Clone, Debug, PartialEq)]
enum ShopError {
    NotFound(u64),
    Cache(String),
}

impl fmt::Display for ShopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Error for ShopError {}

impl From<LoadError> for ShopError {
    fn from(error: LoadError) -> Self {
        Self::Cache(error.to_string())
    }
}

/// The source of the values: counts the calls of bodies, and holds them back if it is told to.
#[derive(Clone)]
struct Source {
    calls: Arc<AtomicU64>,
    gate: Arc<Semaphore>,
}

impl Source {
    fn new() -> Self {
        Self {
            calls: Arc::default(),
            gate: Arc::new(Semaphore::new(1000)),
        }
    }

    /// The number of the call.
    async fn call(&self) -> u64 {
        let call = self.calls.fetch_add(1, SeqCst) + 1;
        self.gate.acquire().await.unwrap().forget();
        call
    }

    /// Lets one call of a body go on when all callers wait for it: paused time passes when no task can run.
    async fn open_when_all_wait(&self) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.gate.add_permits(1);
    }

    fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }
}

#[derive(Clone)]
struct Shop {
    source: Source,
    products: Cache<(String, u64), String>,
    finds: Cache<u64, Option<String>>,
    clock: Clock,
}

impl Shop {
    fn new() -> Self {
        let clock = Clock::manual();
        let l2 = MemoryL2::with_clock(clock.clone());
        let products = Cache::builder("shop:product").l2(l2.clone()).jitter(0.0);
        let finds = Cache::builder("shop:find").l2(l2).jitter(0.0);
        Self {
            source: Source::new(),
            products: products.build().unwrap(),
            finds: finds.build().unwrap(),
            clock,
        }
    }

    /// After a step of the clock L1 is not proven to be current.
    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.products.ready().await;
        self.finds.ready().await;
    }

    #[cached(
        cache = "self.products",
        key = "(tenant, id)",
        ttl = "5m",
        soft_ttl = "1m",
        tags = [("tenant", tenant), format!("id:{id:03}")],
    )]
    async fn product(
        &self,
        tenant: &str,
        id: u64,
        #[skip] _trace: &str,
    ) -> Result<String, ShopError> {
        let call = self.source.call().await;
        if id == 404 {
            return Err(ShopError::NotFound(call));
        }
        Ok(format!("{tenant}:{id}:{call}"))
    }

    #[cached(cache = "self.finds", ttl = "5m", none_ttl = "30s")]
    async fn find(&self, id: u64) -> Option<String> {
        let call = self.source.call().await;
        (id != 404).then(|| format!("{id}:{call}"))
    }

    #[cached(cache = "self.finds", key = "id", none_ttl = "30s", shares_keys = true)]
    async fn find_or_fail(self: &Arc<Self>, id: u64) -> Result<Option<String>, LoadError> {
        self.source.call().await;
        Ok((id != 404).then(|| id.to_string()))
    }

    #[cached(cache = "self.finds", key = "id + 1000", shares_keys = true)]
    async fn by_arc(self: Arc<Self>, mut id: u64) -> Result<Option<String>, LoadError> {
        self.source.call().await;
        id += 1;
        Ok(Some(id.to_string()))
    }
}

#[tokio::test(start_paused = true)]
async fn many_callers_share_one_load() {
    let shop = Shop::new();
    shop.source.gate.forget_permits(1000);
    let callers = (0..50).map(|_| shop.product("acme", 7, "trace"));
    let (found, ()) = tokio::join!(join_all(callers), shop.source.open_when_all_wait());
    for product in found {
        assert_eq!(product.unwrap(), "acme:7:1");
    }
    assert_eq!(
        shop.product("acme", 7, "another").await.unwrap(),
        "acme:7:1"
    );
    assert_eq!(shop.source.calls(), 1);
}

#[tokio::test]
async fn arguments_of_the_key_tell_values_apart() {
    let shop = Shop::new();
    assert_eq!(shop.product("acme", 7, "").await.unwrap(), "acme:7:1");
    assert_eq!(shop.product("acme", 8, "").await.unwrap(), "acme:8:2");
    assert_eq!(shop.product("other", 7, "").await.unwrap(), "other:7:3");
    assert_eq!(
        shop.products.get(&("acme", 7)).await.as_deref().unwrap(),
        "acme:7:1"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_is_not_stored_and_is_the_functions_own() {
    let shop = Shop::new();
    // From then on callers share a load that is under way.
    shop.products.ready().await;
    shop.source.gate.forget_permits(1000);
    let callers = (0..3).map(|_| shop.product("acme", 404, ""));
    let (found, ()) = tokio::join!(join_all(callers), shop.source.open_when_all_wait());
    assert_eq!(found, vec![Err(ShopError::NotFound(1)); 3]);
    assert!(shop.product_get("acme", 404).await.is_none());
    shop.source.gate.add_permits(1);
    assert_eq!(
        shop.product("acme", 404, "").await,
        Err(ShopError::NotFound(2))
    );
}

#[tokio::test]
async fn an_error_of_the_cache_is_converted() {
    let shop = Shop::new();
    let error = shop.product(&"x".repeat(2000), 7, "").await.unwrap_err();
    assert_eq!(
        error,
        ShopError::Cache("the key is longer than 1024 bytes".to_owned())
    );
    assert_eq!(shop.source.calls(), 0);
}

/// An error that is not `Clone` is inside of the load's.
#[tokio::test]
async fn an_error_that_is_not_clone_is_the_source() {
    #[derive(Debug)]
    struct Failed(LoadError);

    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("failed")
        }
    }

    impl Error for Failed {}

    impl From<LoadError> for Failed {
        fn from(error: LoadError) -> Self {
            Self(error)
        }
    }

    #[cached(cache = "cache", key = "id")]
    async fn fails(#[skip] cache: &Cache<u64, String>, id: u64) -> Result<String, Failed> {
        let load = || async { Err(io::Error::other("down")) };
        let error = cache.get_or_load(&(id + 1), load).await;
        Err(Failed(error.unwrap_err()))
    }

    #[cached(cache = "cache", key = "id", shares_keys = true)]
    async fn boxed(#[skip] cache: &Cache<u64, String>, id: u64) -> anyhow::Result<String> {
        Err(anyhow::Error::new(io::Error::other("down")).context(id))
    }

    let cache = Cache::builder("t").build().unwrap();
    let Failed(error) = fails(&cache, 1).await.unwrap_err();
    let Failed(own) = error.downcast_ref().unwrap();
    assert!(own.downcast_ref::<io::Error>().is_some());
    let error = boxed(&cache, 1).await.unwrap_err();
    assert!(
        error
            .downcast_ref::<LoadError>()
            .unwrap()
            .downcast_ref::<io::Error>()
            .is_some()
    );
}

#[tokio::test]
async fn ttls_are_those_of_the_attribute() {
    let shop = Shop::new();
    shop.product("acme", 7, "").await.unwrap();
    assert!(!shop.product_get("acme", 7).await.unwrap().meta().is_stale());
    shop.advance(Duration::from_secs(61)).await;
    assert!(shop.product_get("acme", 7).await.unwrap().meta().is_stale());
    shop.advance(Duration::from_secs(240)).await;
    assert!(shop.product_get("acme", 7).await.is_none());
}

#[tokio::test]
async fn none_has_a_ttl_of_its_own() {
    let shop = Shop::new();
    assert_eq!(shop.find(7).await.unwrap(), "7:1");
    assert_eq!(shop.find(404).await, None);
    assert_eq!(shop.find(404).await, None);
    assert_eq!(shop.source.calls(), 2);
    shop.advance(Duration::from_secs(31)).await;
    assert_eq!(shop.find(404).await, None);
    assert_eq!(shop.find(7).await.unwrap(), "7:1");
    assert_eq!(shop.source.calls(), 3);

    let shop = Arc::new(Shop::new());
    assert_eq!(shop.find_or_fail(404).await.unwrap(), None);
    assert_eq!(shop.find_or_fail(404).await.unwrap(), None);
    shop.advance(Duration::from_secs(31)).await;
    assert_eq!(shop.find_or_fail(404).await.unwrap(), None);
    assert_eq!(shop.source.calls(), 2);
}

#[tokio::test]
async fn companions_of_a_method_are_beside_it() {
    let shop = Shop::new();
    assert!(shop.product_get("acme", 7).await.is_none());
    assert_eq!(
        shop.product_uncached("acme", 7, "").await.unwrap(),
        "acme:7:1"
    );
    assert!(shop.product_get("acme", 7).await.is_none());
    assert_eq!(
        shop.product_refresh("acme", 7, "").await.unwrap(),
        "acme:7:2"
    );
    assert_eq!(shop.product("acme", 7, "").await.unwrap(), "acme:7:2");
    assert_eq!(
        shop.product_refresh("acme", 7, "").await.unwrap(),
        "acme:7:3"
    );
    let entry: Entry<String> = shop.product_get("acme", 7).await.unwrap();
    assert_eq!(*entry, "acme:7:3");
    shop.product_invalidate("acme", 7).await.unwrap();
    assert!(shop.product_get("acme", 7).await.is_none());
    assert_eq!(shop.product("acme", 7, "").await.unwrap(), "acme:7:4");
}

#[tokio::test]
async fn values_have_the_tags_of_the_attribute() {
    let shop = Shop::new();
    shop.product("acme", 7, "").await.unwrap();
    shop.product("other", 8, "").await.unwrap();
    shop.products
        .invalidate_tag(&("tenant", "acme"))
        .await
        .unwrap();
    assert!(shop.product_get("acme", 7).await.is_none());
    assert!(shop.product_get("other", 8).await.is_some());
    shop.products.invalidate_tag("id:008").await.unwrap();
    assert!(shop.product_get("other", 8).await.is_none());
}

#[tokio::test]
async fn self_may_be_an_arc() {
    let shop = Arc::new(Shop::new());
    assert_eq!(shop.clone().by_arc(1).await.unwrap().unwrap(), "2");
    assert_eq!(shop.clone().by_arc(1).await.unwrap().unwrap(), "2");
    assert_eq!(shop.source.calls(), 1);
    assert!(shop.finds.get(&1001).await.is_some());
    shop.clone().by_arc_invalidate(1).await.unwrap();
    assert!(shop.by_arc_get(1).await.is_none());
}

#[tokio::test]
async fn a_function_without_a_result_runs_if_the_cache_fails() {
    #[cached(cache = "cache")]
    async fn length(#[skip] cache: &Cache<String, usize>, text: String) -> usize {
        text.len()
    }

    let cache = Cache::builder("t").build().unwrap();
    assert_eq!(length(&cache, "tea".to_owned()).await, 3);
    assert_eq!(cache.get("tea").await.as_deref(), Some(&3));
    // Longer than a key may be.
    assert_eq!(length(&cache, "x".repeat(2000)).await, 2000);
    assert_eq!(length::refresh(&cache, "x".repeat(2000)).await, 2000);
}

static SQUARES: LazyLock<Cache<u64, u64>> = LazyLock::new(|| Cache::builder("t").build().unwrap());

mod inner {
    use larder::{LoadError, cached};

    #[cached(cache = "super::SQUARES")]
    pub(super) async fn square(number: u64) -> Result<u64, LoadError> {
        Ok(self::product(number, number))
    }

    fn product(a: u64, b: u64) -> u64 {
        a * b
    }
}

#[tokio::test]
async fn companions_of_a_function_are_under_its_name() {
    use inner::square;

    assert!(square::get(7).await.is_none());
    assert_eq!(square(7).await.unwrap(), 49);
    assert_eq!(square::get(7).await.as_deref(), Some(&49));
    square::invalidate(7).await.unwrap();
    assert!(square::get(7).await.is_none());
    assert_eq!(square::uncached(7).await.unwrap(), 49);
    assert!(square::get(7).await.is_none());
    assert_eq!(square::refresh(7).await.unwrap(), 49);
    assert!(square::get(7).await.is_some());
}

#[tokio::test]
async fn arguments_of_all_kinds_are_copied() {
    #[derive(Clone, larder::CacheKey)]
    struct Id(u64);

    #[cached(cache = "cache")]
    #[allow(clippy::too_many_arguments, reason = "one of each kind")]
    async fn all<'a>(
        #[skip] cache: &'a Cache<(String, Id, Option<u8>, char, &'static str), String>,
        borrowed: &'a str,
        id: &Id,
        owned: Option<u8>,
        mut changed: char,
        fixed: &'static str,
        #[skip] list: &[u8],
        #[skip] pair: (u8, u8),
    ) -> Result<String, LoadError> {
        changed.make_ascii_uppercase();
        Ok(format!(
            "{borrowed} {} {owned:?} {changed} {fixed} {list:?} {pair:?}",
            id.0
        ))
    }

    let cache = Cache::builder("t").build().unwrap();
    let found = all(
        &cache,
        &String::from("a"),
        &Id(7),
        Some(1),
        'c',
        "d",
        &[1, 2],
        (3, 4),
    )
    .await;
    assert_eq!(found.unwrap(), "a 7 Some(1) C d [1, 2] (3, 4)");
    assert!(
        all::get(&cache, "a", &Id(7), Some(1), 'c', "d")
            .await
            .is_some()
    );
    assert!(cache.get(&("a", Id(7), Some(1), 'c', "d")).await.is_some());
}

#[tokio::test]
async fn a_key_may_be_any_expression_of_the_arguments() {
    #[derive(larder::CacheKey)]
    struct Listing {
        tenant: String,
        id: u64,
    }

    #[allow(clippy::redundant_field_names, reason = "a field is no variable")]
    #[cached(cache = "cache", key = "Listing { tenant: tenant.to_owned(), id: id }")]
    async fn listing(
        #[skip] cache: &Cache<Listing, u64>,
        tenant: &str,
        id: u64,
    ) -> Result<u64, LoadError> {
        Ok(tenant.len() as u64 + id)
    }

    let cache = Cache::builder("t").build().unwrap();
    assert_eq!(listing(&cache, "acme", 7).await.unwrap(), 11);
    let tenant = "acme".to_owned();
    assert!(cache.get(&Listing { tenant, id: 7 }).await.is_some());
}

#[tokio::test]
async fn a_key_may_be_a_text_that_names_arguments_in_braces() {
    #[cached(cache = "cache", key = "format!(\"{{{tenant}}}/{id:04}\")")]
    async fn length(
        #[skip] cache: &Cache<String, usize>,
        tenant: &str,
        id: u64,
    ) -> Result<usize, LoadError> {
        Ok(tenant.len() + usize::try_from(id).unwrap())
    }

    let cache = Cache::builder("t").build().unwrap();
    assert_eq!(length(&cache, "acme", 7).await.unwrap(), 11);
    assert!(cache.get("{acme}/0007").await.is_some());
}

#[tokio::test]
async fn a_method_of_a_generic_type_is_cached() {
    #[derive(Clone)]
    struct Named<N> {
        texts: Cache<u64, String>,
        name: N,
    }

    impl<N: Clone + fmt::Display + Send + Sync + 'static> Named<N> {
        #[cached(cache = "self.texts")]
        async fn text(&self, id: u64) -> Result<String, Box<dyn Error + Send + Sync>> {
            Ok(format!("{} {id}", self.name))
        }
    }

    let named = Named {
        texts: Cache::builder("t").build().unwrap(),
        name: 'a',
    };
    assert_eq!(named.text(7).await.unwrap(), "a 7");
    assert_eq!(named.text_get(7).await.as_deref().unwrap(), "a 7");
}

/// Counts its clones.
#[derive(Default)]
struct Counted(Arc<AtomicU64>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, SeqCst);
        Self(self.0.clone())
    }
}

#[tokio::test]
async fn a_hit_copies_no_argument() {
    #[cached(cache = "cache", key = "id")]
    async fn product(
        #[skip] cache: &Cache<u64, u64>,
        id: u64,
        #[skip] counted: &Counted,
    ) -> Result<u64, LoadError> {
        let _ = counted;
        Ok(id)
    }

    let (cache, counted) = (Cache::builder("t").build().unwrap(), Counted::default());
    for _ in 0..3 {
        assert_eq!(product(&cache, 7, &counted).await.unwrap(), 7);
    }
    assert_eq!(counted.0.load(SeqCst), 1);
}

#[tokio::test]
async fn a_function_without_arguments_has_one_value() {
    static CONFIG: LazyLock<Cache<(), u64>> =
        LazyLock::new(|| Cache::builder("t").build().unwrap());
    static CALLS: AtomicU64 = AtomicU64::new(0);

    #[cached(cache = "CONFIG")]
    async fn config() -> anyhow::Result<u64> {
        Ok(CALLS.fetch_add(1, SeqCst))
    }

    assert_eq!(config().await.unwrap(), 0);
    assert_eq!(config().await.unwrap(), 0);
    config::invalidate().await.unwrap();
    assert_eq!(config().await.unwrap(), 1);
}
