//! The tags of values in L1, and the last invalidation of each, as far as this instance knows (rule 20: tags). A tag is
//! registered before L2 is asked about it, so that no message is missed after that. A value whose tags are of another
//! generation than its operation is not stored: no invalidation would reach its tags. Knows nothing of entries and
//! epochs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hasher::{Hasher, hasher};
use super::numbers::Generation;
use super::sync::{AtomicBool, AtomicU64, Mutex, lock};
use crate::ablation::{Rule, without};
use crate::key::Key;

/// Size of the table from which on states that no entry has any more are looked for.
const MIN_SWEEP_LEN: usize = 64;
/// How many invalidated tags are remembered for values whose load is under way.
const MAX_INVALIDATED: usize = 4096;

/// The state of one tag, as far as this instance knows.
pub(crate) struct TagState {
    pub(crate) name: Key,
    /// In which it was registered: only invalidations in this generation reach it.
    generation: Generation,
    /// The version of its last invalidation, as far as it is known. Values up to that are not valid.
    floor: AtomicU64,
    /// Whether L2 was asked, and had no later one: from then on messages say it.
    is_known: AtomicBool,
}

impl TagState {
    fn new(name: &Key, generation: Generation) -> Self {
        Self {
            name: name.clone(),
            generation,
            floor: AtomicU64::new(0),
            is_known: AtomicBool::new(false),
        }
    }

    /// Whether messages alone say if values with the tag are valid, while this instance is in this generation and has a
    /// freshness proof.
    pub(crate) fn is_known(&self, generation: Generation) -> bool {
        generation == self.generation && self.is_known.load(Ordering::Acquire)
    }

    /// L2 said that it was last invalidated with this version, after this state was registered.
    pub(crate) fn learn(&self, ver: u64) {
        // The floor first: a read that finds the tag known relies on the floor alone.
        self.raise_floor(ver);
        self.is_known.store(true, Ordering::Release);
    }

