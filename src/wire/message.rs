//! The messages between instances: which keys changed, and with which version. Never values.
//!
//! ```text
//!  0  magic "LM", format 2
//!  3  epoch, seq, ver, nonce, previous nonce            5 × u64
//! 43  kind u8, origin u64
//! 52  number of keys u16, then for each: length u16, bytes
//! ```
//! All numbers are big-endian. L2 writes the first five; the sender knows the rest, so it sends
//! [`payload`], from 43 on.

use bytes::{Buf, BufMut};

use crate::key::Key;

/// Keys in one message at most.
const MAX_KEYS: usize = u16::MAX as usize;
/// Message numbers begin with one. Lua counts whole numbers without gaps up to this.
const LAST: u64 = 1 << 53;
const MAGIC: [u8; 3] = *b"LM\x02";
/// Begins a notice that a lease has ended; the key follows. The store makes it, and it is no message.
const LEASE_ENDED: &[u8] = b"LE\x01";

/// A change of a partition, as its subscribers receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The epoch in which it happened.
    pub epoch: u64,
    /// Its place among the partition's messages; a hole means that one was lost.
    pub seq: u64,
    /// The version of the change: values with a lower one are old.
    pub ver: u64,
    /// A random number, which tells the message from one with the same numbers in another history of the partition (rule 31:
    /// histories).
    pub nonce: u64,
    /// The nonce of the message before this one; of another epoch, if this is the first of its epoch.
    pub previous_nonce: u64,
    /// The kind of the change.
    pub kind: Kind,
    /// The instance that did it.
    pub origin: u64,
    /// The keys it happened to.
    pub keys: Vec<Key>,
}

/// The kind of change of a [`Message`], for its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The values of the keys are no longer current.
    Invalidate,
    /// The keys have a new value in L2.
    Insert,
    /// Everything in the partition is gone, whatever its key.
    Clear,
    /// As `Invalidate`, and the caller waits until all members have applied it.
    InvalidateAwaited,
    /// The values that carry one of the tags are no longer current: the tags stand in the place of the keys.
    Tags,
    /// As `Invalidate`, for all keys that begin with the prefix, which stands in the place of the keys.
    Prefix,
    /// A kind of another release, by its number. The change and its keys are not known: the message has none, and
    /// its receiver empties L1.
    Unknown(u8),
}

/// The kinds that this release knows, each in the place of its number.
const KINDS: [Kind; 6] = [
    Kind::Invalidate,
    Kind::Insert,
    Kind::Clear,
    Kind::InvalidateAwaited,
    Kind::Tags,
    Kind::Prefix,
];

