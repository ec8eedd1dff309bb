//! The scripts, each one atomic step; every key that one touches is declared to it.

use deadpool_redis::redis::Script;

/// All scripts that a lane runs.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) lead: Script,
    pub(super) fill: Script,
    pub(super) renew: Script,
    pub(super) insert: Script,
    pub(super) invalidate: Script,
    pub(super) clear: Script,
    pub(super) run: Script,
    pub(super) announce: Script,
    pub(super) members: Script,
    /// For `EVAL_RO`, which the client has no type for.
    pub(super) beat: String,
}

/// Removing must work when memory is full, or a full Redis would keep what is wrong. And what has this
/// line is refused by a replica, and by a primary that misses its replicas, even if it only reads.
const EVEN_WHEN_FULL: &str = "#!lua flags=allow-oom\n";
const CLOCK: &str = include_str!("clock.lua");
const LEASE: &str = include_str!("lease.lua");
const LIFE: &str = include_str!("life.lua");
const MEMBER: &str = include_str!("member.lua");
const MEMBERS_OF: &str = include_str!("members_of.lua");

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&parts.concat());
        Self {
            lead: script(&[EVEN_WHEN_FULL, CLOCK, LEASE, include_str!("lead.lua")]),
            fill: script(&[CLOCK, LEASE, include_str!("fill.lua")]),
            renew: script(&[LEASE, include_str!("renew.lua")]),
            insert: script(&[CLOCK, include_str!("insert.lua")]),
            invalidate: script(&[
                EVEN_WHEN_FULL,
                CLOCK,
                MEMBER,
                MEMBERS_OF,
                include_str!("invalidate.lua"),
            ]),
            clear: script(&[EVEN_WHEN_FULL, CLOCK, include_str!("clear.lua")]),
            run: script(&[EVEN_WHEN_FULL, CLOCK, LIFE, include_str!("run.lua")]),
            announce: script(&[
                EVEN_WHEN_FULL,
                CLOCK,
                MEMBER,
                MEMBERS_OF,
                include_str!("announce.lua"),
            ]),
            members: script(&[CLOCK, MEMBER, MEMBERS_OF, include_str!("members.lua")]),
            beat: [CLOCK, LIFE, MEMBER, include_str!("beat.lua")].concat(),
        }
    }
}
