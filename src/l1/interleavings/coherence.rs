//! What L1 serves while replies, messages and flushes overtake each other.

use loom::thread;

use super::{EPOCH, KEY, NEXT_EPOCH, Stamp, TAG, World, fresh, in_every_order, tagged, version};
use crate::l1::Op;
use crate::vocabulary::ClockNumbers;

/// Nothing, or at least this version.
fn shows_none_before(world: &World, ver: u64) -> bool {
    world.shown().is_none_or(|(_, shown)| shown >= ver)
}

/// Rule 3 (floors). Another instance writes; one reply is from before, and one may be from after.
#[test]
fn nothing_older_than_a_message_is_shown_after_it() {
    in_every_order(|world| {
        let reader = world.spawn(|world| world.read());
        let subscriber = world.spawn(|world| {
            let ver = world.hear_of_a_write();
            assert!(shows_none_before(&world, ver));
            let op = world.begin();
            assert!(shows_none_before(&world, ver));
            world.publish(&op, world.ask());
            assert!(shows_none_before(&world, ver));
        });
        world.read();
        reader.join().unwrap();
        subscriber.join().unwrap();
        assert!(shows_none_before(&world, 2));
        assert!(world.is_tidy());
    });
}

/// The same, of the message that names a prefix.
#[test]
fn nothing_older_than_the_message_of_a_prefix_is_shown_after_it() {
    in_every_order(|world| {
        let reader = world.spawn(|world| world.read());
        let subscriber = world.spawn(|world| {
            let ver = world.hear_of_a_prefix();
            assert!(shows_none_before(&world, ver));
            let op = world.begin();
            assert!(shows_none_before(&world, ver));
            world.publish(&op, world.ask());
            assert!(shows_none_before(&world, ver));
        });
        world.read();
        reader.join().unwrap();
        subscriber.join().unwrap();
        assert!(shows_none_before(&world, 2));
        assert!(world.is_tidy());
    });
}

/// Rule 20. Another instance invalidates the tag of what is there; one reply is from before, and one may be from after.
#[test]
fn nothing_with_a_tag_is_shown_after_its_invalidation() {
    for is_missed in [false, true] {
        in_every_order(move |world| {
            let reader = world.spawn(|world| world.read_tagged());
            let subscriber = world.spawn(move |world| {
                if is_missed {
                    world.miss_a_tag();
                } else {
                    world.hear_of_a_tag();
                }
                assert_eq!(world.shown(), None);
                world.read_tagged();
                assert_eq!(world.shown(), None);
            });
            world.read_tagged();
            world.shown();
            reader.join().unwrap();
            subscriber.join().unwrap();
            assert_eq!(world.shown(), None);
        });
    }
}

/// Rule 20. Tags are registered, and L1 is emptied before the insert that has them begins: the invalidation does
/// not reach their states.
#[test]
fn nothing_with_tags_of_another_generation_is_shown() {
    in_every_order(|world| {
        let writer = world.spawn(|world| {
            let tags = world.l1.register_tags(&[TAG.into()]);
            let op = world.begin();
            let stamp = world.write();
            world.l1.put_inserted(&op, &tagged(stamp, tags));
        });
        world.l1.flush_and_keep_proof();
        writer.join().unwrap();
        world.hear_of_a_tag();
        assert_eq!(world.shown(), None);
    });
}

/// A hit may compare the tags of an entry while they are invalidated, and find them valid.
#[test]
fn what_a_hit_has_found_valid_is_looked_at_again() {
    in_every_order(|world| {
        world.read_tagged();
        assert!(world.shown().is_some());
        let hit = world.spawn(|world| {
            world.shown();
        });
        let other = world.spawn(|world| world.l1.apply_tags(["another"], version(EPOCH, 2)));
        world.hear_of_a_tag();
        assert_eq!(world.shown(), None);
        hit.join().unwrap();
        other.join().unwrap();
        assert_eq!(world.shown(), None);
    });
}

