//! The stored bytes of a key in L2: a stamp, the times, the format with lengths and a checksum, and the encoded value.
//!
//! ```text
//!   0  magic "LRD", format 4; plus 128 if another value follows
//!   4  stamp: epoch, ver; written-at in ms of L2's time; the sum of the three       4 × u64
//!  36  times in ms from written-at: stale, plus 1 (0 = never); expires; ends, plus 1 (0 = never);
//!      TTL in L1, plus 1 (0 = none of its own); the sum of the four                5 × u64
//!  76  codec u8, flags u8, length of the tags u16
//!  80  type tag u64
//!  88  payload length u32
//! 92  checksum u64: XXH3 of all that follows, seeded with XXH3 of bytes 76..92, which is seeded with XXH3 of the place
//! 100  payload, then the tags: for each, length u16, bytes
//! ```
//! The place is the namespace and the key: bytes that were copied to another key are damaged there. The checksum is for
//! damage and mistakes; anybody can make it anew.
//!
//! The codec is the id of the outermost layer. 1 to 4 are codecs: bincode, JSON, postcard, `MessagePack`. 5 is a value
//! that was compressed and 6 a value that was encrypted; each has the id of the inner layer in its payload. From 128 on
//! they are users' own.
//!
//! A key may have several values, one for each type tag, one behind the other (rule 29: a change is of all types): so
//! all of them go at once, by one command, whatever the type tag of the instance that changes the key.
//!
//! All numbers are big-endian. L2 issues the stamp when it writes, in the step that orders the write: it is the same
//! for all values of the step. The writer sends the rest, the body, as the times do not depend on L2's clock. A step
//! that changes the lifetime of a value writes the times anew. The sums are checks of their own, as a script can add,
//! but not hash, at no cost.

use std::time::Duration;

use bytes::{Buf, BufMut};
use twox_hash::XxHash3_64;

use crate::clock::millis;
use crate::key::{Key, MAX_KEY_BYTES};
use crate::vocabulary::Version;

/// How many tags a value may have.
pub const MAX_TAGS: usize = 128;

/// How many bytes the tags of a value may take, with two bytes for the length of each: their length is an `u16`.
const MAX_TAG_BYTES: usize = u16::MAX as usize;

/// Whether a value may have these tags.
pub(crate) fn may_be_tags(tags: &[Key]) -> bool {
    let bytes = tags.iter().map(|tag| 2 + tag.len()).sum::<usize>();
    tags.len() <= MAX_TAGS && bytes <= MAX_TAG_BYTES
}

pub(crate) const MAGIC: [u8; 4] = *b"LRD\x04";
/// The magic of a value that another one follows.
const FOLLOWED: [u8; 4] = *b"LRD\x84";
/// How many values a key has at most, each of another type tag.
pub(crate) const MAX_VALUES: usize = 4;
/// How long the magic and the stamp are, behind which the body begins.
pub(crate) const BODY_AT: usize = 36;
/// How long the times are, with which the body begins.
const TIMES_LENGTH: usize = 40;
/// Where the length of the tags is in a body.
pub(crate) const TAGS_LENGTH_AT: usize = TIMES_LENGTH + 2;
/// Where the type tag is in a body.
pub(crate) const TYPE_TAG_AT: usize = TIMES_LENGTH + 4;
/// Where the length of the payload is in a body.
pub(crate) const PAYLOAD_LENGTH_AT: usize = TIMES_LENGTH + 12;
/// Where the checksum is in a body.
const CHECKSUM_AT: usize = TIMES_LENGTH + 16;
/// Where the payload starts in a body.
pub(crate) const PAYLOAD_AT: usize = TIMES_LENGTH + 24;

/// When L2 accepted a write, in the order of all writes of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The epoch in which it was written; versions compare only within one.
    pub epoch: u64,
    /// The version that this write was given.
    pub ver: u64,
    /// When, in milliseconds of L2's own time.
    pub written_at: u64,
}

