//! A deserializer that bounds levels of nesting and memory. bincode and postcard follow the lengths and the nesting
//! that the bytes claim, without a limit: a million nested options overflow the stack, and a list of 2^60 `()` never
//! ends. So every codec of this crate decodes through [`decode`], which puts [`Bounded`] between the format's
//! deserializer and the type's `Deserialize`. It passes every call on and counts.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::thread;

use serde::de::{
    DeserializeSeed as Seed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

use super::{Category, CodecError};

/// How deep a value may be nested.
const MAX_LEVELS: u8 = 128;

// How much stack a level takes depends on the type: with structs of a kilobyte it is up to 9 KiB, and up to 41 KiB
// without optimization. A bound on the stack that is used at a level would not do: types with `#[serde(tag = "...")]`,
// `untagged` or `flatten` read their value whole at first, and then decode their copy of it level by level, which does
// not pass here.
/// How deep a value may be nested to be decoded on the caller's stack. A worker of Tokio has 2 MiB of it, unless it is
/// set: no more than a quarter of that is taken, also without optimization.
const LEVELS_IN_PLACE: u8 = 16;

/// Bytes of stack for a value that is nested deeper: 128 levels without optimization take 3.3 MiB. The system provides
/// memory for the pages that are used.
const STACK: usize = 8 << 20;

/// Bytes of memory allowed for each encoded byte. Ordinary types take up to 32: an empty `String` of 24 bytes encodes
/// to one.
const MEMORY_PER_BYTE: usize = 64;

/// Bytes of memory allowed on top, for small values with much room in them, as a sparse list of large structs.
const ALLOWANCE: usize = 64 << 20;

/// Decodes a value that is encoded in `length` bytes. `read` has the format deserialize into the seed, each time from
/// the first byte on.
#[inline]
pub(super) fn decode<T, R: Send>(
    length: usize,
    read: impl Fn(Bounded<'_, PhantomData<T>>) -> Result<R, CodecError> + Sync,
) -> Result<R, CodecError> {
    // Few values are nested so deep, and a thread costs more than the first levels of one that is.
    match attempt(length, LEVELS_IN_PLACE, &read) {
        Err(error) if error.category() == Category::TooDeep => {
            let mut decoded = None;
            on_another_stack(&mut || decoded = Some(attempt(length, MAX_LEVELS, &read)));
            decoded.unwrap_or(Err(error))
        }
        attempt => attempt,
    }
}

#[inline]
fn attempt<T, R>(
    length: usize,
    levels: u8,
    read: &impl Fn(Bounded<'_, PhantomData<T>>) -> Result<R, CodecError>,
) -> Result<R, CodecError> {
    let memory = length
        .saturating_mul(MEMORY_PER_BYTE)
        .saturating_add(ALLOWANCE);
    let budget = Budget {
        left: Cell::new(memory),
        exceeded: Cell::new(None),
        unread: Cell::new(None),
        field: Cell::new(None),
    };
    let bounds = Bounds {
        budget: &budget,
        levels,
        counts: true,
    };
    read(bounds.on(PhantomData)).map_err(|error| {
        let error = error.in_field(budget.field.get());
        match budget.exceeded.get() {
            Some(bound) => error.because(bound),
            None => error,
        }
    })
}

/// Runs this on a thread that has [`STACK`] bytes of stack, or not at all if there is no such thread.
///
/// Takes a reference to any function, so that the code of a thread is compiled once and not for each type.
#[cold]
fn on_another_stack(decode: &mut (dyn FnMut() + Send)) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("larder-decode".into());
        if let Ok(thread) = thread.stack_size(STACK).spawn_scoped(scope, decode) {
            // A panic of the type goes on here, where it becomes an error for all callers of the value.
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}

/// The rest of the memory that decoding a value may take.
struct Budget {
    /// Bytes of memory.
    left: Cell<usize>,
    /// The bound that was exceeded: the format's error type cannot carry it.
    exceeded: Cell<Option<Category>>,
    /// How many parts of a struct or a tuple follow the part that could not be read. In a format with names this is
    /// not known.
    unread: Cell<Option<usize>>,
    /// The innermost field that could not be read.
    field: Cell<Option<&'static str>>,
}

// Memory is charged by `size_of`, which is known at compile time:
//
// - an element of a sequence or a key of a map costs its size, and `MEMORY_PER_BYTE` bytes at least: elements that encode to
//   nothing take time, if not memory;
// - a value of a map costs its size;
// - a part of a struct, tuple or enum variant costs nothing, as the whole was charged;
// - a value larger than its place is behind a pointer, as in a `Box`, and costs its size once more.
//
// The contents of texts and byte strings are not charged: they are never longer than the bytes. Nor is the room that a
// collection keeps in reserve.
impl Budget {
    #[inline]
    fn charge<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        (self.left).set(left.ok_or_else(|| self.exceed(Category::TooMuchMemory))?);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn exceed<E: Error>(&self, bound: Category) -> E {
        self.exceeded.set(Some(bound));
        E::custom(bound)
    }

    #[cold]
    #[inline(never)]
    fn note_part(&self, unread: Option<usize>) {
        self.unread.set(unread);
    }

    /// A struct with these fields could not be read.
    #[cold]
    #[inline(never)]
    fn note_struct(&self, fields: &[&'static str]) {
        let place = (self.unread.take()).and_then(|unread| fields.len().checked_sub(unread + 1));
        let field = place.and_then(|place| fields.get(place)).copied();
        self.field.set(self.field.get().or(field));
    }
}

/// The bounds at one level of the value.
#[derive(Clone, Copy)]
struct Bounds<'b> {
    budget: &'b Budget,
    /// Levels that may still be entered below this one.
    levels: u8,
    /// Whether elements are charged one by one: not the parts of a struct or tuple, as the whole was charged.
    counts: bool,
}

impl<'b> Bounds<'b> {
    #[inline]
    fn on<X, P>(self, inner: X) -> Bounded<'b, X, P> {
        Bounded {
            inner,
            bounds: self,
            place: PhantomData,
        }
    }

    /// Bounds a visitor whose sequence or map has as many elements as the bytes say, or as the type says.
    #[inline]
    fn visitor<X>(self, visitor: X, counts: bool) -> Bounded<'b, X> {
        Self { counts, ..self }.on(visitor)
    }

    #[inline]
    fn enter<E: Error>(mut self) -> Result<Self, E> {
        // The format reads a level only after this, so the stack below it is never used.
        let levels = self.levels.checked_sub(1);
        self.levels = levels.ok_or_else(|| self.budget.exceed(Category::TooDeep))?;
        Ok(self)
    }

    /// Charges an element of type `T` that came: its size, and `least` bytes at least.
    #[inline]
    fn charge_element<T, E: Error>(&self, least: usize) -> Result<(), E> {
        if self.counts {
            self.budget.charge(size_of::<T>().max(least))?;
        }
        Ok(())
    }

    /// A collection makes room for as many elements as it expects, before any of them is charged. So do those in its
    /// first element, down to the deepest level: together they expect no more than may come.
    #[inline]
    fn hint(&self, hint: Option<usize>) -> Option<usize> {
        let most = self.budget.left.get() / MEMORY_PER_BYTE / usize::from(MAX_LEVELS);
        hint.map(|elements| elements.min(most))
    }
}

/// A visitor, a seed or an access of serde, within bounds. Each element of a sequence or map is charged when it came;
/// the elements of a struct or tuple are not, as the whole was. Or a deserializer of a part that goes to a place of
/// type `P`.
pub(super) struct Bounded<'b, X, P = ()> {
    inner: X,
    bounds: Bounds<'b>,
    place: PhantomData<fn() -> P>,
}

