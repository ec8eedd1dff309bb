//! Each operation of L1 beside each other one, from each state, in every order. Whatever the two are: no look-up finds
//! anything older than a change that was applied before, or than a value that was shown or handed out before; moka knows
//! all entries; nothing is left in flight or hidden; and the next read is stored.
//!
//! [`OPERATIONS`] has all that changes or looks at L1, and a test says so: each is one row and one column of the table.
//! The other modules have the promises that take three threads, or that only one pair makes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{BOUND, EPOCH, KEY, NEXT_EPOCH, Stamp, TAG, World, entry_of, in_every_order, version};
use crate::l1::{Join, JoinRead, LoadOutcome, Op, OpNumber, Outcome, Record, SharedRecord, Tags};
use crate::util::lock::lock;
use crate::vocabulary::{Source, Version};

type Operation = (&'static str, fn(&Side));

/// How long ago the TTL or the proof may have ended: longer than it has in any state, and shorter.
const KEPT: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_nanos(1);

const OPERATIONS: [Operation; 32] = [
    ("hit", |side| {
        side.look_up(|world| {
            let found = world.l1.look_up(&world.key, world.now);
            found.inspect(|record| world.l1.entries.note_hit(record))
        });
    }),
    ("unproven look-up", |side| {
        side.look_up(|world| world.l1.get_unproven(&world.key, world.now, SHORT));
    }),
    ("fallback", |side| {
        side.look_up(|world| world.l1.get_fallback(&world.key, world.now, KEPT, None));
    }),
    ("unproven fallback", |side| {
        side.look_up(|world| (world.l1).get_fallback(&world.key, world.now, KEPT, Some(SHORT)));
    }),
    ("keys", |side| {
        side.world.l1.keys(1, side.world.now);
    }),
    ("read", Side::read),
    ("read with a tag", Side::read_tagged),
    ("shared read", Side::read_shared),
    ("load", |side| {
        let caller = side.world.l1.freshness.caller(side.world.now);
        let join = |world: &World| {
            let in_flight = &world.l1.in_flight;
            Some(
                in_flight
                    .join_load(&world.key, caller, OpNumber::FIRST, false)
                    .0,
            )
        };
        side.load(join);
    }),
    ("refresh", |side| {
        let caller = side.world.l1.freshness.caller(side.world.now);
        side.load(|world| world.l1.in_flight.join_refresh(&world.key, caller));
    }),
    ("insert", |side| side.insert(|_, _| ())),
    ("insert after its message", |side| {
        side.insert(|world, at| world.l1.apply_own([KEY], version(at.0, at.1)));
    }),
    ("message", |side| {
        side.catch_up(|world| side.hear(|at| world.l1.apply([KEY], at)));
    }),
    ("message of a prefix", |side| {
        let apply = |at| _ = side.world.l1.apply_prefixes(&[(KEY, at)], side.world.now);
        side.catch_up(|_| side.hear(apply));
    }),
    ("message of a tag", |side| {
        side.catch_up(|world| {
            let (epoch, ver) = world.write_tag();
            world.l1.apply_tags([TAG], version(epoch, ver));
            side.note(|seen| seen.tag = seen.tag.max((epoch, ver)));
        });
    }),
    ("gap", |side| {
        side.catch_up(|_| {
            side.bar(|world| world.flush_after(|stored| stored.1 = world.after(stored.1)))
        });
    }),
    ("clear", |side| {
        side.catch_up(|_| {
            side.bar(|world| {
                world.l1.flush_and_revoke_proof();
                world.flush_after(|stored| {
                    if stored.0 == EPOCH {
                        *stored = (NEXT_EPOCH, 1);
                        *world.tag_version.lock().unwrap() = 0;
                    }
                });
            });
        });
    }),
    ("switch", |side| {
        side.catch_up(|_| side.bar(|world| world.l1.flush_and_keep_proof()))
    }),
    ("unversioned", |side| {
        side.bar(|world| world.l1.apply_unversioned(&world.key));
    }),
    ("unversioned prefix", |side| {
        side.bar(|world| world.l1.apply_unversioned_prefix(&world.key, world.now));
    }),
    ("unversioned tag", |side| {
        side.world.l1.apply_unversioned_tag(TAG);
        side.note(|seen| seen.first_tagged = seen.begun_before);
    }),
    ("evict", |side| {
        side.remove(|world| world.l1.evict(&world.key));
    }),
    ("evict prefixes", |side| {
        let evict = |world: &World| {
            world.l1.evict_prefixes(&[world.key.clone()], world.now);
        };
        side.remove(evict);
    }),
    ("make stale", |side| {
        let Side { world, .. } = side;
        let (epoch, ver) = world.write();
        (world.l1).make_stale(&world.key, version(epoch, ver), world.now);
    }),
    ("end of the proof", |side| {
        side.world.l1.freshness.end_proof()
    }),
    ("sweep", |side| side.world.remove_gone()),
    ("sweep, and moka evicts", |side| {
        let Side { world, .. } = side;
        world.l1.sweep(world.now).for_each(drop);
        world.l1.entries.run_pending();
    }),
    ("sweep of the expired", |side| {
        let Side { world, .. } = side;
        world.l1.remove_gone(&world.key, world.now);
        world.l1.sweep_expired(world.now).for_each(drop);
    }),
    ("sweep of all", |side| {
        side.world.sweep_all();
    }),
    ("sweep of all, without room", |side| {
        side.world.l1.set_capacity(0);
        side.world.sweep_all();
    }),
    ("growth", |side| {
        side.world.read_other("a");
        side.world.read_other("b");
    }),
    ("lease", |side| {
        let op = side.world.begin();
        let (waiter, mut ended) = tokio::sync::mpsc::unbounded_channel();
        side.world.l1.in_flight.await_lease(&op, &waiter);
        side.world.l1.in_flight.lease_ended(KEY);
        side.promise(move || assert!(ended.try_recv().is_ok(), "a waiter is notified"));
    }),
];

/// What was shown, handed out and applied: nothing older may be shown from then on.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// How many operations have begun; as many as this had begun when the two did.
    begun: u64,
    begun_before: u64,
    newest: Stamp,
    /// The last invalidation of the tag.
    tag: Stamp,
    /// Values of operations with a lower number are not shown; and those with the tag.
    first: u64,
    first_tagged: u64,
}

