//! A cache of keys alone, which evicts as moka does.

use hashbrown::HashTable;

use super::frequency_sketch::FrequencySketch;
use crate::l1::era;

/// A cache of keys alone, with the policy that moka has and with what [`BoundedEntries`](crate::l1::bounded_entries) reports to moka: the least
/// recently used entries make room for a new one if they were looked up less often, all together.
pub(super) struct SimulatedCache {
    capacity: u64,
    weight: u64,
    /// The place of each key in the list.
    places: HashTable<u32>,
    /// From the least recently used entry to the most recently used one, in a ring. The first node is between them.
    list: Vec<Node>,
    free: Vec<u32>,
    frequencies: FrequencySketch,
    era: u32,
    /// How many new entries there were in this era.
    new_entries: u64,
    /// Whether another era has begun, or an entry has gone that was looked up in this one.
    pub(super) has_changed: bool,
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
const RING_ENDS: u32 = 0;

#[allow(clippy::indexing_slicing, reason = "a place is one in the list")]
impl SimulatedCache {
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            weight: 0,
            places: HashTable::new(),
            list: vec![Node::default()],
            free: Vec::new(),
            frequencies: FrequencySketch::new(),
            era: 0,
            new_entries: 0,
            has_changed: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns whether the key was there.
    pub(super) fn look_up(&mut self, hash: u64) -> bool {
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
    pub(super) fn insert(&mut self, hash: u64, weight: u32) -> bool {
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
            u32::try_from(self.list.len() - 1).unwrap_or(RING_ENDS)
        });
        let list = &self.list;
        let hash_of = |place: &u32| spread(list[*place as usize].hash);
        (self.places).insert_unique(spread(hash), place, hash_of);
        self.link(place, hash, weight);
        true
    }

    /// Takes note of the weight of a key. Returns whether the key was there.
    pub(super) fn weigh(&mut self, hash: u64, weight: u32) -> bool {
        let Some(place) = self.place(hash) else {
            return false;
        };
        if self.node(place).weight != weight {
            self.relink(place, weight);
            self.evict_excess();
        }
        true
    }

    /// Makes room for a new entry of this weight that was looked up `frequency` times. Removes the least recently used
    /// entries for it, if all of these together were looked up less often. Returns whether there is room.
    fn makes_room(&mut self, frequency: u64, weight: u32) -> bool {
        if self.weight + u64::from(weight) <= self.capacity {
            return true;
        }
        let (mut victims, mut freed, mut theirs) = (0, 0, 0);
        let mut victim = self.node(RING_ENDS).newer;
        while freed < u64::from(weight) {
            let node = self.node(victim);
            theirs += self.frequencies.count_of(node.hash);
            if victim == RING_ENDS || theirs >= frequency {
                return false;
            }
            freed += u64::from(node.weight);
            victims += 1;
            victim = node.newer;
        }
        for _ in 0..victims {
            self.remove(self.node(RING_ENDS).newer);
        }
        true
    }

    /// Keeps the keys with a lower hash, as far as there is room.
    pub(super) fn shrink(&mut self, sample_below: u64, capacity: u64) {
        self.capacity = capacity;
        let mut place = self.node(RING_ENDS).newer;
        while place != RING_ENDS {
            let node = self.node(place);
            if node.hash >= sample_below {
                self.remove(place);
            }
            place = node.newer;
        }
        self.evict_excess();
    }

    fn evict_excess(&mut self) {
        while self.weight > self.capacity {
            self.remove(self.node(RING_ENDS).newer);
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
        let older = self.node(RING_ENDS).older;
        self.list[place as usize] = Node {
            hash,
            weight,
            older,
            newer: RING_ENDS,
            era: self.era,
        };
        self.list[older as usize].newer = place;
        self.list[RING_ENDS as usize].older = place;
        self.weight += u64::from(weight);
    }

    /// Whether a key is there whose last look-up was in the present era.
    #[cfg(test)]
    pub(super) fn has_recent(&self, hash: u64) -> bool {
        self.place(hash)
            .is_some_and(|place| self.node(place).era == self.era)
    }

    /// Checks that each linked node is an entry, with a hash below this.
    #[cfg(test)]
    pub(super) fn check(&self, sample_below: u64) {
        let linked = self.list.len() - 1 - self.free.len();
        assert_eq!(linked, self.len());
        let is_sampled = |node: &Node| node.hash < sample_below;
        assert!((self.list.iter()).all(|node| is_sampled(node) || self.place(node.hash).is_none()));
    }

    /// The bytes on the heap.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        let list = self.list.capacity() * size_of::<Node>() + self.free.capacity() * 4;
        self.places.allocation_size() + list + self.frequencies.allocated()
    }
}

/// The hash by which a key of the sample is in a table: the high bits are the same for all of them.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks a key up, and inserts it if it is not there. Returns whether it was.
    fn look_up(mini: &mut SimulatedCache, hash: u64) -> bool {
        let is_hit = mini.look_up(hash);
        if !is_hit {
            mini.insert(hash, 1);
        }
        is_hit
    }

    #[test]
    fn the_least_recently_used_of_the_rare_keys_goes() {
        let mut mini = SimulatedCache::new(2);
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
        let mut mini = SimulatedCache::new(10);
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
}
