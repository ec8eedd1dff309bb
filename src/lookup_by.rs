//! By which borrowed forms a key is looked up: the forms that [`Borrow`] gives, and tuples with references as parts.
//!
//! Knows nothing of how keys are written.

use std::borrow::Borrow;

/// Says that a cache whose keys are `Self` looks them up by a `Q`, without making a `Self`.
///
/// | keys | looked up by |
/// | --- | --- |
/// | any `K` | `K`, and the types that `K` can be [borrowed](Borrow) as: `str` for `String` |
/// | `String` | also a reference to these, `&str`: an item of `&["a", "b"]` |
/// | tuples of up to eight parts | tuples of the parts or references to them: `(&str, u64)` for `(String, u64)` |
///
/// A reference to a part is one to the part's borrowed form by [`ToOwned`]: `&str` for a `String`, `&T` for a `T` that
/// is `Clone`. A part that is a tuple itself is looked up whole, or by a reference to the whole.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let stock: larder::Cache<(String, u64), u32> = larder::Cache::builder("docs:tenant-stock").build()?;
/// let tenant: &str = "acme";
/// stock.insert(&(tenant, 7), 12).await?;
/// assert_eq!(stock.get(&(tenant, 7)).await.as_deref(), Some(&12));
///
/// // A loader of many keys gets them owned.
/// let load = |missing: Vec<(String, u64)>| async { Ok::<_, std::io::Error>(missing.into_iter().map(|key| (key, 0))) };
/// let counts = stock.get_many_or_load(&[(tenant, 7), (tenant, 8)], load).await?;
/// assert_eq!(counts[1].as_deref(), Some(&0));
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// If the compiler asks for the type of a part, give it: `(tenant, id.parse::<u64>()?)`.
///
/// Calls with many keys take references to keys: `&["a", "b"]`, a `Vec<&str>`, a `&[String]`, `ids.iter()`.
///
/// # Your own key types
///
/// No implementation is needed to look a key up by itself, or by a type that it can be borrowed as. For another
/// borrowed form implement this trait, and have both types write the same text. A key that writes another text is not
/// found.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::Cache;
/// use larder::key::{CacheKey, KeyWriter, LookupBy};
///
/// struct Article {
///     section: String,
///     id: u64,
/// }
///
/// struct ArticleRef<'a> {
///     section: &'a str,
///     id: u64,
/// }
///
/// impl CacheKey for ArticleRef<'_> {
///     fn write_key(&self, out: &mut KeyWriter) {
///         out.part(self.section);
///         out.part(&self.id);
///     }
/// }
///
/// impl CacheKey for Article {
///     fn write_key(&self, out: &mut KeyWriter) {
///         let Article { section, id } = self;
///         ArticleRef { section, id: *id }.write_key(out);
///     }
/// }
///
/// impl LookupBy<ArticleRef<'_>> for Article {}
///
/// let titles: Cache<Article, String> = Cache::builder("docs:title").build()?;
/// titles.insert(&Article { section: "news".into(), id: 7 }, "Tea".to_owned()).await?;
/// assert!(titles.get(&ArticleRef { section: "news", id: 7 }).await.is_some());
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// # Generic code
///
/// A function that passes keys on has the bounds of the methods of [`Cache`](crate::Cache). The compiler infers `M`,
/// which tells implementations apart:
///
/// ```
/// use larder::key::{CacheKey, LookupBy};
/// use larder::{Cache, Entry};
///
/// async fn find<K, Q, M>(cache: &Cache<K, u32>, key: &Q) -> Option<Entry<u32>>
/// where
///     K: CacheKey + LookupBy<Q, M>,
///     Q: CacheKey + ?Sized,
/// {
///     cache.get(key).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a key of type `{Self}` cannot be looked up by `{Q}`",
    label = "neither `{Self}` nor a borrowed form of it",
    note = "`String` is looked up by `str`, and `(String, u64)` by `(&str, u64)`",
    note = "if the compiler could not infer a part, shown as `_`, give its type"
)]
pub trait LookupBy<Q: ?Sized, M = ()> {}

