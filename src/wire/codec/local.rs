//! Stands in the place of a codec where values have no bytes.

use std::any::type_name;
use std::marker::PhantomData;

use super::stack::EncodedAs;
use super::value::{Decoded, FormerType, ValueCodec};
use super::{Category, Result, ValueContext};
use crate::vocabulary::{AnyValue, Value};

/// Refuses all values: those of a [`Local<V>`](crate::Local). The builder and the engine ask for no bytes of them.
pub(super) struct NoCodec<V>(PhantomData<fn() -> V>);

impl<V> NoCodec<V> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<V: Value> ValueCodec for NoCodec<V> {
    fn encode(&self, _: &AnyValue, _: &ValueContext<'_>, _: &mut Vec<u8>) -> Result<EncodedAs> {
        Err(Category::LocalValue.into())
    }

    fn decode(&self, _: u8, _: &[u8], _: &ValueContext<'_>, _: &[FormerType]) -> Result<Decoded> {
        Err(Category::LocalValue.into())
    }

    fn is_of_this_crate(&self) -> bool {
        // There are no bytes in a format of a user.
        true
    }

    fn type_name(&self) -> &'static str {
        type_name::<V>()
    }

    fn memory_of(&self, _: &AnyValue) -> Result<usize> {
        Err(Category::LocalValue.into())
    }

    fn have_same_bytes(&self, _: &AnyValue, _: &AnyValue) -> Result<bool> {
        Err(Category::LocalValue.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type without serde.
    struct Compiled;

    #[test]
    fn a_local_value_has_no_bytes() {
        let codec = NoCodec::<Compiled>::new();
        let context = ValueContext {
            namespace: "ns",
            key: "k",
            type_tag: 0,
            tags: &[],
            max: 100,
        };
        let (value, mut out) = (AnyValue::new(Compiled), b"header".to_vec());
        let refused = [
            codec.encode(&value, &context, &mut out).unwrap_err(),
            codec.decode(0, b"bytes", &context, &[]).unwrap_err(),
            codec.memory_of(&value).unwrap_err(),
            codec.have_same_bytes(&value, &value).unwrap_err(),
        ];
        for error in refused {
            assert_eq!(
                error.to_string(),
                "a value that stays in the process has no bytes"
            );
        }
        assert_eq!(out, b"header");
    }
}
