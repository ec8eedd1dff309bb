//! Random numbers of the operating system: no two instances draw the same, not even in clones of one virtual machine.
//! Only in a thread that is seeded they come from a generator.

use std::cell::Cell;

thread_local! {
    static IS_SEEDED: Cell<bool> = const { Cell::new(false) };
}

/// From now on all random numbers that this thread draws follow from the seed, those of `fastrand` included, so that a
/// simulated world can be repeated. `None` ends that. What is encrypted has a nonce of the system all the same.
pub fn seed_randomness(seed: Option<u64>) {
    IS_SEEDED.set(seed.is_some());
    // At the end a number of the system: what follows must not repeat in the next world.
    fastrand::seed(seed.unwrap_or_else(self::seed));
}

/// Whether the random numbers of this thread follow from a seed.
pub(crate) fn is_seeded() -> bool {
    IS_SEEDED.get()
}

/// A random number from 1 to 2⁵² - 1, which Lua can represent. It names an instance, an epoch, a lease. Costs a system
/// call.
pub(crate) fn random() -> u64 {
    (seed() >> 12).max(1)
}

/// 64 random bits.
#[must_use]
pub fn seed() -> u64 {
    if is_seeded() {
        return fastrand::u64(..);
    }
    // The system has some on every platform that std supports, once it has booted.
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::util::retry_delays::retry_delays;

    #[test]
    fn a_seeded_thread_repeats_its_numbers_until_that_ends() {
        let draw = || {
            let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
            let delays: Vec<_> = retry_delays(first, longest).take(4).collect();
            (random(), seed(), fastrand::u64(..), delays)
        };
        let world = |seed| {
            seed_randomness(Some(seed));
            (draw(), draw())
        };
        let first = world(7);
        assert_ne!(first.0, first.1);
        assert_eq!(first, world(7));
        assert_ne!(first, world(8));
        seed_randomness(Some(7));
        let other = thread::spawn(draw).join().unwrap();
        assert_ne!(first.0, other, "only this thread is seeded");
        let ended = [(); 2].map(|()| {
            seed_randomness(Some(7));
            seed_randomness(None);
            (seed(), fastrand::u64(..))
        });
        assert!(ended[0].0 != ended[1].0 && ended[0].1 != ended[1].1);
    }
}
