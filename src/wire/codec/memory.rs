//! How much memory a value takes, estimated by what the value tells serde.
//!
//! serde tells of texts, numbers and collections, but not of the room that a collection has to spare, of padding, nor
//! that two fields share an `Arc`. No type has to be derived for this, and no bytes are written.

use std::mem::{size_of, size_of_val};

use serde::Serialize;
use serde::de::value::Error;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// The bytes of a value, with what it has on the heap.
///
/// # Errors
///
/// If the type's own code refuses to serialize the value.
pub(super) fn memory_of<V: Serialize>(value: &V) -> super::Result<usize> {
    let mut bytes = MemorySum(0);
    value
        .serialize(&mut bytes)
        .map_err(super::CodecError::new)?;
    // A type may leave fields out.
    Ok(bytes.0.max(size_of::<V>()))
}

/// Pointer, length and capacity of a `String`, a `Vec` or a map.
const COLLECTION: usize = 24;
/// What an entry of a map takes besides its key and its value: a hash table of std is at most 7/8 full, and half of
/// that after it has grown; a node of a B-tree is two thirds full.
const MAP_ENTRY: usize = 16;
/// A variant, or the `Some` of a number.
const DISCRIMINANT: usize = 8;

/// An allocation of this number of bytes, with its header, as the allocators of glibc and jemalloc round them.
const fn allocated(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else {
        (bytes + 8).next_multiple_of(16)
    }
}

/// The sum of the parts so far.
#[derive(Default)]
pub(super) struct MemorySum(usize);

impl MemorySum {
    fn and(&mut self, bytes: usize) -> &mut Self {
        self.0 += bytes;
        self
    }

    /// Adds a field, which takes its room where it lies, also beside a small variant of an enum.
    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let before = self.0;
        self.element(value)?;
        self.0 = self.0.max(before + size_of_val(value));
        Ok(())
    }

    /// Adds an element of a collection. serde mostly hands over a reference to it, which has another size.
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self).map(|_| ())
    }
}

/// Methods that add bytes, and return the sum: to the caller, or for the parts that follow.
macro_rules! add {
    ($($method:ident($($value:ident: $type:ty),*) $bytes:expr;)*) => {$(
        fn $method(self $(, $value: $type)*) -> Result<Self, Error> {
            Ok(self.and($bytes))
        }
    )*};
}

impl Serializer for &mut MemorySum {
    type Ok = Self;
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    add! {
        serialize_bool(_value: bool) 1;
        serialize_i8(_value: i8) 1;
        serialize_i16(_value: i16) 2;
        serialize_i32(_value: i32) 4;
        serialize_i64(_value: i64) 8;
        serialize_i128(_value: i128) 16;
        serialize_u8(_value: u8) 1;
        serialize_u16(_value: u16) 2;
        serialize_u32(_value: u32) 4;
        serialize_u64(_value: u64) 8;
        serialize_u128(_value: u128) 16;
        serialize_f32(_value: f32) 4;
        serialize_f64(_value: f64) 8;
        serialize_char(_value: char) 4;
        serialize_str(value: &str) COLLECTION + allocated(value.len());
        serialize_bytes(value: &[u8]) COLLECTION + allocated(value.len());
        serialize_none() DISCRIMINANT;
        serialize_unit() 0;
        serialize_unit_struct(_name: &'static str) 0;
        serialize_unit_variant(_name: &'static str, _index: u32, _variant: &'static str) DISCRIMINANT;
        serialize_seq(_len: Option<usize>) COLLECTION + allocated(1);
        serialize_map(_len: Option<usize>) COLLECTION + allocated(1);
        serialize_tuple(_len: usize) 0;
        serialize_tuple_struct(_name: &'static str, _len: usize) 0;
        serialize_struct(_name: &'static str, _len: usize) 0;
        serialize_tuple_variant(_name: &'static str, _index: u32, _variant: &'static str, _len: usize) DISCRIMINANT;
        serialize_struct_variant(_name: &'static str, _index: u32, _variant: &'static str, _len: usize) DISCRIMINANT;
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Error> {
        value.serialize(self.and(DISCRIMINANT))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<Self, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<Self, Error> {
        value.serialize(self.and(DISCRIMINANT))
    }

    // As bincode and postcard: an address takes its bytes and not the bytes of its text.
    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! parts {
    ($($part:ident: $method:ident($($name:ident)?) $add:ident;)*) => {$(
        impl $part for &mut MemorySum {
            type Ok = Self;
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), Error> {
                self.$add(value)
            }

            fn end(self) -> Result<Self, Error> {
                Ok(self)
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element() element;
    SerializeTuple: serialize_element() field;
    SerializeTupleStruct: serialize_field() field;
    SerializeTupleVariant: serialize_field() field;
    SerializeStruct: serialize_field(_field) field;
    SerializeStructVariant: serialize_field(_field) field;
}

impl SerializeMap for &mut MemorySum {
    type Ok = Self;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.and(MAP_ENTRY).element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }

    fn end(self) -> Result<Self, Error> {
        Ok(self)
    }
}
