//! A hit in Redis, decoded.
//!
//! In every round a new instance, whose L1 is empty, is asked for each key once; the values were written before,
//! by another one. This can be done with all ways, where not all let L1 be turned off.

use crate::peer::TwoLevels;
use crate::peers::with_two_levels;
use crate::rows::Bench;
use crate::rows::callers::rate;
use crate::rows::write::inserts;
use crate::turns::{Entrant, Row, Title, Unit, take_turns};

const NAME: &str = "l2";

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    let rows = [(1, 3_000), (64, 10_000), (256, 10_000)].map(|(callers, keys)| {
        let title = Title {
            text: format!("L2 hits decoded, callers: {callers}, {}", bench.threads),
            unit: Unit::PerSecond,
        };
        let keys = bench.times(keys);
        let entrants = with_two_levels!(entrant(bench, callers, keys));
        take_turns([title], bench.rounds, entrants)
    });
    rows.into_iter().flatten().collect()
}

fn entrant<'a, P: TwoLevels>(bench: &'a Bench<'a>, callers: u64, keys: u64) -> Entrant<'a, 1> {
    bench.runtime.block_on(async {
        let writer: P = bench.start(NAME).await;
        inserts(&writer, keys + 1).await;
    });
    let round = move || {
        bench.runtime.block_on(async {
            let reader: P = bench.start(NAME).await;
            // This one is not asked for again.
            reader.get(&reader.key(keys)).await.unwrap();
            [hits(&reader, callers, keys).await]
        })
    };
    Entrant {
        name: P::NAME,
        two_levels: P::HAS_L1,
        round: Ok(Box::new(round)),
    }
}

/// Asks for all ids below `count`, and says how many a second.
async fn hits<P: TwoLevels>(reader: &P, callers: u64, count: u64) -> f64 {
    let prepare = |id| (id, reader.key(id));
    let call = |reader: P, keys: Vec<(u64, P::Key)>| async move {
        for (id, key) in keys {
            assert_eq!(reader.get(&key).await.unwrap().id, id);
        }
    };
    rate(reader, callers, count, prepare, call).await
}
