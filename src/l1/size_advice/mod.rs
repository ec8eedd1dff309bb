//! Which hit rates L1 would have with other capacities: caches of keys alone simulate them on a sample of the keys.
//!
//! Each simulated cache has L1's policy and a part of the capacity, and is shown the same part of all keys, chosen by
//! hash: then it answers about the same share of their look-ups as the whole cache would answer of all. This is the
//! method of Waldspurger et al., "Cache Modeling and Optimization using Miniature Simulations" (ATC 2017). Where the
//! hottest keys are in the sample by chance, the share would be too high, so the misses of the sample are compared with
//! the look-ups of all keys, which are counted (SHARDS-adj, FAST 2015).
//!
//! A hit of an entry in the sample changes nothing if all simulated caches have the key and have noted a hit in their
//! present [era](super::era). The entry has a [`Mark`] then, and further hits are not simulated until the mark changes.

mod frequency_sketch;
mod mark;
mod simulated_cache;
mod simulation;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(super) use self::mark::Mark;

use self::mark::PresentMark;
use self::simulation::{Counts, Simulation, real};
use crate::stats::{Counters, SizeAdvice};
use crate::util::lock::lock;

/// The steps of the simulation after which it is asked whether a stretch has ended.
const STEPS_PER_COUNT: u32 = 64;

/// Which capacity L1 would need for which hit rate.
pub(crate) struct SizeAdvisor {
    /// Keys with a lower hash are in the sample.
    sample_below: AtomicU64,
    /// How many look-ups L1 did not answer.
    misses: AtomicU64,
    counters: Arc<Counters>,
    is_weighed: bool,
    simulation: Mutex<Simulation>,
    /// The mark of entries whose hits would change nothing. Written under the lock.
    mark: PresentMark,
}

impl SizeAdvisor {
    /// For an L1 of this capacity, in entries or else in the weigher's unit.
    pub(crate) fn new(capacity: u64, is_weighed: bool, counters: &Arc<Counters>) -> Self {
        let simulation = Simulation::of(capacity, is_weighed);
        Self {
            sample_below: AtomicU64::new(simulation.sample_below),
            misses: AtomicU64::new(0),
            counters: Arc::clone(counters),
            is_weighed,
            simulation: Mutex::new(simulation),
            mark: PresentMark::default(),
        }
    }

    /// Begins anew, for another capacity.
    pub(crate) fn set_capacity(&self, capacity: u64) {
        let mut simulation = lock(&self.simulation);
        *simulation = Simulation::of(capacity, self.is_weighed);
        simulation.begun = self.counts();
        self.mark.set(self.mark.get().next());
        self.sample_below
            .store(simulation.sample_below, Ordering::Relaxed);
    }

    /// The mark of an entry whose hits were not reported to the advisor.
    pub(super) fn mark(&self, hash: u64) -> Mark {
        if self.is_sampled(hash) {
            Mark::UNREPORTED
        } else {
            Mark::NOT_SAMPLED
        }
    }

    /// Takes note of a look-up that L1 has not answered.
    pub(super) fn note_miss(&self, hash: u64) {
        // Relaxed: it only counts.
        self.misses.fetch_add(1, Ordering::Relaxed);
        if self.is_sampled(hash) {
            self.simulate(|simulation| simulation.miss(hash));
        }
    }

    /// Takes note of an entry that is stored. Returns its mark.
    pub(super) fn note_insert(&self, hash: u64, weight: u32) -> Mark {
        let mark = self.mark(hash);
        if mark != Mark::NOT_SAMPLED {
            self.simulate(|simulation| simulation.insert(hash, weight));
        }
        mark
    }

    /// Whether hits of an entry with this mark are to be noted.
    pub(super) fn awaits(&self, mark: Mark) -> bool {
        mark != Mark::NOT_SAMPLED && mark != self.mark.get()
    }

