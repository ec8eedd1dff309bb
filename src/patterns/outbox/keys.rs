//! Which lists of keys an outbox takes: those of `invalidate_many`, and lists of references.

use crate::key::CacheKey;
use crate::lookup_by::LookupBy;

/// Says that an item of a list is a key of a cache whose keys are `K`: a reference to a form that the keys are
/// [looked up by](LookupBy), or a reference to such a reference. So for keys of type `String`, `["tea"]`, `&["tea"]`
/// and `&names` of a `Vec<String>` are lists of keys.
///
/// There is nothing to implement. The compiler infers `M`, which tells implementations apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a reference to a key of a cache whose keys are `{K}`",
    note = "give a list of references, such as `&[7]` for keys of type `u64`, or `&[\"tea\"]` for `String`"
)]
pub trait KeyOf<K, M> {}

/// Types that tell the implementations apart. Only the compiler names them.
mod by {
    use std::marker::PhantomData;

    /// A reference to a form that keys are looked up by, which `M` tells.
    #[derive(Debug)]
    pub struct Form<M>(PhantomData<M>);

    /// A reference to a reference to a form whose owned form the key is.
    #[derive(Debug)]
    pub struct Reference;
}

#[diagnostic::do_not_recommend]
impl<K, Q, M> KeyOf<K, by::Form<M>> for &Q
where
    K: LookupBy<Q, M>,
    Q: CacheKey + ?Sized,
{
}

// Of a list of references, as `&names` and `&["tea"]` are.
#[diagnostic::do_not_recommend]
impl<K, Q> KeyOf<K, by::Reference> for &&Q where Q: CacheKey + ToOwned<Owned = K> + ?Sized {}
