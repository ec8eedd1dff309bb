//! The checker itself: of each invariant, the smallest history that keeps it and one that breaks it.

use std::time::Duration;

use crate::history::{
    At, Commit, Disturbance, History, Invariant, Known, Level, Load, Outcome, Read, Rest, Seen,
    Step, Terms, Update, Write, WriteOutcome,
};

const BOUND: Duration = Duration::from_millis(100);

fn terms() -> Terms {
    Terms {
        max_staleness: vec![BOUND; 2],
        answered_within: Duration::from_secs(1),
        types: 1,
    }
}

/// What is broken in a history.
fn broken(history: &History) -> Vec<Invariant> {
    let violations = history.check(&terms());
    violations.iter().map(|one| one.invariant).collect()
}

fn ms(ms: u64) -> At {
    Duration::from_millis(ms)
}

/// A look-up in L1 of key 7.
fn read(instance: usize, start: u64, end: u64, version: u64) -> Read {
    Read {
        instance,
        key: 7,
        start: ms(start),
        end: ms(end),
        outcome: Outcome::Value(Seen {
            version,
            level: Level::L1,
            stored: true,
            unproven: false,
            fallback: false,
        }),
        knows: None,
    }
}

fn write(instance: usize, end: u64, version: u64) -> Write {
    Write {
        instance,
        key: 7,
        version,
        end: ms(end),
        outcome: WriteOutcome::Done,
        everywhere: false,
        lagging: false,
    }
}

fn load(instance: usize, start: u64, end: u64) -> Load {
    Load {
        instance,
        key: 7,
        start: ms(start),
        end: ms(end),
    }
}

/// Versions 1 to 3 of key 7, all committed early.
fn history() -> History {
    let commits = (2..=3).map(|version| Commit {
        key: 7,
        version,
        at: ms(version),
    });
    History {
        commits: commits.collect(),
        ..History::default()
    }
}

fn reads(reads: impl Into<Vec<Read>>) -> History {
    History {
        reads: reads.into(),
        ..history()
    }
}

fn seen(mut read: Read, change: impl FnOnce(&mut Seen)) -> Read {
    if let Outcome::Value(seen) = &mut read.outcome {
        change(seen);
    }
    read
}

#[test]
fn an_empty_history_is_a_good_one() {
    assert_eq!(broken(&History::default()), []);
}

#[test]
fn the_bound_begins_when_the_write_has_returned() {
    let at = |start| History {
        writes: vec![write(0, 200, 2)],
        ..reads([read(1, start, start, 1)])
    };
    assert_eq!(broken(&at(150)), []);
    assert_eq!(broken(&at(300)), []);
    assert_eq!(broken(&at(301)), [Invariant::I1Bound]);
}

#[test]
fn the_bound_is_that_of_the_newest_write_before() {
    let history = History {
        writes: vec![write(0, 200, 3), write(0, 210, 2)],
        ..reads([read(1, 400, 400, 2)])
    };
    assert_eq!(broken(&history), [Invariant::I1Bound]);
}

#[test]
fn only_what_was_done_binds_others() {
    for outcome in [WriteOutcome::Deferred, WriteOutcome::Unknown] {
        let history = History {
            writes: vec![Write {
                outcome,
                ..write(0, 200, 2)
            }],
            ..reads([read(1, 400, 400, 1)])
        };
        assert_eq!(broken(&history), [], "{outcome:?}");
    }
}

#[test]
fn what_was_waited_for_binds_at_once() {
    let at = |start| History {
        writes: vec![Write {
            everywhere: true,
            ..write(0, 200, 2)
        }],
        ..reads([read(1, start, start, 1)])
    };
    assert_eq!(broken(&at(200)), []);
    assert_eq!(broken(&at(201)), [Invariant::I1Bound]);
}

#[test]
fn flagged_reads_are_not_held_to_it() {
    let history = History {
        writes: vec![write(0, 200, 2)],
        ..reads([seen(read(1, 400, 400, 1), |seen| seen.unproven = true)])
    };
    assert_eq!(broken(&history), []);
}

#[test]
fn of_a_lagging_source_only_stored_values_are() {
    let stored = |stored| History {
        writes: vec![Write {
            lagging: true,
            ..write(0, 200, 2)
        }],
        ..reads([seen(read(1, 400, 400, 1), |seen| seen.stored = stored)])
    };
    assert_eq!(broken(&stored(false)), []);
    assert_eq!(broken(&stored(true)), [Invariant::I1Bound]);
}

#[test]
fn what_was_invalidated_is_not_stored_again() {
    let steps = |version| History {
        steps: vec![
            Step::Invalidated {
                at: ms(1),
                key: 7,
                version: 2,
            },
            Step::Stored {
                at: ms(2),
                key: 8,
                version: 1,
            },
            Step::Stored {
                at: ms(2),
                key: 7,
                version,
            },
        ],
        ..history()
    };
    assert_eq!(broken(&steps(2)), []);
    assert_eq!(broken(&steps(1)), [Invariant::I2NoResurrection]);
}

#[test]
fn reads_in_one_instance_do_not_go_back() {
    let then = |instance, start, version| {
        reads([
            read(0, 10, 20, 2),
            read(instance, start, start + 5, version),
        ])
    };
    assert_eq!(broken(&then(0, 21, 3)), []);
    assert_eq!(broken(&then(0, 21, 1)), [Invariant::I3MonotonicReads]);
    // At the same time, or elsewhere.
    assert_eq!(broken(&then(0, 20, 1)), []);
    assert_eq!(broken(&then(1, 21, 1)), []);
}

