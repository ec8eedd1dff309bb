//! Who joins whom.

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, ready};

use super::{Loading, World, fresh, in_every_order, loading};
use crate::l1::{Begun, Joined, Op, ReadOutcome, Reading};
use crate::source::Source;

/// Joins the load of the key, or runs it. What it loads has the version that L2 has meanwhile.
fn load(world: &World) -> Loading {
    let (tell, load) = loading();
    match world.lead(&load) {
        Joined::Under(flight) => flight,
        Joined::Lead(op) => {
            let mark = world.ask();
            world.publish(&op, mark);
            drop(op);
            let _ = tell.send(Ok(Some((fresh(mark).slot, Source::Loader))));
            load
        }
    }
}

/// Joins the read of the key, or starts it.
fn read(world: &World) -> Reading<'_, u64> {
    let now = world.core.now();
    world.core.flights.read(&world.key, now, now, |op| {
        let world = world.clone();
        async move { found(&world, &op) }.boxed()
    })
}

/// Joins or starts a read to share, or is an operation alone on the key.
fn read_or_begin(
    world: &World,
) -> Result<Shared<BoxFuture<'static, ReadOutcome<u64>>>, Begun<u64>> {
    match read(world) {
        Reading::Shared(read) => Ok(read),
        // A thread cannot hand on what refers to its world.
        Reading::Alone(_op) => Err(world.begin()),
    }
}

fn found(world: &World, op: &Op) -> ReadOutcome<u64> {
    let mark = world.ask();
    world.publish(op, mark);
    ReadOutcome::Hit(fresh(mark))
}

/// Polls a read that others may poll at the same time.
fn read_and_poll(world: &World) -> impl Future<Output = ReadOutcome<u64>> + use<> {
    let read = match read(world) {
        Reading::Alone(op) => ready(found(world, &op)).left_future(),
        Reading::Shared(read) => read.right_future(),
    };
    let _ = read.clone().now_or_never();
    read
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
        let found = load.now_or_never().unwrap().unwrap();
        found.unwrap().0.ver
    });
}

#[test]
fn nobody_joins_an_older_read() {
    nobody_joins_what_is_older(
        |world| {
            // Nobody joins what is alone.
            let other = world.begin();
            (read_and_poll(world), other)
        },
        |(read, _)| match read.now_or_never() {
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
        let shared = match (&reads, read_or_begin(&world)) {
            ([Ok(a), Ok(b)], Ok(c)) => a.ptr_eq(b) && a.ptr_eq(&c),
            ([Err(_), Ok(a)] | [Ok(a), Err(_)], Ok(b)) => a.ptr_eq(&b),
            _ => false,
        };
        assert!(shared);
    });
}

#[test]
fn a_load_has_one_leader() {
    in_every_order(|world| {
        let lead = |world: World| {
            let (tell, load) = loading();
            (world.lead(&load), load, tell)
        };
        let (a, b) = (world.spawn(lead), world.spawn(lead));
        drop(world.begin());
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        match (&a, &b) {
            ((Joined::Lead(_), led, _), (Joined::Under(joined), ..))
            | ((Joined::Under(joined), ..), (Joined::Lead(_), led, _)) => {
                assert!(led.ptr_eq(joined));
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
            assert!(matches!(world.lead(&loading().1), Joined::Lead(_)));
        }
        for _ in 0..2 {
            assert!(world.refresh().is_some());
        }
        let _begun = world.begin();
        let both = [(); 2].map(|()| match read(&world) {
            Reading::Shared(read) => {
                let _ = read.clone().now_or_never();
                read
            }
            Reading::Alone(_) => panic!("another is under way"),
        });
        assert!(!both[0].ptr_eq(&both[1]));
        other.join().unwrap();
    });
}
