//! The hash by which Redis Cluster finds the slot of a key. Programs in other languages have it at hand.

use crc::{CRC_16_XMODEM, Crc, Table};

/// With a table for 16 bytes at a time: the calls of a cache with several partitions begin with it.
const CRC: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);
/// How many slots a cluster has.
pub(crate) const SLOTS: u16 = 16_384;

/// The partition that a key belongs to, of `partitions`, which is at least one.
pub(crate) fn nth(key: &str, partitions: usize) -> usize {
    usize::from(crc16(key.as_bytes())) % partitions
}

fn crc16(bytes: &[u8]) -> u16 {
    CRC.checksum(bytes)
}

/// The slot of a hash tag.
pub(crate) fn slot(tag: &str) -> u16 {
    crc16(tag.as_bytes()) % SLOTS
}

/// The part that a slot is in, if all slots are divided into `parts` equal parts.
pub(crate) fn part(slot: u16, parts: u16) -> u16 {
    let part = u32::from(slot) * u32::from(parts) / u32::from(SLOTS);
    // Below `parts`.
    u16::try_from(part).unwrap_or(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `CLUSTER KEYSLOT` answers.
    #[test]
    fn slots_are_those_of_redis() {
        for (tag, of) in [("123456789", 12_739), ("foo", 12_182), ("", 0)] {
            assert_eq!(slot(tag), of, "{tag}");
        }
    }
}
