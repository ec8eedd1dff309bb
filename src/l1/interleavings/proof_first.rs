//! Look-ups and joins while an instance that has missed messages catches up: it applies what it has missed, and then
//! has a proof. Nothing that a caller finds before that may be judged by that proof (rules 5: no unproven joins and 8:
//! heartbeat).

use super::{NEXT_EPOCH, Stamp, World, in_every_order};
use crate::ablation::{Rule, switch_off};

/// How an instance hears of a change that it has missed, before it has the next proof.
type CatchUp = fn(&World);

const CATCH_UPS: [(&str, CatchUp); 6] = [
    ("message", |world| {
        world.hear_of_a_write();
    }),
    ("prefix", |world| {
        world.hear_of_a_prefix();
    }),
    ("tags", |world| {
        world.hear_of_a_tag();
    }),
    ("no log", |world| {
        world.miss_a_write();
    }),
    ("clear", |world| {
        world.l1.flush_and_revoke_proof();
        world.l1.flush(NEXT_EPOCH);
    }),
    ("switch", |world| world.l1.flush_and_keep_proof()),
];

/// The value of the key is changed, no message comes, and the proof ends. A longer time than the bound has passed since
/// the change was accepted, so no look-up that begins now may find the former value.
fn changed_long_ago(mut world: World) -> World {
    world.read_tagged();
    world.pass(super::BOUND + 1);
    world
}

/// The subscriber applies the change that was missed, and takes the proof.
fn caught_up(world: &World, catch_up: CatchUp) {
    let asked = world.l1.freshness.begin_proof();
    catch_up(world);
    world.prove(asked);
}

/// Whether the test fails in some order.
fn fails(test: fn()) -> bool {
    std::panic::catch_unwind(test).is_err()
}

fn no_look_up_is_judged_by_a_later_proof(look_up: fn(&World) -> Option<Stamp>) {
    for (name, catch_up) in CATCH_UPS {
        in_every_order(move |world| {
            let world = changed_long_ago(world);
            let subscriber = world.spawn(move |world| caught_up(&world, catch_up));
            assert_eq!(look_up(&world), None, "{name}");
            subscriber.join().unwrap();
            assert_eq!(look_up(&world), None, "{name}, afterwards");
        });
    }
}

fn stamp(record: Option<crate::l1::SharedRecord>) -> Option<Stamp> {
    record.map(|record| (*record.value().typed(), record.version.ver))
}

fn whole_look_ups() {
    no_look_up_is_judged_by_a_later_proof(|world| stamp(world.l1.look_up(&world.key, world.now)));
}

#[test]
fn a_look_up_takes_the_proof_before_the_entry() {
    whole_look_ups();
}

#[test]
fn the_order_of_proof_and_entry_matters() {
    switch_off(Some(Rule::ProofFirst));
    assert!(fails(whole_look_ups));
    switch_off(None);
}

#[test]
fn an_entry_that_is_too_old_without_a_proof_is_not_judged_by_a_later_one() {
    use std::time::Duration;
    no_look_up_is_judged_by_a_later_proof(|world| {
        let limit = Duration::from_nanos(1);
        stamp(world.l1.get_unproven(&world.key, world.now, limit))
    });
    no_look_up_is_judged_by_a_later_proof(|world| {
        let (kept, limit) = (Duration::from_secs(1), Duration::from_nanos(1));
        stamp((world.l1).get_fallback(&world.key, world.now, kept, Some(limit)))
    });
    no_look_up_is_judged_by_a_later_proof(|world| {
        let kept = Duration::from_secs(1);
        stamp(world.l1.get_fallback(&world.key, world.now, kept, None))
    });
}

/// The sweep gives the memory of entries back meanwhile.
#[test]
fn the_sweep_changes_nothing_of_that() {
    in_every_order(move |world| {
        let world = changed_long_ago(world);
        let subscriber = world.spawn(|world| {
            let asked = world.l1.freshness.begin_proof();
            world.miss_a_write();
            world.prove(asked);
            world.sweep_all();
        });
        assert_eq!(world.shown(), None);
        subscriber.join().unwrap();
        assert_eq!(world.shown(), None);
    });
}

fn joins() {
    for (name, catch_up) in CATCH_UPS {
        in_every_order(move |world| {
            let early = world.join_load();
            let world = changed_long_ago(world);
            let subscriber = world.spawn(move |world| caught_up(&world, catch_up));
            let late = world.join_load();
            assert!(!late.result.is_same(&early.result), "{name}");
            subscriber.join().unwrap();
            drop((early, late));
        });
    }
}

#[test]
fn a_caller_takes_the_proof_before_the_load_that_it_joins() {
    joins();
}

#[test]
fn the_order_of_proof_and_load_matters() {
    switch_off(Some(Rule::ProofFirst));
    assert!(fails(joins));
    switch_off(None);
}
