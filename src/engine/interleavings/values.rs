//! What L1 shows while replies, messages and flushes overtake each other.

use loom::thread;

use super::{EPOCH, Mark, NEXT_EPOCH, World, fresh, in_every_order};
use crate::l1::{Begun, Joined};

/// Nothing, or at least this version.
fn shows_none_before(world: &World, ver: u64) -> bool {
    world.shown().is_none_or(|(_, shown)| shown >= ver)
}

/// Rule 3. Another instance writes; one reply is from before, and one may be from after.
#[test]
fn nothing_older_than_a_message_is_shown_after_it() {
    in_every_order(|world| {
        let reader = world.spawn(|world| world.read());
        let listener = world.spawn(|world| {
            let ver = world.hear_of_a_write();
            assert!(shows_none_before(&world, ver));
            let op = world.begin();
            assert!(shows_none_before(&world, ver));
            world.publish(&op, world.ask());
            assert!(shows_none_before(&world, ver));
        });
        world.read();
        reader.join().unwrap();
        listener.join().unwrap();
        assert!(shows_none_before(&world, 2));
        assert!(world.is_tidy());
    });
}

/// The same on the instance that writes.
#[test]
fn nothing_older_than_a_write_is_shown_after_it() {
    in_every_order(|world| {
        let writer = world.spawn(|world| {
            let op = world.begin();
            let mark = world.write();
            world.core.supersede(&op, &fresh(mark));
            assert!(shows_none_before(&world, mark.1));
        });
        let listener = world.spawn(|world| {
            let ver = world.hear_of_a_write();
            assert!(shows_none_before(&world, ver));
        });
        world.read();
        writer.join().unwrap();
        listener.join().unwrap();
        assert!(shows_none_before(&world, 3));
        assert!(world.is_tidy());
    });
}

/// Its message may come before its answer, and is the first to say that what is there is old.
#[test]
fn nothing_older_than_an_insert_is_shown_after_its_message() {
    in_every_order(|world| {
        world.read();
        let op = world.begin();
        let mark = world.write();
        let writer = world.spawn(move |world| world.core.supersede(&op, &fresh(mark)));
        let listener = world.spawn(move |world| {
            world.core.expect([&*world.key], mark.0, mark.1);
            assert!(shows_none_before(&world, mark.1));
        });
        world.promote();
        writer.join().unwrap();
        listener.join().unwrap();
        assert_eq!(world.shown(), Some(mark));
        assert!(world.is_tidy());
    });
}

/// Whichever of two replies is stored first, and whatever an invalidation that is only sent evicts.
#[test]
fn versions_never_go_back() {
    for evict in [false, true] {
        in_every_order(move |world| {
            let publish = |mark: Mark| {
                let op = world.begin();
                world.spawn(move |world| {
                    world.publish(&op, mark);
                    assert!(shows_none_before(&world, mark.1), "older than an answer");
                })
            };
            let (older, newer) = (publish((EPOCH, 1)), publish((EPOCH, 2)));
            if evict {
                world.core.l1.evict(&world.key);
            } else {
                let first = world.shown();
                let second = world.shown();
                assert!(second.is_none() || second >= first);
            }
            older.join().unwrap();
            newer.join().unwrap();
            assert!(shows_none_before(&world, 2));
            assert!(world.is_tidy());
        });
    }
}

/// Rule 3, of what lies in front of moka: whoever fills that meanwhile with what is gone then, by a hit or by what
/// was read before the message, and whoever has its value already.
#[test]
fn nothing_older_than_a_message_is_found_in_front_after_it() {
    for (promoted, read) in [
        (false, None),
        (true, None),
        (true, Some(1)),
        (true, Some(2)),
    ] {
        in_every_order(move |world| {
            world.read();
            if promoted {
                world.promote();
            }
            let op = world.begin();
            let reader = world.spawn(move |world| match read {
                Some(ver) => world.publish(&op, (EPOCH, ver)),
                None => world.promote(),
            });
            let listener = world.spawn(|world| {
                let ver = world.hear_of_a_write();
                // Others go on here without that being an interruption.
                thread::yield_now();
                assert!(shows_none_before(&world, ver));
            });
            reader.join().unwrap();
            listener.join().unwrap();
            assert!(shows_none_before(&world, 2));
            assert!(world.is_tidy());
        });
    }
}

/// Nor after a newer value was seen, whoever fills the front with which one.
#[test]
fn versions_never_go_back_in_front() {
    in_every_order(|world| {
        world.read();
        let reader = world.spawn(|world| world.promote());
        let op = world.begin();
        let publisher = world.spawn(move |world| {
            world.publish(&op, (EPOCH, 2));
            assert!(shows_none_before(&world, 2), "older than an answer");
        });
        world.promote();
        let first = world.shown();
        let second = world.shown();
        assert!(second.is_none() || second >= first);
        reader.join().unwrap();
        publisher.join().unwrap();
        assert!(shows_none_before(&world, 2));
        assert!(world.is_tidy());
    });
}