    fn raise_floor(&self, ver: u64) {
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

    /// Whether they were registered in this generation: its invalidations do not reach the states of another one.
    pub(super) fn are_of(&self, generation: Generation) -> bool {
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
    generation: Generation,
    by_name: HashMap<Key, Arc<TagState>, Hasher>,
    sweep_at: usize,
    /// Only where values are local.
    invalidated: Option<InvalidatedTags>,
}

/// The tags that were invalidated in this generation, with their versions. A load names the tags of a local value when it
/// ends, and L2 is not asked for them: what was invalidated since the load began is found here (rule 30: local values).
#[derive(Default)]
struct InvalidatedTags {
    versions: HashMap<Key, u64>,
    /// The highest version that was forgotten: any tag may have been invalidated up to it.
    forgotten: u64,
}

impl InvalidatedTags {
    fn note(&mut self, name: &str, ver: u64) {
        if self.versions.len() >= MAX_INVALIDATED && !self.versions.contains_key(name) {
            let highest = self.versions.drain().map(|(_, ver)| ver).max();
            self.forgotten = self.forgotten.max(highest.unwrap_or(0));
        }
        let known = self.versions.entry(name.into()).or_default();
        *known = ver.max(*known);
    }

    /// Values up to this version may be older than an invalidation of the tag.
    fn floor_of(&self, name: &str) -> u64 {
        let known = self.versions.get(name).copied().unwrap_or(0);
        known.max(self.forgotten)
    }
}

impl TagTable {
    pub(super) fn new(are_values_local: bool) -> Self {
        Self(Mutex::new(States {
            generation: Generation::NONE,
            by_name: HashMap::with_hasher(hasher()),
            sweep_at: MIN_SWEEP_LEN,
            invalidated: are_values_local.then(InvalidatedTags::default),
        }))
    }

    /// Registers tags in a generation. No invalidation reaches the states of a former one any more.
    pub(super) fn register(&self, names: &[Key], generation: Generation) -> Tags {
        if names.is_empty() {
            return Tags::default();
        }
        let mut states = lock(&self.0);
        states.begin(generation);
        let is_former = generation < states.generation;
        let tags = names.iter().map(|name| {
            if is_former {
                // An operation of that generation stores nothing.
                return Arc::new(TagState::new(name, generation));
            }
            let States {
                by_name,
                invalidated,
                ..
            } = &mut *states;
            let state = by_name.entry(name.clone()).or_insert_with(|| {
                let state = TagState::new(name, generation);
                if let Some(invalidated) = invalidated
                    && !without(Rule::LocalTags)
                {
                    state.raise_floor(invalidated.floor_of(name));
                }
                Arc::new(state)
            });
            Arc::clone(state)
        });
        let tags = Tags(Some(tags.collect()));
        if states.by_name.len() >= states.sweep_at {
            (states.by_name).retain(|_, state| Arc::strong_count(state) > 1);
            // Twice as many, so that each registration pays for its own removal at most.
            states.sweep_at = MIN_SWEEP_LEN.max(2 * states.by_name.len());
        }
        tags
    }

    /// Applies an invalidation of a tag. One of a former generation is of no use.
    pub(super) fn raise_floor(&self, name: &str, ver: u64, generation: Generation) {
        let mut states = lock(&self.0);
        // The version of a local value may be that of the invalidation: then its load began later (rule 30: local values).
        let ver = ver.saturating_sub(u64::from(states.invalidated.is_some()));
        states.note_invalidated(name, ver, generation);
        if states.generation == generation
            && let Some(state) = states.by_name.get(name)
        {
            debug_assert_eq!(state.generation, generation, "a table has one generation");
            state.raise_floor(ver);
        }
    }

    /// Applies one whose version is not known: nothing that has the tag now is valid any more, and no local value with a
    /// version up to `highest_known`, as its load may have begun before.
    pub(super) fn void(&self, name: &str, highest_known: u64, generation: Generation) {
        // Entries that come later get a state of their own: the entries of today are gone for good.
        // Under the lock: another change of the tag that does not find it relies on the floor.
        let mut states = lock(&self.0);
        states.note_invalidated(name, highest_known, generation);
        if let Some(state) = states.by_name.remove(name) {
            state.floor.store(u64::MAX, Ordering::Release);
        }
    }
}

impl States {
    /// A generation is used. Versions of a new epoch may be lower, so no floor of a former generation may stay.
    fn begin(&mut self, generation: Generation) {
        if self.generation < generation {
            self.generation = generation;
            self.by_name.clear();
            if let Some(invalidated) = &mut self.invalidated {
                *invalidated = InvalidatedTags::default();
            }
        }
    }

    /// Remembers an invalidation for local values whose load is under way.
    fn note_invalidated(&mut self, name: &str, ver: u64, generation: Generation) {
        if self.invalidated.is_none() {
            return;
        }
        // It may come before any value with a tag is stored in its generation.
        self.begin(generation);
        if self.generation == generation
            && let Some(invalidated) = &mut self.invalidated
        {
            invalidated.note(name, ver);
        }
    }
}

#[cfg(not(larder_interleavings))]
#[cfg(test)]
mod tests {
    use super::*;

    const FORMER: Generation = Generation(1);
    const NOW: Generation = Generation(2);

    #[test]
    fn a_generation_knows_nothing_of_those_before() {
        let (table, names) = (TagTable::new(false), ["t".into()]);
        let former = table.register(&names, FORMER);
        table.raise_floor("t", 10, FORMER);
        for tag in former.iter() {
            tag.learn(10);
            assert!(tag.is_known(FORMER) && !tag.is_known(NOW));
        }
        assert!(former.allow(11) && !former.allow(10));
        // Versions of another epoch may be lower.
        let now = table.register(&names, NOW);
        assert!(now.allow(1) && now.iter().all(|tag| !tag.is_known(NOW)));
        // What comes late is not of this generation.
        table.raise_floor("t", 20, FORMER);
        let late = table.register(&names, FORMER);
        assert!(now.allow(1) && late.iter().all(|tag| !tag.is_known(NOW)));
        table.raise_floor("t", 5, NOW);
        assert!(!now.allow(5) && former.allow(11) && late.allow(5));
    }

    #[test]
    fn what_is_void_is_not_valid_again() {
        let (table, names) = (TagTable::new(false), ["t".into()]);
        let before = table.register(&names, NOW);
        table.void("t", 5, NOW);
        table.raise_floor("t", 10, NOW);
        let after = table.register(&names, NOW);
        assert!(!before.allow(u64::MAX - 1) && after.allow(1));
    }

    /// Rule 30. A load names its tags when it ends: they may have been invalidated before they are registered.
    #[test]
    fn local_values_find_what_was_invalidated_before() {
        let table = TagTable::new(true);
        table.raise_floor("t", 10, NOW);
        table.void("void", 20, NOW);
        for (name, oldest) in [("t", 10), ("void", 21), ("other", 0)] {
            let tags = table.register(&[name.into()], NOW);
            assert!(tags.allow(oldest.max(1)), "{name}");
            assert!(oldest == 0 || !tags.allow(oldest - 1), "{name}");
        }
        // A full table keeps the highest version of all that it forgets.
        for n in 0..MAX_INVALIDATED as u64 {
            table.raise_floor(&n.to_string(), 100 + n, NOW);
        }
        let known = 100 + MAX_INVALIDATED as u64 - 1;
        let forgotten = known - 2;
        let tags = table.register(&["never seen".into()], NOW);
        assert!(tags.allow(forgotten) && !tags.allow(forgotten - 1));
        // Another generation begins anew.
        let next = Generation(NOW.0 + 1);
        assert!(table.register(&["never seen".into()], next).allow(1));
    }

    #[test]
    fn what_no_entry_has_any_more_makes_room() {
        let table = TagTable::new(false);
        let kept = table.register(&["kept".into()], NOW);
        for n in 0..10 * MIN_SWEEP_LEN {
            table.register(&[n.to_string().as_str().into()], NOW);
        }
        assert!(lock(&table.0).by_name.len() <= 2 * MIN_SWEEP_LEN);
        table.raise_floor("kept", 10, NOW);
        assert!(!kept.allow(10));
    }
}
