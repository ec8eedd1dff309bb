//! How keys are hashed.

use std::collections::hash_map;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

/// std's own, `SipHash`, would be an eighth of the instructions of a hit.
pub(crate) type Hasher = SeedableRandomState;

/// Keys can be chosen by an attacker, so no two processes or caches hash alike, and the seeds are the
/// system's random numbers, which std's own hasher starts from: foldhash's are addresses and the time.
pub(crate) fn hasher() -> Hasher {
    static SHARED: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(random()));
    fn random() -> u64 {
        hash_map::RandomState::new().hash_one(())
    }
    Hasher::with_seed(random(), &SHARED)
}