    /// Takes note of a look-up that L1 has answered. Returns the mark that the entry has from now on.
    pub(super) fn note_hit(&self, hash: u64, weight: u32) -> Mark {
        if !self.is_sampled(hash) {
            return Mark::NOT_SAMPLED;
        }
        let hit = |simulation: &mut Simulation| (simulation.hit(hash, weight), self.mark.get());
        // The mark before this step: should the step itself change it, the next hit is simulated, too.
        match self.simulate(hit) {
            (true, mark) => mark,
            (false, _) => Mark::UNREPORTED,
        }
    }

    fn is_sampled(&self, hash: u64) -> bool {
        hash < self.sample_below.load(Ordering::Relaxed)
    }

    fn simulate<T>(&self, step: impl FnOnce(&mut Simulation) -> T) -> T {
        let mut simulation = lock(&self.simulation);
        simulation.steps += 1;
        if simulation.steps == STEPS_PER_COUNT {
            simulation.steps = 0;
            simulation.count(self.counts());
        }
        let result = step(&mut simulation);
        if simulation.has_changed() {
            self.mark.set(self.mark.get().next());
            self.sample_below
                .store(simulation.sample_below, Ordering::Relaxed);
        }
        result
    }

    fn counts(&self) -> Counts {
        let hits = self.counters.l1_hits();
        Counts {
            hits: real(hits),
            look_ups: real(hits.wrapping_add(self.misses.load(Ordering::Relaxed))),
        }
    }

    /// `None` until enough look-ups were counted, and while L1 is off.
    pub(crate) fn advice(&self) -> Option<SizeAdvice> {
        let now = self.counts();
        lock(&self.simulation).advice(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u32 = 8_000;

    /// Draws keys: the key of rank r with a probability proportional to 1 / r ^ skew.
    pub(super) fn zipf(skew: f64) -> impl FnMut() -> u64 {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=KEYS)
            .map(|rank| {
                sum += f64::from(rank).powf(-skew);
                sum
            })
            .collect();
        let mut random = fastrand::Rng::with_seed(1);
        move || {
            let drawn = random.f64() * sum;
            sums.partition_point(|&up_to| up_to < drawn) as u64
        }
    }

    pub(super) fn hashed(key: u64) -> u64 {
        // Fixed: the hash of another seed has other keys in the sample.
        let hash = (key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ hash >> 32
    }

    /// A hit with the present mark is not simulated, so it must change nothing.
    #[test]
    fn an_entry_with_the_present_mark_is_in_all_simulated_caches() {
        let advisor = SizeAdvisor::new(40, false, &Arc::default());
        let mut marks = std::collections::HashMap::new();
        let mut random = fastrand::Rng::with_seed(1);
        let mut draw = zipf(1.0);
        let (mut skipped, mut simulated) = (0, 0);
        for _ in 0..20_000 {
            // The number of keys shrinks and grows, so that some rounds have few misses.
            let key = if random.u32(..1_000) == 0 {
                draw()
            } else {
                draw() % 20
            };
            let (hash, weight) = (hashed(key), random.u32(1..3));
            let Some(mark) = marks.get_mut(&hash) else {
                advisor.note_miss(hash);
                marks.insert(hash, advisor.note_insert(hash, weight));
                continue;
            };
            if advisor.awaits(*mark) {
                *mark = advisor.note_hit(hash, weight);
                simulated += 1;
                continue;
            }
            skipped += 1;
            let simulation = lock(&advisor.simulation);
            assert!((simulation.caches.iter()).all(|cache| cache.has_recent(hash)));
        }
        println!("{skipped} skipped, {simulated} simulated");
        assert!(
            skipped > 1_000 && simulated > 1_000,
            "{skipped} {simulated}"
        );
    }

    #[test]
    fn a_key_that_leaves_the_sample_has_no_mark_any_more() {
        let advisor = SizeAdvisor::new(40, true, &Arc::default());
        let highest = u64::MAX - 1;
        let mark = advisor.note_insert(highest, 1);
        assert_eq!(mark, Mark::UNREPORTED);
        lock(&advisor.simulation).sample_below = 1;
        advisor.sample_below.store(1, Ordering::Relaxed);
        assert!(advisor.awaits(mark));
        assert_eq!(advisor.note_hit(highest, 1), Mark::NOT_SAMPLED);
        assert!(!advisor.awaits(Mark::NOT_SAMPLED));
    }
}
