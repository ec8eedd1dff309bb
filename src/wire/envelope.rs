//! What is stored under a key in L2: a stamp, a body's head, and the encoded value.
//!
//! ```text
//!  0  magic "LRD", format 1
//!  4  stamp: epoch, ver, written-at in ms of L2's time, the sum of the three   4 × u64
//! 36  codec u8, flags u8, zero u16
//! 40  type tag u64
//! 48  source version u64, 0 = none
//! 56  soft TTL in ms u64, 0 = none
//! 64  hard TTL in ms u64
//! 72  payload length u32
//! 76  checksum u64: XXH3 of the payload, seeded with XXH3 of bytes 36..76
//! 84  payload
//! ```
//! All numbers are big-endian. L2 issues the stamp when it writes, in the same step that orders the
//! write, so the writer sends only the body, from 36 on. The sum is the stamp's own check: a script
//! can add, but not hash, at no cost.

use twox_hash::XxHash3_64;

pub(crate) const MAGIC: [u8; 4] = *b"LRD\x01";
const HEAD: usize = 84;
const BODY: usize = 36;

/// When L2 accepted a write, in the order of all writes of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The epoch in which it was written; versions compare only within one.
    pub epoch: u64,
    /// The version that this write was given.
    pub ver: u64,
    /// When, in milliseconds of L2's own time.
    pub written_at: u64,
}

/// The part of the head that the writing instance knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) codec: u8,
    pub(crate) type_tag: u64,
    pub(crate) soft_ttl_ms: u64,
    pub(crate) hard_ttl_ms: u64,
}

/// A stored value, taken apart and checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) head: Head,
    pub(crate) payload: &'a [u8],
}

/// Why bytes are not a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("not in a format that this release knows")]
    Format,
    #[error("truncated or overlong")]
    Length,
    #[error("the checksum does not match")]
    Checksum,
    #[error("marked as something other than a value")]
    Flags,
}

/// Begins a body; the payload is then appended to the returned buffer, and [`seal`] ends it.
pub(crate) fn begin(head: &Head) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD - BODY + 256);
    body.extend_from_slice(&[head.codec, 0, 0, 0]);
    body.extend_from_slice(&head.type_tag.to_be_bytes());
    body.extend_from_slice(&0_u64.to_be_bytes());
    body.extend_from_slice(&head.soft_ttl_ms.to_be_bytes());
    body.extend_from_slice(&head.hard_ttl_ms.to_be_bytes());
    body.extend_from_slice(&[0; 12]);
    body
}

/// Where the payload starts in a body.
pub(crate) const PAYLOAD_IN_BODY: usize = HEAD - BODY;

/// Fills in the length and the checksum of a body whose payload is complete.
pub(crate) fn seal(mut body: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(body.len().saturating_sub(PAYLOAD_IN_BODY)).unwrap_or(u32::MAX);
    if let Some(field) = body.get_mut(36..40) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    let sum = checksum(&body);
    if let Some(field) = body.get_mut(40..48) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    body
}

/// The checksum of a body: all but the field that holds it.
fn checksum(body: &[u8]) -> u64 {
    let (head, rest) = body.split_at(40.min(body.len()));
    let payload = rest.get(8..).unwrap_or_default();
    // The head is short and fixed: its hash seeds that of the payload, so neither is copied.
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(head), payload)
}

