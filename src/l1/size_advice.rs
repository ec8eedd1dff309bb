//! Which hit rates L1 would have with other capacities: caches of keys alone simulate them on a sample of the keys.
//!
//! Each simulated cache has L1's policy and a part of the capacity, and is shown the same part of all keys, chosen by
//! hash: then it answers about the same share of their look-ups as the whole cache would answer of all. This is the
//! method of Waldspurger et al., "Cache Modeling and Optimization using Miniature Simulations" (ATC 2017). Where the
//! hottest keys are in the sample by chance, the share would be too high, so the misses of the sample are compared with
//! the look-ups of all keys, which are counted (SHARDS-adj, FAST 2015).
//!
//! A hit of an entry in the sample changes nothing if all simulated caches have the key and were told of a hit in their
//! present [era](super::era). The entry has a [`Mark`] then, and further hits are not simulated until the mark changes.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hashbrown::HashTable;

use super::era::{self, Mark, MarkCell};
use crate::stats::{Counters, SizeAdvice};
use crate::util::lock::lock;

/// How many entries the simulated cache of the present capacity has, unless L1 has fewer: the least, and the most. With
/// 200 the estimates are seldom 3 points off; with more of them, hits take longer.
const ENTRIES: [u64; 2] = [200, 512];
/// Between these bounds, one in this many of the entries that L1 has.
const PART: u64 = 50;
/// How many entries all simulated caches have together, at most: 600 KiB.
const MOST_ENTRIES: usize = 8_064;
/// Look-ups are counted in stretches. This is about the number of a stretch that are in the sample.
const STRETCH: f64 = 4_096.0;
/// The first stretches, in which the simulated caches fill. They do not count.
const WARM_UP: f64 = 4.0;
/// After each stretch this part of the count stays.
const KEPT: f64 = 15.0 / 16.0;
/// The steps of the simulation after which it is asked whether a stretch has ended.
const STEPS: u32 = 64;

pub(crate) struct SizeAdvisor {
    /// Keys with a lower hash are in the sample.
    below: AtomicU64,
    /// How many look-ups L1 did not answer.
    misses: AtomicU64,
    counters: Arc<Counters>,
    is_weighed: bool,
    simulation: Mutex<Simulation>,
    /// The mark of entries whose hits would change nothing. Written under the lock.
    mark: MarkCell,
}

impl SizeAdvisor {
    /// For an L1 of this capacity, in entries or else in the weigher's unit.
    pub(crate) fn new(capacity: u64, is_weighed: bool, counters: &Arc<Counters>) -> Self {
        let simulation = Simulation::of(capacity, is_weighed);
        Self {
            below: AtomicU64::new(simulation.below),
            misses: AtomicU64::new(0),
            counters: Arc::clone(counters),
            is_weighed,
            simulation: Mutex::new(simulation),
            mark: MarkCell::default(),
        }
    }

    /// Begins anew, for another capacity.
    pub(crate) fn set_capacity(&self, capacity: u64) {
        let mut simulation = lock(&self.simulation);
        *simulation = Simulation::of(capacity, self.is_weighed);
        simulation.begun = self.counts();
        self.mark.set(self.mark.get().next());
        self.below.store(simulation.below, Ordering::Relaxed);
    }

