//! What rules that the scripts keep are for: without the line that keeps one, a promise breaks. The crate ships its
//! scripts without marks: the server changes their texts when it loads them.

use std::sync::Mutex;
use std::thread;

use simulated_redis::{Edit, edit_scripts};

use crate::config::Config;
use crate::history::Invariant::{self, *};
use crate::world;

/// Tried at most, to see a promise break.
const SEEDS: u64 = 60;
const THREADS: usize = 2;

/// A part of a rule.
struct Part {
    what: &'static str,
    rule: u8,
    /// The promise that is certain to break without it.
    promise: Invariant,
    file: &'static str,
    line: &'static str,
    /// What takes the place of the line.
    new: &'static str,
}

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("../../../../src/l2/redis/", $name))
    };
}

const PARTS: &[Part] = &[
    Part {
        what: "an invalidation ends leases",
        rule: 1,
        promise: I2NoResurrection,
        file: file!("invalidate.lua"),
        line: "  redis.call('DEL', unpack(KEYS, 4, #KEYS - holds))",
        new: "  for i = 4, #KEYS - holds, 2 do redis.call('DEL', KEYS[i]) end",
    },
    Part {
        what: "a lease has a token of its own",
        rule: 1,
        promise: I2NoResurrection,
        file: file!("lease.lua"),
        line: "  local pattern = '(%d+):(%d+):' .. token .. ':%x+:()%d+(%+?)(&?)()'",
        new: "  local pattern = '(%d+):(%d+):%d+:%x+:()%d+(%+?)(&?)()'",
    },
    Part {
        what: "an invalidation deletes in the step that publishes",
        rule: 2,
        promise: I1Bound,
        file: file!("invalidate.lua"),
        line: "  redis.call('DEL', unpack(KEYS, 4, #KEYS - holds))",
        new: "  for i = 4, #KEYS - holds do redis.call('PEXPIRE', KEYS[i], 15) end",
    },
    Part {
        what: "a value is of the present epoch",
        rule: 11,
        promise: I1Bound,
        file: file!("values.lua"),
        line: "  if of and of == epoch and ver <= issued then",
        new: "  if of then",
    },
    Part {
        what: "a fill has a lease of its epoch",
        rule: 13,
        promise: I2NoResurrection,
        file: file!("standing.lua"),
        line: "  if of and present == tonumber(epoch) and stands(clock, present, of, began) then",
        new: "  if of then",
    },
    Part {
        what: "another incarnation begins an epoch",
        rule: 13,
        promise: I1Bound,
        file: file!("run.lua"),
        line: "  epoch = tonumber(ARGV[2])",
        new: "",
    },
    Part {
        what: "an insert ends leases",
        rule: 14,
        promise: I2NoResurrection,
        file: file!("insert.lua"),
        line: "redis.call('DEL', unpack(KEYS, 3 + values, 2 + 2 * values))",
        new: "",
    },
    Part {
        what: "an insert is refused after its deadline",
        rule: 14,
        promise: I2NoResurrection,
        file: file!("insert.lua"),
        line: "if ARGV[4] ~= '' and at > tonumber(ARGV[4]) or not are_staged(staged) then",
        new: "if not are_staged(staged) then",
    },
    Part {
        what: "no lease is granted during a hold",
        rule: 15,
        promise: I2NoResurrection,
        file: file!("acquire_lease.lua"),
        line: "if hold and (written or redis.call('PTTL', KEYS[3]) >= 0) then",
        new: "if hold and written then",
    },
    Part {
        what: "all members are waited for",
        rule: 16,
        promise: I1Bound,
        file: file!("members.lua"),
        line: "return {generation, known}",
        new: "return {generation, {}}",
    },
    Part {
        what: "`END_LEASES` ends leases",
        rule: 17,
        promise: I1Bound,
        file: file!("end_leases.lua"),
        line: "redis.call('HSET', KEYS[1], 'leases', struct.pack('>I8I8', epoch, ver))",
        new: "",
    },
    Part {
        what: "what is removed by its prefix has an earlier version",
        rule: 17,
        promise: I1Bound,
        file: file!("remove.lua"),
        line: "      is_earlier = is_earlier or present == before and ver < below",
        new: "",
    },
    Part {
        what: "no fill after an invalidation of its tag",
        rule: 20,
        promise: I2NoResurrection,
        file: file!("fill.lua"),
        line: "if any_after(tags, began) or not are_staged(staged) then",
        new: "if not are_staged(staged) then",
    },
    Part {
        what: "a tag version that is made again is late enough",
        rule: 20,
        promise: I1Bound,
        file: file!("tags.lua"),
        line: "      ver = ver or at and struct.unpack('>I8', list, at + 16) or lacking",
        new: "      ver = ver or 0",
    },
    Part {
        what: "a mark holds loads off while a write waits",
        rule: 24,
        promise: I1Bound,
        file: file!("append.lua"),
        line: "write_mark(KEYS[3], id, held_till(KEYS[3], at), epoch, ver)",
        new: "",
    },
    Part {
        what: "a settled write invalidates what is not its own",
        rule: 24,
        promise: I1Bound,
        file: file!("settle.lua"),
        line: "      redis.call('DEL', value, lease)",
        new: "",
    },
    Part {
        what: "an update finds the version that it was made of",
        rule: 25,
        promise: I10NoLostUpdate,
        file: file!("append.lua"),
        line: "  if other then",
        new: "  if false then",
    },
    Part {
        what: "lanes are not used after others took their place",
        rule: 27,
        promise: I1Bound,
        file: file!("clock.lua"),
        line: "    refuse_lane(lanes)",
        new: "",
    },
    Part {
        what: "a node that may have lost data asks how many lanes there are",
        rule: 27,
        promise: I1Bound,
        file: file!("run.lua"),
        line: "  if ARGV[3] == '?' then",
        new: "  if false then",
    },
    Part {
        what: "an epoch goes on with a proof of the handover",
        rule: 28,
        promise: I1Bound,
        file: file!("run.lua"),
        line: "  elseif former ~= '' and ARGV[3] == former .. ' ' .. string.match(run, ':(%x+)$') then",
        new: "  elseif former ~= '' then",
    },
    Part {
        what: "a fill that is published ends the loads of other types",
        rule: 29,
        promise: I2NoResurrection,
        file: file!("fill.lua"),
        line: "  mark, leases = string.find(leases, '+', 1, true) and '+' or mark, ''",
        new: "",
    },
];