/// The same on the instance that writes.
#[test]
fn nothing_older_than_a_write_is_shown_after_it() {
    in_every_order(|world| {
        let writer = world.spawn(|world| {
            let op = world.begin();
            let stamp = world.write();
            world.l1.put_inserted(&op, &fresh(stamp));
            assert!(shows_none_before(&world, stamp.1));
        });
        let subscriber = world.spawn(|world| {
            let ver = world.hear_of_a_write();
            assert!(shows_none_before(&world, ver));
        });
        world.read();
        writer.join().unwrap();
        subscriber.join().unwrap();
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
        let stamp = world.write();
        let writer = world.spawn(move |world| world.l1.put_inserted(&op, &fresh(stamp)));
        let subscriber = world.spawn(move |world| {
            world.l1.apply_own([&*world.key], version(stamp.0, stamp.1));
            assert!(shows_none_before(&world, stamp.1));
        });
        writer.join().unwrap();
        subscriber.join().unwrap();
        assert_eq!(world.shown(), Some(stamp));
        assert!(world.is_tidy());
    });
}

/// Whichever of two replies is stored first, and whatever an invalidation that is only sent evicts.
#[test]
fn versions_never_go_back() {
    for evict in [false, true] {
        in_every_order(move |world| {
            let publish = |stamp: Stamp| {
                let op = world.begin();
                world.spawn(move |world| {
                    world.publish(&op, stamp);
                    assert!(shows_none_before(&world, stamp.1), "older than an answer");
                })
            };
            let (older, newer) = (publish((EPOCH, 1)), publish((EPOCH, 2)));
            if evict {
                world.l1.evict(&world.key);
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

/// Whatever moka evicts meanwhile, which it names after it has let go of it: so the key may have another entry by then.
#[test]
fn moka_knows_all_entries_whatever_it_evicts_meanwhile() {
    for is_read in [false, true] {
        in_every_order(move |world| {
            if is_read {
                world.read();
            }
            let op = world.begin();
            let evictor = world.spawn(|world| world.l1.entries.run_pending());
            let reader = world.spawn(move |world| world.publish(&op, (EPOCH, 1)));
            let subscriber = world.spawn(|world| {
                let ver = world.hear_of_a_write();
                assert!(shows_none_before(&world, ver));
            });
            evictor.join().unwrap();
            reader.join().unwrap();
            subscriber.join().unwrap();
            assert!(world.is_tidy());
        });
    }
}

/// A hit of a key that changes often would otherwise be lost now and then.
#[test]
fn what_is_read_after_a_change_is_not_removed_with_the_former_entry() {
    in_every_order(|world| {
        world.read();
        let subscriber = world.spawn(|world| world.hear_of_a_write());
        let is_gone = world.shown().is_none();
        if is_gone {
            world.read();
        }
        let ver = subscriber.join().unwrap();
        assert_eq!(world.shown(), is_gone.then_some((EPOCH, ver)));
        assert!(world.is_tidy());
    });
}

/// All entries were dropped, and the sweep takes moka away. So an entry that comes meanwhile is admitted, by the
/// sweep or by the insert.
#[test]
fn moka_knows_what_comes_while_the_former_moka_goes() {
    for is_of_the_same_key in [false, true] {
        in_every_order(move |world| {
            if is_of_the_same_key {
                world.read();
            } else {
                world.read_other("a");
            }
            world.l1.flush_and_keep_proof();
            let op = world.begin();
            let sweep = world.spawn(|world| world.sweep_all());
            world.publish(&op, (EPOCH, 1));
            sweep.join().unwrap();
            assert!(world.shown().is_some());
            assert!(world.is_tidy());
        });
    }
}

/// Two entries come at once, and make moka, which has not heard of the third.
#[test]
fn moka_hears_of_the_entries_that_came_before_it() {
    for is_swept in [false, true] {
        in_every_order(move |world| {
            world.l1.set_capacity(2);
            world.read();
            assert_eq!(world.l1.entries.admitted_weight(), 0, "there is room");
            let other = world.spawn(|world| world.read_other("a"));
            let sweep = is_swept.then(|| world.spawn(|world| world.sweep_all()));
            world.read_other("b");
            other.join().unwrap();
            if let Some(sweep) = sweep {
                sweep.join().unwrap();
            }
            world.l1.entries.admit_rest().for_each(drop);
            assert_eq!(world.l1.entries.admitted_weight(), 3);
        });
    }
}

/// A look-up finds an entry though the table grows meanwhile and moves it; and a change that comes meanwhile does, too.
#[test]
fn the_table_grows_unseen() {
    for is_changed in [false, true] {
        in_every_order(move |world| {
            world.read();
            let others = world.spawn(|world| {
                world.read_other("a");
                world.read_other("b");
            });
            if is_changed {
                let ver = world.hear_of_a_write();
                assert!(shows_none_before(&world, ver));
            } else {
                assert!(world.shown().is_some());
            }
            others.join().unwrap();
            assert_eq!(world.shown().is_some(), !is_changed);
            assert_eq!(world.l1.entries.len(), 2 + u64::from(!is_changed));
        });
    }
}

/// Rule 14: an invalidation is deferred, and no version says what it makes old.
#[test]
fn nothing_from_before_a_key_was_forgotten_is_shown_after_it() {
    in_every_order(|world| {
        let (op, other) = (world.begin(), world.begin());
        let reader = world.spawn(move |world| world.publish(&op, (EPOCH, 1)));
        let writer = world.spawn(|world| {
            world.l1.apply_unversioned(&world.key);
            assert_eq!(world.shown(), None);
        });
        world.publish(&other, (EPOCH, 1));
        reader.join().unwrap();
        writer.join().unwrap();
        assert_eq!(world.shown(), None);
        assert!(world.is_tidy());

        world.read();
        assert_eq!(
            world.shown(),
            Some((EPOCH, 1)),
            "later operations may store"
        );
    });
}

/// Rules 9 and 11: L2 has lost its clock, and still has a value of a former epoch.
#[test]
fn nothing_of_a_former_epoch_is_shown_after_a_flush() {
    in_every_order(|world| {
        let reader = world.spawn(|world| world.read());
        let subscriber = world.spawn(|world| {
            world.l1.flush(NEXT_EPOCH);
            assert_eq!(world.shown(), None);
        });
        world.read();
        reader.join().unwrap();
        subscriber.join().unwrap();
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
        let writer = world.spawn(|world| world.l1.apply([&*world.key], version(EPOCH, 9)));
        world.l1.flush(NEXT_EPOCH);
        let next = world.begin();
        reader.join().unwrap();
        writer.join().unwrap();
        let op = world.begin();
        world.publish(&op, (NEXT_EPOCH, 1));
        assert_eq!(world.shown(), Some((NEXT_EPOCH, 1)));
        drop((early, next));
    });
}

/// A new connection finds another epoch: the proof is revoked, and with it all that it covered.
#[test]
fn nothing_from_before_a_revocation_is_shown_after_it() {
    in_every_order(|world| {
        let op = world.begin();
        let reader = world.spawn(move |world| world.publish(&op, (EPOCH, 1)));
        world.l1.freshness.flush_and_revoke_proof();
        assert_eq!(world.shown(), None);
        world.prove(world.l1.freshness.begin_proof());
        assert_eq!(world.shown(), None);
        reader.join().unwrap();
        assert_eq!(world.shown(), None);
        world.read();
        assert_eq!(
            world.shown(),
            Some((EPOCH, 1)),
            "later operations may store"
        );
    });
}

#[test]
fn what_is_refused_pushes_nothing_out() {
    in_every_order(|world| {
        let (older, newer, foreign) = (world.begin(), world.begin(), world.begin());
        world.publish(&newer, (EPOCH, 2));
        world.publish(&older, (EPOCH, 1));
        // The server has compared the epochs: its value is of one that this instance does not know yet.
        world.l1.try_store(&foreign, &fresh((NEXT_EPOCH, 9)));
        assert_eq!(world.shown(), Some((EPOCH, 2)));
    });
}

#[test]
fn nothing_is_shown_without_a_proof() {
    in_every_order(|world| {
        world.read();
        assert_eq!(world.shown(), Some((EPOCH, 1)));
        world.l1.freshness.suspend_proof();
        assert_eq!(world.shown(), None);
        world.prove(world.l1.freshness.begin_proof());
        assert_eq!(world.shown(), Some((EPOCH, 1)));
    });
}

/// Rule 4 (detach): whatever version it was given since.
#[test]
fn a_load_or_refresh_that_was_overtaken_stores_nothing() {
    in_every_order(|world| {
        let begin: [fn(&World) -> Op; 2] = [
            |world| world.join_load().begun.unwrap().0,
            |world| world.refresh().unwrap(),
        ];
        for (ver, begin) in (10..).zip(begin) {
            let overtaken = begin(&world);
            world.hear_of_a_write();
            let op = begin(&world);
            world.publish(&op, (EPOCH, ver));
            assert!(!world.l1.try_store(&overtaken, &fresh((EPOCH, 99))));
            assert_eq!(world.shown(), Some((EPOCH, ver)));
            // It is handed out all the same, after which nothing older may be served.
            world.publish(&overtaken, (EPOCH, 99));
            assert_eq!(world.shown(), None);
        }
    });
}

/// Rule 11 (versions are compared): another program has written a version to L2 that the partition has not issued, and
/// no later version exceeds it. The next message evicts it all the same, whether it was stored before or is being read.
#[test]
fn a_version_that_was_never_issued_goes_with_the_next_message() {
    in_every_order(move |world| {
        *world.stored.lock().unwrap() = (EPOCH, u64::MAX);
        world.read();
        let op = world.begin();
        let planted = world.ask();
        let reader = world.spawn(move |world| world.publish(&op, planted));
        let subscriber = world.spawn(|world| {
            *world.stored.lock().unwrap() = (EPOCH, 2);
            world.l1.apply([KEY], version(EPOCH, 2));
            thread::yield_now();
            assert_eq!(world.shown(), None);
        });
        reader.join().unwrap();
        subscriber.join().unwrap();
        assert_eq!(world.shown(), None);
        assert!(world.is_tidy());

        let other = world.begin();
        world.read();
        assert_eq!(world.shown(), Some((EPOCH, 2)), "nothing keeps it out");
        drop(other);
    });
}

/// The same where it was handed out and its floor is still there when the message comes.
#[test]
fn a_version_that_was_never_issued_keeps_nothing_out() {
    in_every_order(|world| {
        let early = world.begin();
        let op = world.begin();
        let reader = world.spawn(move |world| world.publish(&op, (EPOCH, u64::MAX)));
        let ver = world.hear_of_a_write();
        reader.join().unwrap();
        world.read();
        assert_eq!(world.shown(), Some((EPOCH, ver)));
        drop(early);
    });
}

/// Rules 3 and 11: a value overtakes its message, and the message of an earlier change comes in between. To lose the
/// value costs a miss; a value that was read before it must not take its place.
#[test]
fn nothing_older_follows_a_value_that_has_overtaken_its_message() {
    in_every_order(|world| {
        let (older, newer) = (world.begin(), world.begin());
        let reader = world.spawn(move |world| {
            world.publish(&newer, (EPOCH, 3));
            assert!(shows_none_before(&world, 3));
        });
        let subscriber = world.spawn(|world| world.l1.apply([KEY], version(EPOCH, 2)));
        reader.join().unwrap();
        world.publish(&older, (EPOCH, 2));
        assert!(shows_none_before(&world, 3));
        subscriber.join().unwrap();
        assert!(shows_none_before(&world, 3));
        assert!(world.is_tidy());
    });
}

/// Rule 11 (versions are compared): what this instance has written is issued, and stays when messages of earlier
/// changes come.
#[test]
fn an_own_value_survives_messages_of_earlier_changes() {
    in_every_order(|world| {
        let op = world.begin();
        let subscriber = world.spawn(|world| world.l1.apply([KEY], version(EPOCH, 2)));
        world.l1.put_inserted(&op, &fresh((EPOCH, 3)));
        assert_eq!(world.shown(), Some((EPOCH, 3)));
        subscriber.join().unwrap();
        assert_eq!(world.shown(), Some((EPOCH, 3)));
    });
}

/// Rule 30 (local values). The versions of the next epoch begin anew.
#[test]
fn an_answer_that_is_noted_late_does_not_count_in_the_next_epoch() {
    in_every_order(|world| {
        let writer = world.spawn(|world| {
            (world.l1.freshness).note_answered(ClockNumbers {
                epoch: EPOCH,
                ver: 9,
                ..ClockNumbers::default()
            });
        });
        world.l1.flush(NEXT_EPOCH);
        writer.join().unwrap();
        let before_load = world.l1.freshness.version_before_load();
        assert_eq!(before_load, version(NEXT_EPOCH, 0));
    });
}
