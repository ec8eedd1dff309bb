//! A serializer that refuses types which leave fields out, for formats without names.
//!
//! With `skip_serializing_if` a type writes a field for some values and not for others. bincode and postcard do not
//! write which: the bytes of the next field would be read in its place, as a wrong value and without an error. serde
//! tells a serializer of each field that is left out, which these formats ignore. So they serialize through
//! [`serialize`], which passes every other call on.

use std::cell::Cell;
use std::error::Error;
use std::fmt::Display;

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{Category, CodecError};

/// Has `write` serialize a value, and names the field that it leaves out.
#[inline]
pub(super) fn serialize<T: Serialize + ?Sized, E: Into<Box<dyn Error + Send + Sync>>>(
    value: &T,
    write: impl FnOnce(Complete<'_, &T>) -> Result<(), E>,
) -> super::Result<()> {
    // Beside the error, as the format's error type cannot carry a field's name.
    let left_out = &Cell::new(None);
    let value = Complete {
        inner: value,
        left_out,
    };
    write(value).map_err(|error| match left_out.get() {
        Some(field) => Category::FieldLeftOut(field).into(),
        None => CodecError::new(error),
    })
}

/// A value, a serializer or a part of one, in which no field may be left out.
pub(super) struct Complete<'a, X> {
    inner: X,
    /// The field that was.
    left_out: &'a Cell<Option<&'static str>>,
}

impl<'a, X> Complete<'a, X> {
    fn of<Y>(&self, inner: Y) -> Complete<'a, Y> {
        let left_out = self.left_out;
        Complete { inner, left_out }
    }

    /// Begins a collection or a struct, whose parts are as complete.
    #[inline]
    fn begin<Y, E>(self, begin: impl FnOnce(X) -> Result<Y, E>) -> Result<Complete<'a, Y>, E> {
        let Self { inner, left_out } = self;
        begin(inner).map(|inner| Complete { inner, left_out })
    }
}

impl<T: Serialize + ?Sized> Serialize for Complete<'_, &T> {
    #[inline]
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(self.of(output))
    }
}

/// Passes simple values on.
macro_rules! pass_on {
    ($($method:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $method(self $(, $arg: $type)*) -> Result<S::Ok, S::Error> {
            self.inner.$method($($arg),*)
        }
    )*};
}

impl<'a, S: Serializer> Serializer for Complete<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Complete<'a, S::SerializeSeq>;
    type SerializeTuple = Complete<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Complete<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Complete<'a, S::SerializeTupleVariant>;
    type SerializeMap = Complete<'a, S::SerializeMap>;
    type SerializeStruct = Complete<'a, S::SerializeStruct>;
    type SerializeStructVariant = Complete<'a, S::SerializeStructVariant>;

    pass_on! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_f32(value: f32);
        serialize_f64(value: f64);
        serialize_char(value: char);
        serialize_str(value: &str);
        serialize_bytes(value: &[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.begin(|inner| inner.serialize_seq(len))
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.begin(|inner| inner.serialize_tuple(len))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.begin(|inner| inner.serialize_tuple_struct(name, len))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.begin(|inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.begin(|inner| inner.serialize_map(len))
    }

    #[inline]
    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        self.begin(|inner| inner.serialize_struct(name, len))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.begin(|inner| inner.serialize_struct_variant(name, index, variant, len))
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let value = self.of(value);
        self.inner.serialize_some(&value)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = self.of(value);
        self.inner.serialize_newtype_struct(name, &value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = self.of(value);
        self.inner
            .serialize_newtype_variant(name, index, variant, &value)
    }

    // The default would make a `String` first, where a format may write without one.
    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// The parts of a collection or a struct. Of a struct with names, they have names.
macro_rules! pass_parts_on {
    ($($part:ident: $($method:ident($($name:ident)?)),* $(else $skip:ident)?;)*) => {$(
        impl<S: $part> $part for Complete<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            $(
                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), S::Error> {
                    let value = self.of(value);
                    self.inner.$method($($name,)? &value)
                }
            )*

            $(
                // The default does nothing, and so do bincode and postcard: the next field would be read in its place.
                fn $skip(&mut self, field: &'static str) -> Result<(), S::Error> {
                    self.left_out.set(Some(field));
                    Err(S::Error::custom("a field was left out"))
                }
            )?

            #[inline]
            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        }
    )*};
}

pass_parts_on! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key(), serialize_value();
    SerializeStruct: serialize_field(field) else skip_field;
    SerializeStructVariant: serialize_field(field) else skip_field;
}
