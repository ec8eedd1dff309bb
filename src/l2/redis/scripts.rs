//! The Lua scripts. Each script is one atomic step, and every key that it touches is declared to it, but for the keys
//! of a heartbeat that is for several partitions, and of a look at the clocks of all partitions.

use super::script_call::LuaScript;

/// A write that removes data must work when memory is full, or a full Redis would keep stale values. A script with this
/// line is also refused by a replica, and by a primary without the replicas that it must have, even if it only reads.
pub(super) const ALLOW_OOM: &str = "#!lua flags=allow-oom\n";
/// As [`ALLOW_OOM`], for several partitions, which have other slots in a cluster.
const ALLOW_OOM_AND_SLOTS: &str = "#!lua flags=allow-oom,allow-cross-slot-keys\n";
/// Without a first line that begins so, a script runs as the commands that it calls may.
pub(super) const NO_FLAGS: &str = "";

/// Declares scripts: the flags, the files of `lua` that a script begins with, one after the other, and its own file.
macro_rules! lua {
    ($($name:ident: $flags:ident [$($part:ident)*] $own:ident;)*) => {$(
        // The text is hashed at its first use, once in a process: most programs run only some of the scripts.
        pub(crate) static $name: std::sync::LazyLock<LuaScript> = std::sync::LazyLock::new(|| LuaScript::new(&[
            $flags,
            $(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/src/l2/redis/lua/parts/", stringify!($part), ".lua"
            )),)*
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/src/l2/redis/lua/", stringify!($own), ".lua"
            )),
        ]));
    )*};
}
#[cfg(any(feature = "inspect", feature = "write-behind"))]
pub(super) use lua;

