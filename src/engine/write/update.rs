//! An update replaces the value of a key by one that is made from it: it reads the value, changes it, and stores the
//! new one if the version is still there (rule 25: an update is made from the stored value). The updates of a key take
//! turns in their instance.

use std::collections::HashMap;
use std::iter::{Chain, Once, Take, once};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::sync::OwnedMutexGuard;
use tokio::time::sleep;

use crate::engine::context::Context;
use crate::error::WriteError;
use crate::key::Key;
use crate::util::lock::lock;
use crate::util::retry_delays::retry_delays;

/// The attempts after which an update gives up.
const ATTEMPTS: usize = 256;
/// More often than that no other writer is faster without leaving a value.
const REFUSED: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The updates of this instance: the updates of a key come one after the other, in the order of their calls. Of callers
/// that read the same version all but one would be refused, so a thousand callers would send half a million requests.
///
/// A turn lasts for round trips, and keeps no other call waiting: neither look-ups and other writes of its key, nor
/// calls with other keys.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Key, UpdateQueue>>);

/// Fair: the turn goes to the update that has waited longest.
type UpdateQueue = Arc<tokio::sync::Mutex<()>>;

/// The turn of one update, or its place in the queue.
struct UpdateTurn<'a> {
    turns: &'a Turns,
    key: Key,
    queue: UpdateQueue,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    async fn wait(&self, key: Key) -> UpdateTurn<'_> {
        let queue = Arc::clone(lock(&self.0).entry(key.clone()).or_default());
        let mut turn = UpdateTurn {
            turns: self,
            key,
            queue,
            guard: None,
        };
        turn.guard = Some(Arc::clone(&turn.queue).lock_owned().await);
        turn
    }
}

impl Drop for UpdateTurn<'_> {
    fn drop(&mut self) {
        // The lock first: a caller that takes its place in the queue meanwhile is counted below.
        let mut queues = lock(&self.turns.0);
        self.guard = None;
        debug_assert!(
            Arc::strong_count(&self.queue) >= 2,
            "the table keeps the queue of a turn"
        );
        // The table has one, and this one is the last of its key: a new one would need the lock.
        if Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.key);
        }
    }
}

/// The attempts of one update, in its turn.
pub(crate) struct Attempts<'a> {
    ctx: &'a Context,
    turn: UpdateTurn<'a>,
    /// One before each attempt that is left; before the first there is none to wait for.
    pauses: Chain<Once<Duration>, Take<ExponentialBackoff>>,
    /// How many attempts, one after the other, have found no value.
    found_none: usize,
}

impl<'a> Attempts<'a> {
    pub(super) async fn new(ctx: &'a Context, turns: &'a Turns, key: Key) -> Self {
        let pauses = retry_delays(FIRST_PAUSE, LONGEST_PAUSE);
        Self {
            ctx,
            turn: turns.wait(key).await,
            pauses: once(Duration::ZERO).chain(pauses.take(ATTEMPTS - 1)),
            found_none: 0,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.turn.key
    }

    /// Waits until the value can be read for the next attempt. After that it is read from L2: an instance that read its
    /// own last value from L1 would be a round trip ahead of all others each time, and these would never succeed.
    pub(super) async fn next(&mut self) -> Result<(), WriteError> {
        let pause = self.pauses.next().ok_or_else(WriteError::contended)?;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        if self.ctx.switch.is_off_for(&self.turn.key) {
            return Err(WriteError::switched_off());
        }
        // A value that is loaded meanwhile cannot be stored, so each attempt would be a load in vain.
        self.ctx.breaker.admit().map_err(WriteError::refused)?;
        if !self.ctx.l1.freshness.is_unshared() {
            self.ctx.l1.apply_unversioned(&self.turn.key);
        }
        Ok(())
    }

    /// Takes note of what the attempt has read. Gives up if L2 has refused again and again to store a value in the place
    /// of none: then it has one that cannot be read here, as of another release. To replace that would set back what the
    /// other release counts.
    pub(super) fn found(&mut self, is_there: bool) -> Result<(), WriteError> {
        self.found_none = if is_there { 0 } else { self.found_none + 1 };
        if self.found_none > REFUSED {
            return Err(WriteError::unreadable());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_key_has_one_turn_at_a_time_and_leaves_nothing() {
        let turns = Turns::default();
        let first = turns.wait("k".into()).await;
        let other = turns.wait("other".into()).await;
        let mut second = Box::pin(turns.wait("k".into()));
        let mut third = Box::pin(turns.wait("k".into()));
        assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        drop(other);
        assert_eq!(lock(&turns.0).len(), 1);
        drop(second);
        assert!(poll!(&mut third).is_pending(), "the first one has its turn");
        drop(first);
        drop(third.await);
        assert!(lock(&turns.0).is_empty());
    }
}
