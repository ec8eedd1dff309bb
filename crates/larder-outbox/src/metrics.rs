//! The counters of a relay, for the recorder that the process has installed for the [`metrics`] crate.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::stats::OutboxStats;

const POLLS: &str = "larder_outbox_polls_total";
const DELIVERED: &str = "larder_outbox_delivered_total";
const NOT_DELIVERED: &str = "larder_outbox_not_delivered_total";
const DATABASE_ERRORS: &str = "larder_outbox_database_errors_total";
const LAG: &str = "larder_outbox_lag_seconds";
const UNKNOWN: &str = "larder_outbox_unknown_rows";

/// For recorders that show descriptions.
pub(super) fn describe() {
    describe_counter!(POLLS, "reads of the outbox whose rows were delivered");
    describe_counter!(DELIVERED, "rows of the outbox that were delivered");
    describe_counter!(
        NOT_DELIVERED,
        "attempts to deliver a row that L2 did not accept"
    );
    describe_counter!(
        DATABASE_ERRORS,
        "polls of the outbox that the database failed"
    );
    describe_gauge!(LAG, "how long the oldest row of the outbox has waited");
    describe_gauge!(
        UNKNOWN,
        "rows of the outbox that wait and are of no known cache"
    );
}

/// Hands over what a relay has counted since `before`. Relays of one process are added up.
pub(super) fn record(before: &OutboxStats, now: &OutboxStats) {
    for (name, before, now) in [
        (POLLS, before.polls, now.polls),
        (DELIVERED, before.delivered, now.delivered),
        (NOT_DELIVERED, before.not_delivered, now.not_delivered),
        (DATABASE_ERRORS, before.database_errors, now.database_errors),
    ] {
        counter!(name).increment(now.saturating_sub(before));
    }
    gauge!(LAG).set(now.lag.as_secs_f64());
    gauge!(UNKNOWN).set(f64::from(now.unknown));
}
