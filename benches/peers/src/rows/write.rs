//! Inserts of keys that exist already, and invalidations of these.

use crate::peer::TwoLevels;
use crate::peers::with_two_levels;
use crate::rows::Bench;
use crate::rows::callers::rate;
use crate::turns::{Entrant, Row, Title, Unit, take_turns};
use crate::user::User;

const CALLERS: u64 = 64;
const KEYS: u64 = 5_000;

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    let titles = ["Inserts", "Invalidations"].map(|what| Title {
        text: format!("{what}, callers: {CALLERS}, {}", bench.threads),
        unit: Unit::PerSecond,
    });
    take_turns(titles, bench.rounds, with_two_levels!(entrant(bench)))
}

fn entrant<'a, P: TwoLevels>(bench: &'a Bench<'a>) -> Entrant<'a, 2> {
    let peer: P = bench.runtime.block_on(bench.start("write"));
    let keys = bench.times(KEYS);
    let round = move || {
        bench.runtime.block_on(async {
            // The keys that the last round has invalidated.
            inserts(&peer, keys).await;
            [inserts(&peer, keys).await, invalidations(&peer, keys).await]
        })
    };
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

/// Invalidates all ids below `count`, and returns how many per second.
async fn invalidations<P: TwoLevels>(peer: &P, count: u64) -> f64 {
    let call = |peer: P, keys: Vec<P::Key>| async move {
        for key in keys {
            peer.invalidate(&key).await;
        }
    };
    rate(peer, CALLERS, count, |id| peer.key(id), call).await
}
