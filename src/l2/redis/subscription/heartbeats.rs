//! The request of heartbeats: those of several partitions share one, over the connection that subscribes.

use std::iter;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use futures::future::join;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::l2::redis::error::l2_error;
use crate::l2::redis::members;
use crate::l2::redis::names::{CLOCK, MEMBERS, Names};
use crate::l2::redis::script_call::{ScriptCall, clock, malformed_answer};
use crate::l2::redis::scripts;
use crate::l2::{L2Error, Member, PartitionClock, random};

/// When the heartbeats of all partitions on a [`RedisL2`](crate::RedisL2) are due: at whole intervals from this time on.
/// Those on different nodes of a cluster need the same witnesses.
#[derive(Default)]
pub(crate) struct HeartbeatSchedule(OnceLock<Instant>);

impl HeartbeatSchedule {
    /// Before the first heartbeat: otherwise the second would be due at once.
    pub(super) fn begin(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// When to send a heartbeat that is due at `by` and comes once in an interval: at a time that it has in common with
    /// the heartbeats of other partitions.
    pub(super) fn align(&self, by: Instant, interval: Duration) -> Instant {
        let since = by.duration_since(*self.0.get_or_init(Instant::now));
        let over = (since.as_nanos().checked_rem(interval.as_nanos())).unwrap_or(0);
        by - Duration::from_nanos(u64::try_from(over).unwrap_or(0))
    }
}

/// The heartbeat of a partition.
pub(super) struct Heartbeat {
    pub(super) names: Arc<Names>,
    pub(super) member: Member,
    /// Whether the entry of the member is written.
    pub(super) is_noted: bool,
    /// Whether the request has to write, as the server does not say otherwise that it is a primary (rule 32: a server
    /// without a name).
    pub(super) writes: bool,
    /// The generation of the list of members that this instance has joined.
    pub(super) generation: u64,
    /// How many ms that list has existed, at least.
    pub(super) age: u64,
    pub(super) answer: oneshot::Sender<Result<PartitionClock, L2Error>>,
}

/// The clock of a partition in the answer to HEARTBEAT: whether it is in order, epoch, seq, ver and nonce; the generation of
/// the list of members that the instance is in; and whether all instances are off.
type ClockRow = (bool, u64, u64, u64, u64, u64, u64);

/// Sends heartbeats in one round trip. Each has an answer of its own.
pub(super) async fn send(
    connection: &MultiplexedConnection,
    heartbeats: &[Heartbeat],
) -> Result<Vec<Result<PartitionClock, L2Error>>, L2Error> {
    let Some(first) = heartbeats.first() else {
        return Ok(Vec::new());
    };
    let noted: Vec<_> = heartbeats.iter().filter(|one| one.is_noted).collect();
    let mut note = ScriptCall::new(&scripts::NOTE, &first.names, noted.len().min(1));
    let mut read = if heartbeats.iter().any(|one| one.writes) {
        ScriptCall::new(&scripts::WRITING_HEARTBEAT, &first.names, 2)
    } else {
        ScriptCall::by("EVALSHA_RO", &scripts::HEARTBEAT, &first.names, 2)
    };
    // The names of the first partition are declared. The others are arguments: they may be of other slots.
    for Heartbeat { names, member, .. } in heartbeats {
        read.key_by_name(names.name(CLOCK, ""))
            .key_by_name(names.name(MEMBERS, ""));
        read.arg(member.info.id);
    }
    let this = random();
    read.arg(this);
    for one in &noted {
        note.key_by_name(one.names.name(MEMBERS, ""))
            .arg(one.member.info.id);
        note.arg(members::entry(&one.member));
        note.arg(one.generation).arg(one.age);
    }
    let noting = async {
        if noted.is_empty() {
            return Ok(Vec::new());
        }
        note.run::<Vec<bool>>(connection.clone()).await
    };
    // One after the other without a wait in between: a heartbeat is one round trip.
    let both = join(noting, read.run(connection.clone()));
    let limits = heartbeats
        .iter()
        .map(|heartbeat| heartbeat.member.info.max_staleness);
    let limit = limits.max().unwrap_or_default();
    let both = timeout(limit, both).await;
    let (were_noted, read) = both.map_err(|_| L2Error::timed_out(limit))?;
    let mut were_noted = were_noted.map_err(l2_error)?.into_iter();
    let read: (u64, u64, String, Vec<ClockRow>) = read.map_err(l2_error)?;
    let (echo, now, incarnation, clocks) = read;
    if clocks.len() != heartbeats.len() {
        return Err(malformed_answer());
    }
    let answers = iter::zip(heartbeats, clocks).map(|(heartbeat, row)| {
        let (in_order, epoch, seq, ver, nonce, generation, is_off) = row;
        // The echo shows that this is no answer to an older heartbeat, which would prove less than this one (rule
        // 8).
        if !in_order || echo != this {
            return Err(L2Error::unexpected(
                "the server has restarted, has lost its data, does not take writes, or is no longer a primary in good standing",
            ));
        }
        if heartbeat.is_noted && were_noted.next() != Some(true) {
            return Err(L2Error::unexpected("a member could not be noted"));
        }
        // No caller of another instance would wait for this one, so it must not use its L1 (rule 16: members).
        if generation != heartbeat.generation {
            return Err(L2Error::unexpected(
                "the list of members was lost or damaged; this instance subscribes again",
            ));
        }
        Ok(clock([epoch, seq, ver, nonce, now, is_off], &incarnation))
    });
    Ok(answers.collect())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn heartbeats_are_aligned_from_the_first_on() {
        let (first, second) = (HeartbeatSchedule::default(), HeartbeatSchedule::default());
        let (began, interval) = (Instant::now(), Duration::from_secs(4));
        first.begin();
        advance(Duration::from_secs(1)).await;
        second.begin();
        let by = began + Duration::from_secs(11);
        let at = [&first, &second]
            .map(|heartbeat_schedule| heartbeat_schedule.align(by, interval) - began);
        assert_eq!(at.map(|at| at.as_secs()), [8, 9]);
        assert_eq!(first.align(by, Duration::ZERO), by);
    }
}
