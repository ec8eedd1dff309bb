//! A hit in Redis, decoded.
//!
//! In every round a new instance, whose L1 is empty, looks up each key once; another instance has written the values
//! before. This works for all ways, while not all of them can turn L1 off.

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
            // The timed calls do not look up this key.
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

/// Looks up all ids below `count`, and returns how many per second.
async fn hits<P: TwoLevels>(reader: &P, callers: u64, count: u64) -> f64 {
    let prepare = |id| (id, reader.key(id));
    let call = |reader: P, keys: Vec<(u64, P::Key)>| async move {
        for (id, key) in keys {
            assert_eq!(reader.get(&key).await.unwrap().id, id);
        }
    };
    rate(reader, callers, count, prepare, call).await
}