/// One of two operations on the same instance.
#[derive(Clone)]
struct Side {
    world: World,
    seen: Arc<loom::sync::Mutex<Seen>>,
    promises: Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>,
}

impl Side {
    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap()
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().unwrap());
    }

    /// Is checked when both have ended.
    fn promise(&self, promise: impl FnOnce() + Send + 'static) {
        lock(&self.promises).push(Box::new(promise));
    }

    fn look_up(&self, find: impl FnOnce(&World) -> Option<SharedRecord>) {
        let seen = self.seen();
        let Some(record) = find(&self.world) else {
            return;
        };
        let (stamp, number) = (stamp(&record), *record.value().typed::<u64>());
        let is_current = number >= seen.first
            && (!record.has_tags() || number >= seen.first_tagged && stamp > seen.tag);
        assert!(stamp >= seen.newest && is_current, "{stamp:?}");
        self.handed_out(stamp);
    }

    fn look(&self) {
        self.look_up(|world| world.l1.get(KEY, world.now));
    }

    /// The number of an operation that has begun. Its value is this number.
    fn number(&self) -> u64 {
        let mut seen = self.seen.lock().unwrap();
        seen.begun += 1;
        seen.begun - 1
    }

    /// Publishes a value that L2 has sent, and hands it out, if it is usable.
    fn publish(&self, op: &Op, number: u64, at: Stamp, tags: Tags) -> SharedRecord {
        let fresh = entry_of(KEY, at, number, tags);
        if self.world.l1.is_usable(op, &fresh, self.world.now) {
            self.world.l1.put_from_l2(op, &fresh);
            self.handed_out(at);
        }
        fresh
    }

    fn read_as(&self, op: &Op) -> SharedRecord {
        let number = self.number();
        self.publish(op, number, self.world.ask(), Tags::default())
    }

    fn read(&self) {
        self.read_as(&self.world.begin());
    }

    fn read_tagged(&self) {
        let op = self.world.begin();
        let number = self.number();
        if let Some((at, tags)) = self.world.ask_with_tag() {
            self.publish(&op, number, at, tags);
        }
    }

    fn read_shared(&self) {
        let caller = self.world.l1.freshness.caller(self.world.now);
        let join = self.world.l1.in_flight.join_read(&self.world.key, caller);
        match join {
            JoinRead::Alone(op) => _ = self.read_as(&op),
            JoinRead::Shared(Join { begun, .. }) => {
                if let Some((op, sender)) = begun {
                    sender.send(Ok(self.read_as(&op)));
                }
            }
        }
    }

    /// Joins a load, or loads, and fills L2 with what it has loaded unless another value has come there meanwhile.
    fn load(&self, join: impl FnOnce(&World) -> Option<Join<LoadOutcome>>) {
        let newest = self.seen().newest;
        let Some(Join { result, begun }) = join(&self.world) else {
            return;
        };
        self.promise(move || {
            if let Some(Ok(Some(outcome))) = result.peek() {
                assert!(stamp(&outcome.record) >= newest, "older than the caller");
            }
        });
        let Some((op, sender)) = begun else {
            return;
        };
        let number = self.number();
        let lease = self.world.ask();
        self.world.l1.in_flight.rely_on_proof(&op);
        let Some(at) = self.world.fill(lease) else {
            return;
        };
        let fresh = entry_of(KEY, at, number, Tags::default());
        self.world.l1.put_from_l2(&op, &fresh);
        self.handed_out(at);
        drop(op);
        sender.send(Ok(Some(Outcome::fresh(fresh, Source::Loader))));
    }

    fn insert(&self, first: impl FnOnce(&World, Stamp)) {
        let op = self.world.begin();
        let number = self.number();
        let at = self.world.write();
        first(&self.world, at);
        let fresh = entry_of(KEY, at, number, Tags::default());
        self.world.l1.put_inserted(&op, &fresh);
        self.handed_out(at);
    }

    /// Another instance changes the key, and its message is applied.
    fn hear(&self, apply: impl FnOnce(Version)) {
        let at = self.world.write();
        apply(version(at.0, at.1));
        self.handed_out(at);
    }

    /// A change was applied, or a value was handed out.
    fn handed_out(&self, at: Stamp) {
        self.note(|seen| seen.newest = seen.newest.max(at));
    }

    /// The subscriber asks for a proof, applies a change, and takes the proof.
    fn catch_up(&self, apply: impl FnOnce(&World)) {
        let asked = self.world.l1.freshness.begin_proof();
        apply(&self.world);
        self.world.prove(asked);
    }

    /// Nothing of an operation that has begun before is shown after this.
    fn bar(&self, change: impl FnOnce(&World)) {
        let before = self.seen().begun;
        change(&self.world);
        self.note(|seen| seen.first = seen.first.max(before));
    }

    /// Nothing that was there when the two began is shown after this.
    fn remove(&self, remove: impl FnOnce(&World)) {
        remove(&self.world);
        self.note(|seen| seen.first = seen.first.max(seen.begun_before));
    }

    /// Both have ended.
    fn end(&self) {
        let Self {
            world, promises, ..
        } = self;
        self.look();
        for promise in lock(promises).drain(..) {
            promise();
        }
        self.catch_up(|world| self.hear(|at| world.l1.apply([KEY], at)));
        self.look();
        self.read();
        let shown = world.l1.get(KEY, world.now).map(|record| stamp(&record));
        let stored = world.l1.entries.has_room().then(|| world.ask());
        assert_eq!(shown, stored, "nothing keeps a read out");

        world.remove_gone();
        let shown = world.l1.keys(9, world.now).len() as u64;
        assert_eq!(world.l1.entries.len(), shown, "nothing is left hidden");
        world.l1.entries.admit_rest().for_each(drop);
        world.l1.entries.run_pending();
        assert_eq!(world.l1.entries.len(), 0, "moka knows all");
    }
}