/// Puts a stamp before a body, as the scripts do.
pub(crate) fn stamped(stamp: Stamp, body: &[u8]) -> Vec<u8> {
    let Stamp {
        epoch,
        ver,
        written_at,
    } = stamp;
    let mut bytes = Vec::with_capacity(BODY + body.len());
    bytes.extend_from_slice(&MAGIC);
    for field in [
        epoch,
        ver,
        written_at,
        epoch.wrapping_add(ver).wrapping_add(written_at),
    ] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Takes stored bytes apart. Costs one pass over the payload.
pub(crate) fn open(bytes: &[u8]) -> Result<Envelope<'_>, Damage> {
    if bytes.get(..4) != Some(&MAGIC) {
        return Err(Damage::Format);
    }
    let (Some(body), Some(payload)) = (bytes.get(BODY..), bytes.get(HEAD..)) else {
        return Err(Damage::Length);
    };
    let number = |at: usize| {
        bytes
            .get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_be_bytes)
    };
    let stamp = Stamp {
        epoch: number(4),
        ver: number(12),
        written_at: number(20),
    };
    let length = number(72) >> 32;
    if usize::try_from(length) != Ok(payload.len()) {
        return Err(Damage::Length);
    }
    let sum = stamp
        .epoch
        .wrapping_add(stamp.ver)
        .wrapping_add(stamp.written_at);
    if sum != number(28) || checksum(body) != number(76) {
        return Err(Damage::Checksum);
    }
    let [codec, flags, ..] = *body else {
        return Err(Damage::Length);
    };
    if flags != 0 {
        return Err(Damage::Flags);
    }
    let head = Head {
        codec,
        type_tag: number(40),
        soft_ttl_ms: number(56),
        hard_ttl_ms: number(64),
    };
    Ok(Envelope {
        stamp,
        head,
        payload,
    })
}

/// The stamp and hard TTL of stored bytes, if they are a live value: what the scripts look at.
pub(crate) fn peek(bytes: &[u8]) -> Option<(Stamp, u64)> {
    let envelope = open(bytes).ok()?;
    Some((envelope.stamp, envelope.head.hard_ttl_ms))
}

/// A tag for a type's name, which distinguishes values of one type from those of another.
pub(crate) fn type_tag(name: &str) -> u64 {
    XxHash3_64::oneshot(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        epoch: 7,
        ver: 9,
        written_at: 1_700_000_000_000,
    };
    const HEAD_FIELDS: Head = Head {
        codec: 1,
        type_tag: 42,
        soft_ttl_ms: 5,
        hard_ttl_ms: 10,
    };

    fn sample() -> Vec<u8> {
        let mut body = begin(&HEAD_FIELDS);
        body.extend_from_slice(b"payload");
        stamped(STAMP, &seal(body))
    }

    #[test]
    fn what_is_sealed_opens() {
        let bytes = sample();
        let envelope = open(&bytes);
        assert_eq!(
            envelope,
            Ok(Envelope {
                stamp: STAMP,
                head: HEAD_FIELDS,
                payload: b"payload"
            })
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_other_length_is_noticed() {
        let good = sample();
        for length in 0..good.len() {
            assert!(open(&good[..length]).is_err(), "cut to {length}");
        }
        let mut longer = good;
        longer.push(0);
        assert_eq!(open(&longer), Err(Damage::Length));
    }

    /// The layout is shared with other releases: this test fails when it drifts.
    #[test]
    fn the_layout_is_frozen() {
        let bytes = sample();
        assert_eq!(&bytes[..4], b"LRD\x01");
        assert_eq!(bytes[4..12], 7_u64.to_be_bytes());
        assert_eq!(bytes[12..20], 9_u64.to_be_bytes());
        assert_eq!(bytes[20..28], 1_700_000_000_000_u64.to_be_bytes());
        assert_eq!(bytes[28..36], 1_700_000_000_016_u64.to_be_bytes());
        assert_eq!(bytes[36..40], [1, 0, 0, 0]);
        assert_eq!(bytes[40..48], 42_u64.to_be_bytes());
        assert_eq!(bytes[48..56], [0; 8]);
        assert_eq!(bytes[56..64], 5_u64.to_be_bytes());
        assert_eq!(bytes[64..72], 10_u64.to_be_bytes());
        assert_eq!(bytes[72..76], 7_u32.to_be_bytes());
        assert_eq!(bytes[76..84], 0x3b31_fe37_6ee6_7feb_u64.to_be_bytes());
        assert_eq!(&bytes[84..], b"payload");
    }
}