lua! {
    ACQUIRE_LEASE: ALLOW_OOM [checked clock layout values lease mark] acquire_lease;
    FILL: NO_FLAGS [checked clock send publish layout stamp values lease lease_of_load staged tag_list tags body_tags] fill;
    REVALIDATE: NO_FLAGS
        [checked clock send publish layout stamp values stored lease lease_of_load staged tag_list tags body_tags] revalidate;
    RENEW_LEASE: NO_FLAGS [checked clock send lease lease_of_load] renew_lease;
    INSERT: NO_FLAGS [checked clock send publish layout stamp staged tag_list tags body_tags] insert;
    INSERT_IF: NO_FLAGS
        [checked clock send publish layout stamp values stored staged tag_list tags body_tags once version] insert_if;
    EXPIRE: ALLOW_OOM [checked clock send publish layout values stored] expire;
    TOUCH: ALLOW_OOM [checked clock send publish layout stamp values stored staged tag_list tags body_tags] touch;
    INVALIDATE: ALLOW_OOM [checked clock send publish member_list mark] invalidate;
    INVALIDATE_TAGS: ALLOW_OOM [checked clock send publish tag_list tag_invalidation] invalidate_tags;
    TAG_VERSIONS: NO_FLAGS [checked clock tag_list tags] tag_versions;
    SWITCH: ALLOW_OOM [checked clock] switch;
    CLEAR: ALLOW_OOM [checked clock send publish epoch] clear;
    END_LEASES: ALLOW_OOM [checked clock send publish] end_leases;
    REMOVE: ALLOW_OOM [checked clock layout values stored] remove;
    IDENTIFY: ALLOW_OOM [checked clock incarnation member_list beat] identify;
    PARTITIONS: ALLOW_OOM [checked named_partitions] partitions;
    NUMBERS: NO_FLAGS [checked named_partitions] numbers;
    MEMBERS: ALLOW_OOM [checked member_list] members;
    FORGET: ALLOW_OOM [checked] forget;
    SWEEP: ALLOW_OOM [checked member_list] sweep;
    STORE_COUNTS: ALLOW_OOM [checked clock bypassed] store_counts;
    NOTE: ALLOW_OOM_AND_SLOTS [checked member_list for_partition] note;
    HEARTBEAT: NO_FLAGS [checked clock incarnation member_list beat for_partition] heartbeat;
    // Of an unnamed incarnation. `EVALSHA_RO` refuses a script with these flags, and a full Redis the writes of one without.
    WRITING_HEARTBEAT: ALLOW_OOM_AND_SLOTS
        [checked clock incarnation member_list beat for_partition] heartbeat;
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
        let parts = [
            ALLOW_OOM,
            include_str!("lua/other_languages_head.lua"),
            include_str!("lua/parts/checked.lua"),
            include_str!("lua/parts/clock.lua"),
            include_str!("lua/parts/send.lua"),
            include_str!("lua/parts/publish.lua"),
            include_str!("lua/parts/epoch.lua"),
            include_str!("lua/parts/tag_list.lua"),
            include_str!("lua/parts/tag_invalidation.lua"),
            include_str!("lua/parts/named_partitions.lua"),
            include_str!("lua/other_languages.lua"),
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
    fn numbers_are_those_of_rust() {
        use crate::l2::LOG_ENTRIES;
        use crate::vocabulary::MAX_PARTITIONS;
        use crate::wire::envelope::{
            BODY_AT, MAX_TAGS, MAX_VALUES, PAYLOAD_AT, PAYLOAD_LENGTH_AT, TAGS_LENGTH_AT,
            TYPE_TAG_AT,
        };

        let head = BODY_AT + PAYLOAD_AT;
        let type_tag = BODY_AT + TYPE_TAG_AT;
        for (part, text) in [
            (
                include_str!("lua/parts/body_tags.lua"),
                format!("MAX_TAGS = {MAX_TAGS}\n"),
            ),
            (
                include_str!("lua/parts/body_tags.lua"),
                format!("head, {})", BODY_AT + TAGS_LENGTH_AT + 1),
            ),
            (
                include_str!("lua/parts/body_tags.lua"),
                format!("body, {})", TAGS_LENGTH_AT + 1),
            ),
            (
                include_str!("lua/parts/values.lua"),
                format!("MAX_VALUES = {MAX_VALUES}\n"),
            ),
            (
                include_str!("lua/parts/layout.lua"),
                format!("offset + {head})"),
            ),
            (
                include_str!("lua/parts/layout.lua"),
                format!("#head == {head} "),
            ),
            (
                include_str!("lua/parts/layout.lua"),
                format!("head, {})", BODY_AT + TAGS_LENGTH_AT + 1),
            ),
            (
                include_str!("lua/parts/layout.lua"),
                format!("head, {})", BODY_AT + PAYLOAD_LENGTH_AT + 1),
            ),
            (
                include_str!("lua/parts/layout.lua"),
                format!("head, {}, {})", type_tag + 1, type_tag + 8),
            ),
            (
                include_str!("lua/parts/version.lua"),
                format!("body, {}, {})", TYPE_TAG_AT + 1, TYPE_TAG_AT + 8),
            ),
            (
                include_str!("lua/parts/stored.lua"),
                format!("offset + {})", head - 1),
            ),
            (
                include_str!("lua/parts/stored.lua"),
                format!("offset + {BODY_AT},"),
            ),
            (
                include_str!("lua/parts/publish.lua"),
                format!("'MAXLEN', '~', '{LOG_ENTRIES}'"),
            ),
            (
                include_str!("lua/identify.lua"),
                format!("MAX_PARTITIONS = {MAX_PARTITIONS}\n"),
            ),
            (
                include_str!("lua/parts/named_partitions.lua"),
                format!("MAX_PARTITIONS = {MAX_PARTITIONS}\n"),
            ),
        ] {
            assert!(part.contains(&text), "no {text}");
        }
    }

    /// By its line in the script an error is given the name of the command.
    #[test]
    fn a_line_of_a_script_calls_one_command() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/l2/redis/lua");
        let files = ["", "parts"].map(|part| fs::read_dir(folder.join(part)).unwrap());
        let paths = files.into_iter().flatten().map(|file| file.unwrap().path());
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
