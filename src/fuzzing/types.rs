//! Two random types: a value that is written as one of them is read as the other with its meaning, or refused.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::ser::{
    self, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::input::Input;
use crate::wire::codec::{Bincode, Shaped};

/// Values of two types, each read as both, by a codec without names.
pub fn types(bytes: &[u8]) {
    pair(bytes);
}

/// How many values were read as the other type, and how many were refused.
#[derive(Debug, Default)]
struct Seen {
    read: u32,
    refused: u32,
}

fn pair(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    match input.u8() % 2 {
        0 => values(&mut input, &Bincode),
        #[cfg(feature = "postcard")]
        _ => values(&mut input, &crate::wire::codec::Postcard),
        #[cfg(not(feature = "postcard"))]
        _ => Seen::default(),
    }
}

fn values<C: Shaped>(input: &mut Input<'_>, codec: &C) -> Seen {
    let one = Kind::random(input, 3);
    // Types that differ in little read each other's bytes more often.
    let mut other = one.clone();
    match input.u8() % 4 {
        0 => other = Kind::random(input, 3),
        changes => (0..changes).for_each(|_| other.change(input)),
    }
    let (one, other) = (Arc::new(one), Arc::new(other));
    let read_as = |kind: &Arc<Kind>, bytes: &[u8]| {
        READ_AS.set(Some(kind.clone()));
        codec.decode_shaped::<Dynamic>(&**kind, bytes)
    };

    let mut seen = Seen::default();
    let pairs = [(&one, &other), (&other, &one)];
    for (kind, other) in pairs.into_iter().cycle().take(8) {
        let value = kind.value(kind, input, 0);
        let kind = kind.clone();
        let written = Dynamic { kind, value };
        let mut bytes = Vec::new();
        codec.encode(&written, &mut bytes).expect("encoded");
        let own = read_as(&written.kind, &bytes).expect("read as its own type");
        assert_eq!(own.value, written.value, "{}: {:?}", C::NAME, written.kind);
        match read_as(other, &bytes) {
            Ok(read) => {
                let kinds = (&written.kind, other);
                assert_eq!(read.value, written.value, "{}: {kinds:?}", C::NAME);
                seen.read += 1;
            }
            Err(_) => seen.refused += 1,
        }
        if input.is_empty() {
            break;
        }
    }
    seen
}

thread_local! {
    /// The type that a [`Dynamic`] is read as.
    static READ_AS: RefCell<Option<Arc<Kind>>> = const { RefCell::new(None) };
}

/// A value of a type that is known at run time.
struct Dynamic {
    kind: Arc<Kind>,
    value: Value,
}

impl Serialize for Dynamic {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        let part = Part::of(&self.kind, &self.kind);
        part.with(&self.value).serialize(output)
    }
}

impl<'de> Deserialize<'de> for Dynamic {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        // Absent on the thread for values that are nested deeper than the ones that are written here.
        let kind = READ_AS.with_borrow(Clone::clone);
        let kind = kind.ok_or_else(|| de::Error::custom("too deep"))?;
        let value = Part::of(&kind, &kind).deserialize(input)?;
        Ok(Self { kind, value })
    }
}

/// Types without parts, and their values.
macro_rules! plain {
    ($($name:ident($type:ty) $make:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        enum Plain {
            $($name),*
        }

        const PLAIN: &[Plain] = &[$(Plain::$name),*];

        #[derive(Debug, PartialEq)]
        enum PlainValue {
            $($name($type)),*
        }

        impl Plain {
            fn value(self, input: &mut Input<'_>) -> PlainValue {
                match self {
                    $(Self::$name => PlainValue::$name($make(input))),*
                }
            }

            fn read<'de, D: Deserializer<'de>>(self, input: D) -> Result<PlainValue, D::Error> {
                match self {
                    $(Self::$name => <$type>::deserialize(input).map(PlainValue::$name)),*
                }
            }
        }

        impl Serialize for PlainValue {
            fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$name(value) => value.serialize(output)),*
                }
            }
        }
    };
}

