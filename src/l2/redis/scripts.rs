//! The Lua scripts. Each is one atomic step, and every key that it touches is declared to it.

use super::call::Lua;

/// Each script begins with this.
pub(super) const CHECKED: &str = include_str!("checked.lua");
/// Or with this: a write that removes data must work when memory is full, or a full Redis would keep stale values. A script
/// with this line is also refused by a replica, and by a primary without the replicas that it must have, even if it only
/// reads.
pub(super) const ALLOW_OOM: &str = concat!("#!lua flags=allow-oom\n", include_str!("checked.lua"));
pub(super) const CLOCK: &str = include_str!("clock.lua");
const LEASE: &str = include_str!("lease.lua");
const LIFE: &str = include_str!("life.lua");
const LIST: &str = include_str!("list.lua");
pub(super) const MARK: &str = include_str!("mark.lua");
pub(super) const STAGED: &str = include_str!("staged.lua");
const EPOCH: &str = include_str!("epoch.lua");
pub(super) const VERSION: &str = include_str!("version.lua");
const TAG_LIST: &str = include_str!("tag_list.lua");
pub(super) const TAGS: &str = concat!(include_str!("tag_list.lua"), include_str!("tags.lua"));

// A static hashes its text at its first use, once in a process, and not once for each cache.
pub(super) static LEAD: Lua = Lua::new(&[ALLOW_OOM, CLOCK, LEASE, MARK], include_str!("lead.lua"));
pub(super) static FILL: Lua = Lua::new(
    &[CHECKED, CLOCK, LEASE, STAGED, TAGS],
    include_str!("fill.lua"),
);
pub(super) static REVALIDATE: Lua = Lua::new(
    &[CHECKED, CLOCK, LEASE, STAGED, TAGS],
    include_str!("revalidate.lua"),
);
pub(super) static RENEW: Lua = Lua::new(&[CHECKED, LEASE], include_str!("renew.lua"));
pub(super) static INSERT: Lua =
    Lua::new(&[CHECKED, CLOCK, STAGED, TAGS], include_str!("insert.lua"));
pub(super) static INSERT_IF: Lua = Lua::new(
    &[CHECKED, CLOCK, STAGED, TAGS, VERSION],
    include_str!("insert_if.lua"),
);
pub(super) static EXPIRE: Lua = Lua::new(&[ALLOW_OOM, CLOCK], include_str!("expire.lua"));
pub(super) static TOUCH: Lua =
    Lua::new(&[ALLOW_OOM, CLOCK, STAGED, TAGS], include_str!("touch.lua"));
pub(super) static INVALIDATE: Lua = Lua::new(
    &[ALLOW_OOM, CLOCK, LIST, MARK],
    include_str!("invalidate.lua"),
);
pub(super) static INVALIDATE_TAGS: Lua = Lua::new(
    &[ALLOW_OOM, CLOCK, TAG_LIST],
    include_str!("invalidate_tags.lua"),
);
pub(super) static CLEAR: Lua = Lua::new(&[ALLOW_OOM, CLOCK, EPOCH], include_str!("clear.lua"));
pub(super) static UNLEASE: Lua = Lua::new(&[ALLOW_OOM, CLOCK], include_str!("unlease.lua"));
pub(super) static REMOVE: Lua = Lua::new(&[ALLOW_OOM, CLOCK], include_str!("remove.lua"));
pub(super) static RUN: Lua = Lua::new(&[ALLOW_OOM, CLOCK, LIFE, LIST], include_str!("run.lua"));
pub(super) static MEMBERS: Lua = Lua::new(&[ALLOW_OOM, LIST], include_str!("members.lua"));
pub(super) static FORGET: Lua = Lua::new(&[ALLOW_OOM], include_str!("forget.lua"));
pub(super) static COUNT: Lua = Lua::new(&[CHECKED, CLOCK], include_str!("count.lua"));
pub(super) static NOTE: Lua = Lua::new(&[ALLOW_OOM, LIST], include_str!("note.lua"));
pub(super) static HEARTBEAT: Lua = Lua::new(&[CHECKED, CLOCK, LIFE], include_str!("heartbeat.lua"));

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
            "#!lua flags=allow-oom\n",
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
