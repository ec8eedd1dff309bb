//! The invariants themselves.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::{
    At, Disturbance, Excuse, History, Invariant, Level, Load, Outcome, Read, Seen, Step, Terms,
    Violation, Write, WriteOutcome,
};

impl History {
    /// All violations that are not excused, in the order of the invariants.
    pub(crate) fn check(&self, terms: &Terms) -> Vec<Violation> {
        let mut violations = self.check_strictly(terms);
        violations.retain(|violation| !self.excuses(violation));
        violations
    }

    /// Whether a violation is excused.
    pub(crate) fn excuses(&self, violation: &Violation) -> bool {
        self.excuses.iter().any(|one| one.covers(violation))
    }

    /// All violations.
    pub(crate) fn check_strictly(&self, terms: &Terms) -> Vec<Violation> {
        [
            self.bound(terms),
            self.no_resurrection(),
            self.monotonic_reads(),
            self.read_your_writes(),
            self.not_from_the_future(),
            self.one_load(terms),
            self.answered(terms),
            self.at_rest(),
            self.tokens(),
            self.no_lost_update(),
        ]
        .concat()
    }

    /// The reads that are held to what was promised, with what they saw.
    fn proven(&self) -> impl Iterator<Item = (&Read, Seen)> {
        self.reads.iter().filter_map(|read| match read.outcome {
            Outcome::Value(seen) if !seen.unproven => Some((read, seen)),
            _ => None,
        })
    }

    fn bound(&self, terms: &Terms) -> Vec<Violation> {
        let done = || {
            self.writes
                .iter()
                .filter(|write| write.outcome == WriteOutcome::Done)
        };
        let writes = Floors::new(done(), |write| write.key);
        let waited_for = Floors::new(done().filter(|write| write.everywhere), |write| write.key);
        self.proven()
            .filter_map(|(read, seen)| {
                let bound = terms.max_staleness[read.instance];
                let in_time = || writes.before(&read.key, read.start.checked_sub(bound)?);
                let at_once = waited_for.before(&read.key, read.start);
                [in_time(), at_once]
                    .into_iter()
                    .flatten()
                    .find_map(|write| broken(Invariant::I1Bound, read, seen, write))
            })
            .collect()
    }

    /// Of all reads, also those that are flagged.
    fn tokens(&self) -> Vec<Violation> {
        let done = self.writes.iter();
        let done = done.filter(|write| write.outcome == WriteOutcome::Done);
        let writes = Floors::new(done, |write| write.key);
        let informed = self.reads.iter().filter_map(|read| match read.outcome {
            Outcome::Value(seen) => Some((read, seen, read.knows?)),
            _ => None,
        });
        let wrong = informed.filter_map(|(read, seen, knows)| {
            let before = writes.before(&read.key, knows.called);
            let before = before.map_or(0, |write| write.version);
            let itself = if knows.key == read.key {
                knows.version
            } else {
                0
            };
            (seen.version < before.max(itself)).then(|| Violation {
                invariant: Invariant::I9Tokens,
                key: read.key,
                at: read.end,
                what: format!("{read:?}, though version {before} was written before"),
            })
        });
        wrong.collect()
    }

    fn no_lost_update(&self) -> Vec<Violation> {
        let mut made_from = HashMap::new();
        let lost = self.updates.iter().filter_map(|update| {
            let other = made_from.insert((update.key, update.from), update.to)?;
            Some(Violation {
                invariant: Invariant::I10NoLostUpdate,
                key: update.key,
                at: update.at,
                what: format!("{update:?}, and {other} was made from the same value"),
            })
        });
        lost.collect()
    }

    fn no_resurrection(&self) -> Vec<Violation> {
        let mut current: HashMap<u64, u64> = HashMap::new();
        let mut violations = Vec::new();
        for step in &self.steps {
            match *step {
                Step::Invalidated { key, version, .. } => {
                    let current = current.entry(key).or_default();
                    *current = version.max(*current);
                }
                Step::Stored { at, key, version } => {
                    let current = current.get(&key).copied().unwrap_or(0);
                    if version < current {
                        violations.push(Violation {
                            invariant: Invariant::I2NoResurrection,
                            key,
                            at,
                            what: format!("version {version} of key {key} was stored after what is older than {current} had been invalidated"),
                        });
                    }
                }
            }
        }
        violations
    }

