//! Simulated caches of all capacities, on a sample of the keys.

use std::mem;

use super::simulated_cache::SimulatedCache;
use crate::stats::SizeAdvice;

/// How many entries the simulated cache of the present capacity has, unless L1 has fewer: the least, and the most. With
/// 200 the estimates are seldom 3 points off; with more of them, hits take longer.
const SIMULATED_ENTRIES_RANGE: [u64; 2] = [200, 512];
/// Between these bounds, one in this many of the entries that L1 has.
const SIMULATED_ONE_IN: u64 = 50;
/// How many entries all simulated caches have together, at most: 600 KiB.
const MAX_SIMULATED_ENTRIES: usize = 8_064;
/// Look-ups are counted in stretches. This is about the number of a stretch that are in the sample.
const SAMPLED_PER_STRETCH: f64 = 4_096.0;
/// The first stretches, in which the simulated caches fill. They do not count.
const WARM_UP_STRETCHES: f64 = 4.0;
/// After each stretch this part of the count stays.
const KEPT_PER_STRETCH: f64 = 15.0 / 16.0;

/// The look-ups of L1.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) hits: f64,
    pub(super) look_ups: f64,
}

/// Simulated caches of several capacities, and the look-ups that they would not have answered.
pub(super) struct Simulation {
    /// The present capacity of L1.
    capacity: u64,
    /// Which part of the keys is in the sample.
    rate: f64,
    /// The hash that these keys are below.
    pub(super) sample_below: u64,
    /// One for each of [`SizeAdvice::FACTORS`].
    pub(super) caches: [SimulatedCache; SizeAdvice::FACTORS.len()],
    /// How many look-ups each of them would not have answered, with all keys.
    missed: [f64; SizeAdvice::FACTORS.len()],
    /// Since stretches were last counted.
    pub(super) steps: u32,
    /// How many stretches have ended.
    stretches: f64,
    counted: Counts,
    /// What had been counted when this stretch began.
    pub(super) begun: Counts,
}

impl Simulation {
    /// At first.
    pub(super) fn of(capacity: u64, is_weighed: bool) -> Self {
        let [least, most] = SIMULATED_ENTRIES_RANGE;
        let entries = (capacity / SIMULATED_ONE_IN).clamp(least, most);
        // With weights it is not known how many entries there are: all keys are in the sample until there are too many.
        let rate = if is_weighed {
            1.0
        } else {
            (real(entries) / real(capacity)).min(1.0)
        };
        Self::new(capacity, rate)
    }

    fn new(capacity: u64, rate: f64) -> Self {
        Self {
            capacity,
            rate,
            sample_below: sample_below(rate),
            caches: SizeAdvice::FACTORS
                .map(|factor| SimulatedCache::new(scaled(capacity, factor * rate))),
            missed: Default::default(),
            steps: 0,
            stretches: 0.0,
            counted: Counts::default(),
            begun: Counts::default(),
        }
    }

    /// Ends the stretches that are over. Those in which all hits changed nothing end together.
    pub(super) fn count(&mut self, now: Counts) {
        let since = now.minus(self.begun);
        let stretches = since.look_ups * self.rate / SAMPLED_PER_STRETCH;
        if stretches < 1.0 {
            return;
        }
        if self.stretches < WARM_UP_STRETCHES {
            let skipped = stretches.floor().min(WARM_UP_STRETCHES - self.stretches);
            self.stretches += skipped;
            self.begun = self.begun.plus(since.times(skipped / stretches));
            self.missed = Default::default();
            return self.count(now);
        }
        self.stretches += stretches;
        self.begun = now;
        let kept = KEPT_PER_STRETCH.powf(stretches);
        self.missed = self.missed.map(|missed| missed * kept);
        self.counted = self.counted.plus(since).times(kept);
    }

    /// A look-up that L1 has answered. Returns whether all simulated caches have the key now.
    pub(super) fn hit(&mut self, hash: u64, weight: u32) -> bool {
        // Another thread may have taken the key out of the sample.
        if hash >= self.sample_below {
            return false;
        }
        let mut are_all = true;
        for (cache, missed) in self.caches.iter_mut().zip(&mut self.missed) {
            if !cache.look_up(hash) {
                *missed += 1.0 / self.rate;
                are_all &= cache.insert(hash, weight);
            }
        }
        self.bound();
        are_all
    }

    /// A look-up that L1 has not answered.
    pub(super) fn miss(&mut self, hash: u64) {
        if hash >= self.sample_below {
            return;
        }
        for (cache, missed) in self.caches.iter_mut().zip(&mut self.missed) {
            if !cache.look_up(hash) {
                *missed += 1.0 / self.rate;
            }
        }
    }

    /// An entry that L1 is given.
    pub(super) fn insert(&mut self, hash: u64, weight: u32) {
        if hash >= self.sample_below {
            return;
        }
        for cache in &mut self.caches {
            if !cache.weigh(hash, weight) {
                cache.insert(hash, weight);
            }
        }
        self.bound();
    }

