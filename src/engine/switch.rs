//! For which keys a cache is on: for all, for a share of them, or for none.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::info;
use twox_hash::XxHash3_64;

use crate::key::Key;
use crate::l1::Freshness;
use crate::util::lock::lock;

/// The share of all keys. A share is the hashes that are below it.
const ALL: u64 = OFF - 1;
/// Set while this instance is switched off.
const OFF: u64 = 1 << 32;
/// Set while all instances are switched off, as L2 says.
const OFF_EVERYWHERE: u64 = 1 << 33;
/// Set while keys are bypassed.
const BYPASS: u64 = 1 << 34;
/// Set while all instances bypass keys.
const BYPASS_EVERYWHERE: u64 = 1 << 35;

/// How many keys and prefixes are bypassed at most.
pub(crate) const MAX_BYPASSED: usize = 1_000;

/// The switch of a partition.
pub(crate) struct Switch {
    state: AtomicU64,
    /// Of all partitions.
    bypassed: Arc<ArcSwap<Bypassed>>,
    /// Of all partitions.
    everywhere: Arc<ArcSwap<BypassedEverywhere>>,
    /// How often calls of this instance have switched all instances.
    calls: Mutex<u64>,
}

/// Keys for which the cache is off.
#[derive(Clone, Default)]
pub(crate) struct Bypassed {
    pub(crate) keys: HashSet<Key>,
    pub(crate) prefixes: HashSet<Key>,
}

/// Prefixes of keys for which all instances are off.
#[derive(Default)]
pub(crate) struct BypassedEverywhere {
    /// Names the list in L2 that they are of, unless that is empty.
    pub(crate) id: Option<u64>,
    /// Each with its end.
    pub(crate) prefixes: Vec<(Key, Instant)>,
}

impl BypassedEverywhere {
    /// The prefixes whose end has not come.
    pub(crate) fn present(&self) -> impl Iterator<Item = &Key> {
        let now = Instant::now();
        let present = self.prefixes.iter().filter(move |(_, end)| now < *end);
        present.map(|(prefix, _)| prefix)
    }
}

impl Bypassed {
    fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
            || self
                .prefixes
                .iter()
                .any(|prefix| key.starts_with(&**prefix))
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }
}

impl Switch {
    pub(crate) fn new(is_on: bool, share: f64) -> Self {
        let off = if is_on { 0 } else { OFF };
        Self {
            state: AtomicU64::new(off | part(share)),
            bypassed: Arc::default(),
            everywhere: Arc::default(),
            calls: Mutex::default(),
        }
    }

    /// A switch in the present state of another switch.
    pub(crate) fn like(other: &Self) -> Self {
        Self {
            state: AtomicU64::new(other.state()),
            bypassed: Arc::clone(&other.bypassed),
            everywhere: Arc::clone(&other.everywhere),
            calls: Mutex::default(),
        }
    }

    /// Takes the present state of another switch.
    pub(crate) fn become_like(&self, other: &Self) {
        self.state.store(other.state(), Ordering::Release);
    }

    fn state(&self) -> u64 {
        // Acquire, with the updates below: an operation that has begun in the generation after the switch sees the
        // switch, and any other one stores nothing.
        self.state.load(Ordering::Acquire)
    }

    /// Whether the cache is off for all keys.
    pub(crate) fn is_off(&self) -> bool {
        let state = self.state();
        state & (OFF | OFF_EVERYWHERE) != 0 || state & ALL == 0
    }

    /// For which share of all keys this instance uses the cache while all instances are on; `None` for all keys.
    pub(crate) fn partial_share(&self) -> Option<f64> {
        let is_off = self.state() & OFF != 0;
        let share = if is_off { 0.0 } else { self.share() };
        (share < 1.0).then_some(share)
    }

    /// The share of all keys, to six places.
    #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
    pub(crate) fn share(&self) -> f64 {
        let share = (self.state() & ALL) as f64 / ALL as f64;
        (share * 1e6).round() / 1e6
    }

