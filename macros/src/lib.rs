//! The macros of the crate `larder`, which exports them with its feature `macros`. Use them from there: the code that
//! they generate names `::larder`.

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
/// So values are found as long as fields keep their order and variants their names. A change of either gives the cache
/// another namespace: after fields of one type have changed places, a key would find the value of another one.
///
/// Derive `Clone`, too, if the key is to be a part of a tuple that is looked up by references.
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
