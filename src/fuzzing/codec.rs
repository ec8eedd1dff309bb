//! Encoded values: every codec, into types of many shapes.

// A map of nothing is a shape of its own.
#![allow(clippy::zero_sized_map_values)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::input::Input;
use super::shapes::{Chain, Folder, Id, Links, List, Marker, Pair, Shape, Tree};
use crate::wire::codec::{Bincode, Codec};

/// What decodes is encoded to bytes that decode, and to the same bytes again.
pub fn codec(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (codec, shape) = (input.u8(), input.u8());
    let bytes = input.rest();
    match codec % 4 {
        0 => decode::<Bincode>(shape, bytes),
        #[cfg(feature = "json")]
        1 => decode::<crate::wire::codec::Json>(shape, bytes),
        #[cfg(feature = "postcard")]
        2 => decode::<crate::wire::codec::Postcard>(shape, bytes),
        #[cfg(feature = "messagepack")]
        3 => decode::<crate::wire::codec::MessagePack>(shape, bytes),
        _ => {}
    }
}

/// How many bytes of memory [`codec`] may take at a time: what the documentation of [`Codec`] says. A collection that
/// grows has up to three times what its elements take.
#[must_use]
pub fn memory_allowed(bytes: &[u8]) -> u64 {
    4 * (64 * bytes.len() as u64 + (64 << 20))
}

fn decode<C: Codec + Default>(shape: u8, bytes: &[u8]) {
    match shape % 24 {
        0 => comes_back::<C, Rich>(bytes),
        1 => comes_back::<C, Shape>(bytes),
        2 => comes_back::<C, List>(bytes),
        3 => comes_back::<C, Chain>(bytes),
        4 => comes_back::<C, Tree>(bytes),
        5 => comes_back::<C, Folder>(bytes),
        6 => comes_back::<C, Links>(bytes),
        7 => comes_back::<C, Large>(bytes),
        8 => comes_back::<C, Tagged>(bytes),
        9 => comes_back::<C, Adjacent>(bytes),
        10 => comes_back::<C, Flat>(bytes),
        11 => comes_back::<C, String>(bytes),
        12 => comes_back::<C, Option<Option<u8>>>(bytes),
        13 => comes_back::<C, Vec<()>>(bytes),
        14 => comes_back::<C, Vec<Vec<String>>>(bytes),
        15 => comes_back::<C, BTreeMap<String, (char, u64)>>(bytes),
        16 => comes_back::<C, Option<[Duration; 4]>>(bytes),
        17 => comes_back::<C, Vec<Option<[u64; 16]>>>(bytes),
        18 => comes_back::<C, (i128, u128, i8, bool, Box<str>)>(bytes),
        19 => comes_back::<C, BTreeMap<(u8, Option<String>), Shape>>(bytes),
        // Floats and the order of a hash map: what comes back may be written differently.
        20 => drop(C::default().decode::<(f32, f64, Vec<f64>)>(bytes)),
        21 => drop(C::default().decode::<HashMap<String, (char, f64)>>(bytes)),
        22 => drop(C::default().decode::<HashMap<(), ()>>(bytes)),
        _ => drop(C::default().decode::<Loose>(bytes)),
    }
}

fn comes_back<C: Codec + Default, T: Serialize + DeserializeOwned + Send>(bytes: &[u8]) {
    let Ok(value) = C::default().decode::<T>(bytes) else {
        return;
    };
    let Some(once) = encoded::<C, T>(value) else {
        return;
    };
    let value = match C::default().decode::<T>(&once) {
        Ok(value) => value,
        // Fewer bytes than the ones that were decoded, so they allow less.
        Err(error) if once.len() < bytes.len() && error.to_string().contains("memory") => return,
        Err(error) => panic!("{} encodes to {once:x?}: {error:?}", C::NAME),
    };
    assert_eq!(encoded::<C, T>(value), Some(once), "{}", C::NAME);
}

/// `None` where the format has no form for the value, as a key that is not a text in JSON.
fn encoded<C: Codec + Default, T: Serialize>(value: T) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    C::default().encode(&value, &mut bytes).ok()?;
    Some(bytes)
}

#[derive(Serialize, Deserialize)]
struct Rich {
    flag: bool,
    letter: char,
    text: String,
    small: (u8, i8, u16, i16),
    large: (u32, i32, u64, i64),
    some: Option<Box<str>>,
    list: Vec<Shape>,
    numbered: BTreeMap<i64, String>,
    id: Id,
    pair: Pair,
    marker: Marker,
    unit: (),
    array: [u16; 3],
    wait: Duration,
}

/// A kilobyte at each level.
#[derive(Serialize, Deserialize)]
struct Large {
    fields: [[u64; 16]; 8],
    next: Option<Box<Large>>,
}

/// For the shapes below serde reads a value whole before it knows of what type it is.
#[derive(Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged {
    Leaf { fields: (u64, String) },
    Node { next: Box<Tagged> },
    Tail,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Leaf(u8, String),
    Node(Box<Adjacent>),
    Struct { list: Vec<Adjacent> },
}

#[derive(Serialize, Deserialize)]
struct Flat {
    name: String,
    #[serde(flatten)]
    inner: FlatInner,
}

#[derive(Serialize, Deserialize)]
struct FlatInner {
    next: Option<Box<Flat>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "decoded, and not looked at")]
enum Loose {
    List(Vec<Loose>),
    Number(f64),
    Text(String),
    Under { next: Box<Loose> },
}
