//! A schedule that keeps values warm which nobody may look up for a while.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use crate::engine::{Engine, Load};
use crate::key::Key;

/// A key, and what makes the load of it.
pub(super) type WarmKey = (Key, Box<dyn Fn() -> Load + Send + Sync>);

/// Looks at each key once in `every`: at all of them in a row first, then evenly over the time, so that the source is
/// asked little by little. Ends with the cache, which is not kept for this.
pub(super) async fn keep_warm(cache: Weak<Engine>, keys: Vec<WarmKey>, every: Duration) {
    // Without keys there is nothing to do.
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let Some(pause) = every.checked_div(count) else {
        return;
    };
    let mut is_first_round = true;
    loop {
        for (key, load) in &keys {
            if !is_first_round {
                sleep(pause).await;
            }
            let Some(engine) = cache.upgrade() else {
                return;
            };
            let Some(loads) = Engine::latest(&engine).loads_if_open(key) else {
                return;
            };
            // Not held while it waits: the last handle of the cache may be dropped meanwhile.
            drop(engine);
            loads.keep_warm(key, every, load()).await;
        }
        if is_first_round {
            // Of instances that start together each looks at other times, so that one loads for all.
            sleep(every.mul_f64(fastrand::f64())).await;
        }
        is_first_round = false;
    }
}
