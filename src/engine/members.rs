//! The members of the partition: which of them have ended without a word, and whether all have applied a message (rule
//! 16: members).
//!
//! The partition lists its members. One instance at a time measures their silence, with its own monotonic clock, since the
//! store's can be stepped.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::sleep;

use super::context::Context;
use crate::clock::{Tick, nanos};
use crate::error::L2Error;
use crate::l2::{Member, MemberInfo, WriteAck};
use crate::util::retry_delays::poll_delays;

/// A member is silent if its entry has not changed for this many times its `max_staleness`. One that relies on a proof
/// has changed it less than three of these times ago (rule 16: members); the rest is a margin for clocks that do not
/// run at the same speed.
const SILENT_AFTER: u32 = 10;
/// Members that a wait reads at a time, once it knows which are behind: so few that a read costs the server about as
/// much as a heartbeat.
const AT_A_TIME: usize = 32;

/// The members of the partition, as this instance sees them.
pub(crate) struct Members {
    ctx: Arc<Context>,
}

impl Members {
    pub(crate) fn new(ctx: &Arc<Context>) -> Self {
        Self {
            ctx: Arc::clone(ctx),
        }
    }

    /// Looks at the members now and then, so that the list does not grow with each instance that crashes. One instance
    /// at a time does it, or a look at all members by all of them would cost the square of their number.
    pub(crate) async fn forget_silent(&self) -> Infallible {
        let interval = self.ctx.options.max_staleness.saturating_mul(SILENT_AFTER);
        let mut seen = Seen::new();
        loop {
            sleep(interval).await;
            // An error has been traced. The next look is as good.
            let _ = self.sweep(&mut seen, interval).await;
        }
    }

    /// If it is for this instance to do so, looks at the members, and removes the silent ones from the list of the
    /// partition.
    async fn sweep(&self, seen: &mut Seen, interval: Duration) -> Result<(), L2Error> {
        let (partition, breaker) = (&self.ctx.partition, &self.ctx.breaker);
        // Only an instance that looks again and again sees that a member is silent: so one request may be lost.
        let ttl = interval.saturating_mul(5) / 2;
        let asked = self.ctx.now();
        let found = breaker.send("sweep", partition.sweep(self.ctx.instance, ttl));
        let Some(members) = found.await? else {
            return Ok(());
        };
        for silent in silent(seen, members.list, asked, self.ctx.now()) {
            // The partition keeps it if it has noted something meanwhile. An error has been traced, and is no obstacle.
            let _ = breaker.send("forget", partition.forget(silent)).await;
        }
        Ok(())
    }

    /// Waits as [`await_applied`](Self::await_applied) does, for all messages at once.
    pub(crate) async fn await_all(&self, AwaitedAcks(acks): AwaitedAcks) {
        join_all(acks.into_iter().map(|ack| self.await_applied(ack))).await;
    }

    /// Waits until every member of the partition has applied a message, or does not use the entries that it held before.
    ///
    /// A member proves at least every `max_staleness` that it has applied all messages. So whatever happens to it or to the
    /// partition, the longest of these times is enough. The wait ends earlier when all members have applied the message.
    ///
    /// A partition may have lost members that still rely on a proof from before: they are assumed to have the longest
    /// `max_staleness` that is known.
    async fn await_applied(&self, ack: WriteAck) {
        let ctx = &*self.ctx;
        let accepted = ctx.now();
        let after = |time: Duration| accepted.saturating_add(nanos(time));
        let longest = ack.longest_staleness.max(ctx.options.max_staleness);
        // A lost member took its last proof before the list began, so the age of the list counts for it.
        let lost = after(longest.saturating_sub(ack.members_age));
        let mut until = after(longest);
        let (mut pauses, mut behind) = (poll_delays(), VecDeque::new());
        loop {
            let are_all = behind.is_empty();
            let found = self.look(&mut behind, ack).await;
            // Others may be behind, and members may have joined.
            let goes_on = found == Some(0) && !are_all;
            // Without an answer the former limit stands, which needs none.
            if found.is_some() && !goes_on {
                let longest = behind.iter().map(|member| member.max_staleness).max();
                until = until.min(after(longest.unwrap_or_default()).max(lost));
            }
            if ctx.now() >= until {
                return;
            }
            if !goes_on {
                sleep(pauses.next().unwrap_or_default()).await;
            }
        }
    }

