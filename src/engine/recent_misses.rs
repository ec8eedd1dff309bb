//! Whether L2 lacks most of the keys that it was asked for last.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// So many misses more than hits make up for, and misses are expected. They no longer are once hits have made up for all.
const MANY: u32 = 32;

/// How many misses a hit makes up for. To expect a miss saves a load a round trip, and costs a hit a script in the place of a
/// GET: with about four times as many misses as hits, the server has equal work either way.
const HIT: u32 = 4;

/// The last outcomes of reads of L2. A race of two of them loses one, which does no harm.
#[derive(Default)]
pub(crate) struct RecentMisses {
    /// Misses that hits have not made up for, up to [`MANY`].
    level: AtomicU32,
    are_expected: AtomicBool,
}

impl RecentMisses {
    /// A load then asks for the value or the lease in one step, and no read comes before it.
    pub(crate) fn are_expected(&self) -> bool {
        self.are_expected.load(Relaxed)
    }

    pub(crate) fn note(&self, is_miss: bool) {
        let before = self.level.load(Relaxed);
        let after = if is_miss {
            (before + 1).min(MANY)
        } else {
            before.saturating_sub(HIT)
        };
        // Mostly it stays at one of its ends, and no other thread's copy of it is made invalid.
        if after != before {
            self.level.store(after, Relaxed);
            if after == 0 || after == MANY {
                self.are_expected.store(after == MANY, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether misses are expected after each of these runs of outcomes, such as `32 misses` and `1 hits`.
    fn expected_after(runs: &str) -> String {
        let recent = RecentMisses::default();
        let mut expected = Vec::new();
        for run in runs.split(", ") {
            let (many, of) = run.split_once(' ').unwrap();
            for _ in 0..many.parse::<u32>().unwrap() {
                recent.note(of == "misses");
            }
            expected.push(if recent.are_expected() { "yes" } else { "no" });
        }
        expected.join(", ")
    }

    #[test]
    fn misses_are_expected_after_many_and_until_hits_have_made_up_for_them() {
        for row in [
            "0 hits => no",
            "31 misses, 1 misses, 100 misses => no, yes, yes",
            "32 misses, 7 hits, 1 hits, 31 misses, 1 misses => yes, yes, no, no, yes",
            "31 misses, 1 hits, 4 misses, 1 misses => no, no, no, yes",
            "32 misses, 7 hits, 27 misses, 7 hits => yes, yes, yes, yes",
            "100 hits, 32 misses => no, yes",
        ] {
            let (runs, expected) = row.split_once(" => ").unwrap();
            assert_eq!(expected_after(runs), expected, "{row}");
        }
    }
}