    /// Goes on with half of the keys, and half of each capacity, if there are too many entries.
    fn bound(&mut self) {
        if self.caches.iter().map(SimulatedCache::len).sum::<usize>() <= MAX_SIMULATED_ENTRIES {
            return;
        }
        self.rate /= 2.0;
        self.sample_below = sample_below(self.rate);
        for (cache, factor) in self.caches.iter_mut().zip(SizeAdvice::FACTORS) {
            cache.shrink(self.sample_below, scaled(self.capacity, factor * self.rate));
        }
    }

    /// Whether hits may change something that would not have done so before.
    pub(super) fn has_changed(&mut self) -> bool {
        let mut has_changed = false;
        for cache in &mut self.caches {
            has_changed |= mem::take(&mut cache.has_changed);
        }
        has_changed
    }

    pub(super) fn advice(&mut self, now: Counts) -> Option<SizeAdvice> {
        self.count(now);
        if self.stretches <= WARM_UP_STRETCHES || self.capacity == 0 {
            return None;
        }
        let counted = self.counted.plus(now.minus(self.begun));
        let measured = counted.hits / counted.look_ups;
        // Not the simulated rate itself: L1 also misses what has expired or was invalidated, whatever its capacity. And
        // the sample has the same keys for all capacities, so chance is largely the same for all of them, too.
        let [_, _, missed_now, ..] = self.missed;
        let rates = self.missed.map(|missed| {
            let more = (missed_now - missed) / counted.look_ups;
            (measured + more).clamp(0.0, 1.0)
        });
        Some(SizeAdvice::new(
            self.capacity,
            rates,
            whole(counted.look_ups),
        ))
    }
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            look_ups: self.look_ups + other.look_ups,
        }
    }

    fn minus(self, other: Self) -> Self {
        self.plus(other.times(-1.0))
    }

    fn times(self, by: f64) -> Self {
        Self {
            hits: self.hits * by,
            look_ups: self.look_ups * by,
        }
    }
}

/// The hash that the keys of such a part of all keys are below.
fn sample_below(rate: f64) -> u64 {
    whole(rate * real(u64::MAX))
}

fn scaled(capacity: u64, by: f64) -> u64 {
    whole((real(capacity) * by).round())
}

#[allow(clippy::cast_precision_loss, reason = "all of this is an estimate")]
pub(super) fn real(n: u64) -> f64 {
    n as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and nothing is negative"
)]
fn whole(x: f64) -> u64 {
    x as u64
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;
    use crate::l1::size_advice::tests::{hashed, zipf};

    const LOOK_UPS: usize = 40_000;

    /// Whether moka answers each look-up, with these entries and no more.
    fn of_moka(capacity: u64, keys: &[u64]) -> Vec<bool> {
        // Of a fixed seed, too: which counts collide is the same in each run.
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let moka = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .build_with_hasher(hasher);
        let look_up = |key: &u64| {
            let is_hit = moka.get(key).is_some();
            if !is_hit {
                moka.insert(*key, ());
            }
            is_hit
        };
        keys.iter().map(look_up).collect()
    }

    fn rate(hits: &[bool]) -> f64 {
        let count = hits.iter().filter(|is_hit| **is_hit).count();
        real(count as u64) / real(hits.len() as u64)
    }

    #[test]
    fn a_part_of_the_keys_shows_what_moka_answers_of_all() {
        const CAPACITY: u64 = 500;
        for skew in [0.7, 1.0] {
            let mut draw = zipf(skew);
            let keys: Vec<u64> = (0..LOOK_UPS).map(|_| draw()).collect();
            let mut simulation = Simulation::new(CAPACITY, 0.5);
            let hits = of_moka(CAPACITY, &keys);
            for (key, is_hit) in keys.iter().zip(&hits) {
                let hash = hashed(*key);
                if *is_hit {
                    simulation.hit(hash, 1);
                } else {
                    simulation.miss(hash);
                    simulation.insert(hash, 1);
                }
            }
            let now = Counts {
                hits: rate(&hits) * real(keys.len() as u64),
                look_ups: real(keys.len() as u64),
            };
            // All of them count.
            simulation.stretches = WARM_UP_STRETCHES;
            for size in simulation.advice(now).unwrap().sizes() {
                let error = size.hit_rate() - rate(&of_moka(size.capacity(), &keys));
                println!("{skew}, {}: {error:+.3}", size.capacity());
                assert!(error.abs() < 0.03, "{skew}, {size:?}: {error}");
            }
        }
    }

    #[test]
    fn entries_of_any_weight_are_bounded_in_number_and_memory() {
        let mut simulation = Simulation::new(1_000_000, 1.0);
        let mut entries = 0;
        for n in 0..12_000 {
            simulation.insert(n_th(n), 1);
            let now = simulation.caches.iter().map(SimulatedCache::len).sum();
            assert!(now <= MAX_SIMULATED_ENTRIES);
            entries = entries.max(now);
        }
        assert!(entries > MAX_SIMULATED_ENTRIES - 6, "{entries}");
        assert!(simulation.rate < 0.2, "{}", simulation.rate);
        let bytes = simulation.caches.iter().map(SimulatedCache::allocated);
        let bytes = bytes.sum::<usize>() + size_of::<Simulation>();
        println!("{bytes} bytes");
        assert!(bytes < 700 << 10, "{bytes}");
        for cache in &simulation.caches {
            cache.check(simulation.sample_below);
        }
    }

    /// The keys of a bounded number, in an order in which all are equally often in the sample.
    fn n_th(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
