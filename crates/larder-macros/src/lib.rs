//! The macros of the crate `larder`, which exports them with its feature `macros`. Use them from there: the code that
//! they generate names `::larder`.

mod cached;
mod key;

use proc_macro::TokenStream;
use syn::parse_macro_input;

/// Implements `CacheKey` for a struct or an enum, so that it can be the key of a cache.
///
/// Two values that differ write different texts, if that is so for the type of each field:
///
/// | type | text |
/// | --- | --- |
/// | a tuple struct with one field | as the field's |
/// | another struct | the fields as parts, in the order of their declaration |
/// | a struct without fields | the empty text |
/// | an enum | the name of the variant as it is in the code, then the fields of the variant, as parts |
///
/// So values are found as long as fields keep their order and variants their names. If you change either, give the cache
/// another namespace: after fields of one type have changed places, a key would find the value of another one.
///
/// Derive `Clone`, too, if the key is to be a part of a tuple that is looked up by references, as the keys of functions
/// with [`cached`](macro@cached) are.
///
/// ```
/// use larder::CacheKey;
/// use larder::key::redis_key;
///
/// #[derive(CacheKey)]
/// struct ProductId(u64);
///
/// #[derive(CacheKey)]
/// struct Listing {
///     tenant: String,
///     product: ProductId,
/// }
///
/// #[derive(CacheKey)]
/// enum Page {
///     Home,
///     Article { section: String, id: u64 },
/// }
///
/// assert_eq!(redis_key(&ProductId(7)).as_deref(), Some("7"));
/// let listing = Listing { tenant: "a:b".to_owned(), product: ProductId(7) };
/// assert_eq!(redis_key(&listing).as_deref(), Some(r"a\:b:7"));
/// assert_eq!(redis_key(&Page::Home).as_deref(), Some("Home"));
/// let article = Page::Article { section: "news".to_owned(), id: 7 };
/// assert_eq!(redis_key(&article).as_deref(), Some("Article:news:7"));
/// ```
///
/// A field whose type is no key, such as an `f64` or a `Vec`, is an error of the compiler at that type. So is a union.
#[proc_macro_derive(CacheKey)]
pub fn derive_cache_key(input: TokenStream) -> TokenStream {
    key::derive(parse_macro_input!(input)).into()
}

