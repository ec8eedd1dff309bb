//! The text of a key: no two keys of one type share it.

#![allow(clippy::expect_used)]

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroI8, NonZeroU64, NonZeroU128};
use std::sync::Arc;

use larder::key::{CacheKey, KeyWriter, MAX_KEY_BYTES, redis_key};
use proptest::prelude::*;

fn text<K: CacheKey + ?Sized>(key: &K) -> String {
    redis_key(key).expect("the key is short enough")
}

/// Every string of up to `max` of the characters that matter.
fn strings(max: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..max {
        last = last
            .iter()
            .flat_map(|s| [':', '\\', 'a'].map(|c| format!("{s}{c}")))
            .collect();
        all.extend_from_slice(&last);
    }
    all
}

fn assert_all_differ<K: CacheKey + Debug>(keys: impl Iterator<Item = K>) {
    let mut seen = HashSet::new();
    for key in keys {
        let text = text(&key);
        assert!(
            !seen.contains(&text),
            "{key:?} writes {text:?}, and so does another key"
        );
        seen.insert(text);
    }
}

fn pairs_of(max: usize) -> impl Iterator<Item = (String, String)> {
    strings(max)
        .into_iter()
        .flat_map(move |a| strings(max).into_iter().map(move |b| (a.clone(), b)))
}

#[test]
fn all_small_compound_keys_differ() {
    let triples = || {
        pairs_of(2).flat_map(|(a, b)| {
            strings(2)
                .into_iter()
                .map(move |c| (a.clone(), b.clone(), c))
        })
    };
    assert_all_differ(pairs_of(3));
    assert_all_differ(triples());
    assert_all_differ(triples().map(|(a, b, c)| (a, (b, c))));
    assert_all_differ(triples().map(|(a, b, c)| ((a, b), c)));
}

#[test]
fn integers_and_wide_tuples() {
    assert_eq!(text(&(1_u64, 2_u64)), "1:2");
    assert_eq!(
        text(&(-1_i8, 'x', false, "s", 5_usize, 6_i64, 7_u128, 8_u8)),
        "-1:x:false:s:5:6:7:8"
    );
    assert_eq!(text(&("a:b", "c")), r"a\:b:c");
    assert_eq!(text(&("a", "b:c")), r"a:b\:c");
}

/// A list, as the documentation asks for it: its length first.
#[derive(PartialEq)]
struct Tags(Vec<String>);

impl CacheKey for Tags {
    fn write_key(&self, out: &mut KeyWriter) {
        out.part(&self.0.len());
        for tag in &self.0 {
            out.part(tag);
        }
    }
}

#[test]
fn a_list_that_writes_its_length_is_sound() {
    assert_eq!(text(&Tags(vec![])), "0");
    assert_eq!(text(&Tags(vec![String::new()])), "1:");
    assert_eq!(text(&Tags(vec!["a:b".into(), "c".into()])), r"2:a\:b:c");
}

/// Redis holds values under these texts, also when the next version of the crate looks for them: none may ever change.
#[test]
fn texts_are_frozen() {
    let v6 = Ipv6Addr::from_bits(0x2001_0db8_0000_0000_0000_0000_0000_0007);
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    let texts = [
        (text("a:b\\c"), r"a:b\c"),
        (text(&':'), ":"),
        (text(&(':', '\\')), r"\::\\"),
        (text(&true), "true"),
        (text(&-7), "-7"),
        (text(&("a:b", 7, "c")), r"a\:b:7:c"),
        (text(&(("a", ":"), 7)), r"a\:\\\::7"),
        (text(&NonZeroU64::MIN), "1"),
        (text(&NonZeroI8::MIN), "-128"),
        (
            text(&NonZeroU128::MAX),
            "340282366920938463463374607431768211455",
        ),
        (text(&Ipv4Addr::LOCALHOST), "127.0.0.1"),
        (text(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "127.0.0.1"),
        (text(&v6), "2001:db8::7"),
        (text(&IpAddr::V6(v6)), "2001:db8::7"),
        (text(&mapped), "::ffff:127.0.0.1"),
        (text(&Ipv6Addr::UNSPECIFIED), "::"),
        (text(&("a", v6)), r"a:2001\:db8\:\:7"),
        (text(&None::<u64>), "none"),
        (text(&Some(7)), "some:7"),
        (text(&Some("")), "some:"),
        (text(&Some("none")), "some:none"),
        (text(&Some("a:b")), r"some:a\:b"),
        (text(&Some(None::<u64>)), "some:none"),
        (text(&("a", Some(7))), r"a:some\:7"),
        (text(&("a", None::<u64>)), "a:none"),
        (text(&[""; 0]), "0"),
        (text(&[""]), "1:"),
        (text(&[1, 2]), "2:1:2"),
        (text(&[["a:b"], ["c"]]), r"2:1\:a\\\:b:1\:c"),
        (text(&([1, 2],)), r"2\:1\:2"),
        (text(&()), ""),
        (text(&((), 7)), ":7"),
        (text(&Some(())), "some:"),
    ];
    for (text, frozen) in texts {
        assert_eq!(text, frozen);
    }
}

#[cfg(feature = "uuid")]
#[test]
fn texts_of_uuids_are_frozen() {
    let uuid = uuid::Uuid::from_u128(0x00AB_CDEF);
    assert_eq!(text(&uuid), "00000000-0000-0000-0000-000000abcdef");
    assert_eq!(text(&(uuid, 7)), "00000000-0000-0000-0000-000000abcdef:7");
}

/// What an array or an option holds must not look like its end, like another element, or like `None`.
#[test]
fn all_small_arrays_and_options_differ() {
    let strings = || [":", "\\", "", "none", "some", "some:"].into_iter();
    let options = || strings().map(Some).chain([None]);
    assert_all_differ(options());
    assert_all_differ(options().map(Some).chain([None]));
    assert_all_differ(options().flat_map(|a| options().map(move |b| (a, b))));
    assert_all_differ(options().flat_map(|a| strings().map(move |b| (b, a))));
    assert_all_differ(strings().flat_map(|a| strings().map(move |b| [a, b])));
    assert_all_differ(
        pairs_of(1)
            .flat_map(|(a, b)| pairs_of(1).map(move |(c, d)| [[a.clone(), b.clone()], [c, d]])),
    );
}

/// Arrays of different lengths are of different types, so they meet in one cache only within a key such as this.
#[derive(Debug)]
enum OneOrTwo {
    One([String; 1]),
    Two([String; 2]),
}

impl CacheKey for OneOrTwo {
    fn write_key(&self, out: &mut KeyWriter) {
        match self {
            Self::One(array) => array.write_key(out),
            Self::Two(array) => array.write_key(out),
        }
    }
}

#[test]
fn arrays_of_different_lengths_differ() {
    let ones = strings(3).into_iter().map(|a| OneOrTwo::One([a]));
    assert_all_differ(ones.chain(pairs_of(2).map(|(a, b)| OneOrTwo::Two([a, b]))));
}

fn rich() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(":"),
        Just("\\"),
        Just(""),
        Just("a"),
        Just("1"),
        Just("\u{e9}")
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    let word = prop_oneof![Just("none"), Just("some")].prop_map(str::to_owned);
    prop::option::of(prop_oneof![rich(), word])
}