    /// Looks which members have not applied a message yet: all members if none is known to be `behind`, or else the
    /// next few of those. Returns how many of them are; nothing if the partition does not know.
    async fn look(&self, behind: &mut VecDeque<MemberInfo>, ack: WriteAck) -> Option<usize> {
        let ctx = &*self.ctx;
        let next = behind.iter().take(AT_A_TIME).map(|member| member.id);
        let next: Vec<u64> = next.collect();
        let read = ctx
            .breaker
            .send("members", ctx.partition.members(&next))
            .await;
        // The list of another generation may have lost a member that has not noticed it yet.
        let read = read.ok().filter(|read| read.generation == ack.generation)?;
        behind.drain(..next.len());
        let others = behind.len();
        // This instance has applied it with the answer. A member that is not listed any more has left, or is silent.
        let still = read
            .list
            .into_iter()
            .filter(|Member { info, applied, .. }| {
                info.id != ctx.instance
                    && (applied.epoch != ack.stamp.epoch || applied.seq < ack.seq)
            });
        behind.extend(still.map(|member| member.info));
        Some(behind.len() - others)
    }
}

/// Messages to wait for: the last one of each epoch, and of each list of members.
#[derive(Default)]
pub(crate) struct AwaitedAcks(Vec<WriteAck>);

impl AwaitedAcks {
    pub(crate) fn add(&mut self, ack: WriteAck) {
        let list = |ack: &WriteAck| (ack.stamp.epoch, ack.generation);
        let Some(last) = self.0.iter_mut().find(|last| list(last) == list(&ack)) else {
            return self.0.push(ack);
        };
        // A member that has applied a message has applied those before it.
        let one = if last.seq < ack.seq { ack } else { *last };
        *last = WriteAck {
            longest_staleness: last.longest_staleness.max(ack.longest_staleness),
            members_age: last.members_age.min(ack.members_age),
            ..one
        };
    }
}

/// Since when the entry of each member has been the same, as far as this instance has looked: by the member's id, the
/// note that its entry names, and when this instance first saw it.
type Seen = HashMap<u64, (u64, Tick)>;

/// The silent members of a list that was asked for at `asked` and had arrived at `arrived`.
fn silent(seen: &mut Seen, mut list: Vec<Member>, asked: Tick, arrived: Tick) -> Vec<Member> {
    let before = std::mem::take(seen);
    list.retain(|member| {
        let id = member.info.id;
        let since = match before.get(&id) {
            Some(&(note, since)) if note == member.note => since,
            _ => arrived,
        };
        seen.insert(id, (member.note, since));
        // From the first sight of the note to the question: both ends are moved in the member's favour.
        let longest = member.info.max_staleness.saturating_mul(SILENT_AFTER);
        asked.saturating_sub(since) > nanos(longest)
    });
    list
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::l2::{Applied, MemberInfo, Stamp};

    const SECOND: Duration = Duration::from_secs(1);

    fn member(id: u64, note: u64) -> Member {
        Member {
            info: MemberInfo {
                id,
                max_staleness: SECOND,
            },
            applied: Applied::NOTHING,
            note,
        }
    }

    #[test]
    fn of_several_messages_to_one_list_the_last_is_waited_for() {
        let ack = |epoch, seq, generation, staleness, age| WriteAck {
            stamp: Stamp::new(epoch, seq, 0),
            seq,
            nonce: 0,
            longest_staleness: SECOND * staleness,
            generation,
            members_age: SECOND * age,
        };
        let mut awaited = AwaitedAcks::default();
        // As answers come, which is in no order.
        for each in [
            ack(1, 7, 5, 2, 30),
            ack(1, 9, 5, 1, 31),
            ack(1, 8, 5, 3, 20),
            ack(1, 10, 6, 1, 0),
            ack(2, 1, 6, 1, 1),
        ] {
            awaited.add(each);
        }
        // For as long as the slowest of them, and the youngest list.
        let expected = [ack(1, 9, 5, 3, 20), ack(1, 10, 6, 1, 0), ack(2, 1, 6, 1, 1)];
        assert_eq!(awaited.0, expected);
    }

    /// Each look takes a second, and the time between question and answer counts for the member.
    #[test]
    fn a_member_is_silent_when_it_did_not_change_between_two_looks() {
        let mut seen = Seen::new();
        let mut look = |at: u64, list: &[Member]| {
            let (asked, arrived) = (nanos(SECOND) * at, nanos(SECOND) * (at + 1));
            silent(&mut seen, list.to_vec(), asked, arrived)
        };
        let both = [member(1, 7), member(2, 7)];
        assert_eq!(look(100, &both), [], "first seen at 101");
        assert_eq!(look(111, &both), [], "for ten seconds");
        let one = [member(1, 8), member(2, 7)];
        assert_eq!(look(112, &one), [member(2, 7)], "for more");
        assert_eq!(look(200, &one[..1]), [member(1, 8)]);
        // One that was not listed is new when it is listed again.
        assert_eq!(look(201, &one[1..]), []);
        assert_eq!(look(300, &[member(2, 9)]), []);
    }
}
