//! The partitions of a cache. A partition has a clock in the store, and each key belongs to one partition, by its hash: so
//! a namespace can lie on several servers.
//!
//! Each part of the engine exists once for each partition, and knows nothing of the others. A call for one key is a call of
//! its partition. A call for several keys is split, and its parts run side by side: so it is not atomic across partitions.
//! A call for all keys, or for tags, is one for each partition.

use std::iter;

use futures::future::join_all;

use crate::util::crc16::nth;
use crate::vocabulary::PartitionNumber;

/// Something that there is once for each partition.
pub(crate) struct Partitions<T> {
    first: T,
    others: Box<[T]>,
}

impl<T> Partitions<T> {
    /// So many, in the order of their numbers.
    pub(crate) fn new(partitions: u16, mut new: impl FnMut(PartitionNumber) -> T) -> Self {
        let mut new = |number| {
            new(PartitionNumber {
                number,
                of: partitions,
            })
        };
        Self {
            first: new(0),
            others: (1..partitions).map(new).collect(),
        }
    }

    /// Something else for each partition, in the order of their numbers.
    pub(crate) fn map<U>(&self, mut new: impl FnMut(PartitionNumber, &T) -> U) -> Partitions<U> {
        Partitions::new(self.count(), |partition| new(partition, self.at(partition)))
    }

    pub(crate) fn count(&self) -> u16 {
        // There were as many numbers.
        u16::try_from(1 + self.others.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn first(&self) -> &T {
        &self.first
    }

    /// The only one, if there are no others.
    pub(crate) fn only(&self) -> Option<&T> {
        self.others.is_empty().then_some(&self.first)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        iter::once(&self.first).chain(&self.others)
    }

    /// The part of the partition that a key belongs to.
    #[inline]
    pub(crate) fn for_key(&self, key: &str) -> &T {
        self.only().unwrap_or_else(|| self.nth(self.index_of(key)))
    }

    pub(crate) fn at(&self, partition: PartitionNumber) -> &T {
        self.nth(usize::from(partition.number))
    }

    fn nth(&self, index: usize) -> &T {
        let other = index.checked_sub(1).and_then(|at| self.others.get(at));
        other.unwrap_or(&self.first)
    }

    fn index_of(&self, key: &str) -> usize {
        nth(key, 1 + self.others.len())
    }

    /// Splits items by the partitions of their keys, whose order stays. A partition without any has no part.
    pub(crate) fn split<I>(
        &self,
        items: impl IntoIterator<Item = I>,
        key: impl Fn(&I) -> &str,
    ) -> Vec<(&T, Vec<I>)> {
        if let Some(only) = self.only() {
            return vec![(only, items.into_iter().collect())];
        }
        let items = items.into_iter();
        let mut parts = self.parts(items.map(|item| (self.index_of(key(&item)), item)));
        parts.retain(|(_, part)| !part.is_empty());
        parts
    }

    /// Each partition with its items, which come with the index of their partition.
    fn parts<I>(&self, items: impl Iterator<Item = (usize, I)>) -> Vec<(&T, Vec<I>)> {
        let mut parts: Vec<_> = self
            .iter()
            .map(|partition| (partition, Vec::new()))
            .collect();
        for (index, item) in items {
            if let Some((_, part)) = parts.get_mut(index) {
                part.push(item);
            }
        }
        parts
    }

    /// Has each partition answer for its part of the items, side by side. Returns the answers in the order of the items: of
    /// each part there have to be as many as it has items.
    pub(crate) async fn each<'a, I, A, Answers: Future<Output = Vec<A>>>(
        &'a self,
        items: Vec<I>,
        key: impl Fn(&I) -> &str,
        answer: impl Fn(&'a T, Vec<I>) -> Answers,
    ) -> Vec<A> {
        if let Some(only) = self.only() {
            return answer(only, items).await;
        }
        let indexes: Vec<usize> = items.iter().map(|item| self.index_of(key(item))).collect();
        let parts = self.parts(iter::zip(indexes.iter().copied(), items));
        let parts = parts.into_iter().map(|(partition, part)| async {
            let asked = part.len();
            // A partition without a part is not asked.
            let answers = if asked == 0 {
                Vec::new()
            } else {
                answer(partition, part).await
            };
            debug_assert_eq!(answers.len(), asked, "an answer for each item");
            answers.into_iter()
        });
        let mut answers = join_all(parts).await;
        let next = |index: usize| answers.get_mut(index)?.next();
        indexes.into_iter().filter_map(next).collect()
    }
}