impl Stamp {
    pub(crate) const fn new(epoch: u64, ver: u64, written_at: u64) -> Self {
        Self {
            epoch,
            ver,
            written_at,
        }
    }

    /// The version of the value, with its epoch.
    #[must_use]
    pub const fn version(self) -> Version {
        let Self { epoch, ver, .. } = self;
        Version { epoch, ver }
    }
}

/// How long a value is stored after it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttls {
    /// How long it is valid.
    pub hard: Duration,
    /// From which age on it is stale. `None`: never.
    pub soft: Option<Duration>,
    /// How long each L1 may hold it. Zero: not at all. `None`: as the options of each instance say.
    pub l1: Option<Duration>,
    /// For how long its lifetime can be extended at most. `None`: without a limit.
    pub end: Option<Duration>,
    /// How long the store keeps the value as a fallback, from the end of its TTL on.
    pub kept: Duration,
}

impl Ttls {
    /// The times of a value that is valid for `hard`, is never stale, and is not kept after that.
    #[must_use]
    pub const fn new(hard: Duration) -> Self {
        Self {
            hard,
            soft: None,
            l1: None,
            end: None,
            kept: Duration::ZERO,
        }
    }

    /// How long the store keeps the value.
    pub(crate) const fn in_store(self) -> Duration {
        self.hard.saturating_add(self.kept)
    }

    /// For a value that is written at this time of L2.
    pub(crate) fn lifetime(self, written_at: u64) -> Lifetime {
        let after = |ttl| written_at.saturating_add(millis(ttl));
        Lifetime {
            stale_at: self.soft.map(after),
            expires_at: after(self.hard),
            ends_at: self.end.map(after),
            l1_ttl: self.l1,
        }
    }

    /// The bytes of these times, as they are stored with a value.
    pub(crate) fn packed(self) -> [u8; TIMES_LENGTH] {
        self.lifetime(0).packed(0)
    }
}

/// Until when a value is fresh and valid, in milliseconds of L2's own time; and how long L1 may hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// From when on it is stale. `None`: never.
    pub stale_at: Option<u64>,
    /// When the value stops being valid.
    pub expires_at: u64,
    /// Until when its lifetime can be extended. `None`: without a limit.
    pub ends_at: Option<u64>,
    /// As in [`Ttls`].
    pub l1_ttl: Option<Duration>,
}

impl Lifetime {
    /// As it is stored with a value that was written at this time of L2.
    fn packed(self, written_at: u64) -> [u8; TIMES_LENGTH] {
        let after = |at: u64| at.saturating_sub(written_at);
        let plus_1 = |ms: Option<u64>| ms.map_or(0, |ms| ms.saturating_add(1));
        let fields = [
            plus_1(self.stale_at.map(after)),
            after(self.expires_at),
            plus_1(self.ends_at.map(after)),
            plus_1(self.l1_ttl.map(millis)),
        ];
        let mut bytes = [0; TIMES_LENGTH];
        put_summed(&mut bytes[..], &fields);
        bytes
    }
}

/// How a value was encoded: by which codec, and as a value of which type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueFormat {
    pub(crate) codec: u8,
    pub(crate) type_tag: u64,
}

/// A stored value, taken apart and checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) lifetime: Lifetime,
    pub(crate) format: ValueFormat,
    pub(crate) payload: &'a [u8],
    pub(crate) tags: Vec<Key>,
}

/// Why bytes are not a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("not in a format that this release knows")]
    Format,
    #[error("truncated or overlong")]
    Length,
    #[error("the checksum does not match: it is damaged, or belongs to another key")]
    Checksum,
    #[error("marked as something other than a value")]
    Flags,
}

/// Begins a body; the payload is then appended to the returned buffer, and [`finish_body`] ends it.
pub(crate) fn new_body() -> Vec<u8> {
    // With room for most small values.
    let mut body = Vec::with_capacity(256);
    body.extend_from_slice(&[0; PAYLOAD_AT]);
    body
}

/// The seed of a value's checksum, made of the namespace and the key: so the checksum fits no other key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChecksumSeed(u64);