plain! {
    Unit(()) |_| ();
    U8(u8) number;
    U32(u32) number;
    Text(String) |input: &mut Input<'_>| (0..input.u8() % 4).map(|_| number::<char>(input)).collect();
    Bool(bool) Input::bool;
    I8(i8) |input: &mut Input<'_>| i8::from_ne_bytes([number(input)]);
    I16(i16) number;
    I32(i32) number;
    I64(i64) number;
    I128(i128) number;
    U16(u16) number;
    U64(u64) number;
    U128(u128) number;
    F32(f32) number;
    F64(f64) number;
    Char(char) number;
    Bytes(Bytes) |input: &mut Input<'_>| Bytes((0..input.u8() % 4).map(|_| number(input)).collect());
}

/// Most are small, so that other types often find numbers and lengths in them that fit.
fn number<T: From<u8>>(input: &mut Input<'_>) -> T {
    let number = input.u8();
    let number = if number < 192 { number % 4 } else { number };
    number.into()
}

#[derive(Debug, PartialEq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct OfBytes;

        impl Visitor<'_> for OfBytes {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }

        input.deserialize_bytes(OfBytes)
    }
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Plain(Plain),
    UnitStruct,
    Newtype(Box<Kind>),
    Option(Box<Kind>),
    /// The whole type in a box, or nothing.
    Again,
    Sequence(Box<Kind>),
    Map(Box<[Kind; 2]>),
    Tuple(Vec<Kind>),
    TupleStruct(Vec<Kind>),
    Struct(Vec<Named>),
    /// The content of a variant is a unit, a tuple or a struct, or another type as a newtype.
    Enum(Vec<Named>),
}

/// A field of a struct, or a variant of an enum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Named {
    name: &'static str,
    kind: Kind,
}

/// More than there are in a type, so that there is always a free one.
const NAMES: [&str; 5] = ["a", "b", "ab", "ba", "abcdefgh"];
/// What serde wants to know beside the parts. The codecs see nothing but how many names there are.
const TYPE_NAME: &str = "Type";