#[test]
fn what_was_not_stored_has_no_place_in_their_order() {
    for unstored in [0, 1] {
        let mut both = [read(0, 10, 20, 2), read(0, 21, 22, 1)];
        both[unstored] = seen(both[unstored].clone(), |seen| seen.stored = false);
        assert_eq!(broken(&reads(both)), []);
    }
}

#[test]
fn an_instance_does_not_read_what_was_before_its_own_write() {
    let at = |instance, outcome| History {
        writes: vec![Write {
            outcome,
            ..write(0, 200, 2)
        }],
        ..reads([read(instance, 201, 201, 1)])
    };
    for outcome in [WriteOutcome::Done, WriteOutcome::Deferred] {
        assert_eq!(broken(&at(0, outcome)), [Invariant::I4ReadYourWrites]);
        assert_eq!(broken(&at(1, outcome)), []);
    }
    assert_eq!(broken(&at(0, WriteOutcome::Unknown)), []);
}

#[test]
fn nothing_comes_before_its_commit() {
    let at = |start, end, version| reads([read(0, start, end, version)]);
    assert_eq!(broken(&at(0, 0, 1)), []);
    assert_eq!(broken(&at(1, 3, 3)), []);
    assert_eq!(broken(&at(1, 2, 3)), [Invariant::I5NotFromTheFuture]);
    assert_eq!(broken(&at(9, 9, 4)), [Invariant::I5NotFromTheFuture]);
}

#[test]
fn one_load_at_a_time() {
    let loads = |second: Load| History {
        loads: vec![load(0, 10, 20), second],
        ..history()
    };
    assert_eq!(broken(&loads(load(1, 20, 30))), []);
    assert_eq!(broken(&loads(load(1, 19, 30))), [Invariant::I6OneLoad]);
    assert_eq!(broken(&loads(load(0, 19, 30))), [Invariant::I6OneLoad]);
    let other_key = Load {
        key: 8,
        ..load(1, 19, 30)
    };
    assert_eq!(broken(&loads(other_key)), []);
}

#[test]
fn a_disturbance_excuses_a_load_that_begins_after_it() {
    let disturbed = |from, to, instance, key| History {
        loads: vec![load(0, 10, 30), load(1, 20, 40)],
        disturbances: vec![Disturbance {
            from: ms(from),
            to: ms(to),
            instance,
            key,
        }],
        ..history()
    };
    assert_eq!(broken(&disturbed(15, 15, None, None)), []);
    assert_eq!(broken(&disturbed(5, 12, None, Some(7))), []);
    assert_eq!(broken(&disturbed(15, 15, Some(1), None)), []);
    let too_late = disturbed(21, 50, None, None);
    let over = disturbed(1, 9, None, None);
    let elsewhere = disturbed(15, 15, Some(2), None);
    let another = disturbed(15, 15, None, Some(8));
    for history in [too_late, over, elsewhere, another] {
        let disturbance = history.disturbances[0];
        assert_eq!(broken(&history), [Invariant::I6OneLoad], "{disturbance:?}");
    }
}

#[test]
fn every_read_is_answered_in_time() {
    let with = |end, outcome| {
        reads([Read {
            outcome,
            ..read(0, 0, end, 1)
        }])
    };
    assert_eq!(broken(&with(1000, Outcome::Nothing)), []);
    assert_eq!(broken(&with(5, Outcome::LoaderFailed)), []);
    assert_eq!(broken(&with(5, Outcome::Cancelled)), []);
    assert_eq!(
        broken(&with(1001, Outcome::Nothing)),
        [Invariant::I7Answered]
    );
    let failed = Outcome::Failed("stopped".to_owned());
    assert_eq!(broken(&with(5, failed)), [Invariant::I7Answered]);
}

#[test]
fn at_rest_all_agree_with_the_source() {
    let rest = |level, version| History {
        rests: vec![Rest {
            instance: 0,
            key: 7,
            at: ms(9),
            level,
            version,
            source: 3,
        }],
        ..history()
    };
    for level in [Level::L1, Level::L2, Level::Loader] {
        assert_eq!(broken(&rest(level, Some(3))), [], "{level:?}");
        assert_eq!(broken(&rest(level, Some(2))), [Invariant::I8AtRest]);
    }
    assert_eq!(broken(&rest(Level::L1, None)), []);
    assert_eq!(broken(&rest(Level::L2, None)), []);
    assert_eq!(broken(&rest(Level::Loader, None)), [Invariant::I8AtRest]);
}

#[test]
fn a_token_binds_to_its_write_and_to_what_came_before() {
    let at = |called, key, version, instance| History {
        writes: vec![write(0, 200, 2)],
        ..reads([Read {
            knows: Some(Known {
                called: ms(called),
                key,
                version,
            }),
            ..seen(read(instance, 250, 250, 1), |seen| seen.unproven = true)
        }])
    };
    // Another key was written, before and after the write of this one had returned.
    assert_eq!(broken(&at(200, 8, 9, 1)), []);
    assert_eq!(broken(&at(201, 8, 9, 1)), [Invariant::I9Tokens]);
    // This one.
    assert_eq!(broken(&at(150, 7, 1, 1)), []);
    assert_eq!(broken(&at(150, 7, 2, 1)), [Invariant::I9Tokens]);
}

#[test]
fn no_two_updates_change_one_value() {
    let update = |key, from, to| Update {
        key,
        from,
        to,
        at: ms(to),
    };
    let updates = |last| History {
        updates: vec![update(7, 1, 2), update(8, 1, 3), last],
        ..history()
    };
    assert_eq!(broken(&updates(update(7, 2, 4))), []);
    let lost = updates(update(7, 1, 4));
    assert_eq!(broken(&lost), [Invariant::I10NoLostUpdate]);
}
