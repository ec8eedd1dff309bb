//! Keeps a log line that every request could cause from being written for every request.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Mutex;
use std::time::Duration;

use super::lock::lock;
use crate::clock::{Tick, nanos};

const EVERY: Duration = Duration::from_secs(5);

/// Lets each line of an instance through every five seconds.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When the line was let through last that is written at this place of the code.
    last: Mutex<HashMap<&'static Location<'static>, Tick>>,
}

impl Throttle {
    #[track_caller]
    pub(crate) fn allows(&self, now: Tick) -> bool {
        let mut all = lock(&self.last);
        let last = all.entry(Location::caller()).or_default();
        let allows = now.saturating_sub(*last) >= nanos(EVERY);
        if allows {
            *last = now;
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::Throttle;

    #[test]
    fn one_line_in_five_seconds() {
        let throttle = Throttle::default();
        let second = 1_000_000_000;
        let start = 1 << 60;
        let times = || (0..12).map(|n| start + n * second);
        let allowed = times().map(|now| (throttle.allows(now), throttle.allows(now + second)));
        let (one, other): (Vec<_>, Vec<_>) = allowed.unzip();
        let every_fifth: Vec<_> = (0..12).map(|n| n % 5 == 0).collect();
        assert_eq!((&one, &other), (&every_fifth, &every_fifth));
    }
}
