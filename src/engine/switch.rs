//! For which keys a cache is on: for all, for a share of them, or for none.

use std::sync::atomic::{AtomicU64, Ordering};

use twox_hash::XxHash3_64;

/// Set while the cache is switched off. Below this, the share, as the hashes of keys that are below it.
const OFF: u64 = 1 << 32;
/// The share of all keys.
const ALL: u64 = OFF - 1;

pub(crate) struct Switch(AtomicU64);

impl Switch {
    pub(crate) fn new(is_on: bool, share: f64) -> Self {
        let off = if is_on { 0 } else { OFF };
        Self(AtomicU64::new(off | part(share)))
    }

    /// A switch in the present state of another switch.
    pub(crate) fn like(other: &Self) -> Self {
        Self(AtomicU64::new(other.state()))
    }

    fn state(&self) -> u64 {
        // Acquire, with the updates below: an operation that has begun in the generation after the switch sees the
        // switch, and any other one stores nothing.
        self.0.load(Ordering::Acquire)
    }

    /// Whether the cache is off for all keys.
    pub(crate) fn is_off(&self) -> bool {
        let state = self.state();
        state & OFF != 0 || state == 0
    }

    /// Whether the cache is off for a key.
    #[inline]
    pub(crate) fn is_off_for(&self, key: &str) -> bool {
        // Mostly one comparison, as each operation asks.
        let state = self.state();
        state != ALL && is_out(state, key)
    }

    /// Returns whether it was on before.
    pub(crate) fn set_on(&self, is_on: bool) -> bool {
        // Release, for `state`: a thread that sees the switch on again sees the new generation of L1, too.
        let before = if is_on {
            self.0.fetch_and(!OFF, Ordering::AcqRel)
        } else {
            self.0.fetch_or(OFF, Ordering::AcqRel)
        };
        before & OFF == 0
    }

    /// Returns whether it was on for keys that it is not on for now.
    pub(crate) fn set_share(&self, share: f64) -> bool {
        let part = part(share);
        let before = (self.0).fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            Some(state & OFF | part)
        });
        before.is_ok_and(|before| before & ALL > part)
    }
}

/// By a hash that is the same in all instances: they agree on the keys.
#[cold]
fn is_out(state: u64, key: &str) -> bool {
    // Not the hash of L1 or of the lanes: a share of the keys of each lane is used.
    state & OFF != 0 || XxHash3_64::oneshot(key.as_bytes()) >> 32 >= state
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
        assert!(!switch.set_on(true) && !switch.is_off_for("k"));
        assert!(switch.set_share(0.5) && !switch.set_share(0.9));
    }
}
