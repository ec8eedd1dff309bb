//! Values come back as they were, and no bytes do harm.

// Maps of nothing are a case of their own here.
#![allow(clippy::zero_sized_map_values)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../src/fuzzing/shapes.rs"]
mod shapes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Debug};
use std::sync::Mutex;
use std::time::Duration;

use larder::codec::{Bincode, Codec};
use proptest::prelude::*;
use proptest::sample::Index;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shapes::{Chain, Folder, Id, Links, List, Marker, Pair, Shape, Tree};

fn encode<C: Codec + Default, T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    C::default()
        .encode(value, &mut bytes)
        .expect("the value can be encoded");
    bytes
}

fn comes_back<C: Codec + Default, T: Serialize + DeserializeOwned + Send + PartialEq + Debug>(
    value: &T,
) {
    let bytes = encode::<C, T>(value);
    let back = C::default().decode::<T>(&bytes);
    assert_eq!(back.as_ref().map_err(why), Ok(value), "{}", C::NAME);
}

/// The reason, for a message or to compare.
fn why(error: &larder::codec::CodecError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

fn refuses<C: Codec + Default, T: DeserializeOwned + Send>(bytes: &[u8]) -> String {
    let Err(error) = C::default().decode::<T>(bytes) else {
        panic!("{} took bytes it must refuse", C::NAME);
    };
    why(&error)
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rich {
    flag: bool,
    letter: char,
    text: String,
    small: (u8, i8, u16, i16),
    large: (u32, i32, u64, i64),
    huge: (u128, i128),
    floats: (f32, f64),
    some: Option<Box<str>>,
    none: Option<u64>,
    bytes: Bytes,
    list: Vec<Shape>,
    numbered: BTreeMap<i64, String>,
    named: HashMap<String, Vec<u8>>,
    set: HashSet<u32>,
    id: Id,
    pair: Pair,
    marker: Marker,
    unit: (),
    array: [u16; 3],
    wait: Duration,
}

/// A byte string, rather than a list of numbers.
#[derive(Debug, Clone, PartialEq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct BytesVisitor;

        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }

        input.deserialize_byte_buf(BytesVisitor)
    }
}

fn rich() -> Rich {
    Rich {
        flag: true,
        letter: '\u{1f600}',
        text: "a \"text\" \n \u{e9}".into(),
        small: (u8::MAX, i8::MIN, u16::MAX, i16::MIN),
        large: (u32::MAX, i32::MIN, u64::MAX, i64::MIN),
        huge: (u128::from(u64::MAX) + 1, i128::from(i64::MIN) - 1),
        floats: (1.5, -0.1),
        some: Some("boxed".into()),
        none: None,
        bytes: Bytes(vec![0, 255, 10]),
        list: vec![
            Shape::Unit,
            Shape::Newtype("n".into()),
            Shape::Tuple(1, Some(-1)),
            Shape::Struct {
                width: 300,
                inner: Box::new(Shape::Tuple(2, None)),
            },
        ],
        numbered: [(-1, "one".into()), (1 << 40, "two".into())].into(),
        named: [("k".into(), vec![1, 2]), (String::new(), vec![])].into(),
        set: [1, 1000].into(),
        id: Id(7),
        pair: Pair(Id(8), "p".into()),
        marker: Marker,
        unit: (),
        array: [1, 2, 3],
        wait: Duration::new(3, 999_999_999),
    }
}

const DEEP: usize = 1_000_000;

fn nest<T>(depth: usize, innermost: T, wrap: impl Fn(T) -> T) -> T {
    (0..depth).fold(innermost, |inner, _| wrap(inner))
}

fn list(depth: usize) -> List {
    nest(depth, List::End, |l| List::Node(Box::new(l)))
}

fn links(depth: usize) -> Links {
    nest(depth, Links(None), |l| Links(Some(Box::new(l))))
}

fn chain(depth: usize) -> Chain {
    nest(depth, Chain { next: None }, |c| Chain {
        next: Some(Box::new(c)),
    })
}

