//! The policies: caches of keys alone.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::feed::Feed;

/// Of a fixed seed.
type Hasher = BuildHasherDefault<DefaultHasher>;

pub(crate) trait Policy {
    /// Looks a key up, and inserts it if it is not there. Returns whether it was.
    fn look_up(&mut self, key: u64) -> bool;

    /// How many hits the policy was told of.
    fn recorded(&self) -> Option<u64> {
        None
    }
}

/// moka, which is told of some look-ups. Whether a key is there is asked without telling it.
pub(crate) struct Moka {
    cache: Cache<u64, (), Hasher>,
    feed: Feed,
    recorded: u64,
}

impl Moka {
    pub(crate) fn new(capacity: usize, feed: Feed) -> Self {
        Self::with(capacity, feed, EvictionPolicy::tiny_lfu())
    }

    /// moka without its filter: all keys are admitted, and the least recently used one goes.
    pub(crate) fn lru(capacity: usize) -> Self {
        Self::with(capacity, Feed::all(), EvictionPolicy::lru())
    }

    fn with(capacity: usize, feed: Feed, policy: EvictionPolicy) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity as u64)
            .eviction_policy(policy)
            .build_with_hasher(Hasher::default());
        Self {
            cache,
            feed,
            recorded: 0,
        }
    }
}

/// moka that is made anew after so many look-ups each time: it is told of the keys that are there, and of no look-up
/// before.
pub(crate) struct MadeAnew {
    moka: Moka,
    capacity: usize,
    every: u64,
    look_ups: u64,
}

impl MadeAnew {
    pub(crate) fn new(capacity: usize, feed: Feed, every: u64) -> Self {
        Self {
            moka: Moka::new(capacity, feed),
            capacity,
            every,
            look_ups: 0,
        }
    }

    fn make_anew(&mut self) {
        self.moka.cache.run_pending_tasks();
        // In the order of a table, which says nothing of when or how often they were looked up.
        let mut keys: Vec<u64> = self.moka.cache.iter().map(|(key, ())| *key).collect();
        keys.sort_unstable();
        let made = Moka::new(self.capacity, Feed::all());
        self.moka.cache = made.cache;
        self.moka.feed.forget();
        for key in keys {
            self.moka.cache.insert(key, ());
        }
    }
}

impl Policy for MadeAnew {
    fn look_up(&mut self, key: u64) -> bool {
        self.look_ups += 1;
        if self.look_ups.is_multiple_of(self.every) {
            self.make_anew();
        }
        self.moka.look_up(key)
    }

    fn recorded(&self) -> Option<u64> {
        self.moka.recorded()
    }
}

impl Policy for Moka {
    fn look_up(&mut self, key: u64) -> bool {
        let is_hit = self.cache.contains_key(&key);
        let is_recorded = if is_hit {
            self.feed.is_hit_recorded(key)
        } else {
            self.feed.is_miss_recorded(key)
        };
        if is_recorded {
            self.cache.get(&key);
            self.recorded += u64::from(is_hit);
        }
        if !is_hit {
            self.cache.insert(key, ());
        }
        is_hit
    }

    fn recorded(&self) -> Option<u64> {
        Some(self.recorded)
    }
}

/// S3-FIFO, by Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023: a tenth of the room is for new
/// keys, and those of them that were hit more than once go on to the main queue.
pub(crate) struct S3Fifo {
    capacity: usize,
    /// How often each key was hit, up to three times.
    hits: HashMap<u64, u8, Hasher>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    /// The keys that left the small queue last: one that comes back goes to the main queue at once.
    ghosts: VecDeque<u64>,
    is_ghost: HashSet<u64, Hasher>,
}

impl S3Fifo {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            hits: HashMap::default(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            is_ghost: HashSet::default(),
        }
    }

    fn evict(&mut self) {
        if self.small.len() < self.capacity / 10 || !self.evict_small() {
            self.evict_main();
        }
    }

    /// Returns whether a key has left the cache.
    fn evict_small(&mut self) -> bool {
        while let Some(key) = self.small.pop_front() {
            if self.hits[&key] > 1 {
                self.hits.insert(key, 0);
                self.main.push_back(key);
                continue;
            }
            self.hits.remove(&key);
            self.ghosts.push_back(key);
            self.is_ghost.insert(key);
            if self.ghosts.len() > self.capacity * 9 / 10
                && let Some(oldest) = self.ghosts.pop_front()
            {
                self.is_ghost.remove(&oldest);
            }
            return true;
        }
        false
    }

    fn evict_main(&mut self) {
        while let Some(key) = self.main.pop_front() {
            let hits = self.hits[&key];
            if hits == 0 {
                self.hits.remove(&key);
                return;
            }
            self.hits.insert(key, hits - 1);
            self.main.push_back(key);
        }
    }
}

impl Policy for S3Fifo {
    fn look_up(&mut self, key: u64) -> bool {
        if let Some(hits) = self.hits.get_mut(&key) {
            *hits = (*hits + 1).min(3);
            return true;
        }
        if self.hits.len() == self.capacity {
            self.evict();
        }
        self.hits.insert(key, 0);
        let queue = if self.is_ghost.contains(&key) {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.push_back(key);
        false
    }
}

/// The optimum, by Belady: of the keys that are there and the one that was looked up, that goes whose next look-up is the
/// furthest away.
pub(crate) struct Belady {
    capacity: usize,
    /// When each look-up of the trace has its key looked up again.
    next: Vec<usize>,
    now: usize,
    /// The keys that are there, by their next look-ups.
    order: BTreeSet<(usize, u64)>,
}

impl Belady {
    pub(crate) fn new(capacity: usize, trace: &[u64]) -> Self {
        let mut next = vec![usize::MAX; trace.len()];
        let mut later: HashMap<u64, usize, Hasher> = HashMap::default();
        for (at, key) in trace.iter().enumerate().rev() {
            if let Some(again) = later.insert(*key, at) {
                next[at] = again;
            }
        }
        Self {
            capacity,
            next,
            now: 0,
            order: BTreeSet::new(),
        }
    }
}

impl Policy for Belady {
    fn look_up(&mut self, key: u64) -> bool {
        let is_hit = self.order.remove(&(self.now, key));
        self.order.insert((self.next[self.now], key));
        if self.order.len() > self.capacity {
            self.order.pop_last();
        }
        self.now += 1;
        is_hit
    }
}
