//! Writes in company: what is changed at the same moment is told to L2 together.
//!
//! A write waits here until a carrier takes it: a task that waits for its turn, takes what waits by then, and
//! tells L2 of it. Whenever something waits, there is one that is going to take it.
//!
//! Writes of one key reach L2 in the order in which they were called, whether or not anybody waited for them: what
//! comes while one of its key is being told waits for its end.

mod change;
mod errand;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::mem::{replace, take};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub(super) use self::change::{Answer, Change, Write};
use self::errand::Errand;
use super::Core;
use crate::clock::{Tick, nanos};
use crate::key::Key;
use crate::l1::{Hasher, NEVER, hasher};
use crate::lock::lock;

/// Batches that are told at a time: while L2 is busy with one, the next gather.
const TURNS: usize = 2;
/// What a batch may weigh; see [`change`].
const BATCH: u32 = 256;
/// What all writes that wait or are being told may weigh together. Who comes then waits to get in.
const ROOM: u32 = 16 * 1024;

/// The writes of an instance that wait to be told.
pub(super) struct Queue<V: Send + Sync + 'static> {
    state: Mutex<State<V>>,
    room: Arc<Semaphore>,
    turns: Semaphore,
}

struct State<V: Send + Sync + 'static> {
    waiting: VecDeque<Write<V>>,
    /// Keys of writes that have been taken and have not ended.
    taken: HashMap<Key, Taken<V>, Hasher>,
    /// Those for which there is no room yet, and all who came after them.
    outside: VecDeque<Write<V>>,
    /// The carrier that has yet to take what waits.
    gathering: Option<u64>,
    /// Who lets in what is outside.
    squeezing: Option<u64>,
    /// How many have been sent for.
    errands: u64,
    /// What was called since the last clear, or is a clear, and has not ended.
    under_way: TaskTracker,
}

/// An insert that has been taken, or removals: in which order something is removed twice does not matter.
struct Taken<V: Send + Sync + 'static> {
    /// Of which this is the first.
    first: u64,
    is_insert: bool,
    many: usize,
    /// What came for the key since, in its order.
    behind: Vec<Write<V>>,
}

impl<V: Send + Sync + 'static> Default for State<V> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            taken: HashMap::with_hasher(hasher()),
            outside: VecDeque::new(),
            gathering: None,
            squeezing: None,
            errands: 0,
            under_way: TaskTracker::new(),
        }
    }
}

impl<V: Send + Sync + 'static> Queue<V> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            room: Arc::new(Semaphore::new(ROOM as usize)),
            turns: Semaphore::new(TURNS),
        }
    }

    /// For a clear: what has to end before it, and what says that it has not ended itself.
    pub(super) fn begin_anew(&self) -> (TaskTracker, TaskTrackerToken) {
        let under_way = TaskTracker::new();
        let token = under_way.token();
        let earlier = replace(&mut lock(&self.state).under_way, under_way);
        earlier.close();
        (earlier, token)
    }

    /// Gives up what waits; what comes then gets a carrier of its own. For who is to take it may never do so: its
    /// runtime has ended, or is there but not driven. The same for what has been taken of a key, if nothing is heard
    /// of it.
    #[must_use]
    pub(super) fn give_up(&self, key: Option<&Key>) -> Vec<Write<V>> {
        let mut state = lock(&self.state);
        (state.gathering, state.squeezing) = (None, None);
        let taken = key.and_then(|key| state.taken.remove(key));
        let mut left = taken.map_or_else(Vec::new, |taken| taken.behind);
        left.extend(take(&mut state.waiting));
        left.extend(take(&mut state.outside));
        left
    }
}