fn tree(depth: usize) -> Tree {
    nest(depth, Tree(vec![]), |t| Tree(vec![t]))
}

fn folder(depth: usize) -> Folder {
    nest(depth, Folder(BTreeMap::new()), |f| {
        Folder([(String::new(), f)].into())
    })
}

/// `open` as often as `DEEP` says, then `middle`, then as many `close`.
fn deep(open: &[u8], middle: &[u8], close: &[u8]) -> Vec<u8> {
    [&open.repeat(DEEP), middle, &close.repeat(DEEP)].concat()
}

fn takes_what_is_nested_100_deep<C: Codec + Default>() {
    comes_back::<C, _>(&list(100));
    comes_back::<C, _>(&chain(63));
    comes_back::<C, _>(&tree(100));
    comes_back::<C, _>(&folder(100));
}

/// Each element takes 136 bytes, and one when it is encoded.
fn takes_so_much_memory<C: Codec + Default>() {
    type Sparse = Vec<Option<[u64; 16]>>;
    let sparse = |elements| encode::<C, Sparse>(&vec![None; elements]);
    let taken = C::default().decode::<Sparse>(&sparse(500_000));
    assert_eq!(
        taken
            .map(|elements| elements.len())
            .map_err(|error| why(&error)),
        Ok(500_000)
    );
    let refused = C::default().decode::<Sparse>(&sparse(1_200_000));
    let refused = refused.map(|elements| elements.len());
    assert!(
        refused.is_err_and(|error| error.to_string().contains("too much memory")),
        "{}",
        C::NAME
    );
}

/// Whether the bytes decode does not matter, only that decoding ends.
fn try_many_types<C: Codec + Default>(bytes: &[u8]) {
    let _ = C::default().decode::<Rich>(bytes);
    let _ = C::default().decode::<Shape>(bytes);
    let _ = C::default().decode::<List>(bytes);
    let _ = C::default().decode::<Chain>(bytes);
    let _ = C::default().decode::<Tree>(bytes);
    let _ = C::default().decode::<Folder>(bytes);
    let _ = C::default().decode::<String>(bytes);
    let _ = C::default().decode::<Bytes>(bytes);
    let _ = C::default().decode::<Vec<Vec<String>>>(bytes);
    let _ = C::default().decode::<HashMap<String, (char, f64)>>(bytes);
    let _ = C::default().decode::<Option<[Duration; 4]>>(bytes);
    let _ = C::default().decode::<serde_json::Value>(bytes);
}

#[derive(Debug, Clone)]
enum Damage {
    Cut(Index),
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), prop_oneof![any::<u8>(), 250..=255_u8])
            .prop_map(|(i, b)| Damage::Set(i, b)),
        (any::<Index>(), 0..8_u8).prop_map(|(i, bit)| Damage::Flip(i, bit)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(i, bytes)| Damage::Insert(i, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(i, j)| Damage::Repeat(i, j)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let len = bytes.len();
    if len == 0 {
        return;
    }
    match damage {
        Damage::Cut(at) => bytes.truncate(at.index(len)),
        Damage::Set(at, byte) => bytes[at.index(len)] = *byte,
        Damage::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
        Damage::Insert(at, more) => {
            let at = at.index(len);
            bytes.splice(at..at, more.iter().copied());
        }
        Damage::Repeat(from, to) => {
            let (from, to) = (from.index(len), to.index(len));
            bytes.extend_from_within(from.min(to)..from.max(to));
        }
    }
}

/// A tree, which measures what its decoding takes: values that are nested deep are decoded on another thread.
struct Measured;

static TAKEN: Mutex<Option<u64>> = Mutex::new(None);

impl<'de> Deserialize<'de> for Measured {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let mut decoded = Ok(());
        let taken = allocation_counter::measure(|| decoded = Tree::deserialize(input).map(drop));
        let mut most = TAKEN.lock().expect("no panic");
        *most = (*most).max(Some(taken.bytes_max));
        decoded.map(|()| Self)
    }
}

