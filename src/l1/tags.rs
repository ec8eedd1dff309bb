//! The tags of values in L1, and the last invalidation of each, as far as this instance knows (rule 20). A tag is
//! registered before L2 is asked about it, so that no message is missed after that. A value whose tags are of another
//! generation than its operation is not stored: its tags would not be told of an invalidation. Knows nothing of entries
//! and epochs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hasher::{Hasher, hasher};
use super::sync::{AtomicBool, AtomicU64, Mutex, lock};
use crate::ablation::{Rule, without};
use crate::key::Key;

/// Size of the table from which on states that no entry has any more are looked for.
const SWEEP_FROM: usize = 64;

/// The state of one tag, as far as this instance knows.
pub(crate) struct TagState {
    pub(crate) name: Key,
    /// In which it was registered: only in this is it told of invalidations.
    generation: u64,
    /// The version of its last invalidation, as far as it is known. Values up to that are not valid.
    floor: AtomicU64,
    /// Whether L2 was asked, and had no later one: from then on messages say it.
    is_known: AtomicBool,
}

impl TagState {
    fn new(name: &Key, generation: u64) -> Self {
        Self {
            name: name.clone(),
            generation,
            floor: AtomicU64::new(0),
            is_known: AtomicBool::new(false),
        }
    }

    /// Whether messages alone say if values with the tag are valid, while this instance is in this generation and has a
    /// freshness proof.
    pub(crate) fn is_known(&self, generation: u64) -> bool {
        generation == self.generation && self.is_known.load(Ordering::Acquire)
    }

    /// L2 said that it was last invalidated with this version, after this state was registered.
    pub(crate) fn learn(&self, ver: u64) {
        // The floor first: who finds the tag known relies on the floor alone.
        self.raise(ver);
        self.is_known.store(true, Ordering::Release);
    }

    fn raise(&self, ver: u64) {
        if !without(Rule::TagFloors) {
            // AcqRel, and no lock: hits compare the floor. Messages may come in any order, so it only rises.
            self.floor.fetch_max(ver, Ordering::AcqRel);
        }
    }
}

/// The tags of one value. Most have none.
#[derive(Clone, Default)]
pub(crate) struct Tags(Option<Arc<[Arc<TagState>]>>);

impl Tags {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |states| states.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<TagState>> {
        self.0.iter().flat_map(|states| states.iter())
    }

    pub(crate) fn names(&self) -> Vec<Key> {
        self.iter().map(|state| state.name.clone()).collect()
    }

    /// Whether they were registered in this generation: the states of another one are not told of its invalidations.
    pub(super) fn are_of(&self, generation: u64) -> bool {
        self.iter().all(|state| state.generation == generation)
    }

    /// Whether none of the tags is known to have been invalidated since a value of this version was written.
    pub(crate) fn allow(&self, ver: u64) -> bool {
        (self.iter()).all(|state| ver > state.floor.load(Ordering::Acquire))
    }
}

/// The states of all tags that entries and operations of one generation have.
pub(super) struct TagTable(Mutex<States>);

struct States {
    generation: u64,
    by_name: HashMap<Key, Arc<TagState>, Hasher>,
    sweep_at: usize,
}

impl TagTable {
    pub(super) fn new() -> Self {
        Self(Mutex::new(States {
            generation: 0,
            by_name: HashMap::with_hasher(hasher()),
            sweep_at: SWEEP_FROM,
        }))
    }

    /// Registers tags in a generation. States of a former one are not told of any invalidation any more.
    pub(super) fn register(&self, names: &[Key], generation: u64) -> Tags {
        if names.is_empty() {
            return Tags::default();
        }
        let mut states = lock(&self.0);
        // Versions of the new epoch may be lower, so no floor of a former generation may stay.
        if states.generation < generation {
            states.generation = generation;
            states.by_name.clear();
        }
        let is_former = generation < states.generation;
        let tags = names.iter().map(|name| {
            if is_former {
                // An operation of that generation stores nothing.
                return Arc::new(TagState::new(name, generation));
            }
            let state = states.by_name.entry(name.clone());
            Arc::clone(state.or_insert_with(|| Arc::new(TagState::new(name, generation))))
        });
        let tags = Tags(Some(tags.collect()));
        if states.by_name.len() >= states.sweep_at {
            (states.by_name).retain(|_, state| Arc::strong_count(state) > 1);
            // Twice as many, so that each registration pays for its own removal at most.
            states.sweep_at = SWEEP_FROM.max(2 * states.by_name.len());
        }
        tags
    }

    /// Applies an invalidation of a tag. One of a former generation is of no use.
    pub(super) fn raise(&self, name: &str, ver: u64, generation: u64) {
        let states = lock(&self.0);
        if states.generation == generation
            && let Some(state) = states.by_name.get(name)
        {
            debug_assert_eq!(state.generation, generation, "a table has one generation");
            state.raise(ver);
        }
    }

    /// Applies one whose version is not known: nothing that has the tag now is valid any more.
    pub(super) fn forget(&self, name: &str) {
        // Entries that come later get a state of their own: the entries of today are gone for good.
        // Under the lock: another change of the tag that finds it forgotten relies on the floor.
        let mut states = lock(&self.0);
        if let Some(state) = states.by_name.remove(name) {
            state.floor.store(u64::MAX, Ordering::Release);
        }
    }
}

#[cfg(not(larder_interleavings))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_knows_nothing_of_those_before() {
        let (table, names) = (TagTable::new(), ["t".into()]);
        let former = table.register(&names, 1);
        table.raise("t", 10, 1);
        for tag in former.iter() {
            tag.learn(10);
            assert!(tag.is_known(1) && !tag.is_known(2));
        }
        assert!(former.allow(11) && !former.allow(10));
        // Versions of another epoch may be lower.
        let now = table.register(&names, 2);
        assert!(now.allow(1) && now.iter().all(|tag| !tag.is_known(2)));
        // What comes late is not of this generation.
        table.raise("t", 20, 1);
        let late = table.register(&names, 1);
        assert!(now.allow(1) && late.iter().all(|tag| !tag.is_known(2)));
        table.raise("t", 5, 2);
        assert!(!now.allow(5) && former.allow(11) && late.allow(5));
    }

    #[test]
    fn what_is_forgotten_is_not_valid_again() {
        let (table, names) = (TagTable::new(), ["t".into()]);
        let before = table.register(&names, 1);
        table.forget("t");
        table.raise("t", 10, 1);
        let after = table.register(&names, 1);
        assert!(!before.allow(u64::MAX - 1) && after.allow(1));
    }

    #[test]
    fn what_no_entry_has_any_more_makes_room() {
        let table = TagTable::new();
        let kept = table.register(&["kept".into()], 1);
        for n in 0..10 * SWEEP_FROM {
            table.register(&[n.to_string().as_str().into()], 1);
        }
        assert!(lock(&table.0).by_name.len() <= 2 * SWEEP_FROM);
        table.raise("kept", 10, 1);
        assert!(!kept.allow(10));
    }
}
