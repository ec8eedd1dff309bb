//! How keys are hashed.

use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

#[cfg(not(larder_interleavings))]
use crate::util::random::seed;

/// std's own, `SipHash`, would be an eighth of the instructions of a hit.
pub(crate) type Hasher = SeedableRandomState;

/// A hasher with a seed of its own. An attacker may choose keys, so no two caches hash alike; foldhash's default seeds
/// are only addresses and the time.
pub(crate) fn hasher() -> Hasher {
    // One for all caches: the tables that it stands for are large, and only the seed has to differ.
    static SHARED: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(seed()));
    Hasher::with_seed(seed(), &SHARED)
}

/// loom runs a test again and again, and each run has to hash alike.
#[cfg(larder_interleavings)]
fn seed() -> u64 {
    7
}