fn stamp(record: &Record) -> Stamp {
    (record.version.epoch, record.version.ver)
}

fn check(begin: fn(&mut Side), one: fn(&Side), other: fn(&Side)) {
    in_every_order(move |world| {
        let mut side = Side {
            world,
            seen: Arc::default(),
            promises: Arc::default(),
        };
        begin(&mut side);
        side.note(|seen| seen.begun_before = seen.begun);
        let beside = side.clone();
        let thread = loom::thread::spawn(move || {
            other(&beside);
            beside.look();
        });
        one(&side);
        side.look();
        thread.join().unwrap();
        side.end();
    });
}

/// Runs all pairs on an instance that knows what `begin` has it know.
fn check_from(begin: fn(&mut Side)) {
    let mut failed = Vec::new();
    for (at, (one, run)) in OPERATIONS.iter().enumerate() {
        for (other, run_other) in OPERATIONS.iter().skip(at) {
            let check = || check(begin, *run, *run_other);
            if std::panic::catch_unwind(check).is_err() {
                failed.push(format!("{one} beside {other}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// What the table leaves out: each looks at one thing in one step, or is part of an operation above.
const LEFT_OUT: [&str; 10] = [
    "new",
    "is_only_level",
    "is_at_least",
    "may_store_local",
    "version",
    "replace_times",
    "next_op_number",
    "is_loading",
    "is_attached",
    "is_current",
];

#[test]
fn the_table_has_all_that_l1_does() {
    let here = concat!(include_str!("pairs.rs"), include_str!("mod.rs"));
    let l1 = concat!(
        include_str!("../look_up.rs"),
        include_str!("../put.rs"),
        include_str!("../changes.rs"),
        include_str!("../sweeping.rs"),
        include_str!("../in_flight.rs"),
        include_str!("../mod.rs"),
    );
    let methods = l1.split("    pub(crate) fn ").skip(1);
    let names = methods.filter_map(|method| method.split(['(', '<']).next());
    let missing: Vec<_> = names
        .filter(|name| !LEFT_OUT.contains(name) && !here.contains(&format!(".{name}(")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn pairs_from_empty() {
    check_from(|_| ());
}

#[test]
fn pairs_from_filled() {
    check_from(|side| side.read_tagged());
}

/// The value was changed, no message has come, and the proof has ended: longer ago than the bound.
#[test]
fn pairs_from_late() {
    check_from(|side| {
        side.read_tagged();
        side.world.pass(BOUND + 1);
        side.note(|seen| seen.first = seen.begun);
    });
}