fn differ<K: CacheKey + PartialEq>(a: &K, b: &K) -> bool {
    (a == b) == (text(a) == text(b))
}

proptest! {
    #[test]
    fn pairs(a in (rich(), rich()), b in (rich(), rich())) {
        prop_assert!(differ(&a, &b));
    }

    #[test]
    fn pairs_in_second_place(a in (rich(), (rich(), rich())), b in (rich(), (rich(), rich()))) {
        prop_assert!(differ(&a, &b));
    }

    #[test]
    fn pairs_in_first_place(a in ((rich(), rich()), rich()), b in ((rich(), rich()), rich())) {
        prop_assert!(differ(&a, &b));
    }

    #[test]
    fn number_and_text(a in (0..20_u64, rich()), b in (0..20_u64, rich())) {
        prop_assert!(differ(&a, &b));
    }

    #[test]
    fn lists(a in prop::collection::vec(rich(), 0..4), b in prop::collection::vec(rich(), 0..4)) {
        prop_assert!(differ(&Tags(a), &Tags(b)));
    }

    #[test]
    fn options(a in maybe(), b in maybe(), c in maybe(), d in maybe()) {
        prop_assert!(differ(&a, &b));
        prop_assert!(differ(&Some(a.clone()), &Some(b.clone())));
        prop_assert!(differ(&(a, b), &(c, d)));
    }

    #[test]
    fn nested_options(a in prop::option::of(maybe()), b in prop::option::of(maybe())) {
        prop_assert!(differ(&a, &b));
    }

    #[test]
    fn arrays(a in [rich(), rich(), rich()], b in [rich(), rich(), rich()], n in 0..2_u8, m in 0..2_u8) {
        prop_assert!(differ(&a, &b));
        prop_assert!(differ(&(a.clone(), n), &(b.clone(), m)));
        prop_assert!(differ(&[a.clone(), b.clone()], &[b, a]));
    }

    #[test]
    fn addresses(a: IpAddr, b: IpAddr, n: u64) {
        prop_assert!(differ(&a, &b));
        prop_assert!(differ(&(a, n), &(b, n)));
        prop_assert_eq!(text(&a).parse::<IpAddr>().ok(), Some(a));
    }

    #[test]
    fn integers_that_are_not_zero(a: NonZeroU64, b: NonZeroU64) {
        prop_assert!(differ(&a, &b));
        prop_assert_eq!(text(&a), text(&a.get()));
    }

    #[test]
    fn units(a in rich(), b in rich()) {
        prop_assert!(differ(&((), a), &((), b)));
    }

    #[test]
    fn borrowed_and_owned_forms_write_the_same(s in rich(), n in any::<i64>()) {
        let expected = text(&(s.as_str(), n));
        prop_assert_eq!(text(&(s.clone(), n)), expected.as_str());
        prop_assert_eq!(text(&(&s, &n)), expected.as_str());
        prop_assert_eq!(text(&(Box::<str>::from(s.as_str()), Box::new(n))), expected.as_str());
        prop_assert_eq!(text(&(Arc::<str>::from(s.as_str()), Arc::new(n))), expected.as_str());
        prop_assert_eq!(text(&(Cow::Borrowed(s.as_str()), n)), expected.as_str());
        prop_assert_eq!(text(&(Cow::<str>::Owned(s.clone()), n)), expected.as_str());
        prop_assert_eq!(text(&s), s.as_str());
    }

    #[test]
    fn the_limit_is_exact_and_cuts_no_character(s in "[a-z\u{e9}\u{20ac}\u{1f600}:]{0,600}") {
        prop_assert_eq!(redis_key(&s).is_some(), s.len() <= MAX_KEY_BYTES);
        let escaped = s.len() + s.matches(':').count() + 2;
        prop_assert_eq!(redis_key(&(&s, 1)).is_some(), escaped <= MAX_KEY_BYTES);
    }
}

#[cfg(feature = "uuid")]
proptest! {
    #[test]
    fn uuids(a: u128, b: u128) {
        let (a, b) = (uuid::Uuid::from_u128(a), uuid::Uuid::from_u128(b));
        prop_assert!(differ(&a, &b));
        prop_assert_eq!(text(&a), a.to_string());
    }
}
