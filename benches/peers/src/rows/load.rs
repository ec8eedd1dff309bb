//! A miss in both levels, with a loader that returns at once: what the cache itself costs.
//!
//! In every round a new instance looks up keys that nobody has stored.

use std::cell::Cell;

use crate::peer::TwoLevels;
use crate::peers::with_two_levels;
use crate::rows::Bench;
use crate::rows::callers::rate;
use crate::turns::{Entrant, Row, Title, Unit, take_turns};
use crate::user::User;

const NAME: &str = "load";

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    let rows = [(1, 1_000), (64, 5_000)].map(|(callers, keys)| {
        let title = Title {
            text: format!("Misses that load, callers: {callers}, {}", bench.threads),
            unit: Unit::PerSecond,
        };
        let keys = bench.times(keys);
        take_turns(
            [title],
            bench.rounds,
            with_two_levels!(entrant(bench, callers, keys)),
        )
    });
    rows.into_iter().flatten().collect()
}

fn entrant<'a, P: TwoLevels>(bench: &'a Bench<'a>, callers: u64, keys: u64) -> Entrant<'a, 1> {
    let name = format!("{NAME}-{callers}-{}", bench.threads.replace(' ', "-"));
    let round = Cell::new(0);
    let measure = move || {
        let first = round.replace(round.get() + keys + 1) + 1;
        bench.runtime.block_on(async {
            let peer: P = bench.start(&name).await;
            // Connects.
            loads(&peer, 1, first - 1, 1).await;
            [loads(&peer, callers, first, keys).await]
        })
    };
    Entrant {
        name: P::NAME,
        two_levels: P::HAS_L1,
        round: Ok(Box::new(measure)),
    }
}

/// Looks up so many ids from the first on, and returns how many per second.
async fn loads<P: TwoLevels>(peer: &P, callers: u64, first: u64, count: u64) -> f64 {
    let prepare = |id| (first + id, peer.key(first + id));
    let call = |peer: P, keys: Vec<(u64, P::Key)>| async move {
        for (id, key) in keys {
            let found = peer.get_or_load(&key, move || async move { User::new(id) });
            assert_eq!(found.await.id, id);
        }
    };
    rate(peer, callers, count, prepare, call).await
}
