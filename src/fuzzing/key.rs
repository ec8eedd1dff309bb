//! The texts of keys, and the names of what Redis holds.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::input::Input;
use crate::key::{CacheKey, MAX_KEY_BYTES, redis_key};
use crate::l2::redis::names::{
    CLOCK, DONE, HOLD, KeySpace, LEASE, LOG, MEMBERS, Names, TAG_VERSION, VALUE,
};

/// Two keys of one type write the same text only if they are equal, and a compound key tells its parts apart.
pub fn key(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let input = &mut input;
    match input.u8() % 16 {
        0 => pair(input, Input::text),
        1 => pair(input, |i| (i.text(), i.text())),
        2 => pair(input, |i| (i.text(), (i.text(), i.text()))),
        3 => pair(input, |i| ((i.text(), i.text()), i.text())),
        4 => pair(input, |i| (i.some(Input::text), i.text())),
        5 => pair(input, |i| i.some(|i| i.some(|i| i.some(Input::u64)))),
        6 => pair(input, |i| [i.text(), i.text(), i.text()]),
        7 => pair(input, |i| [[i.text()], [i.text()]]),
        8 => pair(input, |i| {
            (i.u64(), u128::from(i.u64()) << 3, i.bool(), i.text())
        }),
        9 => pair(input, |i| (address(i), i.text())),
        10 => pair(input, |i| (letter(i), letter(i), letter(i))),
        11 => pair(input, |i| ((((i.text(),),),), Box::new(i.text()))),
        12 => pair(input, |i| Page::new(i, 4)),
        13 => pair(input, |i| {
            (i.text(), i.text(), i.text(), i.text(), i.text())
        }),
        14 => pair(input, |i| ((), i.text(), ())),
        _ => names(input),
    }
}

fn letter(input: &mut Input<'_>) -> char {
    let number = u32::from(input.u8()) << (input.u8() % 13);
    char::from_u32(number).unwrap_or(':')
}

fn address(input: &mut Input<'_>) -> IpAddr {
    let (high, low) = (input.u64(), input.u64());
    if high == 0 {
        Ipv4Addr::from_bits(u32::try_from(low).unwrap_or(u32::MAX)).into()
    } else {
        Ipv6Addr::from_bits((u128::from(high) << 64) | u128::from(low)).into()
    }
}

/// A type of a user's own, as the documentation of [`CacheKey`] has it, that nests.
#[derive(Debug, PartialEq)]
enum Page {
    Home,
    Article { section: String, id: u64 },
    List(Vec<String>),
    Under(Box<Page>),
}

impl Page {
    fn new(input: &mut Input<'_>, deep: u8) -> Self {
        match input.u8() % 4 {
            0 => Self::Home,
            1 => Self::Article {
                section: input.text(),
                id: input.u64(),
            },
            2 if deep > 0 => Self::Under(Box::new(Self::new(input, deep - 1))),
            _ => Self::List(input.list(Input::text)),
        }
    }
}

impl CacheKey for Page {
    fn write_key(&self, out: &mut crate::key::KeyWriter) {
        match self {
            Self::Home => out.part("home"),
            Self::Article { section, id } => {
                out.part("article");
                out.part(section);
                out.part(id);
            }
            Self::List(texts) => {
                out.part("list");
                out.part(&texts.len());
                for text in texts {
                    out.part(text);
                }
            }
            Self::Under(page) => {
                out.part("under");
                out.part(page);
            }
        }
    }
}

fn pair<'a, K: CacheKey + PartialEq + Debug>(
    input: &mut Input<'a>,
    mut new: impl FnMut(&mut Input<'a>) -> K,
) {
    let keys = (new(input), new(input));
    let (Some(one), Some(other)) = (redis_key(&keys.0), redis_key(&keys.1)) else {
        return;
    };
    assert!(one.len() <= MAX_KEY_BYTES && other.len() <= MAX_KEY_BYTES);
    assert_eq!(
        one == other,
        keys.0 == keys.1,
        "{keys:?} as {one:?}, {other:?}"
    );
    // A reference writes what it refers to.
    if let Some(both) = redis_key(&(&keys.0, &keys.1)) {
        assert_eq!(parts(&both), [one, other], "{keys:?}");
    }
}

/// The texts of the parts of a compound key.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let part = parts.last_mut().expect("there is one");
        match char {
            ':' => parts.push(String::new()),
            '\\' => part.extend(chars.next()),
            char => part.push(char),
        }
    }
    parts
}

/// No two things share a name, and the pattern for a prefix matches the names that begin with it.
fn names(input: &mut Input<'_>) {
    // As the options allow it.
    let namespace = |input: &mut Input<'_>| input.text().replace(['{', '}'], "");
    let (one, other) = (namespace(input), namespace(input));
    let (key, prefix) = (input.text(), input.text());
    let space = KeySpace {
        database: Some(i64::from(input.u8() % 3)),
        prefix: namespace(input).into(),
    };
    let all = |namespace: &str, key: &str| {
        let names = Names::new(namespace.into(), space.clone());
        let users = [(VALUE, key), (LEASE, key), (HOLD, key), (TAG_VERSION, key)];
        let own = [(DONE, "7"), (CLOCK, ""), (LOG, ""), (MEMBERS, "")];
        let all = users.into_iter().chain(own);
        let all = all.map(|(kind, text)| names.name(kind, text).0.concat());
        all.chain([names.channel.clone()]).collect::<Vec<_>>()
    };
    let mut ours = all(&one, &key);
    for name in &ours {
        assert!(
            name.starts_with(&format!("{}{{{one}.0}}", space.prefix)),
            "{name}"
        );
    }
    if one != other {
        let theirs = all(&other, &key);
        assert!(!ours.iter().any(|name| theirs.contains(name)), "{ours:?}");
        ours.extend(theirs);
    }
    let many = ours.len();
    ours.sort();
    ours.dedup();
    assert_eq!(ours.len(), many, "{ours:?}");

    let begins = format!("{}{{{one}.0}}:{prefix}", space.prefix);
    let pattern = Names::new((&*one).into(), space.clone()).values_under(&prefix);
    assert_eq!(plain(&pattern), Some(begins));
}

/// The text that a pattern of Redis wants at the beginning, if it asks for nothing else.
fn plain(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = pattern.strip_suffix('*')?.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' | '?' | '[' => return None,
            '\\' => text.push(chars.next()?),
            char => text.push(char),
        }
    }
    Some(text)
}
