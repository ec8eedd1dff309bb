//! Whether an invalidated value stays gone.
//!
//! The ordinary race: A misses and reads v1 from the source, slowly; B commits v2 and invalidates; A's load ends.
//! The value that A has read is old, and should not be in the cache afterwards.

use tokio::sync::oneshot;

use crate::peer::TwoLevels;
use crate::peers::with_two_levels;
use crate::rows::invalidation::is_gone;
use crate::rows::{Bench, bring_to_l1};
use crate::turns::{Line, Outcome, Row, Title, Unit};
use crate::user::User;

const NAME: &str = "race";
const KEY: u64 = 1;
const MARKER: u64 = 2;
/// The id in v1; v2 is never loaded.
const V1: u64 = 101;

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    vec![Row {
        title: Title {
            text: "Invalidated during a load: the old value".to_owned(),
            unit: Unit::Words,
        },
        lines: with_two_levels!(line(bench)),
    }]
}

fn line<P: TwoLevels>(bench: &Bench<'_>) -> Line {
    Line {
        name: P::NAME,
        two_levels: P::HAS_L1,
        outcome: Outcome::Said(bench.runtime.block_on(race::<P>(bench)).to_owned()),
    }
}

async fn race<P: TwoLevels>(bench: &Bench<'_>) -> &'static str {
    let (a, b): (P, P) = (bench.start(NAME).await, bench.start(NAME).await);
    // A holds a marker, too: once it is gone from A, A has also applied the invalidations before it.
    b.insert(&b.key(MARKER), User::new(MARKER)).await;
    bring_to_l1(&a, MARKER).await;

    let (started, has_started) = oneshot::channel();
    let (end, may_end) = oneshot::channel();
    let load = move || async move {
        let v1 = User::new(V1);
        started.send(()).unwrap();
        may_end.await.unwrap();
        v1
    };
    let loader = a.clone();
    let loading = tokio::spawn(async move {
        loader.get_or_load(&loader.key(KEY), load).await;
    });
    has_started.await.unwrap();
    // Here B commits v2.
    b.invalidate(&b.key(KEY)).await;
    b.invalidate(&b.key(MARKER)).await;
    // Ways that send no invalidations leave the marker in A; the wait for it is limited.
    is_gone(&a, &a.key(MARKER)).await;
    end.send(()).unwrap();
    loading.await.unwrap();

    let c: P = bench.start(NAME).await;
    if c.get(&c.key(KEY)).await.is_some() {
        "is back in L2, for all"
    } else if a.get(&a.key(KEY)).await.is_some() {
        "is back in L1, for callers of this instance"
    } else {
        "stays gone"
    }
}