impl ChecksumSeed {
    /// The seed for a namespace; [`key`](Self::key) makes the seed of a key from it.
    pub(crate) fn namespace(namespace: &str) -> Self {
        Self(XxHash3_64::oneshot(namespace.as_bytes()))
    }

    pub(crate) fn key(self, key: &str) -> Self {
        Self(XxHash3_64::oneshot_with_seed(self.0, key.as_bytes()))
    }
}

/// Ends a body whose payload is complete: appends the tags, which are few enough for their length to fit, and fills in
/// the fields before the payload.
pub(crate) fn finish_body(
    body: &mut Vec<u8>,
    format: ValueFormat,
    ttls: Ttls,
    tags: &[Key],
    seed: ChecksumSeed,
) {
    // `new_body` has made room for the fields before the payload.
    debug_assert!(body.len() >= PAYLOAD_AT);
    let payload = body.len().saturating_sub(PAYLOAD_AT);
    for tag in tags {
        body.put_u16(tag.len().try_into().unwrap_or(u16::MAX));
        body.put_slice(tag.as_bytes());
    }
    let tags = body.len().saturating_sub(PAYLOAD_AT + payload);
    if let Some(mut fields) = body.get_mut(..CHECKSUM_AT) {
        fields.put_slice(&ttls.packed());
        fields.put_slice(&[format.codec, 0]);
        fields.put_u16(tags.try_into().unwrap_or(u16::MAX));
        fields.put_u64(format.type_tag);
        fields.put_u32(payload.try_into().unwrap_or(u32::MAX));
    }
    // Last: it covers the fields above. The times it leaves out, as scripts change them and cannot hash.
    let sum = checksum(body, seed);
    if let Some(mut field) = body.get_mut(CHECKSUM_AT..PAYLOAD_AT) {
        field.put_u64(sum);
    }
}

/// The tags of a body that has been sealed.
pub(crate) fn tags_of(body: &[u8]) -> Vec<Key> {
    let length = body.get(TAGS_LENGTH_AT..PAYLOAD_AT);
    let length = length.map_or(0, |mut field| field.get_u16().into());
    // From the end, as a script does it: the tags are the last part.
    let at = body.len().checked_sub(length);
    let tags = at.and_then(|at| body.get(at..));
    tags.and_then(|tags| parse_tags(tags, MAX_TAGS))
        .unwrap_or_default()
}

/// The tags of stored bytes.
pub(crate) fn stored_tags(bytes: &[u8]) -> Vec<Key> {
    bytes.get(BODY_AT..).map(tags_of).unwrap_or_default()
}

/// Reads tags as they follow a payload; `None` if they are damaged, too many, or longer than a value may have:
/// each takes memory in L1, and a request for its version.
pub(crate) fn parse_tags(mut bytes: &[u8], most: usize) -> Option<Vec<Key>> {
    let mut tags = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.try_get_u16().ok()?;
        let tag = bytes.split_off(..usize::from(length))?;
        if tags.len() == most || tag.len() > MAX_KEY_BYTES {
            return None;
        }
        tags.push(std::str::from_utf8(tag).ok()?.into());
    }
    Some(tags)
}

/// The checksum of a body: all but the times, and the field that holds it.
pub(crate) fn checksum(body: &[u8], seed: ChecksumSeed) -> u64 {
    let (head, rest) = body.split_at(CHECKSUM_AT.min(body.len()));
    let (head, rest) = (head.get(TIMES_LENGTH..), rest.get(8..).unwrap_or_default());
    let head = head.unwrap_or_default();
    // The head is short and fixed: its hash seeds the hash of the rest, so neither is copied.
    let head = XxHash3_64::oneshot_with_seed(seed.0, head);
    XxHash3_64::oneshot_with_seed(head, rest)
}

