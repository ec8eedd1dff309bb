//! A serializer that finds the shape of a value, and passes every call on.
//!
//! Formats with names compare all that a value shows with all that it shows when it is read back, see [`compare`].
//!
//! Formats without names write the shape, and must refuse types which leave fields out. With `skip_serializing_if` a
//! type writes a field for some values and not for others. bincode and postcard do not write which: the bytes of the
//! next field would be read in its place, as a wrong value and without an error. serde tells a serializer of each field
//! that is left out, which these formats ignore. So they serialize through [`serialize`].

use std::cell::{Cell, RefCell};
#[cfg(any(feature = "bincode", feature = "postcard"))]
use std::error::Error;
use std::fmt::Display;

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::memory::MemorySum;
use super::shape::{Elements, Parts, Shape, UnorderedHash};
use super::{Category, CodecError};

/// Has `write` serialize a value, and returns its shape. An error names the field that the value leaves out.
#[cfg(any(feature = "bincode", feature = "postcard"))]
#[inline]
pub(super) fn serialize<T: Serialize + ?Sized, E: Into<Box<dyn Error + Send + Sync>>>(
    value: &T,
    write: impl FnOnce(ShapeSerializer<'_, &T>) -> Result<(), E>,
) -> super::Result<Shape> {
    let found = &ShapeFindings::new(Inspection::NONE);
    match (write(found.on(value)), found.field.get()) {
        (Ok(()), _) => Ok(found.shape.get()),
        (Err(_), field @ Some(_)) => Err(CodecError::from(Category::FieldLeftOut).in_field(field)),
        (Err(error), None) => Err(refused(value, error.into())),
    }
}

/// The error of a format without names that has refused a value.
#[cfg(any(feature = "bincode", feature = "postcard"))]
#[cold]
fn refused<T: Serialize + ?Sized>(value: &T, error: Box<dyn Error + Send + Sync>) -> CodecError {
    let found = &ShapeFindings::new(Inspection {
        refused: Some(RefusedPart::UnknownLength),
        ..Inspection::NONE
    });
    match look_at(value, found) {
        Err(_) if found.has_refused.get() => {
            CodecError::of(Category::UnknownLength, error).in_field(found.field.get())
        }
        // The type's own code, or the format for another reason.
        Err(_) => CodecError::new(error).in_field(found.field.get()),
        Ok(_) => CodecError::new(error),
    }
}

/// Checks that a value that was read from the bytes of another one shows the same parts to serde, in a format that is
/// readable for humans or is not.
///
/// # Errors
///
/// If it does not. The error names the field that differs.
pub(super) fn compare<T: Serialize + ?Sized>(
    written: &T,
    read: &T,
    is_human_readable: bool,
) -> super::Result<()> {
    let inspection = || Inspection {
        is_human_readable,
        ..Inspection::NONE
    };
    if look_at(written, &ShapeFindings::new(inspection()))?
        == look_at(read, &ShapeFindings::new(inspection()))?
    {
        return Ok(());
    }
    let with_fields = || {
        let fields = Some(RefCell::default());
        ShapeFindings::new(Inspection {
            fields,
            ..inspection()
        })
    };
    let (one, other) = (with_fields(), with_fields());
    look_at(written, &one)?;
    look_at(read, &other)?;
    let (one, other) = (one.into_fields(), other.into_fields());
    let mut pairs = one.into_iter().zip(other);
    let field = pairs.find_map(|(one, other)| (one != other).then_some(one.0));
    Err(CodecError::from(Category::ReadOtherwise).in_field(field))
}

/// The field of a value that has a number which is not finite, or `None`.
#[cold]
pub(super) fn not_finite<T: Serialize + ?Sized>(value: &T) -> Option<&'static str> {
    let found = &ShapeFindings::new(Inspection {
        is_human_readable: true,
        refused: Some(RefusedPart::NotFinite),
        fields: None,
    });
    look_at(value, found).err().and(found.field.get())
}

/// Serializes a value to nowhere.
// Once for each type, and not for each of its callers.
#[inline(never)]
fn look_at<T: Serialize + ?Sized>(value: &T, found: &ShapeFindings) -> super::Result<Shape> {
    let mut nowhere = MemorySum::default();
    let looked = value.serialize(ShapeSerializer::<_, true> {
        inner: &mut nowhere,
        found,
    });
    looked.map_err(CodecError::new)?;
    Ok(found.shape.get())
}

/// What is found in a value while it is serialized.
struct ShapeFindings {
    /// The field that was left out, or in which a part was refused: the format's error type cannot carry its name.
    field: Cell<Option<&'static str>>,
    /// The shape of the part that was serialized last: of the whole value, in the end.
    shape: Cell<Shape>,
    /// A part was refused by the inspection, and not by the type's own code.
    has_refused: Cell<bool>,
    inspection: Inspection,
}