    /// Whether the cache is off for a key.
    #[inline]
    pub(crate) fn is_off_for(&self, key: &str) -> bool {
        // Mostly one comparison, as each operation asks.
        let state = self.state();
        state != ALL && self.is_out(state, key)
    }

    /// By a hash on which all instances agree, and so on the keys.
    #[cold]
    fn is_out(&self, state: u64, key: &str) -> bool {
        let share = state & ALL;
        // The highest hash is in the share of all keys, too.
        // Not the hash of L1 or of the partitions: a share of the keys of each partition is used.
        let is_in_share = || share == ALL || XxHash3_64::oneshot(key.as_bytes()) >> 32 < share;
        state & (OFF | OFF_EVERYWHERE) != 0
            || !is_in_share()
            || state & BYPASS != 0 && self.bypassed.load().has(key)
            || state & BYPASS_EVERYWHERE != 0 && self.is_bypassed_everywhere(key)
    }

    fn is_bypassed_everywhere(&self, key: &str) -> bool {
        let everywhere = self.everywhere.load();
        everywhere
            .present()
            .any(|prefix| key.starts_with(&**prefix))
    }

    /// Returns whether it was on before.
    pub(crate) fn set_on(&self, is_on: bool) -> bool {
        self.set(OFF, !is_on) & OFF == 0
    }

    /// Sets a bit of the state, or takes it away. Returns the state before.
    fn set(&self, bit: u64, is_set: bool) -> u64 {
        // Release, for `state`: a thread that sees the switch on again sees the new generation of L1, too.
        if is_set {
            self.state.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.state.fetch_and(!bit, Ordering::AcqRel)
        }
    }

    /// How often calls of this instance have switched all instances: to be read before a partition is asked for its clock.
    pub(crate) fn calls(&self) -> u64 {
        *lock(&self.calls)
    }

    /// Follows the switch of all instances, as the clock of a partition names it. A call that came after the question, of
    /// which there were `calls`, may be newer than the clock.
    pub(crate) fn follow(&self, is_off: bool, calls: u64, freshness: &Freshness, namespace: &str) {
        let present = lock(&self.calls);
        let is_new = *present == calls && self.set_everywhere(is_off, freshness);
        drop(present);
        if is_new {
            log_switch(is_off, namespace);
        }
    }

    /// Takes note of a call that has switched all instances.
    pub(crate) fn switched(&self, is_off: bool, freshness: &Freshness, namespace: &str) {
        let mut calls = lock(&self.calls);
        *calls += 1;
        let is_new = self.set_everywhere(is_off, freshness);
        drop(calls);
        if is_new {
            log_switch(is_off, namespace);
        }
    }

    /// Returns whether that is another state than before.
    fn set_everywhere(&self, is_off: bool, freshness: &Freshness) -> bool {
        let was_off = self.set(OFF_EVERYWHERE, is_off) & OFF_EVERYWHERE != 0;
        if is_off && !was_off {
            // After the switch: operations that began before store nothing in L1.
            freshness.flush_and_keep_proof();
        }
        was_off != is_off
    }

    /// Which keys are bypassed.
    pub(crate) fn bypassed(&self) -> Arc<Bypassed> {
        self.bypassed.load_full()
    }

    /// Has other keys bypassed, in all partitions whose switches these are.
    pub(crate) fn bypass<'a>(switches: impl Iterator<Item = &'a Self> + Clone, which: Bypassed) {
        let is_set = !which.is_empty();
        // The list before the bit that has it looked at: a key that stays in the list is never used in between.
        if let Some(first) = switches.clone().next() {
            first.bypassed.store(Arc::new(which));
        }
        switches.for_each(|switch| _ = switch.set(BYPASS, is_set));
    }

    /// Which keys all instances bypass.
    pub(crate) fn bypassed_everywhere(&self) -> Arc<BypassedEverywhere> {
        self.everywhere.load_full()
    }

    /// Has other prefixes bypassed by all instances, in all partitions whose switches these are.
    pub(crate) fn bypass_everywhere<'a>(
        switches: impl Iterator<Item = &'a Self> + Clone,
        which: BypassedEverywhere,
    ) {
        let is_set = !which.prefixes.is_empty();
        // The list first, as for `bypass`.
        if let Some(first) = switches.clone().next() {
            first.everywhere.store(Arc::new(which));
        }
        switches.for_each(|switch| _ = switch.set(BYPASS_EVERYWHERE, is_set));
    }

    /// Returns whether it was on for keys that it is not on for now.
    pub(crate) fn set_share(&self, share: f64) -> bool {
        let part = part(share);
        let before = (self.state).fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            Some(state & !ALL | part)
        });
        before.is_ok_and(|before| before & ALL > part)
    }
}