/// Caches an `async` function: a call looks its key up, and the body is the loader. The page `guide::macros` of larder
/// has the same function beside other crates, and by hand.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, LoadError, MemoryL2, cached};
///
/// #[derive(Clone)]
/// struct Shop {
///     products: Cache<(String, u64), String>,
/// }
///
/// impl Shop {
///     /// A product of a tenant.
///     #[cached(
///         cache = "self.products",
///         key = "(tenant, id)",
///         ttl = "5m",
///         soft_ttl = "1m",
///         tags = [("tenant", tenant)],
///     )]
///     async fn product(&self, tenant: &str, id: u64, #[skip] request: &str) -> Result<String, LoadError> {
///         println!("{request} reads the database");
///         Ok(format!("{tenant} {id}"))
///     }
/// }
///
/// let shop = Shop { products: Cache::builder("shop:product").l2(MemoryL2::new()).build()? };
/// assert_eq!(shop.product("acme", 7, "request 1").await?, "acme 7");
/// assert_eq!(shop.product("acme", 7, "request 2").await?, "acme 7"); // prints nothing
/// shop.product_invalidate("acme", 7).await?;
/// assert!(shop.product_get("acme", 7).await.is_none());
/// # Ok(()) }
/// ```
///
/// # Options
///
/// | option | says |
/// | --- | --- |
/// | `cache = "self.products"` | which cache has the values: an expression of `self`, of arguments or of a static, whose value is a `Cache`, or dereferences to one |
/// | `namespace = "shop:product"` | that the function builds a cache of its own, among the caches of the process: see [below](#a-cache-of-the-functions-own) |
/// | `key = "(tenant, id)"` | the key, an expression of the arguments. Unless set, the tuple of all arguments that are not `#[skip]`, or the only one |
/// | `ttl = "5m"`, `soft_ttl = "1m"` | how long a value is valid, and from which age it is stale, in the form that larder's settings have. Unless set, as the cache has it |
/// | `none_ttl = "30s"` | how long a `None` is valid. Unless set, as any other value |
/// | `tags = ["prices", ("tenant", tenant)]` | the tags of the value: texts, which are taken as they are, and expressions of the arguments. `invalidate_tag(&("tenant", tenant))` names the tuple's tag |
/// | `shares_keys = true` | that another function may have the same keys in the cache, and so the same values |
///
/// # The key
///
/// Each argument has to be in the key. An argument that is not in the key is an error of the compiler, as callers with
/// different arguments would get the same value. `#[skip]` marks an argument that does not change the result, such as a
/// connection or a request id. `self` is never a part of the key: a cache that several values of `self` share needs a
/// part that tells them apart, such as `key = "(self.shop, id)"`.
///
/// An argument in the key, alone or as a part of a tuple, is borrowed. Another expression that moves an argument has to
/// clone it: `key = "Listing { tenant: tenant.clone(), id }"`.
///
/// Prefer a tuple to a text that `format!` makes of arguments: `("a:b", "c")` and `("a", "b:c")` are two keys, and one
/// text as `key = "format!(\"{tenant}:{id}\")"`.
///
/// Two functions with the same keys in one cache would return each other's values. So the second one is an error of the
/// compiler, where the code names the cache alike, in one module or for one type; elsewhere its calls return an error
/// that is a misuse. Begin the key of each with a name, as in `key = "(\"net\", id)"`, or give it a cache of its own. A
/// function that has the values of another one on purpose says `shares_keys = true`.
///
/// ```compile_fail,E0592
/// # use larder::{Cache, LoadError, cached};
/// # #[derive(Clone)]
/// # struct Shop { prices: Cache<u64, u32> }
/// impl Shop {
///     #[cached(cache = "self.prices")]
///     async fn net(&self, id: u64) -> Result<u32, LoadError> { Ok(100) }
///
///     #[cached(cache = "self.prices")]
///     async fn gross(&self, id: u64) -> Result<u32, LoadError> { Ok(119) }
/// }
/// ```
///
/// The macro sees that the key names an argument, not how much of the argument the key has: `key = "user.id"` is
/// accepted for a body that uses `user.locale`, too.
///
/// # What the function returns
///
/// | type | stored |
/// | --- | --- |
/// | `Result<T, E>` | `Ok` values, as `T` |
/// | `Result<Option<T>, E>` | `Ok(Some(_))` and `Ok(None)`, as `Option<T>` |
/// | `Option<T>` or any other type | each value |
///
/// The values of the cache have the type in the column *stored*, which is `Clone`: each call clones the value out of
/// the cache. For large values return `Arc<T>`, with serde's feature `rc`, or call the companion `get`, which shares
/// the value. For values that stay in the process, such as compiled templates, return a `larder::Local`, as in
/// `Result<Local<Arc<Template>>, E>`: its type needs nothing of serde.
///
/// A `Result` under another name, such as `type Answer = Result<u64, Error>`, is not seen as one: write it out. A name
/// that ends in `Result` with the type of the value, such as `anyhow::Result<u64>`, is seen.
///
/// # Errors
///
/// A load can fail though its body does not: it panics, it takes longer than `load_timeout`, its runtime ends, or the
/// key is too long. So `E` has to be `From<larder::LoadError>`, and `Into<Box<dyn Error + Send + Sync>>`. `LoadError`,
/// `anyhow::Error` and boxed errors are, and enums with a variant for it (`#[from] LoadError` with thiserror).
///
/// Callers share a load, and so its error:
///
/// - If `E` is `Clone` and an `Error`, each caller gets a clone of the error that the body has returned.
/// - Otherwise each caller gets the `LoadError`, converted. The error of the body is inside:
///   `LoadError::downcast_ref::<E>` finds it, so an implementation of `From` can look into it. For `anyhow::Error` the
///   documentation of `downcast_ref` says what is found.
///
/// A function that returns no `Result` runs its body in the caller if the load fails, and logs a line at WARN.
///
/// # Arguments
///
/// The load runs in a task of its own, and goes on if its callers are cancelled. So it owns copies of `self` and of the
/// arguments, which it makes by `ToOwned` when a value is missing or stale; a hit copies nothing for it. A `&str` is
/// copied as a `String`, and a `&T` is cloned.
///
/// `self` is `&self` of a type that is `Clone`, a handle with pools and `Arc`s in it; or it is `self: &Arc<Self>` or
/// `self: Arc<Self>`. All that is copied has to be `Send`.
///
/// # Companions
///
/// | of a method `product` | of a free function `product` | does |
/// | --- | --- | --- |
/// | `self.product_get(…)` | `product::get(…)` | looks the key up, and does not load |
/// | `self.product_invalidate(…)` | `product::invalidate(…)` | removes the key from both levels, in all instances |
/// | `self.product_refresh(…)` | `product::refresh(…)` | runs the body, and stores its value |
/// | `self.product_uncached(…)` | `product::uncached(…)` | runs the body, and stores nothing |
///
/// `get` and `invalidate` have the arguments that the key or the expression of the cache names, the others have all.
/// The companions are as visible as the function.
///
/// An `impl` block holds functions and no modules or types, so there the companions are methods with a prefix. The
/// companions of a free function belong to an enum without variants that has the function's name. An associated function
/// without `self` cannot be cached.
///
/// A method of a trait cannot be cached either, with a body in the trait or in the `impl` of the trait: its companions
/// would have to be members of the trait. Cache a method of the type, and call it from the trait's, as the page
/// `guide::macros` shows. In the `impl` of a trait the compiler refuses each companion, and the name in its first error
/// says why.
///
/// # A cache of the function's own
///
/// With `namespace`, a free function builds its cache at the first call, among the caches that
/// `larder::Caches::set_global` has set. The namespace begins with the name of their service. `ttl` and `soft_ttl` are
/// options of that cache, which the settings of the operator override. The key is an argument or a tuple of arguments.
///
/// The companion `cache` returns the cache, and builds it if it is not built. Call it when the process starts: then a
/// mistake in the options shows at once, and `Caches::check_settings` and the metrics know the cache.
///
/// For the other options of a cache, such as `schema_version` or a codec, build the cache in a static, and name it by
/// `cache = "PRICES"`. The guide has an example.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Caches, LoadError, MemoryL2, ServiceSettings, cached};
///
/// #[cached(namespace = "shop:price", ttl = "5m", none_ttl = "30s")]
/// async fn price(tenant: &str, id: u64) -> Result<Option<u32>, LoadError> {
///     Ok((id < 100).then_some(450))
/// }
///
/// // In a service: `Caches::new("shop", ServiceSettings::from_env("CACHE_")?)?`.
/// let caches = Caches::with_l2("shop", ServiceSettings::default(), MemoryL2::new());
/// caches.clone().set_global().map_err(|_| "there are others")?;
/// price::cache()?;
/// caches.check_settings()?;
///
/// assert_eq!(price("acme", 7).await?, Some(450));
/// price::invalidate("acme", 7).await?;
/// # Ok(()) }
/// ```
///
/// If the caches of the process are not set, or the cache cannot be built, calls return an error that says so, and that
/// is a misuse (`LoadError::is_misuse`).
///
/// # Other attributes
///
/// Documentation, visibility and attributes stay on the function; lints are on the body, too. With `#[instrument]`
/// below `#[cached]` each call has a span, which contains the load that the call begins. With `#[instrument]` above
/// `#[cached]` the body alone has one.
///
/// # Generic and recursive functions
///
/// Generic functions are refused: a cache has values of one type. A method of a generic type may be cached.
///
/// The body of a function that calls itself calls it through a function whose type names no `async fn`. Otherwise the
/// compiler cannot prove that the load is `Send`:
///
/// ```
/// use larder::{LoadError, cached};
///
/// #[cached(namespace = "shop:depth", ttl = "5m")]
/// async fn depth(category: u64) -> Result<u64, LoadError> {
///     Ok(if category == 0 { 0 } else { 1 + depth_of(category / 2).await? })
/// }
///
/// fn depth_of(category: u64) -> std::pin::Pin<Box<dyn Future<Output = Result<u64, LoadError>> + Send>> {
///     Box::pin(depth(category))
/// }
/// ```
///
/// # A dependency of another name
///
/// The generated code names `::larder`. If `Cargo.toml` has larder under another name, such as `store`, write
/// `extern crate store as larder;` at the root of the crate.
#[proc_macro_attribute]
pub fn cached(options: TokenStream, function: TokenStream) -> TokenStream {
    match syn::parse(function.clone()) {
        Ok(parsed) => cached::expand(options.into(), parsed),
        Err(error) => cached::refused(&function.into(), error),
    }
    .into()
}
