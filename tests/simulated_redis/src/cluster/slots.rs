//! Slots: that of a key, and who has them.

use std::sync::Arc;

/// How many there are.
pub(crate) const SLOTS: u16 = 16_384;

/// The first and the last slot of each range, in their order.
pub(crate) type Ranges = Arc<[(u16, u16)]>;

/// The slot of a key: of the part in its first braces, if there is one.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    let tag = || {
        let from = key.iter().position(|byte| *byte == b'{')? + 1;
        let length = key[from..].iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &key[from..from + length])
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let at = (crc >> 8) ^ u16::from(*byte);
        (crc << 8) ^ TABLE[usize::from(at)]
    })
}

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u16;
    while byte < 256 {
        let (mut crc, mut bit) = (byte << 8, 0);
        while bit < 8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

/// All slots of these ranges.
pub(crate) fn each(ranges: &Ranges) -> impl Iterator<Item = u16> {
    ranges.iter().flat_map(|(first, last)| *first..=*last)
}

/// Which node has each slot.
#[derive(Clone)]
pub(crate) struct Owners {
    each: Vec<Option<u8>>,
    /// How many each node has.
    counts: Vec<usize>,
    /// Those of each node, until they change.
    ranges: Vec<Option<Ranges>>,
}

impl PartialEq for Owners {
    fn eq(&self, other: &Self) -> bool {
        self.each == other.each
    }
}

impl Owners {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            each: vec![None; usize::from(SLOTS)],
            counts: vec![0; nodes],
            ranges: vec![None; nodes],
        }
    }

    pub(crate) fn of(&self, slot: u16) -> Option<usize> {
        self.each[usize::from(slot)].map(usize::from)
    }

    pub(crate) fn set(&mut self, slot: u16, owner: Option<usize>) {
        if let Some(former) = self.of(slot) {
            self.counts[former] -= 1;
            self.ranges[former] = None;
        }
        if let Some(owner) = owner {
            self.counts[owner] += 1;
            self.ranges[owner] = None;
        }
        let owner = owner.map(|owner| u8::try_from(owner).expect("so many nodes"));
        self.each[usize::from(slot)] = owner;
    }

    pub(crate) fn count(&self, node: usize) -> usize {
        self.counts[node]
    }

    /// How many nodes have slots.
    pub(crate) fn owners(&self) -> usize {
        self.counts.iter().filter(|count| **count > 0).count()
    }

    /// How many slots have an owner of which this is true.
    pub(crate) fn assigned(&self, is_it: impl Fn(usize) -> bool) -> usize {
        let counts = self.counts.iter().enumerate();
        counts
            .filter(|(node, _)| is_it(*node))
            .map(|(_, count)| count)
            .sum()
    }

    /// The slots of a node.
    pub(crate) fn ranges(&mut self, node: usize) -> Ranges {
        if let Some(ranges) = &self.ranges[node] {
            return Arc::clone(ranges);
        }
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for slot in 0..SLOTS {
            if self.of(slot) == Some(node) {
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == slot => *last = slot,
                    _ => ranges.push((slot, slot)),
                }
            }
        }
        let ranges = Ranges::from(ranges);
        self.ranges[node] = Some(Arc::clone(&ranges));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `CLUSTER KEYSLOT` answers.
    #[test]
    fn slots_are_those_of_redis() {
        for (key, slot) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("{foo}:1", 12_182),
            ("", 0),
            ("{}foo", slot_of(b"{}foo")),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_ne!(slot_of(b"{}foo"), slot_of(b""));
    }
}
