//! Gives the memory of entries back that L1 does not serve any more, has moka do its pending work, and makes moka anew if
//! it does not know any more how much room there is: in the background, so that no caller waits for it. There may be
//! millions of entries, so other tasks run from time to time.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::{Clock, Tick, nanos};
use crate::l1::L1;
use crate::stats::Counters;
use crate::util::lock::lock;
use crate::util::on_drop::OnDrop;
use crate::util::time_slice::TimeSlice;

/// An entry that is not served any more stays for up to this long, and for as long as a sweep takes.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Each entry is looked at once in this time. An entry with an invalidated tag stays for at most this time: a service may
/// invalidate tags all the time. A drift of moka's sum of the weights is repaired within this time.
const FULL_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How many buckets the sweep empties before it lets other tasks run: moka may take milliseconds for one entry.
const EMPTIED_AT_ONCE: usize = 4;
/// The number for buckets that it only looks at.
const LOOKED_AT_AT_ONCE: usize = 256;

/// The task that sweeps L1.
#[derive(Default)]
pub(super) struct Sweeper {
    is_running: Arc<AtomicBool>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Sweeper {
    /// Whether the task runs: it ends with its runtime.
    pub(super) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    /// Starts the task on the runtime of the caller, for as long as this lives.
    pub(super) fn start(&self, partitions: Vec<Weak<L1>>, clock: &Clock, counters: &Arc<Counters>) {
        let mut task = lock(&self.task);
        // Under the lock, so that two callers start one.
        if self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (is_running, clock) = (Arc::clone(&self.is_running), clock.clone());
        let counters = Arc::clone(counters);
        // Before the task is spawned: its runtime may end before it polls the task.
        let ended = OnDrop(move || is_running.store(false, Ordering::Release));
        *task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let _ended = ended;
            join_all(
                partitions
                    .into_iter()
                    .map(|l1| keep_swept(l1, &clock, &counters)),
            )
            .await;
        })));
    }
}

/// Sweeps from time to time, while there are entries. Ends when L1 is dropped: the task holds a `Weak` only, as a task that
/// is aborted lives until its runtime runs the next time.
async fn keep_swept(of: Weak<L1>, clock: &Clock, counters: &Counters) -> Option<Infallible> {
    let mut swept = of.upgrade()?.freshness.generation();
    let mut swept_at = clock.now();
    let entry_added = of.upgrade()?.entries.entry_added();
    loop {
        // Not while moka knows of entries that are not there: it may have no room for others. And once for each entry
        // that comes, though it may be gone by now.
        if of.upgrade()?.entries.is_empty() {
            entry_added.notified().await;
            // Those of former generations are gone. The first subscription begins one, and mostly before an entry comes.
            swept = of.upgrade()?.freshness.generation();
        }
        sleep(SWEEP_INTERVAL).await;
        let l1 = of.upgrade()?;
        l1.entries.run_pending();
        let (now, generation) = (clock.now(), l1.freshness.generation());
        if generation != swept || l1.entries.awaits_new_capacity() {
            sweep_all(&l1, now).await;
        } else if now >= swept_at.saturating_add(nanos(FULL_SWEEP_INTERVAL)) {
            let has_drifted = l1.entries.has_drifted();
            in_parts(l1.sweep(now), EMPTIED_AT_ONCE).await;
            // Twice, as entries that other threads store meanwhile look like a drift, once in a while.
            if has_drifted && l1.entries.has_drifted() {
                counters.l1_rebuilds.bump();
                sweep_all(&l1, now).await;
            }
        } else {
            in_parts(l1.sweep_expired(now), LOOKED_AT_AT_ONCE).await;
            in_parts(l1.entries.admit_rest(), EMPTIED_AT_ONCE).await;
            continue;
        }
        in_parts(l1.entries.admit_rest(), EMPTIED_AT_ONCE).await;
        (swept, swept_at) = (generation, now);
    }
}

async fn sweep_all(l1: &L1, now: Tick) {
    let (former_moka, steps) = l1.sweep_all(now);
    in_parts(steps, EMPTIED_AT_ONCE).await;
    spawn_blocking(|| drop(former_moka));
}

async fn in_parts(mut sweep: impl Iterator<Item = ()>, at_once: usize) {
    let mut slice = TimeSlice::begin();
    while sweep.by_ref().take(at_once).count() == at_once {
        slice.yield_if_over().await;
    }
}