/// What a [`ShapeSerializer`] with `INSPECTS` refuses, to find the field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RefusedPart {
    NotFinite,
    UnknownLength,
}

/// What a [`ShapeSerializer`] with `INSPECTS` looks at besides the shape.
struct Inspection {
    is_human_readable: bool,
    refused: Option<RefusedPart>,
    /// Each field with its shape, after the fields within it.
    fields: Option<RefCell<Vec<(&'static str, Shape)>>>,
}

impl Inspection {
    const NONE: Self = Self {
        is_human_readable: false,
        refused: None,
        fields: None,
    };
}

impl ShapeFindings {
    #[inline]
    fn new(inspection: Inspection) -> Self {
        Self {
            field: Cell::new(None),
            shape: Cell::new(Shape::UNIT),
            has_refused: Cell::new(false),
            inspection,
        }
    }

    /// Refuses a part of this kind, if it is the one to find.
    fn check<E: serde::ser::Error>(&self, kind: RefusedPart) -> Result<(), E> {
        if self.inspection.refused == Some(kind) {
            self.has_refused.set(true);
            return Err(E::custom("it is of the kind to find"));
        }
        Ok(())
    }

    #[inline]
    fn on<X, const INSPECTS: bool>(&self, inner: X) -> ShapeSerializer<'_, X, INSPECTS> {
        ShapeSerializer { inner, found: self }
    }

    /// Notes a field that was passed on, or in which a part was refused.
    fn note<E>(&self, field: &'static str, passed: &Result<((), Shape), E>) {
        match (passed, &self.inspection.fields) {
            (Ok(((), shape)), Some(fields)) => fields.borrow_mut().push((field, *shape)),
            (Ok(_), None) => {}
            (Err(_), _) => self.field.set(self.field.get().or(Some(field))),
        }
    }

    fn into_fields(self) -> Vec<(&'static str, Shape)> {
        self.inspection
            .fields
            .map_or_else(Vec::new, RefCell::into_inner)
    }

    /// Passes a part of a value on, and returns its shape beside the result.
    #[inline]
    fn part<'a, T: Serialize + ?Sized, R, E, const INSPECTS: bool>(
        &'a self,
        inner: &'a T,
        pass: impl FnOnce(&ShapeSerializer<'a, &'a T, INSPECTS>) -> Result<R, E>,
    ) -> Result<(R, Shape), E> {
        let passed = pass(&self.on(inner))?;
        Ok((passed, self.shape.get()))
    }
}

// Of two words: with a third, each call would pass it in memory, and wait for what it has just written there.
/// A value or its serializer. Without `INSPECTS` no field may be left out, as a format without names demands. With it any
/// field may, and the serializer looks at what [`Inspection`] say.
pub(super) struct ShapeSerializer<'a, X, const INSPECTS: bool = false> {
    inner: X,
    found: &'a ShapeFindings,
}

/// The serializer of a tuple or a struct, whose parts are as complete.
pub(super) struct ShapeParts<'a, X, const INSPECTS: bool> {
    inner: X,
    found: &'a ShapeFindings,
    parts: Parts,
    /// The variant whose content it is.
    variant: Option<(u32, &'static str)>,
}

/// The serializer of a sequence or a map, whose elements are as complete.
pub(super) struct ShapeElements<'a, X, const INSPECTS: bool> {
    inner: X,
    found: &'a ShapeFindings,
    elements: Elements,
    /// The sum of all elements, with `INSPECTS`: each counts, and in no order, as in a `HashSet`.
    sum: UnorderedHash,
    /// The shape of the key that came last.
    key: Shape,
}

impl<X, const INSPECTS: bool> ShapeElements<'_, X, INSPECTS> {
    #[inline]
    fn add(&mut self, element: Shape) {
        if INSPECTS {
            self.sum.add(element);
        } else {
            self.elements.add(element);
        }
    }
}

impl<'a, X, const INSPECTS: bool> ShapeSerializer<'a, X, INSPECTS> {
    /// Begins the parts of a tuple or a struct, or of such a variant.
    #[inline]
    fn parts<Y, E>(
        self,
        variant: Option<(u32, &'static str)>,
        begin: impl FnOnce(X) -> Result<Y, E>,
    ) -> Result<ShapeParts<'a, Y, INSPECTS>, E> {
        Ok(ShapeParts {
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
    ) -> Result<ShapeElements<'a, Y, INSPECTS>, E> {
        Ok(ShapeElements {
            inner: begin(self.inner)?,
            found: self.found,
            elements: Elements::NONE,
            sum: UnorderedHash::default(),
            key: Shape::UNIT,
        })
    }
}

impl<X, const INSPECTS: bool> ShapeParts<'_, X, INSPECTS> {
    #[inline]
    fn whole(&self) -> Shape {
        let whole = self.parts.whole();
        match self.variant {
            Some((index, name)) => whole.in_variant(index, name),
            None => whole,
        }
    }
}