/// The sender's part of a message.
pub(crate) fn payload(kind: Kind, origin: u64, keys: &[&str]) -> Vec<u8> {
    // A batch of writes has 256 keys at most. In a cache without L2 it may have more, but there nobody reads the message. A
    // count that wrapped would make it unreadable.
    let keys = keys.get(..keys.len().min(MAX_KEYS)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(11 + keys.iter().map(|key| key.len() + 2).sum::<usize>());
    write_prefix(kind, origin, &mut bytes);
    bytes.put_u16(keys.len().try_into().unwrap_or(u16::MAX));
    for key in keys {
        bytes.put_u16(key.len().try_into().unwrap_or(u16::MAX));
        bytes.put_slice(key.as_bytes());
    }
    bytes
}

/// Writes the part of a payload before its keys.
pub(crate) fn write_prefix(kind: Kind, origin: u64, bytes: &mut Vec<u8>) {
    let known = (0..).zip(KINDS).find(|(_, known)| *known == kind);
    bytes.put_u8(match (kind, known) {
        (Kind::Unknown(number), _) | (_, Some((number, _))) => number,
        (_, None) => u8::MAX,
    });
    bytes.put_u64(origin);
}

/// The kind that a payload names.
pub(crate) fn kind(payload: &[u8]) -> Option<Kind> {
    let number = *payload.first()?;
    let known = KINDS.get(usize::from(number));
    Some(known.copied().unwrap_or(Kind::Unknown(number)))
}

/// Reads a message; `None` for a damaged one, or one of another format, which counts as a lost one. The part after the
/// origin of a message of an unknown kind may have any form. One of a prefix names one: to apply it takes a walk over
/// all entries of L1.
pub(crate) fn parse(bytes: &[u8]) -> Option<Message> {
    let mut rest = bytes.strip_prefix(&MAGIC)?;
    let mut number = || rest.try_get_u64().ok();
    let (epoch, seq, ver) = (number()?, number()?, number()?);
    let (nonce, previous_nonce) = (number()?, number()?);
    // Lua issues no other number, so another program has made this one up (rule 21: numbers can be made up).
    if !(1..=LAST).contains(&seq) {
        return None;
    }
    let kind = kind(rest)?;
    rest.advance(1);
    let origin = rest.try_get_u64().ok()?;
    let mut message = Message {
        epoch,
        seq,
        ver,
        nonce,
        previous_nonce,
        kind,
        origin,
        keys: Vec::new(),
    };
    if matches!(kind, Kind::Unknown(_)) {
        return Some(message);
    }
    let many = rest.try_get_u16().ok()?;
    if kind == Kind::Prefix && many != 1 {
        return None;
    }
    // With room for all, but for no more than there can be.
    (message.keys).reserve_exact(usize::from(many).min(rest.len() / 2));
    for _ in 0..many {
        let length = rest.try_get_u16().ok()?;
        let key = rest.split_off(..usize::from(length))?;
        message.keys.push(text(key)?);
    }
    // A message that is longer than it says was not written by this format: its keys may be others.
    rest.is_empty().then_some(message)
}

/// The key that a notice of a lease's end is about; `None` for anything else.
pub(crate) fn lease_ended(bytes: &[u8]) -> Option<Key> {
    bytes.strip_prefix(LEASE_ENDED).and_then(text)
}

fn text(bytes: &[u8]) -> Option<Key> {
    std::str::from_utf8(bytes).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [3_u64, 5, 8, 21, 34] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend(payload(Kind::Insert, 13, &["a", "", "ü"]));
        bytes
    }

    #[test]
    fn what_is_told_is_heard() {
        let keys = vec!["a".into(), "".into(), "ü".into()];
        let expected = Message {
            epoch: 3,
            seq: 5,
            ver: 8,
            nonce: 21,
            previous_nonce: 34,
            kind: Kind::Insert,
            origin: 13,
            keys,
        };
        assert_eq!(parse(&sample()), Some(expected));
    }

    #[test]
    fn what_is_cut_or_longer_is_not_a_message() {
        let good = sample();
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut]), None, "cut to {cut}");
        }
        let mut longer = good;
        longer.push(0);
        assert_eq!(parse(&longer), None);
    }

    #[test]
    fn a_number_that_cannot_be_counted_to_is_not_a_messages() {
        for (seq, is_one) in [
            (0, false),
            (1, true),
            (LAST, true),
            (LAST + 1, false),
            (u64::MAX, false),
        ] {
            let mut bytes = sample();
            bytes[11..19].copy_from_slice(&u64::to_be_bytes(seq));
            assert_eq!(parse(&bytes).is_some(), is_one, "{seq}");
        }
    }

    #[test]
    fn a_message_of_a_prefix_names_one() {
        for keys in [&[][..], &["a"], &["a", "b"]] {
            let bytes = [&sample()[..43], &payload(Kind::Prefix, 13, keys)].concat();
            let names = parse(&bytes).map(|message| message.keys.len());
            assert_eq!(names, (keys.len() == 1).then_some(1), "{keys:?}");
        }
    }

    /// Of a release to come: whatever it says of the change, its numbers count.
    #[test]
    fn a_message_of_an_unknown_kind_has_numbers_and_no_keys() {
        let mut bytes = sample();
        bytes[43] = 200;
        let unknown = Message {
            epoch: 3,
            seq: 5,
            ver: 8,
            nonce: 21,
            previous_nonce: 34,
            kind: Kind::Unknown(200),
            origin: 13,
            keys: Vec::new(),
        };
        for length in [52, 53, bytes.len() - 1, bytes.len()] {
            assert_eq!(parse(&bytes[..length]), Some(unknown.clone()), "{length}");
        }
        assert_eq!(parse(&bytes[..51]), None, "it has no origin");
    }

    /// The layout is shared with other releases: this test fails when it drifts.
    #[test]
    fn the_layout_is_frozen() {
        let bytes = sample();
        assert_eq!(&bytes[..3], b"LM\x02");
        assert_eq!(bytes[43], 1);
        assert_eq!(bytes[44..52], 13_u64.to_be_bytes());
        assert_eq!(bytes[52..54], [0, 3]);
        assert_eq!(&bytes[54..], b"\0\x01a\0\0\0\x02\xc3\xbc");
    }
}
