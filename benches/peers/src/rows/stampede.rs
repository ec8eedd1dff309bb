//! Many callers that miss the same key at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::time::sleep;

use crate::peer::TwoLevels;
use crate::peers::with_two_levels;
use crate::rows::Bench;
use crate::turns::{Entrant, Row, Title, Unit, take_turns};
use crate::user::User;

const CALLERS: usize = 200;
/// How long one load takes.
const LOAD: Duration = Duration::from_millis(5);

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    let rows = [1, 4].map(|instances| {
        let what = format!("Stampede, {instances} x {CALLERS} callers");
        let titles = [
            (format!("{what}: loads that ran"), Unit::Loads),
            (
                format!("{what}: time, of which a load takes 5 ms"),
                Unit::Milliseconds,
            ),
        ];
        take_turns(
            titles.map(|(text, unit)| Title { text, unit }),
            bench.rounds,
            with_two_levels!(entrant(bench, instances)),
        )
    });
    rows.into_iter().flatten().collect()
}

fn entrant<'a, P: TwoLevels>(bench: &'a Bench<'a>, instances: usize) -> Entrant<'a, 2> {
    let name = format!("stampede-{instances}");
    let start = (0..instances).map(|_| bench.start::<P>(&name));
    let fleet = bench.runtime.block_on(join_all(start));
    let mut ids = 0..;
    let mut round = move || {
        let id = ids.next().unwrap();
        bench.runtime.block_on(stampede(&fleet, id))
    };
    // The first round connects.
    round();
    Entrant {
        name: P::NAME,
        two_levels: P::HAS_L1,
        round: Ok(Box::new(round)),
    }
}

/// How many loads ran, and how many milliseconds it took.
async fn stampede<P: TwoLevels>(fleet: &[P], id: u64) -> [f64; 2] {
    let loads = Arc::new(AtomicU64::new(0));
    let callers = fleet.iter().flat_map(|peer| {
        (0..CALLERS).map(|_| {
            let (peer, loads) = (peer.clone(), Arc::clone(&loads));
            tokio::spawn(async move {
                let load = move || async move {
                    loads.fetch_add(1, SeqCst);
                    sleep(LOAD).await;
                    User::new(id)
                };
                assert_eq!(peer.get_or_load(&peer.key(id), load).await.id, id);
            })
        })
    });
    let start = Instant::now();
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    let took = start.elapsed();
    [loads.load(SeqCst) as f64, took.as_secs_f64() * 1e3]
}