/// Says that a `Self` can be made from the `Q` that it is [looked up by](LookupBy): loaders of many keys get owned
/// keys.
///
/// It can if the key, or each part of a tuple, is `Clone`, or is [`ToOwned::Owned`] of its borrowed form.
#[diagnostic::on_unimplemented(
    message = "a key of type `{Self}` cannot be made from `{Q}`",
    label = "the loader gets owned keys: `{Self}` cannot be made from this",
    note = "look the keys up by `{Self}` itself, which must be `Clone`, or by a form whose `ToOwned::Owned` it is"
)]
pub trait KeyFrom<Q: ?Sized, M = ()>: LookupBy<Q, M> {
    /// Makes the key.
    fn key_from(borrowed: &Q) -> Self;
}

/// Markers that tell implementations apart which could overlap. Only the compiler names them.
mod by {
    use std::marker::PhantomData;

    /// A key, by a type that it can be borrowed as; or a part, by itself.
    pub struct Itself;

    /// A key or a part, by a reference to a borrowed form of it.
    pub struct Reference;

    /// A tuple, by parts of which the one at `FIRST` is the first reference; `M` has the markers of those behind it.
    pub struct Parts<const FIRST: usize, M>(PhantomData<M>);
}

#[diagnostic::do_not_recommend]
impl<K: Borrow<Q> + ?Sized, Q: ?Sized> LookupBy<Q, by::Itself> for K {}

#[diagnostic::do_not_recommend]
impl<K: Borrow<Q>, Q: ToOwned<Owned = K> + ?Sized> KeyFrom<Q, by::Itself> for K {
    fn key_from(borrowed: &Q) -> Self {
        borrowed.to_owned()
    }
}

/// For lists such as `&["a", "b"]`, whose items are `&&str`. For `String` alone: the compiler would not infer the type
/// of `&text.parse()?` if each key could be looked up by references, too.
#[diagnostic::do_not_recommend]
impl<Q: ?Sized> LookupBy<&Q, by::Reference> for String where String: Borrow<Q> {}

#[diagnostic::do_not_recommend]
impl<Q: ToOwned<Owned = String> + ?Sized> KeyFrom<&Q, by::Reference> for String
where
    String: Borrow<Q>,
{
    fn key_from(borrowed: &&Q) -> Self {
        (*borrowed).to_owned()
    }
}

/// A part of a tuple is looked up by `P`.
pub trait PartBy<P, M> {}

/// It can be made from that, too.
pub trait PartFrom<P, M>: PartBy<P, M> {
    fn part_from(borrowed: &P) -> Self;
}

impl<A> PartBy<A, by::Itself> for A {}

impl<A: Clone> PartFrom<A, by::Itself> for A {
    fn part_from(borrowed: &A) -> Self {
        borrowed.clone()
    }
}

impl<A, P> PartBy<&P, by::Reference> for A where P: ToOwned<Owned = A> + ?Sized {}

impl<A, P: ToOwned<Owned = A> + ?Sized> PartFrom<&P, by::Reference> for A {
    fn part_from(borrowed: &&P) -> Self {
        (*borrowed).to_owned()
    }
}