    fn monotonic_reads(&self) -> Vec<Violation> {
        let mut by_key: BTreeMap<_, Vec<(&Read, u64)>> = BTreeMap::new();
        for (read, seen) in self.proven().filter(|(_, seen)| seen.stored) {
            let reads = by_key.entry((read.instance, read.key)).or_default();
            reads.push((read, seen.version));
        }
        let mut violations = Vec::new();
        for (_, mut by_start) in by_key {
            let mut by_end = by_start.clone();
            by_start.sort_by_key(|(read, _)| read.start);
            by_end.sort_by_key(|(read, _)| read.end);
            let mut ended = by_end.into_iter().peekable();
            let (mut newest, mut newest_at) = (0, Duration::ZERO);
            for (read, version) in by_start {
                while let Some((earlier, seen)) = ended.next_if(|(other, _)| other.end < read.start)
                {
                    if seen > newest {
                        (newest, newest_at) = (seen, earlier.end);
                    }
                }
                if version < newest {
                    violations.push(Violation {
                        invariant: Invariant::I3MonotonicReads,
                        key: read.key,
                        at: read.end,
                        what: format!("{read:?}, though the same instance had given version {newest} by {newest_at:?}"),
                    });
                }
            }
        }
        violations
    }

    fn read_your_writes(&self) -> Vec<Violation> {
        let known = self
            .writes
            .iter()
            .filter(|write| write.outcome != WriteOutcome::Unknown);
        let writes = Floors::new(known, |write| (write.instance, write.key));
        self.proven()
            .filter_map(|(read, seen)| {
                let write = writes.before(&(read.instance, read.key), read.start)?;
                broken(Invariant::I4ReadYourWrites, read, seen, write)
            })
            .collect()
    }

    fn not_from_the_future(&self) -> Vec<Violation> {
        let committed: HashMap<_, _> = self
            .commits
            .iter()
            .map(|commit| ((commit.key, commit.version), commit.at))
            .collect();
        let seen = self.reads.iter().filter_map(|read| match read.outcome {
            Outcome::Value(seen) => Some((read, seen.version)),
            _ => None,
        });
        // Every key begins with version 1.
        seen.filter(|(_, version)| *version != 1)
            .filter(|(read, version)| {
                committed
                    .get(&(read.key, *version))
                    .is_none_or(|at| *at > read.end)
            })
            .map(|(read, _)| Violation {
                invariant: Invariant::I5NotFromTheFuture,
                key: read.key,
                at: read.end,
                what: format!("{read:?}, though the source had no such version by then"),
            })
            .collect()
    }

    fn one_load(&self, terms: &Terms) -> Vec<Violation> {
        let excuses = Excuses::new(&self.disturbances);
        let mut by_key: BTreeMap<(u64, usize), Vec<&Load>> = BTreeMap::new();
        for load in &self.loads {
            let of = (load.key, load.instance % terms.types);
            by_key.entry(of).or_default().push(load);
        }
        let mut violations = Vec::new();
        for ((key, _), mut loads) in by_key {
            loads.sort_by_key(|load| load.start);
            let mut under_way: Vec<&Load> = Vec::new();
            for load in loads {
                under_way.retain(|earlier| earlier.end > load.start);
                if let Some(earlier) = under_way
                    .iter()
                    .find(|earlier| !excuses.cover(earlier, load))
                {
                    violations.push(Violation {
                        invariant: Invariant::I6OneLoad,
                        key,
                        at: load.end,
                        what: format!("{load:?} while {earlier:?} was under way"),
                    });
                }
                under_way.push(load);
            }
        }
        violations
    }