impl<T: Serialize + ?Sized, const INSPECTS: bool> Serialize for ShapeSerializer<'_, &T, INSPECTS> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(self.found.on::<_, INSPECTS>(inner))
    }
}

/// Passes simple values on, each with its shape, and with itself if there are `INSPECTS`.
macro_rules! pass_on {
    ($($method:ident($($arg:ident: $type:ty),*) $shape:expr $(, $value:expr)?;)*) => {$(
        #[inline]
        fn $method(self $(, $arg: $type)*) -> Result<S::Ok, S::Error> {
            let done = self.inner.$method($($arg),*)?;
            let shape = $shape;
            $(let shape = if INSPECTS { shape.of($value) } else { shape };)?
            self.found.shape.set(shape);
            Ok(done)
        }
    )*};
}

impl<S: Serializer, const INSPECTS: bool> ShapeSerializer<'_, S, INSPECTS> {
    /// Passes a number on that can be other than finite.
    #[inline]
    fn pass_float(
        self,
        is_finite: bool,
        bytes: &[u8],
        shape: Shape,
        pass: impl FnOnce(S) -> Result<S::Ok, S::Error>,
    ) -> Result<S::Ok, S::Error> {
        if INSPECTS && !is_finite {
            self.found.check(RefusedPart::NotFinite)?;
        }
        let done = pass(self.inner)?;
        let shape = if INSPECTS { shape.of(bytes) } else { shape };
        self.found.shape.set(shape);
        Ok(done)
    }
}

impl<'a, S: Serializer, const INSPECTS: bool> Serializer for ShapeSerializer<'a, S, INSPECTS> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = ShapeElements<'a, S::SerializeSeq, INSPECTS>;
    type SerializeTuple = ShapeParts<'a, S::SerializeTuple, INSPECTS>;
    type SerializeTupleStruct = ShapeParts<'a, S::SerializeTupleStruct, INSPECTS>;
    type SerializeTupleVariant = ShapeParts<'a, S::SerializeTupleVariant, INSPECTS>;
    type SerializeMap = ShapeElements<'a, S::SerializeMap, INSPECTS>;
    type SerializeStruct = ShapeParts<'a, S::SerializeStruct, INSPECTS>;
    type SerializeStructVariant = ShapeParts<'a, S::SerializeStructVariant, INSPECTS>;

    pass_on! {
        serialize_bool(value: bool) Shape::BOOL, &[value.into()];
        serialize_i8(value: i8) Shape::I8, &value.to_le_bytes();
        serialize_i16(value: i16) Shape::I16, &value.to_le_bytes();
        serialize_i32(value: i32) Shape::I32, &value.to_le_bytes();
        serialize_i64(value: i64) Shape::I64, &value.to_le_bytes();
        serialize_i128(value: i128) Shape::I128, &value.to_le_bytes();
        serialize_u8(value: u8) Shape::U8, &value.to_le_bytes();
        serialize_u16(value: u16) Shape::U16, &value.to_le_bytes();
        serialize_u32(value: u32) Shape::U32, &value.to_le_bytes();
        serialize_u64(value: u64) Shape::U64, &value.to_le_bytes();
        serialize_u128(value: u128) Shape::U128, &value.to_le_bytes();
        serialize_char(value: char) Shape::CHAR, &u32::from(value).to_le_bytes();
        serialize_str(value: &str) Shape::TEXT, value.as_bytes();
        serialize_bytes(value: &[u8]) Shape::BYTES, value;
        serialize_none() Shape::NONE;
        serialize_unit() Shape::UNIT;
        serialize_unit_struct(name: &'static str) Shape::UNIT;
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str) Shape::UNIT.in_variant(index, variant);
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.pass_float(
            value.is_finite(),
            &value.to_le_bytes(),
            Shape::F32,
            |inner| inner.serialize_f32(value),
        )
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.pass_float(
            value.is_finite(),
            &value.to_le_bytes(),
            Shape::F64,
            |inner| inner.serialize_f64(value),
        )
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        if INSPECTS && len.is_none() {
            self.found.check(RefusedPart::UnknownLength)?;
        }
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
        if INSPECTS && len.is_none() {
            self.found.check(RefusedPart::UnknownLength)?;
        }
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
            .part(value, |value: &ShapeSerializer<'_, _, INSPECTS>| {
                self.inner.serialize_some(value)
            })?;
        self.found.shape.set(shape.some());
        Ok(done)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let (done, shape) =
            (self.found).part(value, |value: &ShapeSerializer<'_, _, INSPECTS>| {
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
        let (done, shape) =
            (self.found).part(value, |value: &ShapeSerializer<'_, _, INSPECTS>| {
                (self.inner).serialize_newtype_variant(name, index, variant, value)
            })?;
        self.found.shape.set(shape.in_variant(index, variant));
        Ok(done)
    }

    // The default would make a `String` first, where a format may write without one.
    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let done = self.inner.collect_str(value)?;
        let shape = if INSPECTS {
            Shape::TEXT.of(value.to_string().as_bytes())
        } else {
            Shape::TEXT
        };
        self.found.shape.set(shape);
        Ok(done)
    }

    fn is_human_readable(&self) -> bool {
        if INSPECTS {
            self.found.inspection.is_human_readable
        } else {
            self.inner.is_human_readable()
        }
    }
}

