//! When a load asks again for the keys whose leases other instances have (rules 1: a fill needs a lease and 6: a
//! refresh is a load).
//!
//! [`Rounds`] knows the times of a load. It waits for nothing, and asks for no lease.

use std::mem;
use std::time::Duration;

use tokio::time::Instant;

/// The rounds of requests for the leases of some keys.
pub(super) struct Rounds<P> {
    is_refresh: bool,
    started_at: Instant,
    /// Until then the callers of a missing key wait for other instances.
    wait_until: Instant,
    /// The pauses between rounds.
    pauses: P,
    /// When the next round begins.
    next_at: Instant,
    leases_left: LeasesLeft,
}

/// For how long other instances may have the leases that were asked for in a round.
struct LeasesLeft {
    shortest: Duration,
    longest: Duration,
}

impl LeasesLeft {
    const NONE: Self = Self {
        shortest: Duration::MAX,
        longest: Duration::ZERO,
    };
}

impl<P: Iterator<Item = Duration>> Rounds<P> {
    pub(super) fn new(is_refresh: bool, lease_wait: Duration, pauses: P, now: Instant) -> Self {
        Self {
            is_refresh,
            started_at: now,
            wait_until: now + lease_wait,
            pauses,
            next_at: now,
            leases_left: LeasesLeft::NONE,
        }
    }

    pub(super) const fn wait_until(&self) -> Instant {
        self.wait_until
    }

    /// When all keys are asked for. Before that only those whose leases have ended are.
    pub(super) const fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Another instance has the lease of a key, for at most so long.
    pub(super) fn note_held(&mut self, left: Duration) {
        // Not zero, or rounds would follow each other without a pause.
        let leases_left = &mut self.leases_left;
        leases_left.shortest = (leases_left.shortest).min(left.max(Duration::from_millis(1)));
        leases_left.longest = leases_left.longest.max(left);
    }

    /// A round has ended, and keys are left. `is_part` if some of these were not asked for in it.
    pub(super) fn finish_round(&mut self, is_part: bool, lease_wait: Duration, now: Instant) {
        let LeasesLeft { shortest, longest } =
            mem::replace(&mut self.leases_left, LeasesLeft::NONE);
        let pause = if is_part {
            // The time of the next round stands.
            self.next_at.saturating_duration_since(now).min(shortest)
        } else if self.is_refresh {
            // A refresh need not ask again before the other instance has stored the value, or its lease has run out.
            longest.min(lease_wait)
        } else {
            // Not later than the first lease ends, as the notice of its end may be lost.
            self.pauses.next().unwrap_or_default().min(shortest)
        };
        self.next_at = now + pause;
    }

    /// Whether the keys that are left are loaded in place of the next round, and not stored. The other instance may
    /// hang: from here on the callers' wait counts more than a second load.
    pub(super) fn are_over(&self) -> bool {
        // The callers of a refresh have the stale value.
        !self.is_refresh && self.next_at >= self.wait_until
    }

    /// Whether keys are only read in the next round, and no lease is asked for: one refresh serves the fleet (rule 6: a
    /// refresh is a load). Without a notice a refresh asks for the lease once more, as its holder may be gone; but not
    /// after `longest`.
    pub(super) fn only_reads(&self, is_noticed: bool, longest: Duration, now: Instant) -> bool {
        let took = now.saturating_duration_since(self.started_at);
        self.is_refresh && (is_noticed || took >= longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_WAIT: Duration = ms(1000);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Runs a load through rounds, such as `10: wait 300, wait 500`: at 10 ms the answers to a round are there, and
    /// other instances have the leases of two keys. A `part` of the keys was asked for. Says when the next round is.
    fn next_round(is_refresh: bool, rounds: &str) -> String {
        let started_at = Instant::now();
        let pauses = [10, 20, 40].map(ms).into_iter();
        let mut run = Rounds::new(is_refresh, LEASE_WAIT, pauses, started_at);
        for round in rounds.split(" -> ") {
            let (at, answers) = round.split_once(": ").unwrap();
            let (is_part, at) = match at.strip_prefix("part ") {
                Some(at) => (true, at),
                None => (false, at),
            };
            for answer in answers.split(", ") {
                if let Some(left) = answer.strip_prefix("wait ") {
                    run.note_held(ms(left.parse().unwrap()));
                }
            }
            run.finish_round(is_part, LEASE_WAIT, started_at + ms(at.parse().unwrap()));
        }
        if run.are_over() {
            return "load".to_owned();
        }
        (run.next_at() - started_at).as_millis().to_string()
    }

    fn check(is_refresh: bool, table: &[&str]) {
        for row in table {
            let (rounds, next) = row.split_once(" => ").unwrap();
            assert_eq!(next_round(is_refresh, rounds), next, "{row}");
        }
    }

    #[test]
    fn missing_keys_are_asked_for_from_time_to_time_and_then_loaded() {
        check(
            false,
            &[
                "0: wait 3000 => 10",
                "0: wait 3000 -> 10: wait 2990 => 30",
                "0: wait 3000 -> 10: wait 2990 -> 30: wait 2970 => 70",
                // A lease ends before that.
                "0: wait 4, wait 3000 => 4",
                "0: wait 0 => 1",
                "0: wait 3000, wait 4 -> 4: wait 2996 => 24",
                // Only keys whose leases have ended were asked for.
                "0: wait 3000, wait 3000 -> part 3: found => 10",
                "0: wait 3000, wait 3000 -> part 3: wait 3000 => 10",
                "0: wait 3000, wait 3000 -> part 3: wait 5 => 8",
                "0: wait 3000, wait 3000 -> part 12: found => 12",
                // The callers have waited for long enough.
                "989: wait 3000 => 999",
                "990: wait 3000 => load",
                "998: wait 1 => 999",
                "985: wait 3000, wait 3000 -> part 990: found => 995",
            ],
        );
    }

    /// Rule 6.
    #[test]
    fn keys_that_are_refreshed_are_asked_for_when_the_lease_has_run_out() {
        check(
            true,
            &[
                "0: wait 300 => 300",
                "0: wait 500, wait 300 => 500",
                "0: wait 3000 => 1000",
                "0: wait 300 -> 300: wait 300 => 600",
                "0: wait 500, wait 500 -> part 100: found => 500",
                "0: wait 500, wait 500 -> part 100: wait 200 => 300",
                // The callers have the stale value.
                "990: wait 3000 => 1990",
            ],
        );
    }

    /// Rule 6.
    #[test]
    fn a_refresh_only_reads_after_a_notice_or_some_time() {
        let started_at = Instant::now();
        for (is_refresh, is_noticed, at, only_reads) in [
            (true, false, 0, false),
            (true, false, 499, false),
            (true, false, 500, true),
            (true, true, 0, true),
            (false, false, 500, false),
            (false, true, 0, false),
        ] {
            let rounds = Rounds::new(is_refresh, LEASE_WAIT, [].into_iter(), started_at);
            assert_eq!(
                rounds.only_reads(is_noticed, ms(500), started_at + ms(at)),
                only_reads,
                "{is_refresh} {is_noticed} {at}"
            );
        }
    }
}
