//! Which writes may be sent together, and which have to wait: a pure structure without tasks or time.
//!
//! Writes of one key reach L2 in the order in which they were called, so that an insert that was called first cannot
//! undo an invalidation (rule 14: deferred writes). Batches that are under way have no key in common. A clear comes
//! after all writes that were called before it, and before all that are called later; so do invalidations of tags and
//! prefixes, but for those that were called one after the other.

use std::collections::{HashMap, VecDeque};

use crate::key::Key;
use crate::l1::{Hasher, hasher};
use crate::util::pacing;

/// The most that a batch weighs, but for a single write that weighs more.
const WRITE_BATCH: u32 = 256;

/// A write, as far as the order looks at it.
pub(crate) trait Ordered {
    /// `None` for a clear, or for a write that keeps its place among the others as a clear does.
    fn key(&self) -> Option<&Key>;

    /// Has no key, and may be sent with other writes like it: invalidates a tag, or begins to invalidate a prefix.
    fn is_joint(&self) -> bool;

    /// Removals of one key may share a batch, since their order does not matter. An insert shares its batch with
    /// no other write of its key: two inserts would get the same version, and the steps of a batch are sent at once.
    fn is_insert(&self) -> bool;

    fn weight(&self) -> u32;

    /// Whether it is the last write of its call: the writes of a call are not split without need.
    fn ends_call(&self) -> bool;
}

/// Writes that wait, and the keys of those that are under way.
pub(crate) struct WriteOrder<W> {
    /// In the order of the calls.
    waiting: VecDeque<W>,
    /// The keys of the batches under way.
    keys: HashMap<Key, UnderWay<W>, Hasher>,
    /// How many batches have been taken so far.
    batches: u64,
    is_barrier_under_way: bool,
    /// The weight of all writes that wait or are under way.
    weight: u32,
}

struct UnderWay<W> {
    /// The batch that has it.
    batch: u64,
    is_insert: bool,
    /// Writes of the key that were called later, in their order.
    behind: Vec<W>,
}

