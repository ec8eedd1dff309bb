//! What rules that the scripts keep are for: without the line that keeps one, a promise breaks. The crate ships its
//! scripts without marks: the server changes their texts when it loads them.

use std::sync::Mutex;
use std::thread;

use simulated_redis::{Edit, edit_scripts};

use crate::config::Config;
use crate::history::Invariant::{self, *};
use crate::{supported, world};

/// Tried at most, to see a promise break.
const SEEDS: u64 = 30;
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
        what: "an insert ends leases",
        rule: 14,
        promise: I2NoResurrection,
        file: file!("insert.lua"),
        line: "redis.call('DEL', unpack(KEYS, 3 + values, 2 + 2 * values))",
        new: "",
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
        what: "a value is of the present epoch",
        rule: 11,
        promise: I1Bound,
        file: file!("values.lua"),
        line: "  if of and of == epoch and ver <= issued then",
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
        what: "END_LEASES ends leases",
        rule: 17,
        promise: I1Bound,
        file: file!("end_leases.lua"),
        line: "redis.call('HSET', KEYS[1], 'leases', struct.pack('>I8I8', epoch, ver))",
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
        what: "a tag version is one of the present epoch",
        rule: 20,
        promise: I1Bound,
        file: file!("tags.lua"),
        line: "    held[i] = of == epoch and ver <= issued and ver",
        new: "    held[i] = ver",
    },
    Part {
        what: "an awaited invalidation knows the members",
        rule: 16,
        promise: I1Bound,
        file: file!("invalidate.lua"),
        line: "if string.byte(ARGV[3]) == 3 then",
        new: "if false then",
    },
    Part {
        what: "a shorter lifetime is published",
        rule: 19,
        promise: I1Bound,
        file: file!("touch.lua"),
        line: "  _, change = publish(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])",
        new: "",
    },
    Part {
        what: "an extension is never shorter",
        rule: 19,
        promise: I2NoResurrection,
        file: file!("touch.lua"),
        line: "if not tags or not is_valid(4, #KEYS, epoch, ver) then",
        new: "if not tags then",
    },
    Part {
        what: "a late copy of an insert on a condition does nothing",
        rule: 14,
        promise: I2NoResurrection,
        file: file!("insert_if.lua"),
        line: "if done then",
        new: "if false then",
    },
    Part {
        what: "a value that is removed by its prefix has an earlier version",
        rule: 17,
        promise: I1Bound,
        file: file!("remove.lua"),
        line: "      is_earlier = is_earlier or present == before and ver < below",
        new: "",
    },
    Part {
        what: "a fill that is published ends the loads of other types",
        rule: 29,
        promise: I2NoResurrection,
        file: file!("fill.lua"),
        line: "  mark, leases = string.find(leases, '+', 1, true) and '+' or mark, ''",
        new: "",
    },
    Part {
        what: "a clear begins an epoch",
        rule: 5,
        promise: I1Bound,
        file: file!("epoch.lua"),
        line: "  set_position(key, rnd, seq, ver)",
        new: "",
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
];

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
                    edit_scripts(Some(Edit::line(part.file, part.line, part.new)));
                    let found = (0..SEEDS).find_map(|seed| {
                        let config = supported(Config::against(part.rule, seed));
                        let violations = world::run(seed, &config).violations;
                        let mut broken = violations.iter().map(|violation| violation.invariant);
                        broken.find(|invariant| *invariant == part.promise)?;
                        Some(seed)
                    });
                    edit_scripts(None);
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
