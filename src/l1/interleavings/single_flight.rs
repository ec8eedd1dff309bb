//! Which reads and loads are joined.

use super::{World, fresh, in_every_order};
use crate::l1::{Join, JoinRead, LoadOutcome, Op, Outcome, ReadOutcome};
use crate::util::shared_result::{SharedResult, shared_result};
use crate::vocabulary::Source;

/// Joins the load of the key, or runs it. What it loads has the version that L2 has meanwhile.
fn load(world: &World) -> SharedResult<LoadOutcome> {
    let Join { result, begun } = world.join_load();
    if let Some((op, sender)) = begun {
        let stamp = world.ask();
        world.publish(&op, stamp);
        drop(op);
        let outcome = Outcome::fresh(fresh(stamp), Source::Loader);
        sender.send(Ok(Some(outcome)));
    }
    result
}

fn join_read(world: &World) -> JoinRead {
    let caller = world.l1.freshness.caller(world.now);
    world.l1.in_flight.join_read(&world.key, caller)
}

/// A read to share, and it to run if it is the first; or an operation alone on the key.
type Shared = Result<(SharedResult<ReadOutcome>, Option<Op>), Op>;

fn read_or_begin(world: &World) -> Shared {
    match join_read(world) {
        JoinRead::Shared(Join { result, begun }) => Ok((result, begun.map(|(op, _)| op))),
        // A thread cannot hand on what refers to its world.
        JoinRead::Alone(_op) => Err(world.begin()),
    }
}

fn found(world: &World, op: &Op) -> ReadOutcome {
    let stamp = world.ask();
    world.publish(op, stamp);
    Ok(fresh(stamp))
}

/// Joins the read of the key, or runs it.
fn read_through(world: &World) -> SharedResult<ReadOutcome> {
    match join_read(world) {
        JoinRead::Alone(op) => {
            let (sender, result) = shared_result();
            sender.send(found(world, &op));
            result
        }
        JoinRead::Shared(Join { result, begun }) => {
            if let Some((op, sender)) = begun {
                let found = found(world, &op);
                drop(op);
                sender.send(found);
            }
            result
        }
    }
}

/// A caller that asks after a message, or after the gap in which it was lost, gets nothing older.
fn no_caller_joins_what_is_older<F: 'static>(ask: fn(&World) -> F, answer: fn(F) -> u64) {
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
fn no_caller_joins_an_older_load() {
    no_caller_joins_what_is_older(load, |load| {
        let found = load.peek().unwrap().unwrap();
        found.unwrap().record.version.ver
    });
}

#[test]
fn no_caller_joins_an_older_read() {
    no_caller_joins_what_is_older(
        |world| {
            // A read that is alone cannot be joined.
            let other = world.begin();
            (read_through(world), other)
        },
        |(read, _)| match read.peek() {
            Some(Ok(record)) => record.version.ver,
            _ => panic!("it found something"),
        },
    );
}

#[test]
fn all_but_the_first_share_a_read() {
    in_every_order(|world| {
        let reads = [(); 2].map(|()| world.spawn(|world| read_or_begin(&world)));
        // An operation of another caller begins and ends.
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
fn of_two_loads_one_is_joined() {
    in_every_order(|world| {
        let join = |world: World| world.join_load();
        let (a, b) = (world.spawn(join), world.spawn(join));
        drop(world.begin());
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        assert!(
            a.begun.is_some() != b.begun.is_some(),
            "not one was started"
        );
        assert!(a.result.is_same(&b.result));
        assert!(world.refresh().is_none(), "a load is refresh enough");
    });
}

#[test]
fn of_two_refreshes_one_begins() {
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
        assert!(next.is_some(), "one from before a message does not count");
        drop((a, b));
        assert!(world.refresh().is_none(), "and the next one goes on");
    });
}

/// A caller that tries again after a load has failed does not join the same load, whatever else is under way.
#[test]
fn no_caller_joins_what_has_ended() {
    in_every_order(|world| {
        let other = world.spawn(|world| drop(world.begin()));
        for _ in 0..2 {
            assert!(world.join_load().begun.is_some());
        }
        for _ in 0..2 {
            assert!(world.refresh().is_some());
        }
        let _begun = world.begin();
        let both = [(); 2].map(|()| match join_read(&world) {
            JoinRead::Shared(join) => join.result,
            JoinRead::Alone(_) => panic!("another is under way"),
        });
        assert!(!both[0].is_same(&both[1]));
        other.join().unwrap();
    });
}
