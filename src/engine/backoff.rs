//! When a key whose load or refresh failed may be tried again, and which result its callers get until then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::clock::{Clock, Tick, nanos};
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::{Generation, Hasher, TagChanges, hasher};
use crate::util::retry_delays::retry_delays;

/// The most keys that are remembered. A key that is forgotten may be tried at once.
const MAX_KEYS: usize = 10_000;
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Keys whose load or refresh failed; and those whose refresh is done by another instance, or may not be stored for
/// now.
pub(crate) struct Backoff {
    keys: RwLock<HashMap<Key, Pause, Hasher>>,
    /// Whether a key was ever added. Each write removes its key, and skips that while there is nothing to remove.
    is_used: AtomicBool,
    clock: Clock,
}

/// Until when a key is not tried again.
#[derive(Clone)]
struct Pause {
    until: Tick,
    after: After,
}

/// Why a key is not tried again.
#[derive(Clone)]
pub(crate) enum After {
    /// A refresh did not replace the stale value, which is still there. `failures` counts failed refreshes in a row; it is
    /// zero if another instance refreshes the key.
    Refresh { failures: usize },
    /// A load failed, and its callers got a fallback.
    Fallback,
    /// A load failed that began at these counts, and its callers got this error.
    Error {
        error: LoadError,
        change_counts: ChangeCounts,
    },
}

/// How often changes that can be of any key had been made when a load began. The error of a load that began before a
/// clear, or before the invalidation of a tag, is not handed out after it (rule 20: tags). Which tags the value of the
/// load would have had is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChangeCounts {
    pub(crate) generation: Generation,
    pub(crate) tag_changes: TagChanges,
}

impl Backoff {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            keys: RwLock::new(HashMap::with_hasher(hasher())),
            is_used: AtomicBool::new(false),
            clock,
        }
    }

    pub(crate) fn may_refresh(&self, key: &str) -> bool {
        self.pause(key).is_none()
    }

    /// Whether the last refresh or load of a key failed, and it is not tried again yet.
    pub(crate) fn has_failed(&self, key: &str) -> bool {
        let pause = self.pause(key);
        pause.is_some_and(|pause| !matches!(pause.after, After::Refresh { failures: 0 }))
    }

    /// Whether the callers of a key get a fallback, without a load.
    pub(crate) fn is_throttled(&self, key: &str) -> bool {
        (self.pause(key)).is_some_and(|pause| matches!(pause.after, After::Fallback))
    }

    /// The error that the callers of a key get, without a load, if its load could have begun `now`.
    pub(crate) fn error(&self, key: &str, now: ChangeCounts) -> Option<LoadError> {
        match self.pause(key)?.after {
            // Equal, and not "not older": a clear or an invalidation of any tag since may have changed this key.
            After::Error {
                error,
                change_counts,
            } if change_counts == now => Some(error),
            _ => None,
        }
    }

    /// The key was stored or changed: it may be tried at once.
    pub(crate) fn forget(&self, key: &str) {
        // Acquire, with the store in `wait`, which comes before the key is added: a failure that this does not see is
        // of a load that ends later, and checks by itself whether its key was changed meanwhile.
        // Most keys have not failed, and writers of those do not wait for each other.
        if self.is_used.load(Ordering::Acquire) && self.read().contains_key(key) {
            // Dropped without the lock, as for all that is forgotten: the drop of a caller's error runs its code.
            let forgotten = self.write().remove(key);
            drop(forgotten);
        }
    }

    /// Forgets all keys that begin with `prefix`.
    pub(crate) fn forget_prefix(&self, prefix: &str) {
        // A pass over all keys, of which there are 10 000 at most: prefixes are rare, and an index costs each failure.
        let forgotten: Vec<_> = self
            .write()
            .extract_if(|key, _| key.starts_with(prefix))
            .collect();
        drop(forgotten);
    }

    /// A refresh failed. The next one waits twice as long after each failure in a row, with jitter, and at least so
    /// long.
    pub(crate) fn refresh_failed(&self, key: &Key, at_least: Duration) {
        let failures = match self.read().get(key).map(|pause| &pause.after) {
            Some(After::Refresh { failures }) => *failures,
            _ => 0,
        };
        let mut pauses = retry_delays(Duration::from_millis(200), MAX_PAUSE);
        // The pauses stop growing long before the sixteenth, and `nth` takes time for each.
        let pause = pauses.nth(failures.min(16)).unwrap_or(MAX_PAUSE);
        let failures = failures + 1;
        self.wait(key, pause.max(at_least), After::Refresh { failures });
    }

    /// Another instance refreshes the key.
    pub(crate) fn yielded(&self, key: &Key) {
        // Short, and no failure: that instance may store the value at any time.
        let after = After::Refresh { failures: 0 };
        self.wait(key, Duration::from_millis(50), after);
    }

    /// The pause that a key is in.
    fn pause(&self, key: &str) -> Option<Pause> {
        let now = self.clock.now();
        self.read()
            .get(key)
            .filter(|pause| now < pause.until)
            .cloned()
    }

    /// The key is not tried again for so long.
    pub(crate) fn wait(&self, key: &Key, pause: Duration, after: After) {
        let now = self.clock.now();
        let until = now.saturating_add(nanos(pause));
        // Before the key is there: a change that finds it unused has nothing to remove.
        self.is_used.store(true, Ordering::Release);
        let mut keys = self.write();
        let forgotten = if keys.len() < MAX_KEYS {
            Vec::new()
        } else {
            // Those that may be tried again; of the others none, or all if they leave so little room that the next
            // pass over all keys would follow soon.
            let ended = keys.values().filter(|pause| pause.until <= now).count();
            let is_enough = ended >= MAX_KEYS / 2;
            (keys.extract_if(|_, pause| !is_enough || pause.until <= now)).collect()
        };
        let former = keys.insert(key.clone(), Pause { until, after });
        drop(keys);
        drop((forgotten, former));
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Key, Pause, Hasher>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Key, Pause, Hasher>> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_so_many_keys_are_remembered() {
        let backoff = Backoff::new(Clock::manual());
        let change_counts = ChangeCounts {
            generation: Generation::FIRST,
            tag_changes: TagChanges::FIRST,
        };
        for n in 0..2 * MAX_KEYS {
            let key = Key::from(&*n.to_string());
            let error = LoadError::stopped();
            backoff.wait(
                &key,
                MAX_PAUSE,
                After::Error {
                    error,
                    change_counts,
                },
            );
            let kept = backoff.read().len();
            assert!((1..=MAX_KEYS).contains(&kept), "{kept}");
            assert!(backoff.has_failed(&key));
        }
    }
}