/// Rule 14: an invalidation is deferred, and no version says what it makes old.
#[test]
fn nothing_from_before_a_key_was_forgotten_is_shown_after_it() {
    in_every_order(|world| {
        let (op, other) = (world.begin(), world.begin());
        let reader = world.spawn(move |world| world.publish(&op, (EPOCH, 1)));
        let writer = world.spawn(|world| {
            world.core.forget(&world.key);
            assert_eq!(world.shown(), None);
        });
        world.publish(&other, (EPOCH, 1));
        reader.join().unwrap();
        writer.join().unwrap();
        assert_eq!(world.shown(), None);
        assert!(world.is_tidy());

        world.read();
        assert_eq!(world.shown(), Some((EPOCH, 1)), "who comes later may store");
    });
}

/// Rules 9 and 11: L2 has lost its clock, and still has a value of its former life.
#[test]
fn nothing_of_a_former_epoch_is_shown_after_a_flush() {
    in_every_order(|world| {
        let reader = world.spawn(|world| world.read());
        let listener = world.spawn(|world| {
            world.core.flush(NEXT_EPOCH);
            assert_eq!(world.shown(), None);
        });
        world.read();
        reader.join().unwrap();
        listener.join().unwrap();
        assert_eq!(world.shown(), None);
    });
}

/// Versions begin anew with an epoch: high ones of the last epoch, in replies or messages that come
/// late, do not keep out low ones of this one.
#[test]
fn nothing_of_a_former_epoch_keeps_out_what_comes_after_a_flush() {
    in_every_order(|world| {
        // Keeps the key's state, and its floor.
        let early = world.begin();
        let reader = world.spawn(|world| {
            let op = world.begin();
            world.publish(&op, (EPOCH, 9));
        });
        let writer = world.spawn(|world| world.core.apply([&*world.key], EPOCH, 9));
        world.core.flush(NEXT_EPOCH);
        let next = world.begin();
        reader.join().unwrap();
        writer.join().unwrap();
        let op = world.begin();
        world.publish(&op, (NEXT_EPOCH, 1));
        assert_eq!(world.shown(), Some((NEXT_EPOCH, 1)));
        drop((early, next));
    });
}

/// A new connection finds another epoch: the proof is void, and with it all that it covered.
#[test]
fn nothing_from_before_a_doubt_is_shown_after_it() {
    in_every_order(|world| {
        let op = world.begin();
        let reader = world.spawn(move |world| world.publish(&op, (EPOCH, 1)));
        world.core.liveness.doubt();
        assert_eq!(world.shown(), None);
        world.prove(world.core.liveness.doubts());
        assert_eq!(world.shown(), None);
        reader.join().unwrap();
        assert_eq!(world.shown(), None);
        world.read();
        assert_eq!(world.shown(), Some((EPOCH, 1)), "who comes later may store");
    });
}

#[test]
fn what_is_refused_pushes_nothing_out() {
    in_every_order(|world| {
        let (older, newer, foreign) = (world.begin(), world.begin(), world.begin());
        world.publish(&newer, (EPOCH, 2));
        world.publish(&older, (EPOCH, 1));
        // The server has said that it may be believed: it knows of an epoch that this instance does not.
        world.core.l1.publish(&foreign, &fresh((NEXT_EPOCH, 9)));
        assert_eq!(world.shown(), Some((EPOCH, 2)));
    });
}

#[test]
fn nothing_is_shown_without_a_proof() {
    in_every_order(|world| {
        world.read();
        assert_eq!(world.shown(), Some((EPOCH, 1)));
        world.core.liveness.lapse();
        assert_eq!(world.shown(), None);
        world.prove(0);
        assert_eq!(world.shown(), Some((EPOCH, 1)));
    });
}

/// Rule 4: whatever version it was given since.
#[test]
fn a_load_or_refresh_that_was_overtaken_stores_nothing() {
    in_every_order(|world| {
        let lead: [fn(&World) -> Begun<u64>; 2] = [
            |world| match world.lead() {
                Joined::Lead(led) => led.op,
                Joined::Under(_) => panic!("nothing is under way"),
            },
            |world| world.refresh().unwrap(),
        ];
        for (ver, lead) in (10..).zip(lead) {
            let overtaken = lead(&world);
            world.hear_of_a_write();
            let op = lead(&world);
            world.publish(&op, (EPOCH, ver));
            assert!(!world.core.l1.publish(&overtaken, &fresh((EPOCH, 99))));
            assert_eq!(world.shown(), Some((EPOCH, ver)));
            // It is an answer all the same, after which nobody may be told anything older.
            world.publish(&overtaken, (EPOCH, 99));
            assert_eq!(world.shown(), None);
        }
    });
}
