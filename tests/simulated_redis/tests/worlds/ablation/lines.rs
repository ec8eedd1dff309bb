//! What scripts keep. The crate ships them without marks: the server changes a line when it loads a script.

use crate::history::Invariant::{self, *};

/// A line of a script, which keeps a part of a rule.
pub(super) struct Line {
    pub(super) what: &'static str,
    pub(super) rule: u8,
    /// The promise that is certain to break without it.
    pub(super) promise: Invariant,
    /// Its name, and its text.
    pub(super) file: (&'static str, &'static str),
    pub(super) text: &'static str,
    /// What takes the place of the line.
    pub(super) new: &'static str,
}

macro_rules! file {
    ($name:literal) => {
        file!("", $name)
    };
    ($folder:literal, $name:literal) => {
        (
            $name,
            include_str!(concat!("../../../../../src/l2/redis/lua/", $folder, $name)),
        )
    };
}

pub(super) const LINES: &[Line] = &[
    Line {
        what: "an invalidation ends leases",
        rule: 1,
        promise: I2NoResurrection,
        file: file!("invalidate.lua"),
        text: "  redis.call('DEL', unpack(KEYS, COMMON_KEYS + 1, last_lease))",
        new: "  for i = COMMON_KEYS + 1, last_lease, 2 do redis.call('DEL', KEYS[i]) end",
    },
    Line {
        what: "a lease has a token of its own",
        rule: 1,
        promise: I2NoResurrection,
        file: file!("parts/", "lease_of_load.lua"),
        text: "    if its_token == token and tonumber(ends_at) > time() then",
        new: "    if tonumber(ends_at) > time() then",
    },
    Line {
        what: "an invalidation deletes in the step that publishes",
        rule: 2,
        promise: I1Bound,
        file: file!("invalidate.lua"),
        text: "  redis.call('DEL', unpack(KEYS, COMMON_KEYS + 1, last_lease))",
        new: "  for i = COMMON_KEYS + 1, last_lease, 2 do redis.call('PEXPIRE', KEYS[i], 15) redis.call('DEL', KEYS[i + 1]) end",
    },
    Line {
        what: "a value is of the present epoch",
        rule: 11,
        promise: I1Bound,
        file: file!("parts/", "values.lua"),
        text: "  if epoch and epoch == present_epoch and ver <= issued then",
        new: "  if epoch then",
    },
    Line {
        what: "a fill has a lease of its epoch",
        rule: 13,
        promise: I2NoResurrection,
        file: file!("parts/", "lease_of_load.lua"),
        text: "  if epoch and present_epoch == tonumber(lease_epoch) and stands(clock_key, present_epoch, epoch, granted_at) then",
        new: "  if epoch then",
    },
    Line {
        what: "another incarnation begins an epoch",
        rule: 13,
        promise: I1Bound,
        file: file!("identify.lua"),
        text: "  begins_epoch = begins_epoch or not is_handover",
        new: "",
    },
    Line {
        what: "an insert ends leases",
        rule: 14,
        promise: I2NoResurrection,
        file: file!("insert.lua"),
        text: "redis.call('DEL', unpack(keys, first_lease, first_lease + value_count - 1))",
        new: "",
    },
    Line {
        what: "an insert is refused after its deadline",
        rule: 14,
        promise: I2NoResurrection,
        file: file!("insert.lua"),
        text: "if has_passed(deadline) or not are_staged(next_staged) then",
        new: "if not are_staged(next_staged) then",
    },
    Line {
        what: "no lease is granted during a hold",
        rule: 15,
        promise: I2NoResurrection,
        file: file!("acquire_lease.lua"),
        text: "  return redis.call('PTTL', hold_key) >= 0",
        new: "  return false",
    },
    Line {
        what: "all members are waited for",
        rule: 16,
        promise: I1Bound,
        file: file!("members.lua"),
        text: "return {generation, members}",
        new: "return {generation, {}}",
    },
    Line {
        what: "`END_LEASES` ends leases",
        rule: 17,
        promise: I1Bound,
        file: file!("end_leases.lua"),
        text: "redis.call('HSET', clock_key, 'leases', struct.pack('>I8I8', epoch, ver))",
        new: "",
    },
    Line {
        what: "what is removed by its prefix has an earlier version",
        rule: 17,
        promise: I1Bound,
        file: file!("remove.lua"),
        text: "      is_earlier = is_earlier or present_epoch == epoch and its_ver < ver",
        new: "",
    },
    Line {
        what: "no fill after an invalidation of its tag",
        rule: 20,
        promise: I2NoResurrection,
        file: file!("fill.lua"),
        text: "  if any_after(tags, granted_at) or not are_staged(first_staged) then",
        new: "  if not are_staged(first_staged) then",
    },
    Line {
        what: "a tag version is of the present epoch",
        rule: 20,
        promise: I2NoResurrection,
        file: file!("parts/", "tags.lua"),
        text: "    versions[i] = epoch == present_epoch and ver <= highest and ver",
        new: "    versions[i] = epoch and ver",
    },
    Line {
        what: "a tag version that is made again is late enough",
        rule: 20,
        promise: I1Bound,
        file: file!("parts/", "tags.lua"),
        text: "      ver = ver or from and struct.unpack('>I8', list, from + TAG_HASH_LENGTH) or last_lacking",
        new: "      ver = ver or 0",
    },
    Line {
        what: "a mark holds loads off while a write waits",
        rule: 24,
        promise: I1Bound,
        file: file!("append.lua"),
        text: "write_mark(hold_key, id, read_held_until(hold_key), epoch, ver)",
        new: "",
    },
    Line {
        what: "a settled write invalidates what is not its own",
        rule: 24,
        promise: I1Bound,
        file: file!("settle.lua"),
        text: "      redis.call('DEL', value_key, lease_key)",
        new: "",
    },
    Line {
        what: "an update finds the version that it was made of",
        rule: 25,
        promise: I10NoLostUpdate,
        file: file!("append.lua"),
        text: "  if other then",
        new: "  if false then",
    },
    Line {
        what: "partitions are not used after others took their place",
        rule: 27,
        promise: I1Bound,
        file: file!("parts/", "clock.lua"),
        text: "    refuse_partition(partitions)",
        new: "",
    },
    Line {
        what: "a node that may have lost data asks how many partitions there are",
        rule: 27,
        promise: I1Bound,
        file: file!("identify.lua"),
        text: "  if proof == ASK_FOR_PROOF then",
        new: "  if false then",
    },
    Line {
        what: "an epoch goes on with a proof of the handover",
        rule: 28,
        promise: I1Bound,
        file: file!("identify.lua"),
        text: "  local is_handover = may_continue and proof == stored_run .. ' ' .. history_of(run)",
        new: "  local is_handover = may_continue",
    },
    Line {
        what: "a fill that is published ends the loads of other types",
        rule: 29,
        promise: I2NoResurrection,
        file: file!("fill.lua"),
        text: "    awaited, others = string.find(others, AWAITED, 1, true) and AWAITED or awaited, ''",
        new: "",
    },
];