    fn answered(&self, terms: &Terms) -> Vec<Violation> {
        let wrong = self.reads.iter().filter(|read| {
            matches!(read.outcome, Outcome::Failed(_))
                || read.end > read.start + terms.answered_within
        });
        wrong
            .map(|read| Violation {
                invariant: Invariant::I7Answered,
                key: read.key,
                at: read.end,
                what: format!(
                    "{read:?}, though each is answered within {:?}",
                    terms.answered_within
                ),
            })
            .collect()
    }

    fn at_rest(&self) -> Vec<Violation> {
        self.rests
            .iter()
            .filter(|rest| match rest.level {
                Level::L1 | Level::L2 => rest.version.is_some_and(|version| version != rest.source),
                Level::Loader => rest.version != Some(rest.source),
            })
            .map(|rest| Violation {
                invariant: Invariant::I8AtRest,
                key: rest.key,
                at: rest.at,
                what: format!(
                    "instance {} has version {:?} of key {} in {:?}, and the source has {}",
                    rest.instance, rest.version, rest.key, rest.level, rest.source
                ),
            })
            .collect()
    }
}

impl Excuse {
    fn covers(&self, violation: &Violation) -> bool {
        let Violation {
            invariant, key, at, ..
        } = violation;
        let is_in_time = (self.from..=self.to).contains(at);
        self.key == *key && is_in_time && self.promises.contains(invariant)
    }
}

fn broken(invariant: Invariant, read: &Read, seen: Seen, write: &Write) -> Option<Violation> {
    let wrong = seen.version < write.version && (seen.stored || !write.lagging);
    wrong.then(|| Violation {
        invariant,
        key: read.key,
        at: read.end,
        what: format!("{read:?}, though {write:?}"),
    })
}

/// A key and an instance; `None` is all of them.
type Place = (Option<u64>, Option<usize>);

/// What was disturbed, by key and instance, and for each time how long what began by then lasts.
struct Excuses {
    by_place: HashMap<Place, Vec<(At, At)>>,
}

impl Excuses {
    fn new(disturbances: &[Disturbance]) -> Self {
        let mut by_place: HashMap<Place, Vec<(At, At)>> = HashMap::new();
        for one in disturbances {
            let place = by_place.entry((one.key, one.instance)).or_default();
            place.push((one.from, one.to));
        }
        for place in by_place.values_mut() {
            place.sort_unstable();
            let mut longest = At::ZERO;
            for (_, to) in place {
                longest = longest.max(*to);
                *to = longest;
            }
        }
        Self { by_place }
    }

    /// Whether something happened between the starts of two loads, or was still going on at the first.
    fn cover(&self, first: &Load, second: &Load) -> bool {
        let instances = [None, Some(first.instance), Some(second.instance)];
        [None, Some(first.key)]
            .into_iter()
            .flat_map(|key| instances.map(|instance| (key, instance)))
            .filter_map(|place| self.by_place.get(&place))
            .any(|place| {
                let begun = place.partition_point(|(from, _)| *from <= second.start);
                begun
                    .checked_sub(1)
                    .is_some_and(|last| place[last].1 >= first.start)
            })
    }
}

/// For each key, and any time, the newest write that had ended by then.
struct Floors<'a, K> {
    by_key: HashMap<K, Vec<&'a Write>>,
}

impl<'a, K: Hash + Eq> Floors<'a, K> {
    fn new(writes: impl Iterator<Item = &'a Write>, key: impl Fn(&Write) -> K) -> Self {
        let mut by_key: HashMap<K, Vec<&Write>> = HashMap::new();
        for write in writes {
            by_key.entry(key(write)).or_default().push(write);
        }
        for writes in by_key.values_mut() {
            writes.sort_by_key(|write| write.end);
            // Each is replaced by the newest up to it.
            let mut newest = None::<&Write>;
            for write in writes.iter_mut() {
                match newest {
                    Some(former) if former.version > write.version => {}
                    _ => newest = Some(write),
                }
                if let Some(newest) = newest {
                    *write = newest;
                }
            }
        }
        Self { by_key }
    }

    fn before(&self, key: &K, at: At) -> Option<&'a Write> {
        let writes = self.by_key.get(key)?;
        let ended = writes.partition_point(|write| write.end < at);
        ended.checked_sub(1).map(|last| writes[last])
    }
}
