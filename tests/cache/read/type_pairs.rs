//! No type reads a wrong value from the bytes of another: random values of many types, each read as all of them.

use std::collections::BTreeMap;
use std::fmt::Debug;

use larder::codec::{Bincode, Codec, Postcard};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Makes a random value. Numbers are small, so that other types often find numbers and lengths in them that fit.
trait Random {
    fn random() -> Self;
}

macro_rules! random_numbers {
    ($($number:ty)*) => {$(
        impl Random for $number {
            fn random() -> Self {
                fastrand::u8(0..4).into()
            }
        }
    )*};
}

random_numbers! { u8 u16 u32 u64 i16 i32 i64 f32 }

impl Random for bool {
    fn random() -> Self {
        fastrand::bool()
    }
}

impl Random for String {
    fn random() -> Self {
        (0..fastrand::u8(0..3))
            .map(|_| fastrand::char('\0'..'\u{4}'))
            .collect()
    }
}

impl<T: Random> Random for Option<T> {
    fn random() -> Self {
        bool::random().then(T::random)
    }
}

impl<T: Random> Random for Vec<T> {
    fn random() -> Self {
        // Fewer than one on average, as a tree has trees below it.
        let length = fastrand::choice([0, 0, 0, 1, 1, 3]).unwrap();
        (0..length).map(|_| T::random()).collect()
    }
}

impl<K: Random + Ord, V: Random> Random for BTreeMap<K, V> {
    fn random() -> Self {
        (0..fastrand::u8(0..3))
            .map(|_| (K::random(), V::random()))
            .collect()
    }
}

impl<T: Random> Random for Box<T> {
    fn random() -> Self {
        Box::new(T::random())
    }
}

impl<A: Random, B: Random> Random for (A, B) {
    fn random() -> Self {
        (A::random(), B::random())
    }
}

impl<T: Random> Random for [T; 2] {
    fn random() -> Self {
        [T::random(), T::random()]
    }
}

macro_rules! structs {
    ($($name:ident { $($field:ident: $type:ty),* })*) => {$(
        #[derive(Debug, Serialize, Deserialize)]
        struct $name { $($field: $type),* }

        impl Random for $name {
            fn random() -> Self {
                Self { $($field: Random::random()),* }
            }
        }
    )*};
}

macro_rules! enums {
    ($($name:ident { $($variant:ident($type:ty)),* })*) => {$(
        #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        enum $name { $($variant($type)),* }

        impl Random for $name {
            fn random() -> Self {
                let all: &[fn() -> Self] = &[$(|| Self::$variant(Random::random())),*];
                fastrand::choice(all).unwrap()()
            }
        }
    )*};
}

structs! {
    AB { a: u32, b: u32 }
    BA { b: u32, a: u32 }
    ABWide { a: u64, b: u32 }
    ABSigned { a: i32, b: u32 }
    ABBytes { a: u8, b: u8 }
    ThreeFields { a: u32, b: u32, c: u32 }
    ABOptional { a: u32, b: Option<u32> }
    ABOptionalFirst { a: Option<u32>, b: u32 }
    ABTexts { a: String, b: String }
    ABText { a: u32, b: String }
    ATextB { a: String, b: u32 }
    ABLists { a: Vec<u8>, b: Vec<u8> }
    ABPairs { a: (u32, u32), b: Vec<(u32, u32)> }
    Two { first: AB, second: BA }
    TwoSwapped { first: BA, second: AB }
    Many { all: Vec<AB> }
    ManySwapped { all: Vec<BA> }
    ManyOptions { all: Vec<Option<AB>> }
    Choices { all: Vec<Choice> }
    ChoicesSwapped { all: Vec<ChoiceSwapped> }
    ChoiceMap { all: BTreeMap<u8, Option<Choice>> }
    ChoiceMapSwapped { all: BTreeMap<u8, Option<ChoiceSwapped>> }
    Tree { a: u8, under: Vec<Tree> }
    TreeOptional { a: u8, under: Option<Box<TreeOptional>> }
}

enums! {
    Choice { A(u8), B(u8), C(Option<u8>) }
    ChoiceSwapped { B(u8), A(u8), C(Option<u8>) }
    ChoiceTurned { C(Option<u8>), A(u8), B(u8) }
    ChoiceOfOthers { A(u8), B(bool), C(Vec<u8>) }
}

/// A value as a codec has it, and what it is by the names of its parts.
struct Written {
    bytes: Vec<u8>,
    meaning: Value,
}

struct Kind {
    write: fn() -> Written,
    read: fn(&[u8]) -> Option<Value>,
}

fn kind<C: Codec + Default, T: Random + Serialize + DeserializeOwned + Debug + Send + 'static>()
-> Kind {
    Kind {
        write: || {
            let (value, mut bytes) = (T::random(), Vec::new());
            C::default().encode(&value, &mut bytes).unwrap();
            let meaning = serde_json::to_value(&value).unwrap();
            Written { bytes, meaning }
        },
        read: |bytes| {
            let value: T = C::default().decode_same_shape(bytes).ok()?;
            Some(serde_json::to_value(&value).unwrap())
        },
    }
}

macro_rules! kinds {
    ($codec:ty: $($type:ty),*) => { vec![$(kind::<$codec, $type>()),*] };
}

fn kinds<C: Codec + Default>() -> Vec<Kind> {
    kinds!(
        C: AB, BA, ABWide, ABSigned, ABBytes, ThreeFields, ABOptional, ABOptionalFirst, ABTexts, ABText, ATextB, ABLists, ABPairs,
        Two, TwoSwapped, Many, ManySwapped, ManyOptions, Choices, ChoicesSwapped, ChoiceMap, ChoiceMapSwapped,
        Tree, TreeOptional, Choice, ChoiceSwapped, ChoiceTurned, ChoiceOfOthers,
        u8, u16, u32, u64, i16, i32, i64, f32, bool, String, Vec<u8>, Vec<u32>, Vec<bool>, (u8, u8), [u32; 2], [AB; 2],
        Option<u8>, Option<Option<u8>>, Vec<Vec<u8>>, Vec<Choice>, Vec<ChoiceTurned>, BTreeMap<String, u32>, Box<BA>
    )
}

fn no_wrong_value_is_read<C: Codec + Default>() {
    let kinds = kinds::<C>();
    let (mut read, mut missed) = (0, 0);
    for round in 0..60 {
        for (n, kind) in kinds.iter().enumerate() {
            let written = (kind.write)();
            assert_eq!((kind.read)(&written.bytes).as_ref(), Some(&written.meaning));
            for (m, other) in kinds.iter().enumerate() {
                match (other.read)(&written.bytes) {
                    Some(value) => {
                        assert_eq!(value, written.meaning, "{n} as {m}, round {round}");
                        read += 1;
                    }
                    None => missed += 1,
                }
            }
        }
    }
    assert!(
        missed > 10 * read && read > kinds.len(),
        "{missed} misses, {read} read"
    );
}

#[test]
fn no_wrong_value_is_read_by_bincode() {
    no_wrong_value_is_read::<Bincode>();
}

#[test]
fn no_wrong_value_is_read_by_postcard() {
    no_wrong_value_is_read::<Postcard>();
}