/// Puts a stamp before a body, as the scripts do.
pub(crate) fn stamped(stamp: Stamp, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_AT + body.len());
    bytes.put_slice(&MAGIC);
    put_summed(&mut bytes, &[stamp.epoch, stamp.ver, stamp.written_at]);
    bytes.extend_from_slice(body);
    debug_assert_eq!(bytes.len(), BODY_AT + body.len());
    bytes
}

/// Stored bytes with another stamp and other times.
pub(crate) fn restamped(stamp: Stamp, lifetime: Lifetime, stored: &[u8]) -> Vec<u8> {
    // Only bytes whose stamp was read get another one.
    debug_assert!(stored.len() >= BODY_AT + TIMES_LENGTH);
    let mut bytes = stamped(stamp, stored.get(BODY_AT..).unwrap_or_default());
    let times = bytes.get_mut(BODY_AT..).and_then(<[u8]>::first_chunk_mut);
    if let Some(times) = times {
        *times = lifetime.packed(stamp.written_at);
    }
    bytes
}

/// Appends numbers, and their sum.
fn put_summed(mut out: impl BufMut, fields: &[u64]) {
    for field in fields.iter().chain([&sum(fields)]) {
        out.put_u64(*field);
    }
}

pub(crate) fn sum(fields: &[u64]) -> u64 {
    // Wrapping, as hostile bytes may hold any numbers. Lua adds the same below 2^53, where it has no gaps.
    fields.iter().fold(0, |sum, field| sum.wrapping_add(*field))
}

/// Reads the stamp and the times that bytes begin with, and checks them.
pub(crate) fn read_stamp(bytes: &[u8]) -> Option<(Stamp, Lifetime)> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    is_followed(*magic)?;
    let numbers = rest.as_chunks().0.first_chunk::<9>()?;
    let [epoch, ver, written_at, check, times @ ..] = numbers.map(u64::from_be_bytes);
    let [stale, expires, ends, l1, check_of_times] = times;
    if sum(&[epoch, ver, written_at]) != check || sum(&[stale, expires, ends, l1]) != check_of_times
    {
        return None;
    }
    let stamp = Stamp::new(epoch, ver, written_at);
    // No writer gives a lifetime that ends after all of time.
    written_at.checked_add(stale.max(expires).max(ends))?;
    let after = |ms: u64| written_at + ms;
    let lifetime = Lifetime {
        stale_at: stale.checked_sub(1).map(after),
        expires_at: after(expires),
        ends_at: ends.checked_sub(1).map(after),
        l1_ttl: l1.checked_sub(1).map(Duration::from_millis),
    };
    Some((stamp, lifetime))
}

/// Finds the value with a type tag among the values of a key, and takes it apart. `None` if there are other values
/// only. Costs one pass over the value, and allocates for tags only.
pub(crate) fn parse(
    bytes: &[u8],
    seed: ChecksumSeed,
    type_tag: u64,
) -> Result<Option<Envelope<'_>>, Damage> {
    let value = value_of(bytes, type_tag);
    value.map(|value| parse_value(value?, seed)).transpose()
}

/// The value with a type tag; or damage in front of it, as the lengths there say where the value begins.
fn value_of(bytes: &[u8], type_tag: u64) -> Option<Result<&[u8], Damage>> {
    values(bytes).find(|value| match value {
        Ok(value) => has_type_tag(value, type_tag),
        Err(_) => true,
    })
}

/// Takes all values of a key apart; damage of their lengths is the last of them.
#[cfg(feature = "inspect")]
pub(crate) fn parse_each(
    bytes: &[u8],
    seed: ChecksumSeed,
) -> impl Iterator<Item = Result<Envelope<'_>, Damage>> {
    values(bytes).map(move |value| parse_value(value?, seed))
}

/// Whether a value has this type tag.
pub(crate) fn has_type_tag(value: &[u8], type_tag: u64) -> bool {
    value.get(BODY_AT..).and_then(type_tag_of) == Some(type_tag)
}

/// The stamp of the value with a type tag.
pub(crate) fn stamp_of(bytes: &[u8], type_tag: u64) -> Option<Stamp> {
    // With damage in front of it, or in its lengths, no field can be found.
    let value = value_of(bytes, type_tag)?.ok()?;
    Some(read_stamp(value)?.0)
}

