//! A serializer that finds the shape of a value, and refuses types which leave fields out, for formats without names.
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

use super::shape::{Elements, Parts, Shape};
use super::{Category, CodecError};

/// Has `write` serialize a value, and returns its shape. An error names the field that the value leaves out.
#[inline]
pub(super) fn serialize<T: Serialize + ?Sized, E: Into<Box<dyn Error + Send + Sync>>>(
    value: &T,
    write: impl FnOnce(Complete<'_, &T>) -> Result<(), E>,
) -> super::Result<Shape> {
    let found = &Found {
        left_out: Cell::new(None),
        shape: Cell::new(Shape::UNIT),
    };
    match (write(found.on(value)), found.left_out.get()) {
        (Ok(()), _) => Ok(found.shape.get()),
        (Err(_), Some(field)) => Err(Category::FieldLeftOut(field).into()),
        (Err(error), None) => Err(CodecError::new(error)),
    }
}

/// What is found in a value while it is serialized.
struct Found {
    /// The field that was left out: the format's error type cannot carry its name.
    left_out: Cell<Option<&'static str>>,
    /// The shape of the part that was serialized last: of the whole value, in the end.
    shape: Cell<Shape>,
}

impl Found {
    #[inline]
    fn on<X>(&self, inner: X) -> Complete<'_, X> {
        Complete { inner, found: self }
    }

    /// Passes a part of a value on, and returns its shape beside the result.
    #[inline]
    fn part<'a, T: Serialize + ?Sized, R, E>(
        &'a self,
        inner: &'a T,
        pass: impl FnOnce(&Complete<'a, &'a T>) -> Result<R, E>,
    ) -> Result<(R, Shape), E> {
        let passed = pass(&self.on(inner))?;
        Ok((passed, self.shape.get()))
    }
}

// Of two words: with a third, each call would pass it in memory, and wait for what it has just written there.
/// A value or its serializer, in which no field may be left out.
pub(super) struct Complete<'a, X> {
    inner: X,
    found: &'a Found,
}

/// The serializer of a tuple or a struct, whose parts are as complete.
pub(super) struct CompleteParts<'a, X> {
    inner: X,
    found: &'a Found,
    parts: Parts,
    /// The variant whose content it is.
    variant: Option<(u32, &'static str)>,
}

/// The serializer of a sequence or a map, whose elements are as complete.
pub(super) struct CompleteElements<'a, X> {
    inner: X,
    found: &'a Found,
    elements: Elements,
    /// The shape of the key that came last.
    key: Shape,
}

impl<'a, X> Complete<'a, X> {
    /// Begins the parts of a tuple or a struct, or of such a variant.
    #[inline]
    fn parts<Y, E>(
        self,
        variant: Option<(u32, &'static str)>,
        begin: impl FnOnce(X) -> Result<Y, E>,
    ) -> Result<CompleteParts<'a, Y>, E> {
        Ok(CompleteParts {
            inner: begin(self.inner)?,
            found: self.found,
            parts: Parts::NONE,
            variant,
        })
    }

    /// Begins the elements of a sequence or a map.
    #[inline]
    fn elements<Y, E>(
        self,
        begin: impl FnOnce(X) -> Result<Y, E>,
    ) -> Result<CompleteElements<'a, Y>, E> {
        Ok(CompleteElements {
            inner: begin(self.inner)?,
            found: self.found,
            elements: Elements::NONE,
            key: Shape::UNIT,
        })
    }
}

impl<X> CompleteParts<'_, X> {
    #[inline]
    fn whole(&self) -> Shape {
        let whole = self.parts.whole();
        match self.variant {
            Some((index, name)) => whole.in_variant(index, name),
            None => whole,
        }
    }
}

impl<T: Serialize + ?Sized> Serialize for Complete<'_, &T> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(self.found.on(inner))
    }
}

/// Passes simple values on, each with its shape.
macro_rules! pass_on {
    ($($method:ident($($arg:ident: $type:ty),*) $shape:expr;)*) => {$(
        #[inline]
        fn $method(self $(, $arg: $type)*) -> Result<S::Ok, S::Error> {
            let done = self.inner.$method($($arg),*)?;
            self.found.shape.set($shape);
            Ok(done)
        }
    )*};
}

