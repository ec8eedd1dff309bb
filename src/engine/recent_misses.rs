//! Whether L2 lacks most of the keys that it was asked for last.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Misses are expected after this many misses that no hit has made up for, until hits have made up for all of them.
const MANY: u32 = 32;

/// How many misses a hit makes up for. To expect a miss saves a load a round trip, and costs a hit a script in the place of
/// a GET: with about four times as many misses as hits, the server has equal work either way.
const HIT: u32 = 4;

/// A value of more bytes is large. The script answers with the values of up to 128 keys at once, and plain reads with few
/// large ones.
const LARGE: usize = 16 * 1024;

/// Is set while misses are expected.
const EXPECTED: u32 = 1 << 31;

/// The last outcomes of reads of L2: how many misses hits have not made up for, up to [`MANY`], and [`EXPECTED`]. In one
/// number, so that a race of two outcomes loses one of them, and no more.
#[derive(Default)]
pub(crate) struct RecentMisses(AtomicU32);

impl RecentMisses {
    /// Whether a load asks for the value or the lease in one step, without a read before it.
    pub(crate) fn are_expected(&self) -> bool {
        self.0.load(Relaxed) & EXPECTED != 0
    }

    pub(crate) fn note(&self, is_miss: bool) {
        let before = self.0.load(Relaxed);
        let (level, expected) = (before & !EXPECTED, before & EXPECTED);
        let after = if is_miss {
            match level + 1 {
                MANY.. => MANY | EXPECTED,
                level => level | expected,
            }
        } else {
            match level.saturating_sub(HIT) {
                0 => 0,
                level => level | expected,
            }
        };
        // Mostly it stays at one of its ends, and no other thread's copy of it is made invalid.
        if after != before {
            self.0.store(after, Relaxed);
        }
    }

    /// Notes the size of a value that L2 has or gets. After a large one no miss is expected.
    pub(crate) fn note_size(&self, bytes: usize) {
        if bytes > LARGE {
            self.forget();
        }
    }

    /// Begins anew: the next loads read first.
    pub(crate) fn forget(&self) {
        if self.0.load(Relaxed) != 0 {
            self.0.store(0, Relaxed);
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
            let many = many.parse().unwrap();
            match of {
                "bytes" => recent.note_size(many),
                _ => (0..many).for_each(|_| recent.note(of == "misses")),
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
            "32 misses, 16384 bytes, 16385 bytes, 31 misses => yes, yes, no, no",
        ] {
            let (runs, expected) = row.split_once(" => ").unwrap();
            assert_eq!(expected_after(runs), expected, "{row}");
        }
    }
}