impl<V: Send + Sync + 'static> Core<V> {
    /// When a write that is called now has waited for too long.
    fn write_limit(&self) -> Tick {
        if self.liveness.is_alone() {
            return NEVER;
        }
        self.now().saturating_add(nanos(self.options.l2_timeout))
    }

    /// Puts writes into the queue, in their order: at once, or one by one in a task if there is no room for all.
    pub(super) fn enqueue(self: &Arc<Self>, mut writes: Vec<Write<V>>) {
        let weights = writes.iter().map(|write| write.weight);
        let weight = weights.fold(0, u32::saturating_add).min(ROOM + 1);
        if let Some(last) = writes.last_mut() {
            last.is_last = true;
        }
        let mut state = lock(&self.queue.state);
        for write in &mut writes {
            write.under_way = Some(state.under_way.token());
        }
        let room = Arc::clone(&self.queue.room).try_acquire_many_owned(weight);
        if let Ok(mut room) = room
            && state.squeezing.is_none()
        {
            for write in &mut writes {
                write.room = room.split(write.weight as usize);
            }
            state.waiting.extend(writes);
            return self.see_to(state);
        }
        state.outside.extend(writes);
        if state.squeezing.is_none() {
            let errand = Errand::new(self, &mut state);
            state.squeezing = Some(errand.number);
            drop(state);
            tokio::spawn(errand.squeeze_in());
        }
    }

    /// Sends for a carrier, if something waits and nobody is going to take it.
    fn see_to(self: &Arc<Self>, mut state: MutexGuard<'_, State<V>>) {
        if state.waiting.is_empty() || state.gathering.is_some() {
            return;
        }
        let errand = Errand::new(self, &mut state);
        state.gathering = Some(errand.number);
        drop(state);
        // Where it has ended, and a write with it, that is the end of the errand.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(errand.carry());
        }
    }
}

impl<V: Send + Sync + 'static> State<V> {
    /// The share of one turn in what goes at once, or the first would have it all and L2 wait for the next one: who
    /// is answered together writes again together. What came together stays so. What has to wait for the end of another
    /// goes behind that.
    ///
    /// `all` is what those that wait or are being told weigh.
    fn take(&mut self, all: usize) -> Vec<Write<V>> {
        let share = all.div_ceil(TURNS);
        let (mut weight, mut may_end) = (0, true);
        // With room for them: a list that grows begins with four.
        let likely = share.min(self.waiting.len()).min(BATCH as usize);
        let mut taken: Vec<Write<V>> = Vec::with_capacity(likely);
        while let Some(mut write) = self.waiting.pop_front() {
            let has_share = replace(&mut may_end, write.is_last) && weight as usize >= share;
            if (weight + write.weight > BATCH || has_share) && !taken.is_empty() {
                self.waiting.push_front(write);
                break;
            }
            let of_key = (self.taken.entry(write.key.clone())).or_insert_with(|| Taken::by(&write));
            if of_key.is_before(&write) {
                of_key.behind.push(write);
                continue;
            }
            of_key.many += 1;
            write.taken_with = Some(of_key.first);
            weight += write.weight;
            taken.push(write);
        }
        taken
    }

    fn end(&mut self, key: Key, first: u64) {
        let Entry::Occupied(mut taken) = self.taken.entry(key) else {
            return;
        };
        let of_key = taken.get_mut();
        // Those may have been given up, and these be others.
        if of_key.first != first {
            return;
        }
        of_key.many = of_key.many.saturating_sub(1);
        if of_key.many == 0 {
            for write in taken.remove().behind.into_iter().rev() {
                self.waiting.push_front(write);
            }
        }
    }
}

