//! How keys are hashed.

use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use crate::util::random::is_seeded;
#[cfg(not(larder_interleavings))]
use crate::util::random::seed;

/// std's own, `SipHash`, would be an eighth of the instructions of a hit.
pub(crate) type Hasher = SeedableRandomState;

/// A hasher with a seed of its own. An attacker may choose keys, so no two caches hash alike; foldhash's default seeds
/// are only addresses and the time.
pub(crate) fn hasher() -> Hasher {
    // One for all caches: the tables that it stands for are large, and only the seed has to differ.
    static SHARED: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(seed()));
    // A simulated world hashes alike in every process, so nothing of it follows from the process's own seed.
    let shared = if is_seeded() {
        SharedSeed::global_fixed()
    } else {
        &SHARED
    };
    Hasher::with_seed(seed(), shared)
}

/// loom runs a test again and again, and each run has to hash alike.
#[cfg(larder_interleavings)]
fn seed() -> u64 {
    7
}

#[cfg(not(larder_interleavings))]
#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::util::random::seed_randomness;

    #[test]
    fn a_seeded_thread_hashes_as_it_would_in_any_process() {
        seed_randomness(Some(7));
        let first = hasher().hash_one("tea");
        // Not the same seed for all caches of the world.
        assert_ne!(first, hasher().hash_one("tea"));
        fastrand::seed(7);
        let fixed = Hasher::with_seed(fastrand::u64(..), SharedSeed::global_fixed());
        assert_eq!(first, fixed.hash_one("tea"));
        seed_randomness(None);
    }
}