/// The table of the protocol.
#[test]
fn the_protocol_lists_the_parts() {
    let text = include_str!("../../../../src/protocol.md");
    for part in PARTS {
        let row = format!("| {} | {} | `{:?}` |", part.rule, part.what, part.promise);
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
#[ignore = "long: see tests/proof.sh"]
fn no_rule_of_the_scripts_is_idle() {
    let (queue, idle) = (Mutex::new(PARTS.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(part) = next else {
                        break;
                    };
                    let breaks = |seed: &u64| {
                        let config = Config::against(part.rule, *seed);
                        let violations = world::run(*seed, &config).violations;
                        let mut broken = violations.iter().map(|violation| violation.invariant);
                        broken.any(|invariant| invariant == part.promise)
                    };
                    edit_scripts(Some(Edit::line(part.file, part.line, part.new)));
                    let found = (0..SEEDS).find(breaks);
                    edit_scripts(None);
                    if let Some(seed) = found {
                        assert!(!breaks(&seed), "with {:?}, too", part.what);
                    }
                    match found {
                        Some(seed) => {
                            println!(
                                "without {:?}, {:?} breaks in world {seed}",
                                part.what, part.promise
                            );
                        }
                        None => idle.lock().unwrap().push(part.what),
                    }
                }
            });
        }
    });
    let idle = idle.into_inner().unwrap();
    assert!(idle.is_empty(), "nothing breaks without {idle:?}");
}