impl<W: Ordered> WriteOrder<W> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            keys: HashMap::with_hasher(hasher()),
            batches: 0,
            is_barrier_under_way: false,
            weight: 0,
        }
    }

    /// Adds the writes of a call.
    pub(crate) fn push(&mut self, writes: impl IntoIterator<Item = W>) {
        for write in writes {
            self.weight = self.weight.saturating_add(write.weight());
            self.waiting.push_back(write);
        }
    }

    /// Whether [`next_batch`](Self::next_batch) may have a batch.
    pub(crate) fn is_ready(&self) -> bool {
        // Rule 14: writes behind a key under way were called before the clear that is next, so it waits for all keys.
        let may_go = |next: &W| next.key().is_some() || self.keys.is_empty();
        !self.is_barrier_under_way && self.waiting.front().is_some_and(may_go)
    }

    /// Takes the writes that may be sent now: a clear, or a batch of others, which [`end`](Self::end) has to follow.
    pub(crate) fn next_batch(&mut self) -> Option<Vec<W>> {
        while self.is_ready() {
            if (self.waiting.front()).is_some_and(|next| next.key().is_none()) {
                debug_assert!(self.keys.is_empty(), "a clear has no write beside it");
                self.is_barrier_under_way = true;
                return Some(self.barrier_batch());
            }
            let writes = self.write_batch();
            // Empty if each write has to wait behind a key under way: then the next ones are looked at.
            if !writes.is_empty() {
                return Some(writes);
            }
        }
        None
    }

    /// Takes the next write, which has no key; and if it is one of a tag or a prefix, those that follow it.
    fn barrier_batch(&mut self) -> Vec<W> {
        let mut weight = 0;
        let joint = self.waiting.iter().take_while(|next| {
            weight += next.weight();
            next.is_joint() && weight <= WRITE_BATCH
        });
        // The first one in any case, whatever it weighs.
        let many = joint.count().max(1).min(self.waiting.len());
        self.waiting.drain(..many).collect()
    }

    fn write_batch(&mut self) -> Vec<W> {
        self.batches += 1;
        // Of all that waits or is under way, so that L2 has the next batch while the callers of this one are woken.
        let share = pacing::share(0, self.weight as usize);
        let (mut weight, mut may_end) = (0, true);
        // A list that grows begins with four.
        let mut batch = Vec::with_capacity(self.waiting.len().min(share).min(WRITE_BATCH as usize));
        while let Some(next) = self.waiting.front()
            && next.key().is_some()
        {
            let is_full =
                weight + next.weight() > WRITE_BATCH || may_end && weight as usize >= share;
            if is_full && !batch.is_empty() {
                break;
            }
            may_end = next.ends_call();
            let next = self.waiting.pop_front();
            if let Some(write) = next.and_then(|write| self.admit(write)) {
                weight += write.weight();
                batch.push(write);
            }
        }
        batch
    }

    /// Takes a write into the batch, unless it has to wait for another one of its key.
    fn admit(&mut self, write: W) -> Option<W> {
        let (batch, is_insert) = (self.batches, write.is_insert());
        let name = write.key()?;
        let Some(key) = self.keys.get_mut(name) else {
            let key = UnderWay {
                batch,
                is_insert,
                behind: Vec::new(),
            };
            self.keys.insert(name.clone(), key);
            return Some(write);
        };
        // One behind it would be overtaken, if this one shared the batch.
        let share_batch = key.batch == batch && !key.is_insert && !is_insert;
        if share_batch && key.behind.is_empty() {
            return Some(write);
        }
        key.behind.push(write);
        None
    }

    /// A batch has ended, with these keys and this weight: the writes that waited for its keys are next.
    pub(crate) fn end(&mut self, keys: &[Key], weight: u32) {
        // Nothing else is under way beside a clear.
        self.is_barrier_under_way = false;
        debug_assert!(
            self.weight >= weight,
            "a batch weighs no more than all writes"
        );
        debug_assert!(
            keys.iter().all(|key| self.keys.contains_key(key)),
            "a key under way is in one batch, which ends once"
        );
        self.weight = self.weight.saturating_sub(weight);
        // From the back, to the front: the writes behind a key come before all that were called later, in their order.
        for key in keys.iter().rev() {
            let ended = self.keys.remove(key);
            for write in ended.into_iter().flat_map(|key| key.behind).rev() {
                self.waiting.push_front(write);
            }
        }
        debug_assert!(
            !self.waiting.is_empty() || !self.keys.is_empty() || self.weight == 0,
            "without writes there is no weight"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An insert is a capital letter, a clear is "!", and a tag is a digit.
    struct Letter {
        name: char,
        key: Key,
        ends_call: bool,
    }

    impl Letter {
        fn new(name: char) -> Self {
            Self {
                name,
                key: name.to_lowercase().to_string().as_str().into(),
                ends_call: true,
            }
        }
    }

    impl Ordered for Letter {
        fn key(&self) -> Option<&Key> {
            self.name.is_alphabetic().then_some(&self.key)
        }

        fn is_joint(&self) -> bool {
            self.name.is_numeric()
        }

        fn is_insert(&self) -> bool {
            self.name.is_uppercase()
        }

        fn weight(&self) -> u32 {
            1
        }

        fn ends_call(&self) -> bool {
            self.ends_call
        }
    }

    type Order = WriteOrder<Letter>;

    fn push(order: &mut Order, writes: &str) {
        for name in writes.chars() {
            order.push([Letter::new(name)]);
        }
    }

    /// Takes a batch, and says what it holds; "" if there is none.
    fn take(order: &mut Order) -> String {
        let batch = order.next_batch().unwrap_or_default();
        batch.iter().map(|write| write.name).collect()
    }

    fn end(order: &mut Order, batch: &str) {
        let keys = batch.chars().filter(|name| name.is_alphabetic());
        let keys: Vec<Key> = keys.map(|name| Letter::new(name).key).collect();
        order.end(&keys, u32::try_from(batch.len()).unwrap());
    }

    fn is_idle(order: &Order) -> bool {
        order.waiting.is_empty() && order.keys.is_empty() && order.weight == 0
    }

    /// With one batch at a time, which may be everything.
    #[test]
    fn writes_of_a_key_go_one_after_the_other() {
        for (writes, batches) in [
            ("", ""),
            ("abc", "ab c"),
            ("AAA", "A A A"),
            ("aaa", "aa a"),
            ("AaA", "A a A"),
            ("aAaa", "a A a a"),
            ("AbBCb", "AbC B b"),
            ("ABbbaC", "ABC ab b"),
            ("a!b", "a ! b"),
            ("!!a", "! ! a"),
            ("A12!3aB4", "A 12 ! 3 aB 4"),
            ("AA!Aa!", "A A ! A a !"),
        ] {
            let mut order = Order::new();
            push(&mut order, writes);
            let mut sent = Vec::new();
            loop {
                let batch = take(&mut order);
                if batch.is_empty() {
                    break;
                }
                end(&mut order, &batch);
                sent.push(batch);
            }
            assert_eq!(sent.join(" "), batches, "{writes}");
            assert!(is_idle(&order));
        }
    }

    #[test]
    fn batches_under_way_have_no_key_in_common() {
        let mut order = Order::new();
        push(&mut order, "abab");
        assert_eq!(take(&mut order), "ab");
        assert_eq!(take(&mut order), "", "both keys are under way");
        push(&mut order, "c");
        assert_eq!(take(&mut order), "c");
        end(&mut order, "ab");
        assert_eq!(take(&mut order), "ab");
        end(&mut order, "c");
        end(&mut order, "ab");
        assert!(is_idle(&order));
    }

    #[test]
    fn a_clear_waits_for_all_before_it_and_all_after_it_wait() {
        let mut order = Order::new();
        push(&mut order, "AAb!c");
        assert_eq!(take(&mut order), "Ab");
        assert_eq!(take(&mut order), "");
        end(&mut order, "Ab");
        assert_eq!(take(&mut order), "A", "it was called before the clear");
        assert_eq!(take(&mut order), "");
        end(&mut order, "A");
        assert_eq!(take(&mut order), "!");
        assert_eq!(take(&mut order), "", "it was called after the clear");
        end(&mut order, "!");
        assert_eq!(take(&mut order), "c");
        end(&mut order, "c");
        assert!(is_idle(&order));
    }

    #[test]
    fn a_batch_weighs_so_much_however_many_are_called_together() {
        let mut order = Order::new();
        let mut call: Vec<Letter> = ('\u{4e00}'..).take(600).map(Letter::new).collect();
        for write in &mut call {
            write.ends_call = false;
        }
        order.push(call);
        let sizes = [(); 3].map(|()| order.next_batch().map_or(0, |batch| batch.len()));
        assert_eq!(sizes, [256, 256, 88]);
    }

    #[test]
    fn a_batch_takes_its_share_of_a_crowd_and_does_not_split_a_call() {
        let mut order = Order::new();
        push(&mut order, "abcdefghij");
        assert_eq!([take(&mut order), take(&mut order)], ["abcde", "fghij"]);
        // While most are under way, all that come later are taken.
        push(&mut order, "kl");
        assert_eq!(take(&mut order), "kl");
        end(&mut order, "abcdefghijkl");
        let mut call: Vec<Letter> = ('a'..='j').map(Letter::new).collect();
        for write in &mut call {
            write.ends_call = write.name == 'j';
        }
        order.push(call);
        push(&mut order, "k");
        assert_eq!([take(&mut order), take(&mut order)], ["abcdefghij", "k"]);
    }
}