/// The parts of a tuple or a struct. The parts of a struct have names.
macro_rules! pass_parts_on {
    ($($part:ident: $method:ident($($name:ident)?) $add:ident $(else $skip:ident)?;)*) => {$(
        impl<S: $part, const INSPECTS: bool> $part for ShapeParts<'_, S, INSPECTS> {
            type Ok = S::Ok;
            type Error = S::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), S::Error> {
                let passed = (self.found).part(value, |value: &ShapeSerializer<'_, _, INSPECTS>| self.inner.$method($($name,)? value));
                $(
                    if INSPECTS {
                        self.found.note($name, &passed);
                    }
                )?
                let ((), shape) = passed?;
                self.parts = self.parts.$add($($name,)? shape);
                Ok(())
            }

            $(
                // The default does nothing, and so do bincode and postcard: the next field would be read in its place.
                fn $skip(&mut self, field: &'static str) -> Result<(), S::Error> {
                    if INSPECTS {
                        self.found.note(field, &Ok::<_, S::Error>(((), Shape::ABSENT)));
                        return Ok(());
                    }
                    self.found.field.set(Some(field));
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

impl<S: SerializeSeq, const INSPECTS: bool> SerializeSeq for ShapeElements<'_, S, INSPECTS> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let ((), shape) = self
            .found
            .part(value, |value: &ShapeSerializer<'_, _, INSPECTS>| {
                self.inner.serialize_element(value)
            })?;
        self.add(shape);
        Ok(())
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        let shape = self.elements.sequence();
        let shape = if INSPECTS {
            self.sum.with(shape)
        } else {
            shape
        };
        self.found.shape.set(shape);
        self.inner.end()
    }
}

impl<S: SerializeMap, const INSPECTS: bool> SerializeMap for ShapeElements<'_, S, INSPECTS> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        let ((), shape) = (self.found).part(key, |key: &ShapeSerializer<'_, _, INSPECTS>| {
            self.inner.serialize_key(key)
        })?;
        self.key = shape;
        Ok(())
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let ((), shape) = self
            .found
            .part(value, |value: &ShapeSerializer<'_, _, INSPECTS>| {
                self.inner.serialize_value(value)
            })?;
        self.add(self.key.with_value(shape));
        Ok(())
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        let shape = self.elements.map();
        let shape = if INSPECTS {
            self.sum.with(shape)
        } else {
            shape
        };
        self.found.shape.set(shape);
        self.inner.end()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Deserializer};

    use super::*;

    /// Shows its number in formats that are readable for humans, or in those that are not, and nothing in the others.
    struct InOneKind {
        is_human_readable: bool,
        number: u8,
    }

    impl Serialize for InOneKind {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if serializer.is_human_readable() == self.is_human_readable {
                serializer.serialize_u8(self.number)
            } else {
                serializer.serialize_unit()
            }
        }
    }

    impl<'de> Deserialize<'de> for InOneKind {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let is_human_readable = deserializer.is_human_readable();
            // Another one than was written.
            let number = u8::deserialize(deserializer)? + 1;
            Ok(Self {
                is_human_readable,
                number,
            })
        }
    }

    #[test]
    fn values_are_compared_by_what_they_show_in_their_format() {
        for is_human_readable in [false, true] {
            let [one, other] = [1, 2].map(|number| InOneKind {
                is_human_readable,
                number,
            });
            assert!(compare(&one, &other, is_human_readable).is_err());
            assert!(compare(&one, &other, !is_human_readable).is_ok());
        }
    }

    #[cfg(feature = "messagepack")]
    #[test]
    fn message_pack_is_not_readable_for_humans() {
        use super::super::{Codec, MessagePack};

        let written = InOneKind {
            is_human_readable: false,
            number: 1,
        };
        let mut bytes = Vec::new();
        MessagePack.encode(&written, &mut bytes).unwrap();
        assert!(MessagePack.read_back(&written, &bytes).is_err());
    }
}
