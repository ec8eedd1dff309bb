//! How soon an instance drops from its L1 a key that another instance has invalidated.

use std::thread;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use crate::peer::TwoLevels;
use crate::peers::with_two_levels;
use crate::rows::{Bench, bring_to_l1};
use crate::statistics::median;
use crate::turns::{Entrant, Row, Title, Unit, take_turns};
use crate::user::User;

/// Invalidations in a round.
const TIMES: u64 = 20;
/// After this time a key counts as not dropped.
pub const LIMIT: Duration = Duration::from_millis(300);
/// How many keys are tried before that, as a subscription may not be active yet for the first one.
const TRIES: u64 = 3;

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    let title = Title {
        text: "Invalidated elsewhere, gone from this L1 after".to_owned(),
        unit: Unit::Microseconds,
    };
    take_turns([title], bench.rounds, with_two_levels!(entrant(bench)))
}

fn entrant<'a, P: TwoLevels>(bench: &'a Bench<'a>) -> Entrant<'a, 1> {
    let entrant = |round| Entrant {
        name: P::NAME,
        two_levels: P::HAS_L1,
        round,
    };
    if !P::HAS_L1 {
        return entrant(Err("has no L1".to_owned()));
    }
    let start = || bench.runtime.block_on(bench.start::<P>("invalidation"));
    let (here, there) = (start(), start());
    let mut ids = 0..;
    let mut once = move || {
        let id = ids.next().unwrap();
        bench.runtime.block_on(drops(&here, &there, id))
    };
    if !(0..TRIES).any(|_| once().is_some()) {
        let said = format!("not dropped: still there after {TRIES} x {LIMIT:?}");
        return entrant(Err(said));
    }
    let times = bench.times(TIMES);
    entrant(Ok(Box::new(move || {
        let all = (0..times).map(|_| once().unwrap_or(LIMIT).as_secs_f64() * 1e6);
        [median(&all.collect::<Vec<_>>()).unwrap().middle]
    })))
}

/// The time from the call of `invalidate` there until the key was gone here; `None` if that took too long.
async fn drops<P: TwoLevels>(here: &P, there: &P, id: u64) -> Option<Duration> {
    let key = here.key(id);
    there.insert(&key, User::new(id)).await;
    bring_to_l1(here, id).await;
    let start = Instant::now();
    let (there, removed) = (there.clone(), there.key(id));
    let invalidate = tokio::spawn(async move { there.invalidate(&removed).await });
    let gone = is_gone(here, &key).await;
    let took = start.elapsed();
    invalidate.await.unwrap();
    gone.then_some(took)
}

/// Waits until this key is gone. Returns false if that takes too long.
pub async fn is_gone<P: TwoLevels>(here: &P, key: &P::Key) -> bool {
    let start = Instant::now();
    while here.get(key).await.is_some() {
        if start.elapsed() > LIMIT {
            return false;
        }
        yield_now().await;
        // There are fewer cores than threads, and other threads do the work that this one waits for.
        thread::yield_now();
    }
    true
}
