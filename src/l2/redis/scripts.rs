//! The Lua scripts. Each script is one atomic step, and every key that it touches is declared to it, but for the keys
//! of a heartbeat that is for several partitions, and of a look at the clocks of all partitions.

use super::call::Lua;

/// Each script begins with this.
pub(super) const CHECKED: &str = include_str!("lua/checked.lua");
/// Or with this: a write that removes data must work when memory is full, or a full Redis would keep stale values. A
/// script with this line is also refused by a replica, and by a primary without the replicas that it must have, even if
/// it only reads.
pub(super) const ALLOW_OOM: &str =
    concat!("#!lua flags=allow-oom\n", include_str!("lua/checked.lua"));
/// As [`ALLOW_OOM`], for several partitions, which have other slots in a cluster.
const ALLOW_OOM_AND_SLOTS: &str = concat!(
    "#!lua flags=allow-oom,allow-cross-slot-keys\n",
    include_str!("lua/checked.lua")
);
const EACH: &str = include_str!("lua/each.lua");
pub(super) const CLOCK: &str = concat!(include_str!("lua/send.lua"), include_str!("lua/clock.lua"));
pub(super) const STAMP: &str = include_str!("lua/stamp.lua");
const VALUES: &str = include_str!("lua/values.lua");
pub(super) const STORED: &str = concat!(
    include_str!("lua/values.lua"),
    include_str!("lua/stored.lua")
);
const LEASE: &str = include_str!("lua/lease.lua");
const STANDING: &str = concat!(
    include_str!("lua/lease.lua"),
    include_str!("lua/standing.lua")
);
pub(super) const INCARNATION: &str = include_str!("lua/incarnation.lua");
const LIST: &str = include_str!("lua/list.lua");
const NAMED_PARTITIONS: &str = include_str!("lua/named_partitions.lua");
pub(super) const MARK: &str = include_str!("lua/mark.lua");
pub(super) const STAGED: &str = include_str!("lua/staged.lua");
const EPOCH: &str = include_str!("lua/epoch.lua");
pub(super) const VERSION: &str = include_str!("lua/version.lua");
pub(super) const BYPASSED: &str = include_str!("lua/bypassed.lua");
const TAG_LIST: &str = include_str!("lua/tag_list.lua");
pub(super) const TAGS: &str = concat!(
    include_str!("lua/tag_list.lua"),
    include_str!("lua/tags.lua")
);

/// Declares scripts: each of shared parts, and a part of its own in a file.
macro_rules! lua {
    ($($name:ident: [$($part:expr),*], $own:literal;)*) => {$(
        // The text is hashed at its first use, once in a process: most programs run only some of the scripts.
        pub(super) static $name: std::sync::LazyLock<Lua> =
            std::sync::LazyLock::new(|| Lua::new(&[$($part,)* include_str!($own)]));
    )*};
}
#[cfg(any(feature = "inspect", feature = "write-behind"))]
pub(super) use lua;

lua! {
    ACQUIRE_LEASE: [ALLOW_OOM, CLOCK, VALUES, LEASE, MARK], "lua/acquire_lease.lua";
    FILL: [CHECKED, CLOCK, STAMP, VALUES, STANDING, STAGED, TAGS], "lua/fill.lua";
    REVALIDATE: [CHECKED, CLOCK, STAMP, STORED, STANDING, STAGED, TAGS], "lua/revalidate.lua";
    RENEW_LEASE: [CHECKED, CLOCK, LEASE], "lua/renew_lease.lua";
    INSERT: [CHECKED, CLOCK, STAMP, STAGED, TAGS], "lua/insert.lua";
    INSERT_IF: [CHECKED, CLOCK, STAMP, STORED, STAGED, TAGS, VERSION], "lua/insert_if.lua";
    EXPIRE: [ALLOW_OOM, CLOCK, STORED], "lua/expire.lua";
    TOUCH: [ALLOW_OOM, CLOCK, STAMP, STORED, STAGED, TAGS], "lua/touch.lua";
    INVALIDATE: [ALLOW_OOM, CLOCK, LIST, MARK], "lua/invalidate.lua";
    INVALIDATE_TAGS: [ALLOW_OOM, CLOCK, TAG_LIST], "lua/invalidate_tags.lua";
    TAG_VERSIONS: [CHECKED, CLOCK, TAGS], "lua/tag_versions.lua";
    SWITCH: [ALLOW_OOM, CLOCK], "lua/switch.lua";
    CLEAR: [ALLOW_OOM, CLOCK, EPOCH], "lua/clear.lua";
    END_LEASES: [ALLOW_OOM, CLOCK], "lua/end_leases.lua";
    REMOVE: [ALLOW_OOM, CLOCK, STORED], "lua/remove.lua";
    RUN: [ALLOW_OOM, CLOCK, INCARNATION, LIST], "lua/run.lua";
    PARTITIONS: [ALLOW_OOM, NAMED_PARTITIONS], "lua/partitions.lua";
    NUMBERS: [CHECKED, NAMED_PARTITIONS], "lua/numbers.lua";
    MEMBERS: [ALLOW_OOM, LIST], "lua/members.lua";
    FORGET: [ALLOW_OOM], "lua/forget.lua";
    SWEEP: [ALLOW_OOM, LIST], "lua/sweep.lua";
    STORE_COUNTS: [ALLOW_OOM, CLOCK, BYPASSED], "lua/store_counts.lua";
    NOTE: [ALLOW_OOM_AND_SLOTS, LIST, EACH], "lua/note.lua";
    HEARTBEAT: [CHECKED, CLOCK, INCARNATION, LIST, EACH], "lua/heartbeat.lua";
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
        let head = include_str!("lua/elsewhere_head.lua");
        let parts = [
            "#!lua flags=allow-oom\n",
            head,
            CHECKED,
            CLOCK,
            EPOCH,
            TAG_LIST,
            NAMED_PARTITIONS,
            include_str!("lua/elsewhere.lua"),
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

    /// Lua cannot read the constants of Rust.
    #[test]
    fn limits_are_those_of_the_envelope() {
        use crate::wire::envelope::{MAX_TAGS, MOST_VALUES};

        for (part, name, limit) in [
            (TAGS, "MOST_TAGS", MAX_TAGS),
            (VALUES, "MOST_VALUES", MOST_VALUES),
        ] {
            let line = format!("\nlocal {name} = {limit}\n");
            assert!(part.contains(&line), "{name} is not {limit}");
        }
    }

    #[test]
    fn the_log_is_as_long_in_both_stores() {
        let trim = format!("'MAXLEN', '~', '{}'", crate::l2::LOG_ENTRIES);
        assert!(CLOCK.contains(&trim), "no {trim}");
    }

    /// By its line in the script an error is given the name of the command.
    #[test]
    fn a_line_of_a_script_calls_one_command() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/l2/redis/lua");
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
