//! Keeps decoding within bounds, whatever the bytes say.
//!
//! A format reads the lengths and the nesting from the bytes. bincode and
//! postcard follow them without a limit: a million nested options overflow the
//! stack, and a list of 2^60 `()` never ends. So all codecs read through
//! [`Guarded`], which stands between a format and the type: it passes everything
//! on and counts on the way.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// How deep a value may be nested. With optimization, structs of a kilobyte nested
/// this deep take up to 512 KiB of stack, and a thread has 2 MiB by default.
const MAX_LEVELS: u8 = 128;

/// Elements allowed on top of one per byte, for those that take no byte.
const FREE_ELEMENTS: usize = 1 << 16;

/// What one value may take while it is decoded.
pub(super) struct Budget {
    bytes: usize,
    elements: Cell<usize>,
}

impl Budget {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len(),
            elements: Cell::new(bytes.len().saturating_add(FREE_ELEMENTS)),
        }
    }
}

/// Stands before a deserializer, visitor, seed or access of serde.
pub(super) struct Guarded<'b, X> {
    inner: X,
    guard: Guard<'b>,
}

impl<'b, X> Guarded<'b, X> {
    pub(super) fn new(inner: X, budget: &'b Budget) -> Self {
        let guard = Guard {
            budget,
            levels: MAX_LEVELS,
            counts: true,
        };
        Self { inner, guard }
    }
}

/// A whole value of type `T`, for a format that takes a seed.
pub(super) struct Seed<'b, T> {
    budget: &'b Budget,
    value: PhantomData<T>,
}

impl<'b, T> Seed<'b, T> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        let value = PhantomData;
        Self { budget, value }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<T, D::Error> {
        T::deserialize(Guarded::new(input, self.budget))
    }
}

#[derive(Clone, Copy)]
struct Guard<'b> {
    budget: &'b Budget,
    /// Levels that may still be entered below this one.
    levels: u8,
    /// Whether the elements of a sequence or map are counted. Those of a tuple or
    /// struct are not: the type says how many there are, and some take no bytes.
    counts: bool,
}

impl<'b> Guard<'b> {
    #[inline]
    fn on<X>(self, inner: X) -> Guarded<'b, X> {
        Guarded { inner, guard: self }
    }

    #[inline]
    fn on_counted<X>(mut self, inner: X) -> Guarded<'b, X> {
        self.counts = true;
        self.on(inner)
    }

    #[inline]
    fn on_fixed<X>(mut self, inner: X) -> Guarded<'b, X> {
        self.counts = false;
        self.on(inner)
    }

    #[inline]
    fn enter<E: Error>(mut self) -> Result<Self, E> {
        self.levels = self.levels.checked_sub(1).ok_or_else(too_deep)?;
        Ok(self)
    }

    #[inline]
    fn count<E: Error>(self, elements: usize) -> Result<(), E> {
        if self.counts {
            let left = &self.budget.elements;
            left.set(left.get().checked_sub(elements).ok_or_else(too_many)?);
        }
        Ok(())
    }

    /// Collections make room for as many elements as they are told to expect, so
    /// do not promise them more than the bytes can hold.
    #[inline]
    fn hint(self, hint: Option<usize>) -> Option<usize> {
        hint.map(|elements| elements.min(self.budget.bytes))
    }
}

#[cold]
fn too_deep<E: Error>() -> E {
    E::custom(format_args!("nested deeper than {MAX_LEVELS} levels"))
}

#[cold]
fn too_many<E: Error>() -> E {
    E::custom("more elements than bytes")
}