impl<V: Send + Sync + 'static> Taken<V> {
    fn by(write: &Write<V>) -> Self {
        Self {
            first: write.begun,
            is_insert: write.is_insert(),
            many: 0,
            behind: Vec::new(),
        }
    }

    /// Whether a write has to wait for these.
    fn is_before(&self, write: &Write<V>) -> bool {
        let differ = self.is_insert || write.is_insert() || !self.behind.is_empty();
        self.many > 0 && differ
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Cache;
    use crate::l2::Kind;

    #[test]
    fn a_turn_takes_its_share_of_a_crowd() {
        let cache: Cache<u64, u64> = Cache::builder("queue").build().unwrap();
        let core = cache.core();
        let came_together = |writes: usize| {
            let mut writes: Vec<_> = (0..writes).map(|_| write(core)).collect();
            writes.last_mut().unwrap().is_last = true;
            writes
        };
        let mut state = State {
            waiting: (0..10).flat_map(|_| came_together(1)).collect(),
            ..State::default()
        };
        let take = |state: &mut State<u64>, all| state.take(all).len();
        assert_eq!([take(&mut state, 10), take(&mut state, 10)], [5, 5]);
        // While most are being told, all who come later are taken.
        state.waiting.extend(came_together(1));
        state.waiting.extend(came_together(1));
        assert_eq!(take(&mut state, 12), 2);
        state.waiting.extend(came_together(20));
        state.waiting.extend(came_together(1));
        assert_eq!([take(&mut state, 21), take(&mut state, 21)], [20, 1]);
    }

    /// An insert is a capital letter.
    #[test]
    fn writes_of_a_key_go_one_after_the_other() {
        let cache: Cache<u64, u64> = Cache::builder("queue").build().unwrap();
        let core = cache.core();
        for (writes, steps) in [
            ("", ""),
            ("abc", "abc"),
            ("AAA", "A A A"),
            ("aaa", "aaa"),
            ("AaA", "A a A"),
            ("aAaa", "a A aa"),
            ("AbBCb", "AbC B b"),
            ("ABbbaC", "ABC bba"),
        ] {
            let named = |name: char| {
                let change = if name.is_uppercase() {
                    insert(core, &name.to_lowercase().to_string())
                } else {
                    remove()
                };
                let key = name.to_lowercase().to_string().as_str().into();
                Write::new(core, key, core.outbox.begin(), change).0
            };
            let mut state = State {
                waiting: writes.chars().map(named).collect(),
                ..State::default()
            };
            let mut told = Vec::new();
            while !state.waiting.is_empty() {
                let mut batch = state.take(writes.len() * TURNS);
                let names = batch.iter().map(|write| {
                    let name = write.key.to_string();
                    if write.is_insert() {
                        name.to_uppercase()
                    } else {
                        name
                    }
                });
                told.push(names.collect::<String>());
                for write in &mut batch {
                    state.end(write.key.clone(), write.taken_with.take().unwrap());
                }
            }
            assert_eq!(told.join(" "), steps);
            assert!(state.taken.is_empty());
        }
    }

    /// Who was given up and ends after all is none of those who came instead.
    #[tokio::test]
    async fn who_was_given_up_ends_nothing() {
        let cache: Cache<u64, u64> = Cache::builder("queue").build().unwrap();
        let core = cache.core();
        let queue = &core.queue;
        let insert = || {
            let key: Key = "k".into();
            Write::new(core, key, core.outbox.begin(), insert(core, "k")).0
        };
        let take = || {
            let mut state = lock(&queue.state);
            state.waiting.push_back(insert());
            state.take(1)
        };
        let hangs = take();
        assert!(take().is_empty(), "it waits");
        assert_eq!(queue.give_up(Some(&"other".into())).len(), 0);
        assert!(take().is_empty(), "still");
        assert_eq!(queue.give_up(Some(&"k".into())).len(), 2);
        let new = take();
        assert_eq!(new.len(), 1);
        drop(hangs);
        assert!(take().is_empty(), "the new one has not ended");
        drop(new);
        assert_eq!(lock(&queue.state).waiting.len(), 1, "now it has");
        drop(queue.give_up(None));
    }

    fn insert(core: &Arc<Core<u64>>, key: &str) -> Change<u64> {
        let (head, sealed) = core.seal(&1).unwrap();
        Change::Insert {
            op: core.flights.begin_owned(&key.into()),
            value: Some(1),
            head,
            sealed,
        }
    }

    fn remove() -> Change<u64> {
        Change::Remove {
            kind: Kind::Invalidate,
            hold: Duration::ZERO,
        }
    }

    fn write(core: &Arc<Core<u64>>) -> Write<u64> {
        let begun = core.outbox.begin();
        let key = format!("{begun}").as_str().into();
        Write::new(core, key, begun, remove()).0
    }
}
