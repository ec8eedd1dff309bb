//! Who joins whom.

use super::{World, fresh, in_every_order};
use crate::l1::{Begun, Joinable, Joined, LoadOutcome, Op, ReadOutcome, Reading};
use crate::shared_result::{SharedResult, shared_result};
use crate::source::Source;

/// Joins the load of the key, or runs it. What it loads has the version that L2 has meanwhile.
fn load(world: &World) -> SharedResult<LoadOutcome<u64>> {
    match world.lead() {
        Joined::Under(flight) => flight,
        Joined::Lead(led) => {
            let mark = world.ask();
            world.publish(&led.op, mark);
            drop(led.op);
            (led.teller).tell(Ok(Some((fresh(mark).slot, Source::Loader))));
            led.outcome
        }
    }
}

fn read(world: &World) -> Reading<'_, u64> {
    let now = world.core.now();
    world.core.flights.read(&world.key, now, now)
}

/// A read to share, and it to run if it is the first; or an operation alone on the key.
type Shared = Result<(SharedResult<ReadOutcome<u64>>, Option<Begun<u64>>), Begun<u64>>;

fn read_or_begin(world: &World) -> Shared {
    match read(world) {
        Reading::Under(read) => Ok((read, None)),
        Reading::Lead(Joinable { op, outcome, .. }) => Ok((outcome, Some(op))),
        // A thread cannot hand on what refers to its world.
        Reading::Alone(_op) => Err(world.begin()),
    }
}

fn found(world: &World, op: &Op) -> ReadOutcome<u64> {
    let mark = world.ask();
    world.publish(op, mark);
    ReadOutcome::Hit(fresh(mark))
}

/// Joins the read of the key, or runs it.
fn read_through(world: &World) -> SharedResult<ReadOutcome<u64>> {
    match read(world) {
        Reading::Alone(op) => {
            let (teller, outcome) = shared_result();
            teller.tell(found(world, &op));
            outcome
        }
        Reading::Under(read) => read,
        Reading::Lead(led) => {
            let found = found(world, &led.op);
            drop(led.op);
            led.teller.tell(found);
            led.outcome
        }
    }
}

/// Who asks after a message, or after the gap in which it was lost, is told nothing older.
fn nobody_joins_what_is_older<F: 'static>(ask: fn(&World) -> F, answer: fn(F) -> u64) {
    for change in [World::hear_of_a_write, World::miss_a_write] {
        in_every_order(move |world| {
            let early = world.spawn(move |world| ask(&world));
            let late = world.spawn(move |world| (change(&world), ask(&world)));
            let early = early.join().unwrap();
            let (ver, late) = late.join().unwrap();
            assert!(answer(late) >= ver);
            assert!(answer(early) >= 1);
        });
    }
}

#[test]
fn nobody_joins_an_older_load() {
    nobody_joins_what_is_older(load, |load| {
        let found = load.peek().unwrap().unwrap();
        found.unwrap().0.ver
    });
}

#[test]
fn nobody_joins_an_older_read() {
    nobody_joins_what_is_older(
        |world| {
            // Nobody joins what is alone.
            let other = world.begin();
            (read_through(world), other)
        },
        |(read, _)| match read.peek() {
            Some(ReadOutcome::Hit(slot)) => slot.ver,
            _ => panic!("it found something"),
        },
    );
}

#[test]
fn all_but_the_first_share_a_read() {
    in_every_order(|world| {
        let reads = [(); 2].map(|()| world.spawn(|world| read_or_begin(&world)));
        // Somebody else's operation comes and goes.
        drop(world.begin());
        let reads = reads.map(|read| read.join().unwrap());
        let last = read_or_begin(&world);
        let shared = match (&reads, &last) {
            ([Ok((a, _)), Ok((b, _))], Ok((c, _))) => a.is_same(b) && a.is_same(c),
            ([Err(_), Ok((a, _))] | [Ok((a, _)), Err(_)], Ok((b, _))) => a.is_same(b),
            _ => false,
        };
        assert!(shared);
    });
}

#[test]
fn a_load_has_one_leader() {
    in_every_order(|world| {
        let lead = |world: World| world.lead();
        let (a, b) = (world.spawn(lead), world.spawn(lead));
        drop(world.begin());
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        match (&a, &b) {
            (Joined::Lead(led), Joined::Under(joined))
            | (Joined::Under(joined), Joined::Lead(led)) => {
                assert!(led.outcome.is_same(joined));
            }
            _ => panic!("there is not one leader"),
        }
        assert!(world.refresh().is_none(), "a load is refresh enough");
    });
}

#[test]
fn a_refresh_has_one_leader() {
    in_every_order(|world| {
        let (a, b) = (
            world.spawn(|world| world.refresh()),
            world.spawn(|world| world.refresh()),
        );
        drop(world.begin());
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        assert!(a.is_some() != b.is_some());

        world.hear_of_a_write();
        let next = world.refresh();
        assert!(next.is_some(), "nobody waits for one from before a message");
        drop((a, b));
        assert!(world.refresh().is_none(), "and the next one goes on");
    });
}

/// Who hears that a load failed, and tries again, does not meet it again; whatever else is under way.
#[test]
fn nobody_joins_what_has_ended() {
    in_every_order(|world| {
        let other = world.spawn(|world| drop(world.begin()));
        for _ in 0..2 {
            assert!(matches!(world.lead(), Joined::Lead(_)));
        }
        for _ in 0..2 {
            assert!(world.refresh().is_some());
        }
        let _begun = world.begin();
        let both = [(); 2].map(|()| match read(&world) {
            Reading::Lead(led) => {
                drop(led.op);
                led.outcome
            }
            Reading::Under(read) => read,
            Reading::Alone(_) => panic!("another is under way"),
        });
        assert!(!both[0].is_same(&both[1]));
        other.join().unwrap();
    });
}
