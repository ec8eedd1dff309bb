//! Which types the values of a cache can have, and which of them have bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(all(feature = "bincode", feature = "messagepack"))]
use super::Auto as DefaultStack;
#[cfg(all(feature = "bincode", not(feature = "messagepack")))]
use super::Bincode as DefaultStack;
use super::CodecStack;
use super::local::NoCodec;
use super::value::{BoxedCodec, TypedCodec};
use crate::local::Local;

/// A type of the values of a cache: each type that is `Send`, `Sync` and `'static` and has serde's `Serialize` and
/// `Deserialize`, and [`Local<V>`](crate::Local), whose values stay in the process.
///
/// The bound of code that builds caches for any type of values. No type implements the trait by itself.
///
/// ```
/// use larder::{BuildError, Cache};
/// use larder::codec::{CacheValue, DefaultCodec};
///
/// fn small<V: CacheValue + DefaultCodec>(namespace: &str) -> Result<Cache<u64, V>, BuildError> {
///     Cache::builder(namespace).l1_capacity(100).build()
/// }
/// let prices: Cache<u64, u32> = small("docs:price")?;
/// # Ok::<(), BuildError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a value of a cache",
    label = "is not serialized, and is no `Local`",
    note = "derive serde's `Serialize` and `Deserialize` for the type and for those in it, if the instances shall share the values",
    note = "or wrap it in `larder::Local`, if the values shall stay in the process that has loaded them",
    note = "in both cases the type has to be `Send`, `Sync` and `'static`"
)]
pub trait CacheValue: Send + Sync + 'static + sealed::Sealed {}

/// A [`CacheValue`] that instances share through L2: each one but [`Local`](crate::Local).
///
/// The bound of options that are about the bytes of values, and of calls by which L2 decides whether a value is stored.
/// Code with the bounds `Serialize`, `DeserializeOwned`, `Send`, `Sync` and `'static` meets it. No type implements the
/// trait by itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a value that instances share",
    label = "this call needs values that L2 has",
    note = "the values of a `larder::Local` stay in the process: L2 has no bytes of them, and decides on none of them",
    note = "if the instances shall share the values, derive serde's `Serialize` and `Deserialize` for the type, and leave `Local` out"
)]
pub trait SharedValue: CacheValue + Serialize + DeserializeOwned {}

/// A type of values for which a cache needs no codec to be named: every type with the feature `bincode`, which is on by
/// default, and without this feature [`Local`](crate::Local) alone. The codec is `Auto` with the feature `messagepack`,
/// and otherwise `Bincode`.
#[diagnostic::on_unimplemented(
    message = "there is no default codec for `{Self}`, as the feature `bincode` of larder is off",
    label = "give the codec of these values",
    note = "use `Cache::builder_with_codec` or `Caches::cache_with_codec`, or turn the feature `bincode` on"
)]
pub trait DefaultCodec {
    #[doc(hidden)]
    fn default_codec() -> BoxedCodec
    where
        Self: CacheValue;
}

// No other crate implements the traits: a value has bytes or is a `Local`, and the engine knows no third kind.
mod sealed {
    use super::{BoxedCodec, CodecStack};

    pub trait Sealed {
        /// Whether values stay in the instance that has loaded them.
        const IS_LOCAL: bool;

        /// How values become bytes. A local value has none, whatever the stack is.
        fn value_codec(stack: impl CodecStack) -> BoxedCodec;
    }
}

// `do_not_recommend`: the compiler shows the texts of the trait, and not that the type lacks a trait of serde, as
// `Local` may be what is needed.
#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> CacheValue for V {}

#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> SharedValue for V {}

impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> sealed::Sealed for V {
    const IS_LOCAL: bool = false;

    fn value_codec(stack: impl CodecStack) -> BoxedCodec {
        BoxedCodec(Box::new(TypedCodec::<_, V>::new(stack)))
    }
}

impl<V: Send + Sync + 'static> CacheValue for Local<V> {}

impl<V: Send + Sync + 'static> sealed::Sealed for Local<V> {
    const IS_LOCAL: bool = true;

    fn value_codec(_: impl CodecStack) -> BoxedCodec {
        BoxedCodec(Box::new(NoCodec::<V>::new()))
    }
}

#[cfg(feature = "bincode")]
impl<V> DefaultCodec for V {
    fn default_codec() -> BoxedCodec
    where
        Self: CacheValue,
    {
        V::value_codec(DefaultStack)
    }
}

// No format is needed for values that have no bytes.
#[cfg(not(feature = "bincode"))]
impl<V: Send + Sync + 'static> DefaultCodec for Local<V> {
    fn default_codec() -> BoxedCodec {
        BoxedCodec(Box::new(NoCodec::<V>::new()))
    }
}
