//! The text of a member in the list of members: `epoch:seq:max_staleness:note`.

use std::time::Duration;

use crate::clock::millis;
use crate::l2::{Applied, Member, MemberInfo};

/// The entry of a member, stored under its id.
pub(crate) fn entry(member: &Member) -> String {
    let Applied { epoch, seq } = member.applied;
    let staleness = millis(member.info.max_staleness);
    // Text and not bytes, as Lua reads it with one pattern; `whole_number` in member_list.lua bounds each number.
    format!("{epoch}:{seq}:{staleness}:{}", member.note)
}

/// Reads the entry of a member; `None` if it is not of this form.
pub(crate) fn parse(id: u64, entry: &str) -> Option<Member> {
    let mut fields = entry.split(':').map(str::parse::<u64>);
    let mut field = || fields.next()?.ok();
    let (epoch, seq, staleness, note) = (field()?, field()?, field()?, field()?);
    let max_staleness = Duration::from_millis(staleness);
    Some(Member {
        info: MemberInfo { id, max_staleness },
        applied: Applied { epoch, seq },
        note,
    })
}
