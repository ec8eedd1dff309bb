//! The Lua scripts. Each is one atomic step, and every key that it touches is declared to it.

use deadpool_redis::redis::Script;

/// All scripts that a lane runs.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) lead: Script,
    pub(super) fill: Script,
    pub(super) revalidate: Script,
    pub(super) renew: Script,
    pub(super) insert: Script,
    pub(super) insert_if: Script,
    pub(super) invalidate: Script,
    pub(super) invalidate_tags: Script,
    pub(super) expire: Script,
    pub(super) touch: Script,
    pub(super) clear: Script,
    pub(super) end_leases: Script,
    pub(super) remove: Script,
    pub(super) run: Script,
    pub(super) members: Script,
    pub(super) forget: Script,
    /// Sent with `EVAL`: it shares a pipeline with `heartbeat`, where a script that the server has forgotten could not be
    /// loaded first.
    pub(super) note: String,
    /// Sent with `EVAL_RO`, for which the client has no type.
    pub(super) heartbeat: String,
}

/// A write that removes data must work when memory is full, or a full Redis would keep stale values. A script with this
/// line is also refused by a replica, and by a primary without the replicas that it must have, even if it only reads.
const EVEN_WHEN_FULL: &str = "#!lua flags=allow-oom\n";
const CLOCK: &str = include_str!("clock.lua");
const LEASE: &str = include_str!("lease.lua");
const LIFE: &str = include_str!("life.lua");
const LIST: &str = include_str!("list.lua");
const TAGS: &str = include_str!("tags.lua");

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&parts.concat());
        let invalidate = include_str!("invalidate.lua");
        let invalidate_tags = include_str!("invalidate_tags.lua");
        Self {
            lead: script(&[EVEN_WHEN_FULL, CLOCK, LEASE, include_str!("lead.lua")]),
            fill: script(&[CLOCK, LEASE, TAGS, include_str!("fill.lua")]),
            revalidate: script(&[CLOCK, LEASE, TAGS, include_str!("revalidate.lua")]),
            renew: script(&[LEASE, include_str!("renew.lua")]),
            insert: script(&[CLOCK, TAGS, include_str!("insert.lua")]),
            insert_if: script(&[CLOCK, TAGS, include_str!("insert_if.lua")]),
            expire: script(&[EVEN_WHEN_FULL, CLOCK, include_str!("expire.lua")]),
            touch: script(&[EVEN_WHEN_FULL, CLOCK, TAGS, include_str!("touch.lua")]),
            invalidate: script(&[EVEN_WHEN_FULL, CLOCK, LIST, invalidate]),
            invalidate_tags: script(&[EVEN_WHEN_FULL, CLOCK, TAGS, invalidate_tags]),
            clear: script(&[EVEN_WHEN_FULL, CLOCK, include_str!("clear.lua")]),
            end_leases: script(&[EVEN_WHEN_FULL, CLOCK, include_str!("unlease.lua")]),
            remove: script(&[EVEN_WHEN_FULL, CLOCK, include_str!("remove.lua")]),
            run: script(&[EVEN_WHEN_FULL, CLOCK, LIFE, LIST, include_str!("run.lua")]),
            members: script(&[EVEN_WHEN_FULL, LIST, include_str!("members.lua")]),
            forget: script(&[EVEN_WHEN_FULL, include_str!("forget.lua")]),
            note: [EVEN_WHEN_FULL, LIST, include_str!("note.lua")].concat(),
            heartbeat: [CLOCK, LIFE, include_str!("heartbeat.lua")].concat(),
        }
    }
}
