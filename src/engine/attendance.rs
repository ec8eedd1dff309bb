//! Which members of the lane are silent: they have ended without a word.
//!
//! The lane lists its members; this instance judges with its own monotonic clock, since the store's can be stepped. It
//! knows nothing of what a member has applied. Serves rule 16.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::clock::{Tick, nanos};
use crate::l2::Member;
use crate::lock::lock;

/// A member whose entry has not changed for so many times its `max_staleness` is silent. A proof is worth nothing after
/// one `max_staleness`; the rest is a margin for clocks that do not run at the same speed.
pub(super) const SILENT_AFTER: u32 = 10;

/// Since when the entry of each member has been the same, as far as this instance has looked.
#[derive(Debug, Default)]
pub(super) struct Attendance {
    /// By the member's id: the heartbeat that its entry names, and when this instance first saw it.
    seen: Mutex<HashMap<u64, (u64, Tick)>>,
}

impl Attendance {
    /// Takes a list that was asked for at `asked` and had arrived at `arrived`. Removes the silent members from it, and
    /// returns them.
    pub(super) fn strike(&self, list: &mut Vec<Member>, asked: Tick, arrived: Tick) -> Vec<Member> {
        let mut seen = lock(&self.seen);
        let before = std::mem::take(&mut *seen);
        list.extract_if(.., |member| {
            let id = member.info.id;
            let same = before
                .get(&id)
                .filter(|(heartbeat, _)| *heartbeat == member.heartbeat);
            let since = same.map_or(arrived, |(_, since)| *since);
            seen.insert(id, (member.heartbeat, since));
            let longest = member.info.max_staleness.saturating_mul(SILENT_AFTER);
            asked.saturating_sub(since) > nanos(longest)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::l2::{Applied, MemberInfo};

    const SECOND: Duration = Duration::from_secs(1);

    fn member(id: u64, heartbeat: u64) -> Member {
        Member {
            info: MemberInfo {
                id,
                max_staleness: SECOND,
            },
            applied: Applied::NOTHING,
            heartbeat,
        }
    }

    /// Each look takes a second, and the time between question and answer counts for the member.
    #[test]
    fn a_member_is_silent_when_it_did_not_change_between_two_looks() {
        let attendance = Attendance::default();
        let look = |at: u64, list: &[Member]| {
            let mut list = list.to_vec();
            let (asked, arrived) = (nanos(SECOND) * at, nanos(SECOND) * (at + 1));
            let silent = attendance.strike(&mut list, asked, arrived);
            (list.len(), silent)
        };
        let both = [member(1, 7), member(2, 7)];
        assert_eq!(look(100, &both), (2, vec![]), "first seen at 101");
        assert_eq!(look(111, &both), (2, vec![]), "for ten seconds");
        let one = [member(1, 8), member(2, 7)];
        assert_eq!(look(112, &one), (1, vec![member(2, 7)]), "for more");
        assert_eq!(look(200, &one[..1]), (0, vec![member(1, 8)]));
        // One that was not listed is new when it is listed again.
        assert_eq!(look(201, &one[1..]), (1, vec![]));
        assert_eq!(look(300, &[member(2, 9)]), (1, vec![]));
    }
}