impl<'a, S: Serializer> Serializer for Complete<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = CompleteElements<'a, S::SerializeSeq>;
    type SerializeTuple = CompleteParts<'a, S::SerializeTuple>;
    type SerializeTupleStruct = CompleteParts<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = CompleteParts<'a, S::SerializeTupleVariant>;
    type SerializeMap = CompleteElements<'a, S::SerializeMap>;
    type SerializeStruct = CompleteParts<'a, S::SerializeStruct>;
    type SerializeStructVariant = CompleteParts<'a, S::SerializeStructVariant>;

    pass_on! {
        serialize_bool(value: bool) Shape::BOOL;
        serialize_i8(value: i8) Shape::I8;
        serialize_i16(value: i16) Shape::I16;
        serialize_i32(value: i32) Shape::I32;
        serialize_i64(value: i64) Shape::I64;
        serialize_i128(value: i128) Shape::I128;
        serialize_u8(value: u8) Shape::U8;
        serialize_u16(value: u16) Shape::U16;
        serialize_u32(value: u32) Shape::U32;
        serialize_u64(value: u64) Shape::U64;
        serialize_u128(value: u128) Shape::U128;
        serialize_f32(value: f32) Shape::F32;
        serialize_f64(value: f64) Shape::F64;
        serialize_char(value: char) Shape::CHAR;
        serialize_str(value: &str) Shape::TEXT;
        serialize_bytes(value: &[u8]) Shape::BYTES;
        serialize_none() Shape::NONE;
        serialize_unit() Shape::UNIT;
        serialize_unit_struct(name: &'static str) Shape::UNIT;
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str) Shape::UNIT.in_variant(index, variant);
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.elements(|inner| inner.serialize_seq(len))
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.parts(None, |inner| inner.serialize_tuple(len))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.parts(None, |inner| inner.serialize_tuple_struct(name, len))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.parts(Some((index, variant)), |inner| {
            inner.serialize_tuple_variant(name, index, variant, len)
        })
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.elements(|inner| inner.serialize_map(len))
    }

    #[inline]
    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        self.parts(None, |inner| inner.serialize_struct(name, len))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.parts(Some((index, variant)), |inner| {
            inner.serialize_struct_variant(name, index, variant, len)
        })
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let (done, shape) = self
            .found
            .part(value, |value| self.inner.serialize_some(value))?;
        self.found.shape.set(shape.some());
        Ok(done)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let (done, shape) = self.found.part(value, |value| {
            self.inner.serialize_newtype_struct(name, value)
        })?;
        self.found.shape.set(shape);
        Ok(done)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let (done, shape) = self.found.part(value, |value| {
            (self.inner).serialize_newtype_variant(name, index, variant, value)
        })?;
        self.found.shape.set(shape.in_variant(index, variant));
        Ok(done)
    }

    // The default would make a `String` first, where a format may write without one.
    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let done = self.inner.collect_str(value)?;
        self.found.shape.set(Shape::TEXT);
        Ok(done)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// The parts of a tuple or a struct. The parts of a struct have names.
macro_rules! pass_parts_on {
    ($($part:ident: $method:ident($($name:ident)?) $add:ident $(else $skip:ident)?;)*) => {$(
        impl<S: $part> $part for CompleteParts<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), S::Error> {
                let ((), shape) = self.found.part(value, |value| self.inner.$method($($name,)? value))?;
                self.parts = self.parts.$add($($name,)? shape);
                Ok(())
            }

            $(
                // The default does nothing, and so do bincode and postcard: the next field would be read in its place.
                fn $skip(&mut self, field: &'static str) -> Result<(), S::Error> {
                    self.found.left_out.set(Some(field));
                    Err(S::Error::custom("a field was left out"))
                }
            )?

            #[inline]
            fn end(self) -> Result<S::Ok, S::Error> {
                self.found.shape.set(self.whole());
                self.inner.end()
            }
        }
    )*};
}

pass_parts_on! {
    SerializeTuple: serialize_element() and;
    SerializeTupleStruct: serialize_field() and;
    SerializeTupleVariant: serialize_field() and;
    SerializeStruct: serialize_field(field) and_named else skip_field;
    SerializeStructVariant: serialize_field(field) and_named else skip_field;
}

impl<S: SerializeSeq> SerializeSeq for CompleteElements<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let ((), shape) = self
            .found
            .part(value, |value| self.inner.serialize_element(value))?;
        self.elements.add(shape);
        Ok(())
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        self.found.shape.set(self.elements.sequence());
        self.inner.end()
    }
}

impl<S: SerializeMap> SerializeMap for CompleteElements<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        let ((), shape) = self.found.part(key, |key| self.inner.serialize_key(key))?;
        self.key = shape;
        Ok(())
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let ((), shape) = self
            .found
            .part(value, |value| self.inner.serialize_value(value))?;
        self.elements.add(self.key.with_value(shape));
        Ok(())
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        self.found.shape.set(self.elements.map());
        self.inner.end()
    }
}