    /// The mark of an entry whose hits the advice has not been told of.
    pub(super) fn mark(&self, hash: u64) -> Mark {
        if self.is_sampled(hash) {
            Mark::OPEN
        } else {
            Mark::NONE
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
        if mark != Mark::NONE {
            self.simulate(|simulation| simulation.insert(hash, weight));
        }
        mark
    }

    /// Whether hits of an entry with this mark are to be noted.
    pub(super) fn awaits(&self, mark: Mark) -> bool {
        mark != Mark::NONE && mark != self.mark.get()
    }

    /// Takes note of a look-up that L1 has answered. Returns the mark that the entry has from now on.
    pub(super) fn note_hit(&self, hash: u64, weight: u32) -> Mark {
        if !self.is_sampled(hash) {
            return Mark::NONE;
        }
        let hit = |simulation: &mut Simulation| (simulation.hit(hash, weight), self.mark.get());
        // The mark before this step: should the step itself change it, the next hit is simulated, too.
        match self.simulate(hit) {
            (true, mark) => mark,
            (false, _) => Mark::OPEN,
        }
    }

    fn is_sampled(&self, hash: u64) -> bool {
        hash < self.below.load(Ordering::Relaxed)
    }

    fn simulate<T>(&self, step: impl FnOnce(&mut Simulation) -> T) -> T {
        let mut simulation = lock(&self.simulation);
        simulation.steps += 1;
        if simulation.steps == STEPS {
            simulation.steps = 0;
            simulation.count(self.counts());
        }
        let result = step(&mut simulation);
        if simulation.has_changed() {
            self.mark.set(self.mark.get().next());
            self.below.store(simulation.below, Ordering::Relaxed);
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

/// The look-ups of L1.
#[derive(Clone, Copy, Default)]
struct Counts {
    hits: f64,
    look_ups: f64,
}

struct Simulation {
    /// The present capacity of L1.
    capacity: u64,
    /// Which part of the keys is in the sample.
    rate: f64,
    /// The hash that these keys are below.
    below: u64,
    /// One for each of [`SizeAdvice::FACTORS`].
    minis: [Mini; SizeAdvice::FACTORS.len()],
    /// How many look-ups each of them would not have answered, with all keys.
    missed: [f64; SizeAdvice::FACTORS.len()],
    /// Since stretches were last counted.
    steps: u32,
    /// How many stretches have ended.
    stretches: f64,
    counted: Counts,
    /// What had been counted when this stretch began.
    begun: Counts,
}

impl Simulation {
    /// At first.
    fn of(capacity: u64, is_weighed: bool) -> Self {
        let [least, most] = ENTRIES;
        let entries = (capacity / PART).clamp(least, most);
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
            below: below(rate),
            minis: SizeAdvice::FACTORS.map(|factor| Mini::new(scaled(capacity, factor * rate))),
            missed: Default::default(),
            steps: 0,
            stretches: 0.0,
            counted: Counts::default(),
            begun: Counts::default(),
        }
    }

    /// Ends the stretches that are over. Those in which all hits changed nothing end together.
    fn count(&mut self, now: Counts) {
        let since = now.minus(self.begun);
        let stretches = since.look_ups * self.rate / STRETCH;
        if stretches < 1.0 {
            return;
        }
        if self.stretches < WARM_UP {
            let skipped = stretches.floor().min(WARM_UP - self.stretches);
            self.stretches += skipped;
            self.begun = self.begun.plus(since.times(skipped / stretches));
            self.missed = Default::default();
            return self.count(now);
        }
        self.stretches += stretches;
        self.begun = now;
        let kept = KEPT.powf(stretches);
        self.missed = self.missed.map(|missed| missed * kept);
        self.counted = self.counted.plus(since).times(kept);
    }

    /// A look-up that L1 has answered. Returns whether all simulated caches have the key now.
    fn hit(&mut self, hash: u64, weight: u32) -> bool {
        // Another thread may have taken the key out of the sample.
        if hash >= self.below {
            return false;
        }
        let mut are_all = true;
        for (mini, missed) in self.minis.iter_mut().zip(&mut self.missed) {
            if !mini.look_up(hash) {
                *missed += 1.0 / self.rate;
                are_all &= mini.insert(hash, weight);
            }
        }
        self.bound();
        are_all
    }

    /// A look-up that L1 has not answered.
    fn miss(&mut self, hash: u64) {
        if hash >= self.below {
            return;
        }
        for (mini, missed) in self.minis.iter_mut().zip(&mut self.missed) {
            if !mini.look_up(hash) {
                *missed += 1.0 / self.rate;
            }
        }
    }

    /// An entry that L1 is given.
    fn insert(&mut self, hash: u64, weight: u32) {
        if hash >= self.below {
            return;
        }
        for mini in &mut self.minis {
            if !mini.weigh(hash, weight) {
                mini.insert(hash, weight);
            }
        }
        self.bound();
    }

    /// Goes on with half of the keys, and half of each capacity, if there are too many entries.
    fn bound(&mut self) {
        if self.minis.iter().map(Mini::len).sum::<usize>() <= MOST_ENTRIES {
            return;
        }
        self.rate /= 2.0;
        self.below = below(self.rate);
        for (mini, factor) in self.minis.iter_mut().zip(SizeAdvice::FACTORS) {
            mini.shrink(self.below, scaled(self.capacity, factor * self.rate));
        }
    }

    /// Whether hits may change something that would not have done so before.
    fn has_changed(&mut self) -> bool {
        let mut has_changed = false;
        for mini in &mut self.minis {
            has_changed |= mem::take(&mut mini.has_changed);
        }
        has_changed
    }

    fn advice(&mut self, now: Counts) -> Option<SizeAdvice> {
        self.count(now);
        if self.stretches <= WARM_UP || self.capacity == 0 {
            return None;
        }
        let counted = self.counted.plus(now.minus(self.begun));
        let measured = counted.hits / counted.look_ups;
        // Not the simulated rate itself: L1 also misses what has expired or was invalidated, whatever its capacity. And
        // the sample has the same keys for all capacities, so chance is largely the same for all of them, too.
        let [_, _, of_now, ..] = self.missed;
        let rates = self.missed.map(|missed| {
            let more = (of_now - missed) / counted.look_ups;
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

/// A cache of keys alone, with the policy that moka has and with what the [`Store`](super::store) tells moka: the least
/// recently used entries make room for a new one if they were looked up less often, all together.
struct Mini {
    capacity: u64,
    weight: u64,
    /// The place of each key in the list.
    places: HashTable<u32>,
    /// From the least recently used entry to the most recently used one, in a ring. The first node is between them.
    list: Vec<Node>,
    free: Vec<u32>,
    frequencies: Frequencies,
    era: u32,
    /// How many new entries there were in this era.
    new_entries: u64,
    /// Whether another era has begun, or an entry has gone that was looked up in this one.
    has_changed: bool,
}

#[derive(Clone, Copy, Default)]
struct Node {
    hash: u64,
    weight: u32,
    older: u32,
    newer: u32,
    /// The era of the last look-up that was recorded.
    era: u32,
}

/// The node that has no entry.
const ENDS: u32 = 0;

#[allow(clippy::indexing_slicing, reason = "a place is one in the list")]
impl Mini {
    fn new(capacity: u64) -> Self {
        Self {
            capacity,
            weight: 0,
            places: HashTable::new(),
            list: vec![Node::default()],
            free: Vec::new(),
            frequencies: Frequencies::new(),
            era: 0,
            new_entries: 0,
            has_changed: false,
        }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns whether the key was there.
    fn look_up(&mut self, hash: u64) -> bool {
        let Some(place) = self.place(hash) else {
            return false;
        };
        let node = self.node(place);
        if node.era != self.era {
            self.frequencies.add(hash, self.places.len());
            self.relink(place, node.weight);
        }
        true
    }

    /// Takes in a key that is not there, if it makes room for it. Returns whether it did.
    fn insert(&mut self, hash: u64, weight: u32) -> bool {
        let mut frequency = 0;
        // Look-ups are counted as soon as there is a choice to be made soon.
        if self.weight >= self.capacity / 2 {
            frequency = self.frequencies.add(hash, self.places.len());
            self.new_entries += 1;
            if era::is_over(self.new_entries, self.places.len() as u64) || self.era == 0 {
                self.new_entries = 0;
                self.era = self.era.wrapping_add(1);
                self.has_changed = true;
            }
        }
        if u64::from(weight) > self.capacity || !self.makes_room(frequency, weight) {
            return false;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.list.push(Node::default());
            u32::try_from(self.list.len() - 1).unwrap_or(ENDS)
        });
        let list = &self.list;
        let hash_of = |place: &u32| spread(list[*place as usize].hash);
        (self.places).insert_unique(spread(hash), place, hash_of);
        self.link(place, hash, weight);
        true
    }

    /// Takes note of the weight of a key. Returns whether the key was there.
    fn weigh(&mut self, hash: u64, weight: u32) -> bool {
        let Some(place) = self.place(hash) else {
            return false;
        };
        if self.node(place).weight != weight {
            self.relink(place, weight);
            self.evict_excess();
        }
        true
    }

    /// Removes the entries whose place a new one takes that was looked up so often. Returns whether there is room for
    /// it.
    fn makes_room(&mut self, frequency: u64, weight: u32) -> bool {
        if self.weight + u64::from(weight) <= self.capacity {
            return true;
        }
        let (mut victims, mut freed, mut theirs) = (0, 0, 0);
        let mut victim = self.node(ENDS).newer;
        while freed < u64::from(weight) {
            let node = self.node(victim);
            theirs += self.frequencies.of(node.hash);
            if victim == ENDS || theirs >= frequency {
                return false;
            }
            freed += u64::from(node.weight);
            victims += 1;
            victim = node.newer;
        }
        for _ in 0..victims {
            self.remove(self.node(ENDS).newer);
        }
        true
    }

    /// Keeps the keys with a lower hash, as far as there is room.
    fn shrink(&mut self, below: u64, capacity: u64) {
        self.capacity = capacity;
        let mut place = self.node(ENDS).newer;
        while place != ENDS {
            let node = self.node(place);
            if node.hash >= below {
                self.remove(place);
            }
            place = node.newer;
        }
        self.evict_excess();
    }

    fn evict_excess(&mut self) {
        while self.weight > self.capacity {
            self.remove(self.node(ENDS).newer);
        }
    }

    fn remove(&mut self, place: u32) {
        let Node { hash, era, .. } = self.node(place);
        self.has_changed |= era == self.era;
        self.unlink(place);
        let entry = self.places.find_entry(spread(hash), |at| *at == place);
        debug_assert!(entry.is_ok(), "each linked node has an entry");
        if let Ok(entry) = entry {
            entry.remove();
        }
        self.free.push(place);
    }

    fn place(&self, hash: u64) -> Option<u32> {
        let is_it = |place: &u32| self.node(*place).hash == hash;
        self.places.find(spread(hash), is_it).copied()
    }

    fn node(&self, place: u32) -> Node {
        self.list[place as usize]
    }

    fn unlink(&mut self, place: u32) {
        let Node {
            weight,
            older,
            newer,
            ..
        } = self.node(place);
        self.weight -= u64::from(weight);
        self.list[older as usize].newer = newer;
        self.list[newer as usize].older = older;
    }

    fn relink(&mut self, place: u32, weight: u32) {
        self.unlink(place);
        self.link(place, self.node(place).hash, weight);
    }

    /// Makes an entry the most recently used one.
    fn link(&mut self, place: u32, hash: u64, weight: u32) {
        let older = self.node(ENDS).older;
        self.list[place as usize] = Node {
            hash,
            weight,
            older,
            newer: ENDS,
            era: self.era,
        };
        self.list[older as usize].newer = place;
        self.list[ENDS as usize].older = place;
        self.weight += u64::from(weight);
    }
}

/// About how often keys were looked up of late: a count-min sketch, like the sketches of moka and `TinyLFU` (Einziger
/// et al., ACM TOS 2017). All counts are halved after ten look-ups for each entry.
struct Frequencies {
    /// Four rows, side by side, as long as a power of two.
    counts: Vec<[u8; 4]>,
    /// How often was counted since the counts were halved, and half of that before.
    counted: usize,
}

/// The highest count.
const OFTEN: u8 = 15;

#[allow(clippy::indexing_slicing, reason = "a place is one in the row")]
impl Frequencies {
    fn new() -> Self {
        Self {
            counts: vec![[0; 4]; 16],
            counted: 0,
        }
    }

    /// Counts a look-up. Returns how often the key was looked up.
    fn add(&mut self, hash: u64, entries: usize) -> u64 {
        if self.counts.len() < 4 * entries {
            // A key is now counted in one of two places: both have what it was counted in.
            self.counts.extend_from_within(..);
        }
        let (mut least, mut is_counted) = (OFTEN, false);
        for (row, place) in self.places(hash).into_iter().enumerate() {
            let count = &mut self.counts[place][row];
            is_counted |= *count < OFTEN;
            *count = (*count + 1).min(OFTEN);
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

    fn of(&self, hash: u64) -> u64 {
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
}

/// The hash by which a key of the sample is in a table: the high bits are the same for all of them.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}

/// The hash that the keys of such a part of all keys are below.
fn below(rate: f64) -> u64 {
    whole(rate * real(u64::MAX))
}

fn scaled(capacity: u64, by: f64) -> u64 {
    whole((real(capacity) * by).round())
}

#[allow(clippy::cast_precision_loss, reason = "all of this is an estimate")]
fn real(n: u64) -> f64 {
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

    const KEYS: u32 = 8_000;
    const LOOK_UPS: usize = 40_000;

    /// Draws keys: the key of rank r with a probability proportional to 1 / r ^ skew.
    fn zipf(skew: f64) -> impl FnMut() -> u64 {
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

    fn hashed(key: u64) -> u64 {
        // Fixed: the hash of another seed has other keys in the sample.
        let hash = (key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ hash >> 32
    }

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
            simulation.stretches = WARM_UP;
            for size in simulation.advice(now).unwrap().sizes() {
                let error = size.hit_rate() - rate(&of_moka(size.capacity(), &keys));
                println!("{skew}, {}: {error:+.3}", size.capacity());
                assert!(error.abs() < 0.03, "{skew}, {size:?}: {error}");
            }
        }
    }

    /// Looks a key up, and inserts it if it is not there. Returns whether it was.
    fn look_up(mini: &mut Mini, hash: u64) -> bool {
        let is_hit = mini.look_up(hash);
        if !is_hit {
            mini.insert(hash, 1);
        }
        is_hit
    }

    #[test]
    fn the_least_recently_used_of_the_rare_keys_goes() {
        let mut mini = Mini::new(2);
        assert!(!look_up(&mut mini, 1) && !look_up(&mut mini, 2));
        assert!(look_up(&mut mini, 1) && look_up(&mut mini, 2));
        assert!(!look_up(&mut mini, 3), "it was looked up less often than 1");
        assert!(look_up(&mut mini, 1) && look_up(&mut mini, 2));
        let admitted = (0..5).position(|_| look_up(&mut mini, 3));
        assert!(admitted.is_some_and(|misses| misses > 0), "{admitted:?}");
        assert!(look_up(&mut mini, 2) && mini.place(1).is_none());
    }

    #[test]
    fn the_weight_of_all_entries_is_bounded() {
        let mut mini = Mini::new(10);
        assert!(mini.insert(1, 4) && mini.insert(2, 4));
        // It has become heavier, so it takes the room of both.
        assert!(mini.weigh(1, 9));
        assert_eq!((mini.weight, mini.len()), (9, 1));
        assert!(mini.weigh(1, 11), "it was there");
        assert_eq!((mini.weight, mini.len()), (0, 0));
        assert!(!mini.insert(3, 11) && !mini.weigh(3, 11), "it does not fit");
        for weight in 1..=10 {
            mini.insert(u64::from(weight) + 10, weight);
            assert!(mini.weight <= 10);
        }
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
            for mini in &simulation.minis {
                let place = mini.place(hash);
                assert!(place.is_some_and(|place| mini.node(place).era == mini.era));
            }
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
        assert_eq!(mark, Mark::OPEN);
        lock(&advisor.simulation).below = 1;
        advisor.below.store(1, Ordering::Relaxed);
        assert!(advisor.awaits(mark));
        assert_eq!(advisor.note_hit(highest, 1), Mark::NONE);
        assert!(!advisor.awaits(Mark::NONE));
    }

    #[test]
    fn entries_of_any_weight_are_bounded_in_number_and_memory() {
        let mut simulation = Simulation::new(1_000_000, 1.0);
        let mut entries = 0;
        for n in 0..12_000 {
            simulation.insert(n_th(n), 1);
            let now = simulation.minis.iter().map(Mini::len).sum();
            assert!(now <= MOST_ENTRIES);
            entries = entries.max(now);
        }
        assert!(entries > MOST_ENTRIES - 6, "{entries}");
        assert!(simulation.rate < 0.2, "{}", simulation.rate);
        let bytes = simulation.minis.iter().map(|mini| {
            let list = mini.list.capacity() * size_of::<Node>() + mini.free.capacity() * 4;
            let counts = mini.frequencies.counts.capacity() * 4;
            mini.places.allocation_size() + list + counts
        });
        let bytes: usize = bytes.sum::<usize>() + size_of::<SizeAdvisor>();
        println!("{bytes} bytes");
        assert!(bytes < 700 << 10, "{bytes}");
        for mini in &simulation.minis {
            let linked = mini.list.len() - 1 - mini.free.len();
            assert_eq!(linked, mini.len());
            let is_sampled = |node: &Node| node.hash < simulation.below;
            assert!(
                (mini.list.iter()).all(|node| is_sampled(node) || mini.place(node.hash).is_none())
            );
        }
    }

    /// The keys of a bounded number, in an order in which all are equally often in the sample.
    fn n_th(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
