//! The text of a key: no two keys of one type share it.

#![allow(clippy::expect_used)]

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use larder::{CacheKey, KeyWriter, MAX_KEY_BYTES, redis_key};
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