/// Implements the traits for a tuple, once for each place of the first reference: if all parts are themselves it is
/// looked up as a whole, and no two implementations may be for the same form.
macro_rules! tuple {
    ($first:expr; [$($same:ident)*] []) => {};
    ($first:expr; [$($same:ident)*] [($part:ident $ref:ident $_:ident) $(($later:ident $form:ident $how:ident))*]) => {
        #[diagnostic::do_not_recommend]
        impl<$($same,)* $part, $ref, $($later, $form, $how,)*>
            LookupBy<($($same,)* &$ref, $($form,)*), by::Parts<{ $first }, ($($how,)*)>> for ($($same,)* $part, $($later,)*)
        where
            $ref: ToOwned<Owned = $part> + ?Sized,
            $($later: PartBy<$form, $how>,)*
        {
        }

        #[diagnostic::do_not_recommend]
        impl<$($same,)* $part, $ref, $($later, $form, $how,)*>
            KeyFrom<($($same,)* &$ref, $($form,)*), by::Parts<{ $first }, ($($how,)*)>> for ($($same,)* $part, $($later,)*)
        where
            $($same: Clone,)*
            $ref: ToOwned<Owned = $part> + ?Sized,
            $($later: PartFrom<$form, $how>,)*
        {
            #[allow(non_snake_case)]
            fn key_from(borrowed: &($($same,)* &$ref, $($form,)*)) -> Self {
                let ($($same,)* $ref, $($form,)*) = borrowed;
                ($($same.clone(),)* (*$ref).to_owned(), $(PartFrom::part_from($form),)*)
            }
        }

        tuple!($first + 1; [$($same)* $part] [$(($later $form $how))*]);
    };
}

tuple!(0; [] [(A PA MA)]);
tuple!(0; [] [(A PA MA) (B PB MB)]);
tuple!(0; [] [(A PA MA) (B PB MB) (C PC MC)]);
tuple!(0; [] [(A PA MA) (B PB MB) (C PC MC) (D PD MD)]);
tuple!(0; [] [(A PA MA) (B PB MB) (C PC MC) (D PD MD) (E PE ME)]);
tuple!(0; [] [(A PA MA) (B PB MB) (C PC MC) (D PD MD) (E PE ME) (F PF MF)]);
tuple!(0; [] [(A PA MA) (B PB MB) (C PC MC) (D PD MD) (E PE ME) (F PF MF) (G PG MG)]);
tuple!(0; [] [(A PA MA) (B PB MB) (C PC MC) (D PD MD) (E PE ME) (F PF MF) (G PG MG) (H PH MH)]);

/// Lines that do not compile, and why: the table of those that do is `tests/cache/first_lines.rs`.
///
/// A key of another type:
///
/// ```compile_fail,E0277
/// async fn another_type(cache: &larder::Cache<u64, String>) {
///     cache.get("7").await;
/// }
/// ```
///
/// A key that is not borrowed:
///
/// ```compile_fail,E0308
/// async fn owned(cache: &larder::Cache<u64, String>) {
///     cache.get(7).await;
/// }
/// ```
///
/// Many keys that are not borrowed:
///
/// ```compile_fail,E0271
/// async fn many_owned(cache: &larder::Cache<u64, String>, ids: Vec<u64>) {
///     cache.get_many(ids).await;
/// }
/// ```
///
/// A value of another type, also in a `Loaded`:
///
/// ```compile_fail,E0277
/// async fn another_value(cache: &larder::Cache<u64, String>) {
///     let _ = cache.insert(&7, "tea").await;
/// }
/// ```
///
/// ```compile_fail,E0277
/// async fn loaded_of_another_value(cache: &larder::Cache<u64, String>) {
///     let _ = cache.insert(&7, larder::Loaded::new(7)).await;
/// }
/// ```
///
/// A value whose type nothing says, as a `Loaded` could be meant, too:
///
/// ```compile_fail,E0283
/// async fn no_type(cache: &larder::Cache<u64, String>) {
///     let _ = cache.insert(&7, "tea".into()).await;
/// }
/// ```
///
/// A loader that borrows, as it runs in a task of its own:
///
/// ```compile_fail,E0373
/// async fn borrows(cache: &larder::Cache<u64, String>, name: String) {
///     let load = || async { Ok::<_, std::io::Error>(name.clone()) };
///     let _ = cache.get_or_load(&7, load).await;
/// }
/// ```
///
/// A loader that does not say its error:
///
/// ```compile_fail,E0282
/// async fn no_error(cache: &larder::Cache<u64, String>) {
///     let _ = cache.get_or_load(&7, || async { Ok("tea".to_owned()) }).await;
/// }
/// ```
#[cfg(doctest)]
mod lines_that_do_not_compile {}