macro_rules! pass_on {
    (counts $counts:literal: $($method:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self $(, $arg: $type)*, visitor: V) -> Result<V::Value, D::Error> {
            // What does not fit its place is behind a pointer.
            if size_of::<V::Value>() > size_of::<P>() {
                self.bounds.budget.charge::<D::Error>(size_of::<V::Value>())?;
            }
            self.inner.$method($($arg,)* self.bounds.visitor(visitor, $counts))
        }
    )*};
}

impl<'de, D: Deserializer<'de>, P> Deserializer<'de> for Bounded<'_, D, P> {
    type Error = D::Error;

    pass_on! { counts true:
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

    pass_on! { counts false:
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let bounds = self.bounds;
        if size_of::<V::Value>() > size_of::<P>() {
            bounds.budget.charge::<D::Error>(size_of::<V::Value>())?;
        }
        let visitor = bounds.visitor(visitor, false);
        let read = self.inner.deserialize_struct(name, fields, visitor);
        read.inspect_err(|_| bounds.budget.note_struct(fields))
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
    ($($method:ident($($arg:ident: $type:ty)?);)*) => {$(
        #[inline]
        fn $method<E: Error>(self $(, $arg: $type)?) -> Result<V::Value, E> {
            self.inner.$method($($arg)?)
        }
    )*};
}

/// `Some`, a sequence, a map and an enum are all there is to nest in, so levels are counted there. A newtype is no
/// level: it adds nothing to the bytes, so the bytes cannot nest by it.
impl<'de, V: Visitor<'de>> Visitor<'de> for Bounded<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit_plain! {
        visit_bool(value: bool);
        visit_i8(value: i8);
        visit_i16(value: i16);
        visit_i32(value: i32);
        visit_i64(value: i64);
        visit_i128(value: i128);
        visit_u8(value: u8);
        visit_u16(value: u16);
        visit_u32(value: u32);
        visit_u64(value: u64);
        visit_u128(value: u128);
        visit_f32(value: f32);
        visit_f64(value: f64);
        visit_char(value: char);
        visit_str(value: &str);
        visit_borrowed_str(value: &'de str);
        visit_string(value: String);
        visit_bytes(value: &[u8]);
        visit_borrowed_bytes(value: &'de [u8]);
        visit_byte_buf(value: Vec<u8>);
        visit_none();
        visit_unit();
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<V::Value, D::Error> {
        let bounds = self.bounds.enter()?;
        self.inner.visit_some(bounds.on::<_, V::Value>(input))
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, input: D) -> Result<V::Value, D::Error> {
        (self.inner).visit_newtype_struct(self.bounds.on::<_, V::Value>(input))
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(self.bounds.enter()?.on(seq))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(self.bounds.enter()?.on(map))
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(self.bounds.enter()?.on(data))
    }
}

impl<'de, S: Seed<'de>> Seed<'de> for Bounded<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(self.bounds.on::<_, S::Value>(input))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: Seed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        // Charged when it came: a sequence that claims 2^60 elements and has none costs nothing.
        let element = self.inner.next_element_seed(self.bounds.on(seed));
        match element {
            Ok(Some(_)) => self.bounds.charge_element::<S::Value, _>(MEMORY_PER_BYTE)?,
            Ok(None) => {}
            Err(_) => self.bounds.budget.note_part(self.inner.size_hint()),
        }
        element
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.bounds.hint(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: Seed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let key = self.inner.next_key_seed(self.bounds.on(seed));
        if let Ok(Some(_)) = key {
            self.bounds.charge_element::<S::Value, _>(MEMORY_PER_BYTE)?;
        }
        key
    }

    #[inline]
    fn next_value_seed<S: Seed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let value = self.inner.next_value_seed(self.bounds.on(seed));
        let value = value.inspect_err(|_| self.bounds.budget.note_part(None))?;
        self.bounds.charge_element::<S::Value, _>(0)?;
        Ok(value)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.bounds.hint(self.inner.size_hint())
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Bounded<'b, A> {
    type Error = A::Error;
    type Variant = Bounded<'b, A::Variant>;

    #[inline]
    fn variant_seed<S: Seed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.inner.variant_seed(self.bounds.on(seed))?;
        Ok((name, self.bounds.on(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: Seed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(self.bounds.on(seed))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        (self.inner).tuple_variant(len, self.bounds.visitor(visitor, false))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let bounds = self.bounds;
        let read = (self.inner).struct_variant(fields, bounds.visitor(visitor, false));
        read.inspect_err(|_| bounds.budget.note_struct(fields))
    }
}