/// A value by the names and kinds of its parts: two values with one meaning are equal.
#[derive(Debug, PartialEq)]
enum Value {
    Plain(PlainValue),
    None,
    Some(Box<Value>),
    Sequence(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Tuple(Vec<Value>),
    Struct(Vec<(&'static str, Value)>),
    Variant(usize, &'static str, Box<Value>),
}

impl Kind {
    /// A type that is nested up to `depth` times.
    fn random(input: &mut Input<'_>, depth: u8) -> Self {
        let choice = input.u8();
        let Some(depth) = depth.checked_sub(1) else {
            return Self::plain(choice);
        };
        match choice % 32 {
            0 => Self::UnitStruct,
            1 | 2 => Self::Newtype(Self::random(input, depth).into()),
            3..=5 => Self::Option(Self::random(input, depth).into()),
            6..=8 => Self::Sequence(Self::random(input, depth).into()),
            9 | 10 => Self::Map([(); 2].map(|()| Self::random(input, depth)).into()),
            11 | 12 => Self::Tuple(Self::several(input, depth)),
            13 | 14 => Self::TupleStruct(Self::several(input, depth)),
            15..=19 => Self::Struct(Self::named(input, depth)),
            20..=24 => Self::Enum(Self::named(input, depth)),
            25 => Self::Again,
            _ => Self::plain(input.u8()),
        }
    }

    fn plain(choice: u8) -> Self {
        let plain = PLAIN.get(usize::from(choice) % PLAIN.len());
        Self::Plain(*plain.expect("one of them"))
    }

    fn several(input: &mut Input<'_>, depth: u8) -> Vec<Self> {
        let many = 1 + input.u8() % 3;
        (0..many).map(|_| Self::random(input, depth)).collect()
    }

    fn named(input: &mut Input<'_>, depth: u8) -> Vec<Named> {
        let mut all = Vec::new();
        for kind in Self::several(input, depth) {
            all.push(Named {
                name: free_name(&all, input),
                kind,
            });
        }
        all
    }

    /// Changes one part of the type, as a release does.
    fn change(&mut self, input: &mut Input<'_>) {
        if input.u8() % 4 != 3 {
            let mut parts = self.parts();
            if !parts.is_empty() {
                let at = usize::from(input.u8()) % parts.len();
                return parts.swap_remove(at).change(input);
            }
        }
        self.change_here(input);
    }

    fn parts(&mut self) -> Vec<&mut Kind> {
        match self {
            Self::Plain(_) | Self::UnitStruct | Self::Again => Vec::new(),
            Self::Newtype(kind) | Self::Option(kind) | Self::Sequence(kind) => vec![kind],
            Self::Map(entry) => entry.iter_mut().collect(),
            Self::Tuple(kinds) | Self::TupleStruct(kinds) => kinds.iter_mut().collect(),
            Self::Struct(all) | Self::Enum(all) => {
                all.iter_mut().map(|named| &mut named.kind).collect()
            }
        }
    }

    fn change_here(&mut self, input: &mut Input<'_>) {
        match (input.u8() % 8, &mut *self) {
            (0, _) => *self = Self::Option(self.clone().into()),
            (1, _) => *self = Self::Newtype(self.clone().into()),
            (2..=4, Self::Struct(all) | Self::Enum(all)) => {
                let at = usize::from(input.u8()) % all.len();
                let name = free_name(all, input);
                all.iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|named| named.name = name);
            }
            (5, Self::Struct(all) | Self::Enum(all)) => all.rotate_left(1),
            (6, Self::Struct(all) | Self::Enum(all)) if all.len() > 1 => drop(all.pop()),
            (7, Self::Struct(all) | Self::Enum(all)) if all.len() < NAMES.len() - 1 => {
                let (name, kind) = (free_name(all, input), Self::random(input, 0));
                all.push(Named { name, kind });
            }
            (5, Self::Tuple(kinds) | Self::TupleStruct(kinds)) => kinds.rotate_left(1),
            (6, Self::Tuple(kinds) | Self::TupleStruct(kinds)) if kinds.len() > 1 => {
                kinds.pop();
            }
            _ => *self = Self::random(input, 1),
        }
    }

    /// A random value at this level, as decoding counts levels.
    fn value(&self, whole: &Self, input: &mut Input<'_>, level: u8) -> Value {
        let inner = |kind: &Self, input: &mut Input<'_>| kind.value(whole, input, level + 1);
        match self {
            Self::Plain(plain) => Value::Plain(plain.value(input)),
            Self::UnitStruct => Value::Plain(PlainValue::Unit(())),
            Self::Newtype(kind) => kind.value(whole, input, level),
            Self::Option(kind) if input.bool() => Value::Some(inner(kind, input).into()),
            // No deeper than what is decoded on the caller's thread.
            Self::Again if level < 5 && input.bool() => Value::Some(inner(whole, input).into()),
            Self::Option(_) | Self::Again => Value::None,
            Self::Sequence(kind) => {
                let many = input.u8() % 3;
                Value::Sequence((0..many).map(|_| inner(kind, input)).collect())
            }
            Self::Map(entry) => {
                let many = input.u8() % 3;
                let [key, value] = &**entry;
                let entries = (0..many).map(|_| (inner(key, input), inner(value, input)));
                Value::Map(entries.collect())
            }
            Self::Tuple(kinds) | Self::TupleStruct(kinds) => {
                Value::Tuple(kinds.iter().map(|kind| inner(kind, input)).collect())
            }
            Self::Struct(fields) => {
                let fields = fields.iter();
                Value::Struct(
                    fields
                        .map(|field| (field.name, inner(&field.kind, input)))
                        .collect(),
                )
            }
            Self::Enum(variants) => {
                let index = usize::from(input.u8()) % variants.len();
                let variant = variants.get(index).expect("one of them");
                let content = inner(&variant.kind, input);
                Value::Variant(index, variant.name, content.into())
            }
        }
    }
}

/// A name that none of these has.
fn free_name(all: &[Named], input: &mut Input<'_>) -> &'static str {
    let mut names = NAMES.into_iter().cycle().skip(input.u8().into());
    let is_free = |name: &&str| all.iter().all(|named| named.name != *name);
    names.find(is_free).expect("there are more names")
}

/// A part of a type, with the whole type.
#[derive(Clone, Copy)]
struct Part<'a> {
    kind: &'a Kind,
    whole: &'a Kind,
}

impl<'a> Part<'a> {
    fn of(kind: &'a Kind, whole: &'a Kind) -> Self {
        Self { kind, whole }
    }

    fn inner(self, kind: &'a Kind) -> Self {
        Self::of(kind, self.whole)
    }

    fn with(self, value: &'a Value) -> PartValue<'a> {
        PartValue { part: self, value }
    }
}

/// A part of a type, with its value.
struct PartValue<'a> {
    part: Part<'a>,
    value: &'a Value,
}

impl Serialize for PartValue<'_> {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        let part = self.part;
        let inner = |kind, value| part.inner(kind).with(value);
        match (part.kind, self.value) {
            (Kind::Plain(_), Value::Plain(value)) => value.serialize(output),
            (Kind::UnitStruct, _) => output.serialize_unit_struct(TYPE_NAME),
            (Kind::Newtype(kind), value) => {
                output.serialize_newtype_struct(TYPE_NAME, &inner(kind, value))
            }
            (Kind::Option(kind), Value::Some(value)) => output.serialize_some(&inner(kind, value)),
            (Kind::Again, Value::Some(value)) => output.serialize_some(&inner(part.whole, value)),
            (Kind::Option(_) | Kind::Again, Value::None) => output.serialize_none(),
            (Kind::Sequence(kind), Value::Sequence(values)) => {
                output.collect_seq(values.iter().map(|value| inner(kind, value)))
            }
            (Kind::Map(entry), Value::Map(entries)) => {
                let [key_kind, kind] = &**entry;
                let entries = entries.iter();
                let entries =
                    entries.map(|(key, value)| (inner(key_kind, key), inner(kind, value)));
                output.collect_map(entries)
            }
            (Kind::Tuple(kinds), Value::Tuple(values)) => {
                let mut output = output.serialize_tuple(kinds.len())?;
                for (kind, value) in kinds.iter().zip(values) {
                    output.serialize_element(&inner(kind, value))?;
                }
                output.end()
            }
            (Kind::TupleStruct(kinds), Value::Tuple(values)) => {
                let mut output = output.serialize_tuple_struct(TYPE_NAME, kinds.len())?;
                for (kind, value) in kinds.iter().zip(values) {
                    output.serialize_field(&inner(kind, value))?;
                }
                output.end()
            }
            (Kind::Struct(fields), Value::Struct(values)) => {
                let mut output = output.serialize_struct(TYPE_NAME, fields.len())?;
                for (field, (name, value)) in fields.iter().zip(values) {
                    output.serialize_field(name, &inner(&field.kind, value))?;
                }
                output.end()
            }
            (Kind::Enum(variants), Value::Variant(index, name, value)) => {
                let variant = variants.get(*index).expect("one of them");
                part.serialize_variant(*index, name, &variant.kind, value, output)
            }
            other => panic!("a value of another type: {other:?}"),
        }
    }
}

impl<'a> Part<'a> {
    fn serialize_variant<S: Serializer>(
        self,
        index: usize,
        name: &'static str,
        kind: &'a Kind,
        value: &'a Value,
        output: S,
    ) -> Result<S::Ok, S::Error> {
        let inner = |kind, value| self.inner(kind).with(value);
        let index = u32::try_from(index).map_err(ser::Error::custom)?;
        match (kind, value) {
            (Kind::UnitStruct, _) => output.serialize_unit_variant(TYPE_NAME, index, name),
            (Kind::Tuple(kinds), Value::Tuple(values)) => {
                let length = kinds.len();
                let mut output = output.serialize_tuple_variant(TYPE_NAME, index, name, length)?;
                for (kind, value) in kinds.iter().zip(values) {
                    output.serialize_field(&inner(kind, value))?;
                }
                output.end()
            }
            (Kind::Struct(fields), Value::Struct(values)) => {
                let length = fields.len();
                let mut output = output.serialize_struct_variant(TYPE_NAME, index, name, length)?;
                for (field, (name, value)) in fields.iter().zip(values) {
                    output.serialize_field(name, &inner(&field.kind, value))?;
                }
                output.end()
            }
            _ => output.serialize_newtype_variant(TYPE_NAME, index, name, &inner(kind, value)),
        }
    }
}

/// Reads as derived code does.
impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        match self.kind {
            Kind::Plain(plain) => plain.read(input).map(Value::Plain),
            Kind::UnitStruct => input.deserialize_unit_struct(TYPE_NAME, self),
            Kind::Newtype(_) => input.deserialize_newtype_struct(TYPE_NAME, self),
            Kind::Option(_) | Kind::Again => input.deserialize_option(self),
            Kind::Sequence(_) => input.deserialize_seq(self),
            Kind::Map(_) => input.deserialize_map(self),
            Kind::Tuple(kinds) => input.deserialize_tuple(kinds.len(), self),
            Kind::TupleStruct(kinds) => {
                input.deserialize_tuple_struct(TYPE_NAME, kinds.len(), self)
            }
            Kind::Struct(fields) => input.deserialize_struct(TYPE_NAME, names(fields), self),
            Kind::Enum(variants) => input.deserialize_enum(TYPE_NAME, names(variants), self),
        }
    }
}

