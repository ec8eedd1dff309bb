//! Keeps a log line that every request could cause from being written for every request, unless the line has a cause that
//! it has not named of late.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::Location;
use std::sync::Mutex;
use std::time::Duration;

use super::lock::lock;
use crate::clock::{Tick, nanos};

const EVERY: Duration = Duration::from_secs(5);
/// How many causes of a line are told apart at a time. All others are one: the text of a cause may differ with each
/// request.
const CAUSES: usize = 8;
/// The causes that are not told apart.
const OTHERS: u64 = 0;

/// Lets each line of an instance through every five seconds; a line that names its cause, once for each cause.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When the line was let through that is written at this place of the code, by the hashes of the causes.
    last: Mutex<HashMap<&'static Location<'static>, Causes>>,
}

type Causes = HashMap<u64, Tick>;

impl Throttle {
    #[track_caller]
    pub(crate) fn allows(&self, now: Tick) -> bool {
        self.allows_cause(now, "")
    }

    /// As [`allows`](Self::allows), for a line with a cause that must not hide others.
    #[track_caller]
    pub(crate) fn allows_cause(&self, now: Tick, cause: &str) -> bool {
        let cause = BuildHasherDefault::<DefaultHasher>::default().hash_one(cause);
        let mut all = lock(&self.last);
        let causes = all.entry(Location::caller()).or_default();
        causes.retain(|_, last| now.saturating_sub(*last) < nanos(EVERY));
        let is_told_apart = causes.contains_key(&cause) || causes.len() < CAUSES;
        match causes.entry(if is_told_apart { cause } else { OTHERS }) {
            Entry::Occupied(_) => false,
            Entry::Vacant(last) => {
                last.insert(now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

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

    #[test]
    fn a_cause_hides_no_other_and_there_are_few() {
        let throttle = Throttle::default();
        let start = 1 << 60;
        let allowed = |now, causes: Range<u32>| {
            let allows = |cause: &u32| throttle.allows_cause(now, &cause.to_string());
            causes.filter(allows).count()
        };
        assert_eq!([allowed(start, 0..4), allowed(start, 0..4)], [4, 0]);
        // Eight, and one for all others.
        assert_eq!([allowed(start, 0..1000), allowed(start, 0..1000)], [5, 0]);
        assert_eq!(allowed(start + 5_000_000_000, 0..1000), 9);
    }
}
