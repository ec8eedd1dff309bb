//! A schedule that keeps values warm which nobody may look up for a while.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::future::pending;
use std::sync::Weak;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use crate::engine::{Engine, LoaderSource};
use crate::key::Key;
use crate::util::retry_delays::retry_delays;

/// A key, and what makes the load of it.
pub(super) type WarmKey = (Key, Box<dyn Fn() -> LoaderSource + Send + Sync>);

/// How many keys are looked up at a time.
const LOOK_UPS: usize = 64;

/// How many missing keys are loaded at a time, unless loads take long.
const LOADS: usize = 16;

/// After how long a key whose load has failed is tried again at first, if the schedule has no shorter time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Looks each key up when its value is about to be as old as `every`. Ends with the cache, which is not kept for this.
pub(super) async fn keep_warm(cache: Weak<Engine>, keys: Vec<WarmKey>, every: Duration) {
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    // Without keys there is nothing to do.
    let Some(pause) = every.checked_div(count) else {
        return;
    };
    let began = Instant::now();
    let mut due: BinaryHeap<_> = (0..keys.len()).map(|key| Reverse((began, key))).collect();
    let (mut missing, mut retries) = (VecDeque::new(), HashMap::new());
    let (mut look_ups, mut loads) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut last_load = began;
    // Not held while it waits: the last handle of the cache may be dropped meanwhile.
    let loads_of = |number: usize| {
        let (key, load) = keys.get(number)?;
        let engine = cache.upgrade()?;
        Some((Engine::latest(&engine).loads_if_open(key)?, key, load()))
    };
    loop {
        let next_look_up = due.peek().filter(|_| look_ups.len() < LOOK_UPS);
        let next_look_up = next_look_up.map(|Reverse((at, _))| *at);
        // A load that hangs holds up no other one: after a pause the next one begins all the same.
        let next_load = missing.front().map(|_| match loads.len() {
            ..LOADS => began,
            _ => last_load + pause,
        });
        tokio::select! {
            // None starves those below it, as they feed it.
            biased;
            Some(ended) = look_ups.next(), if !look_ups.is_empty() => {
                let (number, after): (usize, Option<Duration>) = ended;
                match after {
                    Some(after) => due.push(Reverse((Instant::now() + after, number))),
                    None => missing.push_back(number),
                }
            }
            Some(ended) = loads.next(), if !loads.is_empty() => {
                let (number, is_loaded): (usize, bool) = ended;
                let after = if is_loaded {
                    retries.remove(&number);
                    // The look-up says how old the value is. Not at once: L1 may not have kept it, and L2 may have none.
                    FIRST_RETRY.min(every)
                } else {
                    let first = || retry_delays(FIRST_RETRY.min(every), every);
                    retries.entry(number).or_insert_with(first).next().unwrap_or(every)
                };
                due.push(Reverse((Instant::now() + after, number)));
            }
            () = at(next_load) => {
                let Some(number) = missing.pop_front() else { continue };
                let Some((of_key, key, load)) = loads_of(number) else { return };
                loads.push(async move { (number, of_key.load_to_keep_warm(key, load).await) });
                last_load = Instant::now();
            }
            () = at(next_look_up) => {
                let Some(Reverse((_, number))) = due.pop() else { continue };
                let Some((loads, key, load)) = loads_of(number) else { return };
                look_ups.push(async move { (number, loads.keep_warm(key, every, load).await) });
            }
        }
    }
}

/// Waits for a time, if there is one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
