//! Envelopes: what is stored under a key.

use super::input::Input;
use crate::key::Key;
use crate::wire::envelope::{
    ChecksumSeed, Envelope, Lifetime, MAGIC, MAX_TAGS, MAX_VALUES, Stamp, Ttls, ValueFormat,
    checksum, finish_body, join, new_body, parse, parse_tags, read_stamp, restamped, stamped,
    stored_tags, sum, tags_of, type_tag_of, values,
};

const TIMES: usize = 36;
const HEAD: usize = TIMES + 40;
const CHECKSUM_AT: usize = HEAD + 16;

/// Bytes as they are, bytes whose checks are made to fit, and an envelope that is sealed and then damaged.
pub fn envelope(bytes: &[u8]) {
    let seed = ChecksumSeed::namespace("fuzz").key("key");
    whatever_it_is(bytes, seed);
    if let Some(mended) = mended(bytes, seed) {
        whatever_it_is(&mended, seed);
    }
    sealed_and_damaged(&mut Input::new(bytes), seed);
}

/// What opens seals to the same bytes, and a stamp that is read is written the same.
fn whatever_it_is(bytes: &[u8], seed: ChecksumSeed) {
    let all: Vec<_> = values(bytes).collect();
    let found: Vec<&[u8]> = all.iter().copied().filter_map(Result::ok).collect();
    if found.len() == all.len() && found.len() < MAX_VALUES {
        assert_eq!(join(&found), bytes, "the values");
    }
    for value in found {
        one_value(&join(&[value]), seed);
    }
    // Both are lists of tags, or none: they say nothing of whether the rest is right.
    let _ = (
        tags_of(bytes),
        parse_tags(bytes, MAX_TAGS),
        stored_tags(bytes),
    );
    let _ = parse(bytes, seed, 0);
}

fn one_value(bytes: &[u8], seed: ChecksumSeed) {
    let stamp = read_stamp(bytes);
    if let Some((stamp, lifetime)) = stamp {
        assert_eq!(restamped(stamp, lifetime, bytes), bytes, "the stamp");
    }
    let of_stored = stored_tags(bytes);
    let type_tag = bytes.get(TIMES..).and_then(type_tag_of).unwrap_or_default();
    let Ok(Some(envelope)) = parse(bytes, seed, type_tag) else {
        return;
    };
    assert_eq!(stamp, Some((envelope.stamp, envelope.lifetime)));
    assert_eq!(of_stored, envelope.tags);
    assert_eq!(sealed(&envelope, seed), bytes, "the envelope");
    for other in [
        ChecksumSeed::namespace("fuzz").key("other"),
        ChecksumSeed::namespace("other").key("key"),
    ] {
        let elsewhere = parse(bytes, other, type_tag);
        assert!(elsewhere.is_err(), "it opens in another place");
    }
}

fn sealed(envelope: &Envelope<'_>, seed: ChecksumSeed) -> Vec<u8> {
    let mut body = new_body();
    body.extend_from_slice(envelope.payload);
    let ttls = Ttls::new(std::time::Duration::ZERO);
    finish_body(&mut body, envelope.format, ttls, &envelope.tags, seed);
    restamped(
        envelope.stamp,
        envelope.lifetime,
        &stamped(envelope.stamp, &body),
    )
}

/// The bytes with the magic, the sums of the stamp and the times, and the checksum that they need. Lengths, flags and
/// tags stay.
fn mended(bytes: &[u8], seed: ChecksumSeed) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    bytes.get_mut(..4)?.copy_from_slice(&MAGIC);
    for (from, to) in [(4, TIMES), (TIMES, HEAD)] {
        let (fields, check) = bytes.get_mut(from..to)?.split_last_chunk_mut::<8>()?;
        let fields = fields.as_chunks().0.iter().copied();
        let fields: Vec<_> = fields.map(u64::from_be_bytes).collect();
        *check = sum(&fields).to_be_bytes();
    }
    let checksum = checksum(bytes.get(TIMES..)?, seed);
    let field = bytes.get_mut(CHECKSUM_AT..CHECKSUM_AT + 8)?;
    field.copy_from_slice(&checksum.to_be_bytes());
    Some(bytes)
}

/// What is sealed opens as it was, and not with another byte in it, nor cut, nor longer.
fn sealed_and_damaged(input: &mut Input<'_>, seed: ChecksumSeed) {
    let damage = (input.u64(), input.u8());
    // Times that no value of a release has would overflow.
    let ms = |input: &mut Input<'_>| input.u64() >> 2;
    let stamp = Stamp {
        epoch: input.u64(),
        ver: input.u64(),
        written_at: ms(input),
    };
    let after = |input: &mut Input<'_>| stamp.written_at + ms(input);
    let lifetime = Lifetime {
        stale_at: input.some(after),
        expires_at: after(input),
        ends_at: input.some(after),
        l1_ttl: input.some(|input| std::time::Duration::from_millis(input.u64().min(u64::MAX - 1))),
    };
    let format = ValueFormat {
        codec: input.u8(),
        type_tag: input.u64(),
    };
    let tags = input.list(|input| Key::from(&*input.text()));
    let envelope = Envelope {
        stamp,
        lifetime,
        format,
        payload: input.rest(),
        tags,
    };
    let bytes = sealed(&envelope, seed);
    let tag = format.type_tag;
    assert_eq!(parse(&bytes, seed, tag).as_ref(), Ok(&Some(envelope)));

    let at = usize::try_from(damage.0 % bytes.len() as u64).expect("it is in the bytes");
    let mut other = bytes.clone();
    if let Some(byte) = other.get_mut(at) {
        *byte ^= damage.1.max(1);
    }
    // With another type tag it is the value of other instances.
    let opens = |bytes: &[u8]| matches!(parse(bytes, seed, tag), Ok(Some(_)));
    assert!(!opens(&other), "another byte {at}");
    let cut = bytes.get(..at).unwrap_or_default();
    assert!(!opens(cut), "cut to {at}");
    let longer = [&*bytes, &[damage.1]].concat();
    assert!(!opens(&longer), "longer");
    whatever_it_is(&other, seed);
}