macro_rules! pass_on {
    ($on:ident: $($method:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self $(, $arg: $type)*, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($arg,)* self.guard.$on(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guarded<'_, D> {
    type Error = D::Error;

    pass_on! { on_counted:
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_bytes();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_map();
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    pass_on! { on_fixed:
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
    }

    /// Asks for a slice of the input. Asked for an owned text, bincode makes room
    /// for it before it knows that the input is that long.
    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_str(visitor)
    }

    /// Asks for a slice, as for a text.
    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_bytes(visitor)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit_plain {
    ($($method:ident($type:ty);)*) => {$(
        #[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

/// Some, a sequence, a map and an enum are all there is to nest in, so levels are
/// counted there. A newtype is no level: it adds nothing to the bytes, so the bytes
/// cannot nest by it.
impl<'de, V: Visitor<'de>> Visitor<'de> for Guarded<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit_plain! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_str(&str);
        visit_borrowed_str(&'de str);
        visit_string(String);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<V::Value, D::Error> {
        let guard = self.guard.enter()?;
        self.inner.visit_some(guard.on(input))
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, input: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(self.guard.on(input))
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        let guard = self.guard.enter()?;
        self.inner.visit_seq(guard.on(seq))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let guard = self.guard.enter()?;
        self.inner.visit_map(guard.on(map))
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        let guard = self.guard.enter()?;
        self.inner.visit_enum(guard.on(data))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Guarded<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(self.guard.on(input))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let element = self.inner.next_element_seed(self.guard.on(seed))?;
        self.guard.count(usize::from(element.is_some()))?;
        Ok(element)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.guard.hint(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let key = self.inner.next_key_seed(self.guard.on(seed))?;
        self.guard.count(usize::from(key.is_some()))?;
        Ok(key)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(self.guard.on(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.guard.hint(self.inner.size_hint())
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Guarded<'b, A> {
    type Error = A::Error;
    type Variant = Guarded<'b, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.inner.variant_seed(self.guard.on(seed))?;
        Ok((name, self.guard.on(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(self.guard.on(seed))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, self.guard.on_fixed(visitor))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .struct_variant(fields, self.guard.on_fixed(visitor))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bincode::config::standard;
    use bincode::serde::seed_decode_from_slice;
    use serde::de::IgnoredAny;
    use serde::de::value::{Error, MapDeserializer, SeqDeserializer};

    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
        let budget = Budget::new(bytes);
        let seed = Seed::<T>::new(&budget);
        let read = seed_decode_from_slice(seed, bytes, standard());
        read.map(|(value, _)| value).map_err(|e| e.to_string())
    }

    #[derive(Debug, serde::Deserialize)]
    struct Tree(#[allow(dead_code)] Vec<Tree>);

    #[test]
    fn levels_are_counted_to_the_last() {
        let max = usize::from(MAX_LEVELS);
        let nested = |levels: usize| [vec![1; levels - 1], vec![0]].concat();
        assert!(read::<Tree>(&nested(max)).is_ok());
        let error = read::<Tree>(&nested(max + 1)).unwrap_err();
        assert!(error.contains("nested deeper than 128 levels"), "{error}");
    }

    #[test]
    fn elements_are_counted_to_the_last() {
        let list = |elements: u32| [&[252][..], &elements.to_le_bytes()].concat();
        assert!(read::<Vec<()>>(&list(65_536 + 5)).is_ok());
        let error = read::<Vec<()>>(&list(65_536 + 6)).unwrap_err();
        assert!(error.contains("more elements than bytes"), "{error}");
    }

    #[test]
    fn elements_of_all_lists_come_from_one_budget() {
        let half = [&[251][..], &40_000_u16.to_le_bytes()].concat();
        assert!(read::<(Vec<()>, u8)>(&[&half[..], &[0]].concat()).is_ok());
        assert!(read::<(Vec<()>, Vec<()>)>(&half.repeat(2)).is_err());
    }

    /// Notes what it is told.
    struct Told;

    impl<'de> Visitor<'de> for Told {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("anything")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<String, A::Error> {
            let hint = seq.size_hint();
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(format!("{hint:?} elements"))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
            let hint = map.size_hint();
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(format!("{hint:?} entries"))
        }

        fn visit_borrowed_str<E>(self, _: &'de str) -> Result<String, E> {
            Ok("a slice of text".into())
        }

        fn visit_borrowed_bytes<E>(self, _: &'de [u8]) -> Result<String, E> {
            Ok("a slice of bytes".into())
        }
    }

    #[test]
    fn no_more_elements_are_promised_than_there_are_bytes() {
        let budget = Budget::new(&[0; 20]);
        let list = |len| {
            let list = SeqDeserializer::<_, Error>::new(vec![1_u8; len].into_iter());
            Guarded::new(list, &budget).deserialize_seq(Told).unwrap()
        };
        let map = |len| {
            let map = MapDeserializer::<_, Error>::new(vec![(1_u8, 1_u8); len].into_iter());
            Guarded::new(map, &budget).deserialize_map(Told).unwrap()
        };
        assert_eq!(list(19), "Some(19) elements");
        assert_eq!(list(21), "Some(20) elements");
        assert_eq!(map(19), "Some(19) entries");
        assert_eq!(map(21), "Some(20) entries");
    }

    #[test]
    fn owned_texts_and_bytes_are_read_as_slices() {
        struct Ask(bool);

        impl<'de> DeserializeSeed<'de> for Ask {
            type Value = String;

            fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<String, D::Error> {
                let budget = Budget::new(b"");
                let input = Guarded::new(input, &budget);
                if self.0 {
                    input.deserialize_string(Told)
                } else {
                    input.deserialize_byte_buf(Told)
                }
            }
        }

        let ask = |text| seed_decode_from_slice(Ask(text), b"\x01x", standard());
        assert_eq!(ask(true).unwrap().0, "a slice of text");
        assert_eq!(ask(false).unwrap().0, "a slice of bytes");
    }
}
