//! How often keys were looked up of late.

/// About how often keys were looked up of late: a count-min sketch, like the sketches of moka and `TinyLFU` (Einziger
/// et al., ACM TOS 2017). All counts are halved after ten look-ups for each entry.
pub(super) struct FrequencySketch {
    /// Four rows, side by side, as long as a power of two.
    counts: Vec<[u8; 4]>,
    /// How often was counted since the counts were halved, and half of that before.
    counted: usize,
}

/// The highest count.
const MAX_COUNT: u8 = 15;

#[allow(clippy::indexing_slicing, reason = "a place is one in the row")]
impl FrequencySketch {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![[0; 4]; 16],
            counted: 0,
        }
    }

    /// Counts a look-up. Returns how often the key was looked up.
    pub(super) fn add(&mut self, hash: u64, entries: usize) -> u64 {
        if self.counts.len() < 4 * entries {
            // A key is now counted in one of two places: both have what it was counted in.
            self.counts.extend_from_within(..);
        }
        let (mut least, mut is_counted) = (MAX_COUNT, false);
        for (row, place) in self.places(hash).into_iter().enumerate() {
            let count = &mut self.counts[place][row];
            is_counted |= *count < MAX_COUNT;
            *count = (*count + 1).min(MAX_COUNT);
            least = least.min(*count);
        }
        self.counted += usize::from(is_counted);
        if self.counted >= 10 * entries.max(1) {
            for count in self.counts.as_flattened_mut() {
                *count /= 2;
            }
            self.counted /= 2;
            least /= 2;
        }
        least.into()
    }

    /// How often a key was looked up.
    pub(super) fn count_of(&self, hash: u64) -> u64 {
        let counts = self.places(hash).into_iter().enumerate();
        let counts = counts.map(|(row, place)| self.counts[place][row]);
        counts.min().unwrap_or_default().into()
    }

    /// Where a key is counted in each row: by other bits of the hash, and by none of the highest, as these are the same
    /// for all keys of the sample.
    #[allow(clippy::cast_possible_truncation, reason = "low bits are enough")]
    fn places(&self, hash: u64) -> [usize; 4] {
        [0, 12, 24, 36].map(|from| (hash >> from) as usize & (self.counts.len() - 1))
    }

    /// The bytes on the heap.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.counts.capacity() * size_of::<[u8; 4]>()
    }
}