/// As many names as there are.
fn names(all: &[Named]) -> &'static [&'static str] {
    NAMES.get(..all.len()).expect("there are more names")
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Plain(PlainValue::Unit(())))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        match self.kind {
            Kind::Newtype(kind) => self.inner(kind).deserialize(input),
            _ => Err(self.unexpected()),
        }
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        let kind = match self.kind {
            Kind::Option(kind) => kind,
            _ => self.whole,
        };
        let value = self.inner(kind).deserialize(input)?;
        Ok(Value::Some(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        if let Kind::Sequence(kind) = self.kind {
            let mut values = Vec::new();
            while let Some(value) = seq.next_element_seed(self.inner(kind))? {
                values.push(value);
            }
            return Ok(Value::Sequence(values));
        }
        let mut next = |kind| {
            let value = seq.next_element_seed(self.inner(kind))?;
            value.ok_or_else(|| self.unexpected())
        };
        match self.kind {
            Kind::Struct(fields) => {
                let fields = fields.iter();
                let values = fields.map(|field| Ok((field.name, next(&field.kind)?)));
                values.collect::<Result<_, _>>().map(Value::Struct)
            }
            Kind::Tuple(kinds) | Kind::TupleStruct(kinds) => {
                let values = kinds.iter().map(next);
                values.collect::<Result<_, _>>().map(Value::Tuple)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Kind::Map(entry) = self.kind else {
            return Err(self.unexpected());
        };
        let [key, value] = &**entry;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(self.inner(key))? {
            entries.push((key, map.next_value_seed(self.inner(value))?));
        }
        Ok(Value::Map(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let Kind::Enum(variants) = self.kind else {
            return Err(self.unexpected());
        };
        let (index, content) = data.variant_seed(Index)?;
        let Named { name, kind } = variants.get(index).ok_or_else(|| self.unexpected())?;
        let part = self.inner(kind);
        let value = match kind {
            Kind::UnitStruct => content.unit_variant().and_then(|()| part.visit_unit())?,
            Kind::Tuple(kinds) => content.tuple_variant(kinds.len(), part)?,
            Kind::Struct(fields) => content.struct_variant(names(fields), part)?,
            _ => content.newtype_variant_seed(part)?,
        };
        Ok(Value::Variant(index, name, value.into()))
    }
}

impl Part<'_> {
    fn unexpected<E: de::Error>(self) -> E {
        E::custom(format_args!("not {:?}", self.kind))
    }
}

/// The number of a variant.
struct Index;

impl<'de> DeserializeSeed<'de> for Index {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<usize, D::Error> {
        input.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Index {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the number of a variant")
    }

    fn visit_u64<E: de::Error>(self, index: u64) -> Result<usize, E> {
        usize::try_from(index).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::{Seen, pair};

    #[test]
    fn no_random_type_reads_a_wrong_value() {
        let mut total = Seen::default();
        for seed in 0..10_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let bytes: Vec<u8> = (0..300).map(|_| random.u8(..)).collect();
            let seen = catch_unwind(|| pair(&bytes)).unwrap_or_else(|_| panic!("seed {seed}"));
            total.read += seen.read;
            total.refused += seen.refused;
        }
        // Both happen often enough to show anything.
        assert!(total.read > 1_000 && total.refused > 1_000, "{total:?}");
    }
}