/// The most memory that one [`Measured`] takes in there.
fn memory_taken(decode: impl FnOnce()) -> u64 {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().expect("no panic");
    decode();
    let taken = TAKEN.lock().expect("no panic").take();
    taken.expect("something was decoded")
}

/// Types of a kilobyte that hold themselves: each level takes as much stack as levels do.
#[allow(clippy::large_enum_variant)]
mod large {
    use super::*;

    type Kilobyte = [[u64; 16]; 8];

    pub(super) trait Nested: Serialize + DeserializeOwned + Send {
        fn wrap(inner: Option<Self>) -> Self;
    }

    /// The nested one is in the field `next`, beside a kilobyte.
    macro_rules! nested {
        ($type:ident, |$next:ident, $fields:ident| $wrapped:expr) => {
            impl Nested for $type {
                fn wrap(inner: Option<Self>) -> Self {
                    let $fields = Kilobyte::default();
                    let $next = inner.map(Box::new);
                    $wrapped
                }
            }
        };
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Plain {
        fields: Kilobyte,
        next: Option<Box<Plain>>,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) enum Variants {
        Struct {
            fields: Kilobyte,
            next: Option<Box<Variants>>,
        },
        Tuple(Kilobyte, Box<Variants>),
        Newtype(Box<Variants>),
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct List {
        fields: Kilobyte,
        list: Vec<List>,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Map {
        fields: Kilobyte,
        map: BTreeMap<String, Map>,
    }

    // serde reads a value of these whole, then decodes it again from what it has read.

    #[derive(Serialize, Deserialize)]
    #[cfg_attr(not(any(feature = "json", feature = "messagepack")), allow(dead_code))]
    #[serde(tag = "t")]
    pub(super) enum Tagged {
        Node {
            fields: Kilobyte,
            next: Option<Box<Tagged>>,
        },
        Other {
            next: Box<Tagged>,
        },
    }

    #[derive(Serialize, Deserialize)]
    #[cfg_attr(not(any(feature = "json", feature = "messagepack")), allow(dead_code))]
    #[serde(untagged)]
    pub(super) enum Untagged {
        Node {
            fields: Kilobyte,
            next: Option<Box<Untagged>>,
        },
        Other(u8),
    }

    #[derive(Serialize, Deserialize)]
    #[cfg_attr(not(any(feature = "json", feature = "messagepack")), allow(dead_code))]
    pub(super) struct Flattened {
        name: String,
        #[serde(flatten)]
        rest: Rest,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Rest {
        fields: Kilobyte,
        next: Option<Box<Flattened>>,
    }

    nested!(Plain, |next, fields| Plain { fields, next });
    nested!(Variants, |next, fields| match next {
        Some(next) => Variants::Tuple(fields, next),
        None => Variants::Struct { fields, next },
    });
    nested!(List, |next, fields| List {
        fields,
        list: next.into_iter().map(|next| *next).collect()
    });
    nested!(Map, |next, fields| Map {
        fields,
        map: next
            .into_iter()
            .map(|next| (String::new(), *next))
            .collect()
    });
    nested!(Tagged, |next, fields| Tagged::Node { fields, next });
    nested!(Untagged, |next, fields| Untagged::Node { fields, next });
    nested!(Flattened, |next, fields| Flattened {
        name: String::new(),
        rest: Rest { fields, next }
    });

    /// A quarter of what a worker of Tokio has, unless it is set.
    const STACK: usize = 512 << 10;

    /// About the deepest that are decoded in place, and the deepest of all: a level is an `Option`, a list or an enum,
    /// and a struct.
    const DEPTHS: [usize; 15] = [0, 6, 7, 8, 14, 15, 16, 61, 62, 63, 64, 125, 126, 127, 128];

    /// Decodes nested values, up to the deepest that is taken, and drops them.
    fn fits_the_stack<C: Codec + Default, T: Nested>() {
        let values = DEPTHS.map(|depth| {
            let value = nest(depth, T::wrap(None), |inner| T::wrap(Some(inner)));
            encode::<C, T>(&value)
        });
        let thread = std::thread::Builder::new().stack_size(STACK);
        let taken =
            thread.spawn(move || values.map(|bytes| C::default().decode::<T>(&bytes).is_ok()));
        let taken = taken.expect("a thread").join().expect("no panic");
        let deepest = taken.iter().rposition(|taken| *taken);
        let deepest = deepest.map_or(0, |at| DEPTHS[at]);
        let name = std::any::type_name::<T>();
        assert!(
            (61..128).contains(&deepest),
            "{}: {deepest} {name}",
            C::NAME
        );
    }

    pub(super) fn all_fit_the_stack<C: Codec + Default>() {
        fits_the_stack::<C, Plain>();
        fits_the_stack::<C, Variants>();
        fits_the_stack::<C, List>();
        fits_the_stack::<C, Map>();
    }

    #[cfg(any(feature = "json", feature = "messagepack"))]
    pub(super) fn all_that_are_read_whole_fit_the_stack<C: Codec + Default>() {
        fits_the_stack::<C, Tagged>();
        fits_the_stack::<C, Untagged>();
        fits_the_stack::<C, Flattened>();
    }
}

/// The tests that are the same for every codec.
macro_rules! every_codec {
    ($module:ident, $codec:ty) => {
        mod $module {
            use super::*;

            #[test]
            fn a_rich_value_comes_back() {
                comes_back::<$codec, _>(&rich());
                comes_back::<$codec, _>(&vec![rich(); 100]);
            }

            #[test]
            fn many_small_things_come_back() {
                comes_back::<$codec, _>(&vec![Vec::<u8>::new(); 200_000]);
                comes_back::<$codec, _>(&vec![(1_u8, (), Marker); 200_000]);
                comes_back::<$codec, _>(&vec![Some(1_u128); 200_000]);
                comes_back::<$codec, _>(&vec![(); 65_000]);
                comes_back::<$codec, _>(
                    &(0..200_000).map(|n| (n, ())).collect::<HashMap<u32, ()>>(),
                );
            }

            #[test]
            fn every_cut_is_refused() {
                let bytes = encode::<$codec, _>(&rich());
                for end in 0..bytes.len() {
                    refuses::<$codec, Rich>(&bytes[..end]);
                }
            }

            #[test]
            fn bytes_left_over_are_refused() {
                for byte in (0..=u8::MAX).filter(|b| !b.is_ascii_whitespace()) {
                    let with = |mut bytes: Vec<u8>| {
                        bytes.push(byte);
                        bytes
                    };
                    refuses::<$codec, Rich>(&with(encode::<$codec, _>(&rich())));
                    refuses::<$codec, Option<bool>>(&with(encode::<$codec, _>(&Some(true))));
                    refuses::<$codec, Shape>(&with(encode::<$codec, _>(&Shape::Unit)));
                }
            }

            #[test]
            fn nested_values_take_a_quarter_of_a_stack() {
                large::all_fit_the_stack::<$codec>();
            }

            #[test]
            fn nesting_of_100_comes_back() {
                takes_what_is_nested_100_deep::<$codec>();
            }

            proptest! {
                #[test]
                fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
                    try_many_types::<$codec>(&bytes);
                }

                #[test]
                fn damaged_bytes_do_no_harm(
                    kind in 0..4,
                    damages in prop::collection::vec(damage(), 1..6),
                ) {
                    let mut bytes = match kind {
                        0 => encode::<$codec, _>(&rich()),
                        1 => encode::<$codec, _>(&vec![vec!["text"; 5]; 5]),
                        2 => encode::<$codec, _>(&tree(30)),
                        _ => encode::<$codec, _>(&folder(30)),
                    };
                    for damage in &damages {
                        apply(&mut bytes, damage);
                    }
                    try_many_types::<$codec>(&bytes);
                }
            }
        }
    };
}

/// Leaves out what is empty: a list of it, a variant, and an option, at any depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sparse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    discount: Option<u32>,
    quantity: u32,
    ids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Offer {
    Free {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        codes: Vec<u8>,
        until: u8,
    },
}

/// Bytes as a codec without names has them, after any shape.
fn after_shape(bytes: &[u8]) -> Vec<u8> {
    [&[0; 8], bytes].concat()
}

fn sparse(discount: Option<u32>) -> Sparse {
    Sparse {
        discount,
        quantity: 0,
        ids: vec![1, 50],
    }
}

/// Without names of fields, the next one would be read in the place of the one that is left out.
fn refuses_what_is_left_out<C: Codec + Default>() {
    fn refuses<C: Codec + Default>(value: &impl Serialize, field: &str) {
        let error = C::default()
            .encode(value, &mut Vec::new())
            .expect_err("a field is left out");
        let error = error.to_string();
        assert!(error.contains(field) && error.contains("Json"), "{error}");
    }
    comes_back::<C, _>(&sparse(Some(7)));
    refuses::<C>(&sparse(None), "`discount`");
    let inside: (u8, BTreeMap<u8, Option<Sparse>>) = (1, [(2, Some(sparse(None)))].into());
    refuses::<C>(&inside, "`discount`");
    let offer = |codes| Offer::Free { codes, until: 3 };
    comes_back::<C, _>(&[offer(vec![1])]);
    refuses::<C>(&[offer(vec![])], "`codes`");
}

#[cfg(any(feature = "json", feature = "messagepack"))]
fn brings_back_what_is_left_out<C: Codec + Default>() {
    comes_back::<C, _>(&sparse(None));
    let codes = vec![];
    comes_back::<C, _>(&Offer::Free { codes, until: 3 });
}

/// The tests that are the same for bincode and postcard, which take every length
/// and every nesting from the bytes.
macro_rules! trusting_codec {
    ($module:ident, $codec:ty, $length:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn nesting_of_a_million_is_refused() {
                let bytes = after_shape(&deep(&[1], &[0], &[]));
                refuses::<$codec, List>(&bytes);
                refuses::<$codec, Links>(&bytes);
                refuses::<$codec, Chain>(&bytes);
                refuses::<$codec, Tree>(&bytes);
                refuses::<$codec, Folder>(&after_shape(&deep(&[1, 0], &[0], &[])));
            }

            #[test]
            fn a_field_that_is_left_out_is_refused() {
                refuses_what_is_left_out::<$codec>();
            }

            #[test]
            fn links_of_100_come_back() {
                comes_back::<$codec, _>(&links(100));
            }

            #[test]
            fn keys_of_any_type_come_back() {
                let keys: BTreeMap<(u8, Option<String>), Shape> =
                    [((1, Some("k".into())), Shape::Unit)].into();
                comes_back::<$codec, _>(&keys);
            }

            #[test]
            fn lengths_beyond_the_bytes_are_refused() {
                let lengths = [1 << 24, 1 << 30, 1 << 40, 1 << 60, u64::MAX];
                // On a 32-bit target bincode reads the lower half of a length, which is a length that a writer can
                // give, too.
                let fits = |length: &u64| usize::try_from(*length).is_ok();
                for length in lengths.into_iter().filter(fits) {
                    let length: Vec<u8> = $length(length);
                    let bytes = after_shape(&length);
                    refuses::<$codec, String>(&bytes);
                    refuses::<$codec, Bytes>(&bytes);
                    refuses::<$codec, Vec<u8>>(&bytes);
                    refuses::<$codec, Vec<[u128; 32]>>(&bytes);
                    refuses::<$codec, HashMap<u128, [u128; 32]>>(&bytes);
                    refuses::<$codec, Vec<()>>(&bytes);
                    refuses::<$codec, HashMap<(), ()>>(&bytes);
                    refuses::<$codec, (Vec<Vec<()>>, Vec<()>)>(&after_shape(
                        &[&[0], &length[..]].concat(),
                    ));
                }
            }

            /// A list makes room before its first element is read, which may be such a list itself.
            #[test]
            fn lengths_at_every_level_take_no_more_memory_than_allowed() {
                let bytes = after_shape(&$length(1 << 15).repeat(128));
                let allowed = 64 * bytes.len() as u64 + (64 << 20);
                let taken = memory_taken(|| drop(refuses::<$codec, Measured>(&bytes)));
                assert!(taken < allowed, "{taken}");
            }

            #[test]
            fn elements_that_take_too_much_memory_are_refused() {
                takes_so_much_memory::<$codec>();
            }
        }
    };
}

every_codec!(bincode, Bincode);
trusting_codec!(bincode_lengths, Bincode, |length: u64| {
    [&[253][..], &length.to_le_bytes()].concat()
});

#[cfg(feature = "postcard")]
every_codec!(postcard, larder::codec::Postcard);
#[cfg(feature = "postcard")]
trusting_codec!(postcard_lengths, larder::codec::Postcard, |length: u64| {
    encode::<larder::codec::Postcard, u64>(&length).split_off(8)
});

#[cfg(feature = "json")]
every_codec!(json, larder::codec::Json);

#[cfg(feature = "json")]
mod json_only {
    use larder::codec::Json;

    use super::*;

    #[test]
    fn a_field_that_is_left_out_comes_back() {
        brings_back_what_is_left_out::<larder::codec::Json>();
    }

    #[test]
    fn nested_values_that_are_read_whole_take_a_quarter_of_a_stack() {
        large::all_that_are_read_whole_fit_the_stack::<Json>();
    }

    #[test]
    fn nesting_of_a_million_is_refused() {
        refuses::<Json, List>(&deep(b"{\"Node\":", b"\"End\"", b"}"));
        refuses::<Json, Chain>(&deep(b"{\"next\":", b"null", b"}"));
        refuses::<Json, Tree>(&deep(b"[", b"", b"]"));
        refuses::<Json, Folder>(&deep(b"{\"\":", b"{}", b"}"));
        refuses::<Json, serde_json::Value>(&deep(b"[", b"", b"]"));
    }

    #[test]
    fn nesting_that_the_type_does_not_ask_for_is_skipped() {
        let extra = deep(b"[", b"", b"]");
        let bytes = [b"{\"extra\":", &extra[..], b",\"next\":null}"].concat();
        assert_eq!(
            Json.decode::<Chain>(&bytes).expect("it is skipped"),
            chain(0)
        );
    }

    #[test]
    fn nesting_of_127_is_the_most() {
        comes_back::<Json, _>(&tree(126));
        refuses::<Json, Tree>(&encode::<Json, _>(&tree(127)));
    }

    #[test]
    fn white_space_may_follow() {
        assert_eq!(Json.decode::<u8>(b"7 \n").expect("one value"), 7);
    }

    #[test]
    fn keys_have_to_be_texts() {
        let keys: BTreeMap<(u8, u8), u8> = [((1, 2), 3)].into();
        assert!(Json.encode(&keys, &mut Vec::new()).is_err());
    }
}

#[cfg(feature = "messagepack")]
every_codec!(messagepack, larder::codec::MessagePack);

#[cfg(feature = "messagepack")]
mod messagepack_only {
    use larder::codec::MessagePack;

    use super::*;

    #[test]
    fn a_field_that_is_left_out_comes_back() {
        brings_back_what_is_left_out::<larder::codec::MessagePack>();
    }

    #[test]
    fn nested_values_that_are_read_whole_take_a_quarter_of_a_stack() {
        large::all_that_are_read_whole_fit_the_stack::<MessagePack>();
    }

    #[test]
    fn nesting_of_a_million_is_refused() {
        refuses::<MessagePack, List>(&deep(b"\x81\xa4Node", b"\xa3End", b""));
        refuses::<MessagePack, Chain>(&deep(b"\x81\xa4next", b"\xc0", b""));
        refuses::<MessagePack, Tree>(&deep(b"\x91", b"\x90", b""));
        refuses::<MessagePack, Folder>(&deep(b"\x81\xa0", b"\x80", b""));
        refuses::<MessagePack, serde_json::Value>(&deep(b"\x91", b"\x90", b""));
    }

    #[test]
    fn nesting_that_the_type_does_not_ask_for_is_refused_too() {
        let extra = deep(b"\x91", b"\x90", b"");
        let bytes = [b"\x82\xa5extra", &extra[..], b"\xa4next\xc0"].concat();
        refuses::<MessagePack, Chain>(&bytes);
    }

    #[test]
    fn lengths_beyond_the_bytes_are_refused() {
        let length = |marker: u8| [marker, 255, 255, 255, 255];
        refuses::<MessagePack, String>(&length(0xdb));
        refuses::<MessagePack, Bytes>(&length(0xc6));
        refuses::<MessagePack, Vec<[u128; 32]>>(&length(0xdd));
        refuses::<MessagePack, Vec<()>>(&length(0xdd));
        refuses::<MessagePack, HashMap<u128, [u128; 32]>>(&length(0xdf));
        refuses::<MessagePack, HashMap<(), ()>>(&length(0xdf));
        refuses::<MessagePack, serde_json::Value>(&length(0xc9));
    }

    #[test]
    fn keys_of_any_type_come_back() {
        let keys: BTreeMap<(u8, Option<String>), Shape> =
            [((1, Some("k".into())), Shape::Unit)].into();
        comes_back::<MessagePack, _>(&keys);
    }

    #[test]
    fn elements_that_take_too_much_memory_are_refused() {
        takes_so_much_memory::<MessagePack>();
    }

    #[test]
    fn a_type_may_gain_and_lose_fields() {
        #[derive(Serialize)]
        struct Old {
            kept: u8,
            lost: Shape,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        struct New {
            #[serde(default)]
            gained: Option<String>,
            kept: u8,
        }
        let old = Old {
            kept: 1,
            lost: Shape::Newtype("n".into()),
        };
        let new = New {
            gained: None,
            kept: 1,
        };
        let bytes = encode::<MessagePack, _>(&old);
        assert_eq!(MessagePack.decode::<New>(&bytes).expect("it fits"), new);
    }
}

/// Layers are reached through a cache only.
#[cfg(any(feature = "compression", feature = "encryption"))]
mod layers {
    use larder::codec::CodecStack;
    #[cfg(feature = "compression")]
    use larder::codec::Compressed;
    #[cfg(feature = "encryption")]
    use larder::codec::{Encrypted, EncryptionKeys};
    use larder::{Cache, MemoryL2};
    use tokio::runtime::Builder;

    use super::*;

    fn comes_back<T>(stack: impl CodecStack, value: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug + Clone + Send + Sync + 'static,
    {
        let cache: Cache<u8, T> = Cache::builder("test:layers")
            .l2(MemoryL2::new())
            .l1_capacity(0)
            .codec(stack)
            .build()
            .expect("the options can work");
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let inserted = cache.insert(&7, value.clone()).await;
            inserted.expect("it is stored");
            assert_eq!(cache.get(&7).await.as_deref(), Some(value));
        });
    }

    macro_rules! every_stack {
        ($module:ident, $stack:expr) => {
            mod $module {
                use super::*;

                #[test]
                fn a_rich_value_comes_back() {
                    comes_back($stack, &rich());
                    comes_back($stack, &vec![rich(); 100]);
                }

                proptest! {
                    #[test]
                    fn anything_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
                        comes_back($stack, &bytes);
                        comes_back($stack, &bytes.repeat(4));
                    }
                }
            }
        };
    }

    #[cfg(feature = "compression")]
    every_stack!(compressed, Compressed::new(Bincode).threshold(0));

    #[cfg(feature = "encryption")]
    every_stack!(
        encrypted,
        Encrypted::new(Bincode, EncryptionKeys::new(1, &[7; 32]).expect("a key"))
    );

    #[cfg(all(feature = "compression", feature = "encryption", feature = "json"))]
    every_stack!(
        both,
        Encrypted::new(
            Compressed::new(larder::codec::Json),
            EncryptionKeys::new(1, &[7; 32]).expect("a key")
        )
    );
}