/// The values of a key; damage is the last of them.
pub(crate) fn values(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], Damage>> {
    let mut rest = Some(bytes);
    let values = std::iter::from_fn(move || {
        let split = split_value(rest.take()?);
        Some(split.map(|(value, others)| {
            rest = others;
            value
        }))
    });
    values.take(MAX_VALUES)
}

/// The first value, and the bytes that follow, if there is another one.
fn split_value(bytes: &[u8]) -> Result<(&[u8], Option<&[u8]>), Damage> {
    let magic = bytes.first_chunk().ok_or(Damage::Format)?;
    let is_followed = is_followed(*magic).ok_or(Damage::Format)?;
    let body = bytes.get(BODY_AT..).unwrap_or_default();
    let tags = body.get(TAGS_LENGTH_AT..).and_then(<[u8]>::first_chunk);
    let payload = body.get(PAYLOAD_LENGTH_AT..).and_then(<[u8]>::first_chunk);
    let (tags, payload) = tags.zip(payload).ok_or(Damage::Length)?;
    let length = u64::from(u16::from_be_bytes(*tags)) + u64::from(u32::from_be_bytes(*payload));
    let length = usize::try_from(length).map_err(|_| Damage::Length)?;
    let length = length.checked_add(BODY_AT + PAYLOAD_AT);
    let parts = length.and_then(|length| bytes.split_at_checked(length));
    let (value, rest) = parts.ok_or(Damage::Length)?;
    // The mark and the bytes must agree: a value that was cut where it ends, or has bytes behind it, is damaged.
    match (is_followed, rest) {
        (false, []) => Ok((value, None)),
        (true, [_, ..]) => Ok((value, Some(rest))),
        _ => Err(Damage::Length),
    }
}

/// Whether another value follows a value with this magic; `None` if it is no value.
fn is_followed(magic: [u8; 4]) -> Option<bool> {
    // A release with another format has another magic: its values are misses here.
    let is_value = magic == MAGIC || magic == FOLLOWED;
    is_value.then_some(magic == FOLLOWED)
}

/// Puts the values of a key behind each other.
pub(crate) fn join(values: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.iter().map(|value| value.as_ref().len()).sum());
    for (number, value) in (1..).zip(values) {
        let magic = if number < values.len() {
            FOLLOWED
        } else {
            MAGIC
        };
        bytes.extend_from_slice(&magic);
        bytes.extend_from_slice(value.as_ref().get(magic.len()..).unwrap_or_default());
    }
    bytes
}

/// The type tag of a body.
pub(crate) fn type_tag_of(body: &[u8]) -> Option<u64> {
    let tag = body.get(TYPE_TAG_AT..)?.first_chunk();
    tag.copied().map(u64::from_be_bytes)
}

/// Takes a value apart, whose length was found by its head.
fn parse_value(value: &[u8], seed: ChecksumSeed) -> Result<Envelope<'_>, Damage> {
    // The checks are in the order of their cost; the checksum passes over all bytes.
    let body = value.get(BODY_AT..).unwrap_or_default();
    let head = body.split_first_chunk::<PAYLOAD_AT>();
    let (head, rest) = head.ok_or(Damage::Length)?;
    let mut fields = &head[TIMES_LENGTH..];
    let (codec, flags) = (fields.get_u8(), fields.get_u8());
    let _tags_length = fields.get_u16();
    let type_tag = fields.get_u64();
    let length = usize::try_from(fields.get_u32()).ok();
    let parts = length.and_then(|length| rest.split_at_checked(length));
    let (payload, tags) = parts.ok_or(Damage::Length)?;
    let (stamp, lifetime) = read_stamp(value).ok_or(Damage::Checksum)?;
    if checksum(body, seed) != fields.get_u64() {
        return Err(Damage::Checksum);
    }
    // No release has set one yet. A later one may mark bytes that are no value, which this one takes for a miss.
    if flags != 0 {
        return Err(Damage::Flags);
    }
    Ok(Envelope {
        stamp,
        lifetime,
        format: ValueFormat { codec, type_tag },
        payload,
        tags: parse_tags(tags, MAX_TAGS).ok_or(Damage::Length)?,
    })
}

