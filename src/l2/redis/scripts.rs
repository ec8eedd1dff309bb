//! The Lua scripts. Each is one atomic step, and every key that it touches is declared to it.

use super::call::Lua;

/// All scripts that a lane runs.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) lead: Lua,
    pub(super) fill: Lua,
    pub(super) revalidate: Lua,
    pub(super) renew: Lua,
    pub(super) insert: Lua,
    pub(super) insert_if: Lua,
    pub(super) invalidate: Lua,
    pub(super) invalidate_tags: Lua,
    pub(super) expire: Lua,
    pub(super) touch: Lua,
    pub(super) clear: Lua,
    pub(super) end_leases: Lua,
    pub(super) remove: Lua,
    pub(super) run: Lua,
    pub(super) members: Lua,
    pub(super) forget: Lua,
    pub(super) count: Lua,
    #[cfg(feature = "write-behind")]
    pub(super) append: Lua,
    #[cfg(feature = "write-behind")]
    pub(super) take: Lua,
    #[cfg(feature = "write-behind")]
    pub(super) settle: Lua,
    #[cfg(feature = "write-behind")]
    pub(super) requeue: Lua,
    #[cfg(feature = "write-behind")]
    pub(super) pending: Lua,
    #[cfg(feature = "write-behind")]
    pub(super) letters: Lua,
    pub(super) note: Lua,
    pub(super) heartbeat: Lua,
}

/// A write that removes data must work when memory is full, or a full Redis would keep stale values. A script with this
/// line is also refused by a replica, and by a primary without the replicas that it must have, even if it only reads.
const EVEN_WHEN_FULL: &str = "#!lua flags=allow-oom\n";
const CHECKED: &str = include_str!("checked.lua");
const CLOCK: &str = include_str!("clock.lua");
#[cfg(feature = "write-behind")]
const STREAM: &str = include_str!("stream.lua");
const LEASE: &str = include_str!("lease.lua");
const LIFE: &str = include_str!("life.lua");
const LIST: &str = include_str!("list.lua");
const MARK: &str = include_str!("mark.lua");
const STAGED: &str = include_str!("staged.lua");
const EPOCH: &str = include_str!("epoch.lua");
const VERSION: &str = include_str!("version.lua");
const TAG_LIST: &str = include_str!("tag_list.lua");
const TAGS: &str = concat!(include_str!("tag_list.lua"), include_str!("tags.lua"));

impl Scripts {
    pub(super) fn new() -> Self {
        let text = |parts: &[&str]| [CHECKED, &parts.concat()].concat();
        let script = |parts: &[&str]| Lua::new(text(parts));
        let text_when_full = |parts: &[&str]| [EVEN_WHEN_FULL, &text(parts)].concat();
        let script_when_full = |parts: &[&str]| Lua::new(text_when_full(parts));
        let invalidate = include_str!("invalidate.lua");
        let invalidate_tags = include_str!("invalidate_tags.lua");
        Self {
            lead: script_when_full(&[CLOCK, LEASE, MARK, include_str!("lead.lua")]),
            fill: script(&[CLOCK, LEASE, STAGED, TAGS, include_str!("fill.lua")]),
            revalidate: script(&[CLOCK, LEASE, STAGED, TAGS, include_str!("revalidate.lua")]),
            renew: script(&[LEASE, include_str!("renew.lua")]),
            insert: script(&[CLOCK, STAGED, TAGS, include_str!("insert.lua")]),
            insert_if: script(&[CLOCK, STAGED, TAGS, VERSION, include_str!("insert_if.lua")]),
            expire: script_when_full(&[CLOCK, include_str!("expire.lua")]),
            touch: script_when_full(&[CLOCK, STAGED, TAGS, include_str!("touch.lua")]),
            invalidate: script_when_full(&[CLOCK, LIST, MARK, invalidate]),
            invalidate_tags: script_when_full(&[CLOCK, TAG_LIST, invalidate_tags]),
            clear: script_when_full(&[CLOCK, EPOCH, include_str!("clear.lua")]),
            end_leases: script_when_full(&[CLOCK, include_str!("unlease.lua")]),
            remove: script_when_full(&[CLOCK, include_str!("remove.lua")]),
            run: script_when_full(&[CLOCK, LIFE, LIST, include_str!("run.lua")]),
            members: script_when_full(&[LIST, include_str!("members.lua")]),
            forget: script_when_full(&[include_str!("forget.lua")]),
            count: script(&[CLOCK, include_str!("count.lua")]),
            #[cfg(feature = "write-behind")]
            append: script(&[
                CLOCK,
                MARK,
                STREAM,
                STAGED,
                TAGS,
                VERSION,
                include_str!("append.lua"),
            ]),
            #[cfg(feature = "write-behind")]
            take: script_when_full(&[STREAM, include_str!("take.lua")]),
            #[cfg(feature = "write-behind")]
            settle: script_when_full(&[CLOCK, MARK, STREAM, include_str!("settle.lua")]),
            #[cfg(feature = "write-behind")]
            requeue: script_when_full(&[CLOCK, MARK, STREAM, include_str!("requeue.lua")]),
            #[cfg(feature = "write-behind")]
            pending: script(&[CLOCK, STREAM, include_str!("pending.lua")]),
            #[cfg(feature = "write-behind")]
            letters: script(&[STREAM, include_str!("letters.lua")]),
            note: script_when_full(&[LIST, include_str!("note.lua")]),
            heartbeat: script(&[CLOCK, LIFE, include_str!("heartbeat.lua")]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// What programs in other languages copy: the parts of the crate's own scripts in one file.
    #[test]
    fn the_script_for_other_languages_is_made_of_these_parts() {
        let head = include_str!("elsewhere_head.lua");
        let parts = [
            EVEN_WHEN_FULL,
            head,
            CHECKED,
            CLOCK,
            EPOCH,
            TAG_LIST,
            include_str!("elsewhere.lua"),
        ];
        let script = parts.concat();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = root.join("examples/other_languages/invalidate.lua");
        if fs::read_to_string(&file).unwrap_or_default() != script {
            let made = std::env::temp_dir().join("invalidate.lua");
            fs::write(&made, &script).unwrap();
            panic!(
                "{} is another one: copy {} there",
                file.display(),
                made.display()
            );
        }
        let page = include_str!("../../other_languages.md");
        let sha = deadpool_redis::redis::Script::new(&script);
        let sha = sha.get_hash();
        assert!(page.contains(&format!("`{sha}`")), "the SHA1 is {sha}");
    }

    /// By its line in the script an error is given the name of the command.
    #[test]
    fn a_line_of_a_script_calls_one_command() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/l2/redis");
        let paths = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path());
        let scripts = paths.filter(|path| path.extension().is_some_and(|end| end == "lua"));
        let mut calls = 0;
        for script in scripts.map(|path| fs::read_to_string(path).unwrap()) {
            for line in script.lines().filter(|line| line.contains("redis.call")) {
                let commands = line.split("redis.call(").skip(1);
                let commands: BTreeSet<_> = commands.map(|call| call.split('\'').nth(1)).collect();
                assert!(commands.len() == 1 && !commands.contains(&None), "{line}");
                calls += 1;
            }
        }
        assert!(calls > 40, "{calls}");
    }
}