fn log_switch(is_off: bool, namespace: &str) {
    info!(
        namespace,
        is_enabled = !is_off,
        "all instances were switched"
    );
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share is from zero to one, and need not be exact"
)]
fn part(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * ALL as f64) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[test]
    fn the_share_is_that_of_the_keys() {
        let keys: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        let mut former = Vec::new();
        for (share, least, most) in [
            (0.0, 0, 0),
            (0.05, 400, 600),
            (0.5, 4_800, 5_200),
            (1.0, 10_000, 10_000),
        ] {
            let switch = Switch::new(true, share);
            let on: Vec<_> = keys.iter().filter(|key| !switch.is_off_for(key)).collect();
            assert!((least..=most).contains(&on.len()), "{share}: {}", on.len());
            // A larger share has all keys of a smaller one.
            assert!(former.iter().all(|key| on.contains(key)));
            assert_eq!(switch.is_off(), share == 0.0);
            former = on;
        }
        let switch = Switch::new(false, 1.0);
        assert!(switch.is_off() && keys.iter().all(|key| switch.is_off_for(key)));
        assert_eq!(switch.partial_share(), Some(0.0));
        assert!(!switch.set_on(true) && !switch.is_off_for("k"));
        assert_eq!(switch.partial_share(), None);
        assert!(switch.set_share(0.5) && !switch.set_share(0.9));
        assert_eq!(switch.partial_share(), Some(0.9));
    }

    #[test]
    fn a_bypass_takes_no_key_more_out_of_the_share() {
        let keys: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        for share in [0.0, 0.5, 1.0] {
            let (switch, other) = (Switch::new(true, share), Switch::new(true, share));
            let which = Bypassed {
                keys: [Key::from("1")].into(),
                prefixes: [Key::from("77")].into(),
            };
            Switch::bypass([&switch].into_iter(), which);
            for key in &keys {
                let is_bypassed = key == "1" || key.starts_with("77");
                assert_eq!(
                    switch.is_off_for(key),
                    is_bypassed || other.is_off_for(key),
                    "{key}"
                );
            }
            Switch::bypass([&switch].into_iter(), Bypassed::default());
            assert_eq!(switch.state(), other.state());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bypass_in_all_instances_ends_by_itself() {
        let (one, other) = (Switch::new(true, 1.0), Switch::new(true, 1.0));
        let other = Switch {
            everywhere: Arc::clone(&one.everywhere),
            ..other
        };
        let end = |secs| Instant::now() + Duration::from_secs(secs);
        let which = BypassedEverywhere {
            id: Some(1),
            prefixes: vec![(Key::from("eu:"), end(2)), (Key::from("us:"), end(4))],
        };
        Switch::bypass_everywhere([&one, &other].into_iter(), which);
        let are_off = |key: &str| [one.is_off_for(key), other.is_off_for(key)];
        assert_eq!(are_off("eu:tea"), [true, true]);
        assert_eq!(are_off("tea"), [false, false]);
        advance(Duration::from_secs(2)).await;
        assert_eq!(are_off("eu:tea"), [false, false]);
        assert_eq!(are_off("us:tea"), [true, true]);
        Switch::bypass_everywhere([&one, &other].into_iter(), BypassedEverywhere::default());
        assert_eq!(are_off("us:tea"), [false, false]);
    }
}