/// A tag for a type's name and the version of its layout. It distinguishes values of one type from values of another.
pub(crate) fn type_tag(name: &str, schema_version: u32) -> u64 {
    XxHash3_64::oneshot_with_seed(schema_version.into(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        epoch: 7,
        ver: 9,
        written_at: 1_700_000_000_000,
    };
    const TYPE: u64 = 42;
    const FORMAT: ValueFormat = ValueFormat {
        codec: 1,
        type_tag: TYPE,
    };
    const LIFETIME: Lifetime = Lifetime {
        stale_at: Some(1_700_000_000_020),
        expires_at: 1_700_000_000_040,
        ends_at: Some(1_700_000_000_080),
        l1_ttl: Some(Duration::from_millis(5)),
    };

    fn sample(tags: &[Key]) -> Vec<u8> {
        let mut body = new_body();
        body.extend_from_slice(b"payload");
        finish_body(&mut body, FORMAT, Ttls::new(Duration::ZERO), tags, seed());
        restamped(STAMP, LIFETIME, &stamped(STAMP, &body))
    }

    fn seed() -> ChecksumSeed {
        ChecksumSeed::namespace("ns").key("k")
    }

    fn tags() -> Vec<Key> {
        vec!["a".into(), "".into(), "\u{fc}".into()]
    }

    #[test]
    fn what_is_sealed_opens() {
        for tags in [Vec::new(), tags()] {
            let bytes = sample(&tags);
            let body = bytes.get(BODY_AT..).unwrap();
            assert_eq!(tags_of(body), tags);
            let envelope = Envelope {
                stamp: STAMP,
                lifetime: LIFETIME,
                format: FORMAT,
                payload: b"payload",
                tags,
            };
            assert_eq!(parse(&bytes, seed(), TYPE), Ok(Some(envelope)));
        }
    }

    #[test]
    fn no_value_has_more_or_longer_tags_than_may_be() {
        let most: Vec<Key> = (0..MAX_TAGS)
            .map(|n| n.to_string().as_str().into())
            .collect();
        let many = [&most[..], &["more".into()]].concat();
        let (long, longer): (Key, Key) = (
            "x".repeat(1024).as_str().into(),
            "x".repeat(1025).as_str().into(),
        );
        for (tags, is_value) in [
            (most, true),
            (many, false),
            (vec![long], true),
            (vec![longer], false),
        ] {
            let bytes = sample(&tags);
            let opened = parse(&bytes, seed(), TYPE);
            let opened = opened.map(|value| value.map(|value| value.tags));
            assert_eq!(opened, is_value.then_some(Some(tags)).ok_or(Damage::Length));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample(&tags());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // With another type tag it is the value of other instances.
            let opened = parse(&bad, seed(), TYPE);
            assert!(!matches!(opened, Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn every_other_length_is_noticed() {
        let good = sample(&tags());
        for length in 0..good.len() {
            assert!(
                parse(&good[..length], seed(), TYPE).is_err(),
                "cut to {length}"
            );
        }
        let mut longer = good;
        longer.push(0);
        assert_eq!(parse(&longer, seed(), TYPE), Err(Damage::Length));
    }

    #[test]
    fn a_value_of_another_key_or_namespace_is_noticed() {
        let bytes = sample(&[]);
        for other in [
            ChecksumSeed::namespace("ns").key("K"),
            ChecksumSeed::namespace("ns").key(""),
            ChecksumSeed::namespace("n").key("sk"),
            ChecksumSeed::namespace("ns2").key("k"),
        ] {
            assert_eq!(parse(&bytes, other, TYPE), Err(Damage::Checksum));
        }
    }

    #[test]
    fn each_type_tag_has_a_value_of_its_own() {
        let value = |type_tag: u64| {
            let mut body = new_body();
            body.extend_from_slice(&type_tag.to_be_bytes());
            let head = ValueFormat { codec: 1, type_tag };
            finish_body(&mut body, head, Ttls::new(Duration::ZERO), &tags(), seed());
            stamped(STAMP, &body)
        };
        let stored = join(&[value(1), value(2), value(3)]);
        for type_tag in [1, 2, 3] {
            let opened = parse(&stored, seed(), type_tag).unwrap().unwrap();
            assert_eq!(opened.payload, type_tag.to_be_bytes());
            assert_eq!(opened.tags, tags());
        }
        assert_eq!(parse(&stored, seed(), 4), Ok(None));
        let split: Vec<_> = values(&stored).map(Result::unwrap).collect();
        assert_eq!(join(&split), stored);
        assert_eq!(join(&split[2..]), value(3));
        // What is behind a value does not matter to it; without what is in front it is not found.
        let cut = &stored[..stored.len() - 1];
        assert_eq!(parse(cut, seed(), 3), Err(Damage::Length));
        assert!(parse(cut, seed(), 2).is_ok_and(|value| value.is_some()));
        let mut damaged = stored.clone();
        damaged[0] = 0;
        assert_eq!(parse(&damaged, seed(), 3), Err(Damage::Format));
        let many: Vec<_> = (0..=MAX_VALUES as u64).map(value).collect();
        assert_eq!(values(&join(&many)).count(), MAX_VALUES);
    }

    /// The layout is shared with other releases: this test fails when it drifts.
    #[test]
    fn the_layout_is_frozen() {
        let bytes = sample(&[]);
        assert_eq!(&bytes[..4], b"LRD\x04");
        assert_eq!(bytes[4..12], 7_u64.to_be_bytes());
        assert_eq!(bytes[12..20], 9_u64.to_be_bytes());
        assert_eq!(bytes[20..28], 1_700_000_000_000_u64.to_be_bytes());
        assert_eq!(bytes[28..36], 1_700_000_000_016_u64.to_be_bytes());
        assert_eq!(bytes[36..44], 21_u64.to_be_bytes());
        assert_eq!(bytes[44..52], 40_u64.to_be_bytes());
        assert_eq!(bytes[52..60], 81_u64.to_be_bytes());
        assert_eq!(bytes[60..68], 6_u64.to_be_bytes());
        assert_eq!(bytes[68..76], 148_u64.to_be_bytes());
        assert_eq!(bytes[76..80], [1, 0, 0, 0]);
        assert_eq!(bytes[80..88], 42_u64.to_be_bytes());
        assert_eq!(bytes[88..92], 7_u32.to_be_bytes());
        assert_eq!(bytes[92..100], 0x240b_821f_4068_1401_u64.to_be_bytes());
        assert_eq!(&bytes[100..], b"payload");
        assert_eq!(join(&[&bytes, &bytes])[..4], *b"LRD\x84");
        let tagged = sample(&tags());
        assert_eq!(tagged[76..80], [1, 0, 0, 9]);
        assert_eq!(tagged[88..92], 7_u32.to_be_bytes());
        assert_eq!(&tagged[100..], b"payload\0\x01a\0\0\0\x02\xc3\xbc");
    }

    #[test]
    fn the_writer_stores_the_times_that_a_lifetime_has() {
        let ttls = Ttls {
            soft: Some(Duration::from_millis(20)),
            end: Some(Duration::from_millis(80)),
            l1: Some(Duration::from_millis(5)),
            ..Ttls::new(Duration::from_millis(40))
        };
        let mut body = new_body();
        finish_body(&mut body, FORMAT, ttls, &[], seed());
        let bytes = stamped(STAMP, &body);
        assert_eq!(read_stamp(&bytes), Some((STAMP, LIFETIME)));
        assert_eq!(restamped(STAMP, LIFETIME, &bytes), bytes);
    }
}
