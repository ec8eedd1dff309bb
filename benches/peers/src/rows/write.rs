//! Inserts of keys that exist already.

use crate::peer::TwoLevels;
use crate::peers::with_two_levels;
use crate::rows::Bench;
use crate::rows::callers::rate;
use crate::turns::{Entrant, Row, Title, Unit, take_turns};
use crate::user::User;

const CALLERS: u64 = 64;
const INSERTS: u64 = 5_000;

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    let title = Title {
        text: format!("Inserts, callers: {CALLERS}, {}", bench.threads),
        unit: Unit::PerSecond,
    };
    take_turns([title], bench.rounds, with_two_levels!(entrant(bench)))
}

fn entrant<'a, P: TwoLevels>(bench: &'a Bench<'a>) -> Entrant<'a, 1> {
    let peer: P = bench.runtime.block_on(bench.start("write"));
    let round = move || [bench.runtime.block_on(inserts(&peer, bench.times(INSERTS)))];
    round();
    Entrant {
        name: P::NAME,
        two_levels: P::HAS_L1,
        round: Ok(Box::new(round)),
    }
}

/// Inserts all ids below `count`, and returns how many per second.
pub async fn inserts<P: TwoLevels>(peer: &P, count: u64) -> f64 {
    let prepare = |id| (peer.key(id), User::new(id));
    let call = |peer: P, users: Vec<(P::Key, User)>| async move {
        for (key, user) in users {
            peer.insert(&key, user).await;
        }
    };
    rate(peer, CALLERS, count, prepare, call).await
}
