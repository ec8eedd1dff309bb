//! What the scripts of partitions and members answer, and what they leave behind. Instances of several releases and
//! programs in other languages use one server: they rely on all fields of an answer, and on what lies under the keys.

use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{FromRedisValue, RedisError, cmd};
use larder::l2::{Kind, StoredCounts};
use larder_store_tests::steps::Steps;
use tokio::time::sleep;

use super::{own_key, run};
use crate::store::*;

macro_rules! script {
    ($($file:literal)+) => {
        concat!($(include_str!(concat!("../../../src/l2/redis/lua/", $file, ".lua"))),+)
    };
}

const IDENTIFY: &str =
    script!("parts/checked" "parts/clock" "parts/incarnation" "parts/member_list" "identify");
const HEARTBEAT: &str = script!("parts/checked" "parts/clock" "parts/incarnation" "parts/member_list" "parts/for_partition" "heartbeat");
const NOTE: &str = script!("parts/checked" "parts/member_list" "parts/for_partition" "note");
const PARTITIONS: &str = script!("parts/checked" "parts/named_partitions" "partitions");
const NUMBERS: &str = script!("parts/checked" "parts/named_partitions" "numbers");
const MEMBERS: &str = script!("parts/checked" "parts/member_list" "members");
const SWEEP: &str = script!("parts/checked" "parts/member_list" "sweep");
const STORE_COUNTS: &str = script!("parts/checked" "parts/clock" "parts/bypassed" "store_counts");

/// Numbers from here on have gaps in Lua.
const BOUND: u64 = 1 << 53;

/// What IDENTIFY answers.
type Found = (u64, u64, u64, u64, u64, u64, String, String, u64, u64, u64);
/// What HEARTBEAT answers for a partition.
type Row = [u64; 7];

async fn try_step<T: FromRedisValue>(
    raw: &mut MultiplexedConnection,
    script: &str,
    keys: &[&str],
    args: &[&str],
) -> Result<T, RedisError> {
    let mut eval = cmd("EVAL");
    eval.arg(script).arg(keys.len()).arg(keys).arg(args);
    eval.query_async(raw).await
}

async fn step<T: FromRedisValue>(
    raw: &mut MultiplexedConnection,
    script: &str,
    keys: &[&str],
    args: &[&str],
) -> T {
    let answer = try_step(raw, script, keys, args).await;
    answer.unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// Sets the field of a hash, and nothing else in it.
async fn set(raw: &mut MultiplexedConnection, key: &str, field: &str, value: impl AsRef<[u8]>) {
    let mut hset = cmd("HSET");
    hset.arg(key).arg(field).arg(value.as_ref());
    let _: i64 = hset.query_async(raw).await.unwrap();
}

async fn field(raw: &mut MultiplexedConnection, key: &str, field: &str) -> Option<String> {
    run(raw, &["HGET", key, field]).await
}

/// A position as a clock has it.
fn at(numbers: [u64; 4]) -> Vec<u8> {
    numbers.map(u64::to_be_bytes).concat()
}

async fn position(raw: &mut MultiplexedConnection, clock: &str) -> Vec<u8> {
    run(raw, &["HGET", clock, "at"]).await
}

/// The history of writes that the server says it continues.
async fn histories(raw: &mut MultiplexedConnection) -> (String, String) {
    let info: String = run(raw, &["INFO", "replication"]).await;
    let of = |name: &str| {
        let found = info.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap().to_owned()
    };
    (of("master_replid:"), of("master_replid2:"))
}

/// Rule 27: an instance that was told another number of partitions learns the right one, and changes nothing.
#[tokio::test]
async fn run_answers_only_the_number_of_partitions_where_it_is_another_one() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let keys = &[&*own_key("clock"), &own_key("live")];
    for (named, own, number) in [
        ("", "1", 0),
        ("2", "1", 2),
        ("1", "2", 1),
        ("16", "1", 16),
        ("17", "17", 0),
        ("17", "1", 0),
        ("x", "1", 0),
    ] {
        set(&mut raw, keys[0], "partitions", named).await;
        let found: Found = step(
            &mut raw,
            IDENTIFY,
            keys,
            &[own, "7", "", "", "5", "1:2:2000:3"],
        )
        .await;
        let none = String::new;
        let expected = (0, 0, 0, 0, 0, number, none(), none(), 0, 0, 0);
        assert_eq!(found, expected, "{named:?}");
        let fields: Vec<String> = run(&mut raw, &["HKEYS", keys[0]]).await;
        assert_eq!(fields, ["partitions"], "{named:?}");
        assert_eq!(run::<u64>(&mut raw, &["EXISTS", keys[1]]).await, 0);
    }
}

/// Rule 13: numbers continue, and members that are listed remain in the list of another generation.
#[tokio::test]
async fn another_incarnation_starts_an_epoch_and_a_list_unless_a_handover_is_proven() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (clock, live) = (&*own_key("clock"), &*own_key("live"));
    let (former, _) = histories(&mut raw).await;
    let _: () = run(&mut raw, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let _: () = run(&mut raw, &["REPLICAOF", "NO", "ONE"]).await;
    let (own, continued) = histories(&mut raw).await;
    assert_eq!(continued, former, "as a promoted replica has it");

    let other = "ab".repeat(20);
    // Who was known, and whom the answer may name.
    for (known, named) in [
        (format!("aa:{former}"), format!("aa:{former}")),
        (format!("aa:{other}"), String::new()),
        (String::new(), String::new()),
    ] {
        let proofs = [
            (format!("{known} {own}"), true),
            (format!("{known} {former}"), false),
            (format!("aa:{other} {own}"), false),
            (format!("{known} "), false),
            (String::new(), false),
        ];
        for (proof, proves) in proofs {
            let is_proven = proves && !named.is_empty();
            set(&mut raw, clock, "partitions", "1").await;
            set(&mut raw, clock, "run", &known).await;
            set(&mut raw, clock, "at", at([9, 20, 30, 40])).await;
            set(&mut raw, live, "list", "3:1000").await;
            set(&mut raw, live, "6", "9:2:2000:3").await;
            let keys = &[clock, live];

            let asked: Found = step(&mut raw, IDENTIFY, keys, &["1", "7", "?"]).await;
            let none = String::new;
            let expected = (0, 0, 0, 0, 0, 1, named.clone(), none(), 0, 0, 0);
            assert_eq!(asked, expected, "{known}");
            assert_eq!(field(&mut raw, clock, "run").await.unwrap(), known);
            assert_eq!(position(&mut raw, clock).await, at([9, 20, 30, 40]));

            let found: Found = step(&mut raw, IDENTIFY, keys, &["1", "7", &proof]).await;
            let (epoch, list) = if is_proven { (9, "3:1000") } else { (7, "7:0") };
            assert_eq!((found.0, found.1, found.2), (epoch, 20, 30), "{proof}");
            assert_eq!((found.5, found.8, found.9, found.10), (1, 0, 0, 0));
            assert!(found.4 > 0 && !found.7.is_empty());
            let incarnation = found.6;
            assert!(incarnation.ends_with(&format!(":{own}")), "{incarnation}");
            assert_eq!(position(&mut raw, clock).await, at([epoch, 20, 30, 40]));
            assert_eq!(field(&mut raw, clock, "run").await.unwrap(), incarnation);
            assert_eq!(field(&mut raw, live, "list").await.unwrap(), list);
            let member = field(&mut raw, live, "6").await;
            assert_eq!(member.as_deref(), Some("9:2:2000:3"));

            // It is known from here on, whatever the next connection sends.
            let again: Found = step(&mut raw, IDENTIFY, keys, &["1", "8", "?"]).await;
            assert_eq!((again.0, again.6), (epoch, incarnation));
            assert_eq!(field(&mut raw, live, "list").await.unwrap(), list);
        }
    }
}

/// Rule 16: in the step that reads the clock.
#[tokio::test]
async fn a_subscriber_joins_the_list_that_is_there_or_a_new_one() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (clock, live) = (&*own_key("clock"), &*own_key("live"));
    set(&mut raw, clock, "partitions", "1").await;
    let _: Found = step(&mut raw, IDENTIFY, &[clock, live], &["1", "7", ""]).await;
    let largest = BOUND.to_string();
    for (list, generation, age) in [
        ("3:1000", 3, 1000),
        (&format!("{largest}:{largest}"), BOUND, BOUND),
        (&format!("{}:5", BOUND + 2), 8, 0),
        (&format!("5:{}", BOUND + 2), 8, 0),
        ("3:-1", 8, 0),
        ("", 8, 0),
    ] {
        set(&mut raw, live, "list", list).await;
        let args = ["1", "8", "", "", "5", "9:2:2000:3"];
        let found: Found = step(&mut raw, IDENTIFY, &[clock, live], &args).await;
        assert_eq!((found.0, found.8, found.9), (7, generation, age), "{list}");
        let (stored, member) = (
            field(&mut raw, live, "list").await.unwrap(),
            field(&mut raw, live, "5").await,
        );
        assert_eq!(stored, format!("{generation}:{age}"));
        assert_eq!(member.as_deref(), Some("9:2:2000:3"));
    }
    let _: i64 = run(&mut raw, &["DEL", live]).await;
    let _: i64 = run(&mut raw, &["LPUSH", live, "x"]).await;
    let found: Found = step(
        &mut raw,
        IDENTIFY,
        &[clock, live],
        &["1", "8", "", "", "5", "e"],
    )
    .await;
    assert_eq!((found.8, found.9), (8, 0));
    let fields: Vec<String> = run(&mut raw, &["HGETALL", live]).await;
    assert_eq!(fields, ["list", "8:0", "5", "e"]);

    set(&mut raw, clock, "off", "1").await;
    let found: Found = step(&mut raw, IDENTIFY, &[clock, live], &["1", "8", ""]).await;
    assert_eq!(found.10, 1, "all instances are off");
}

/// Lua counts whole numbers without gaps below 2^53: beyond that no version is above another one.
#[tokio::test]
async fn a_clock_with_a_number_that_lua_cannot_count_is_damaged() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (clock, live) = (&*own_key("clock"), &*own_key("live"));
    set(&mut raw, clock, "partitions", "1").await;
    let _: Found = step(&mut raw, IDENTIFY, &[clock, live], &["1", "7", ""]).await;
    let most = BOUND - 1;
    for (stored, is_whole) in [
        (at([1, 0, 0, 0]), true),
        (at([most, most, most, most]), true),
        (at([0, 1, 1, 1]), false),
        (at([BOUND, 1, 1, 1]), false),
        (at([1, BOUND, 1, 1]), false),
        (at([1, 1, BOUND, 1]), false),
        (at([1, 1, 1, BOUND]), false),
        (at([1 << 63, 1, 1, 1]), false),
        (at([1, 1, 1, 1])[..31].to_vec(), false),
        ([&at([1, 1, 1, 1])[..], b"x"].concat(), false),
        (b"PARTITIONS".to_vec(), false),
        (b"PARTITIONS x".to_vec(), false),
    ] {
        set(&mut raw, clock, "at", &stored).await;
        let (_, _, _, rows): (u64, u64, String, Vec<Row>) =
            step(&mut raw, HEARTBEAT, &[clock, live], &["5", "1"]).await;
        assert_eq!(rows[0][0] == 1, is_whole, "{stored:?}");
        let found: Found = step(&mut raw, IDENTIFY, &[clock, live], &["1", "8", ""]).await;
        if is_whole {
            assert_eq!(rows[0][1..5], [found.0, found.1, found.2, found.3]);
            assert_eq!(position(&mut raw, clock).await, stored);
        } else {
            assert_eq!(rows[0][1..5], [0; 4]);
            assert_eq!(
                (found.0, found.1, found.2, found.3),
                (8, 0, 0, 0),
                "{stored:?}"
            );
            assert_eq!(position(&mut raw, clock).await, at([8, 0, 0, 0]));
        }
    }
}

#[tokio::test]
async fn what_stands_in_the_place_of_the_clock_and_the_log_is_replaced() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let before = invalidate(&*partition, &["k"]).await;
    for name in ["log", "clock"].map(own_key) {
        let _: i64 = run(&mut raw, &["DEL", &name]).await;
        let _: i64 = run(&mut raw, &["LPUSH", &name, "x"]).await;
        let at = invalidate(&*partition, &["k"]).await;
        let is_clock = name.ends_with("clock");
        assert_eq!(at.epoch != before.epoch, is_clock);
        assert_eq!(at.ver, if is_clock { 1 } else { 2 });
        let log: Vec<(String, Vec<Vec<u8>>)> =
            run(&mut raw, &["XRANGE", &own_key("log"), "-", "+"]).await;
        let (last, _) = log.last().expect("the message is in the log");
        assert_eq!(*last, format!("{}-0", at.ver));
    }
}

/// So many are kept for instances that missed messages; to look at the length each time would cost more.
#[tokio::test]
async fn the_log_is_cut_with_each_hundredth_message() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let epoch = invalidate(&*partition, &["k"]).await.epoch;
    let many = "for i = 2, 10298 do redis.call('XADD', KEYS[1], i .. '-0', 'm', 'x') end";
    let () = step(&mut raw, many, &[&own_key("log")], &[]).await;
    set(
        &mut raw,
        &own_key("clock"),
        "at",
        at([epoch, 10_298, 10_298, 1]),
    )
    .await;
    let mut length = async || {
        invalidate(&*partition, &["k"]).await;
        run::<u64>(&mut raw, &["XLEN", &own_key("log")]).await
    };
    assert_eq!(length().await, 10_299);
    let cut = length().await;
    assert!((10_000..10_200).contains(&cut), "{cut}");
    assert_eq!(length().await, cut + 1);
}

/// In a cluster only the node of the partition is told.
#[tokio::test]
async fn a_sharded_channel_is_published_to_by_its_own_command() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let send = script!("parts/send").to_owned() + "send(KEYS[1], 'x')";
    for (channel, command) in [
        ("{a}!sharded", "spublish"),
        ("{a}!events", "publish"),
        ("!sharded", "spublish"),
        ("{a}!sharded:", "publish"),
    ] {
        let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
        let () = step(&mut raw, &send, &[channel], &[]).await;
        let stats: String = run(&mut raw, &["INFO", "commandstats"]).await;
        let called = |name: &str| stats.contains(&format!("cmdstat_{name}:calls=1,"));
        for name in ["spublish", "publish"] {
            assert_eq!(called(name), name == command, "{channel}");
        }
    }
}

/// Rule 8. The answer for each partition is that which it would get alone.
#[tokio::test]
async fn a_heartbeat_of_several_partitions_answers_for_each() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let names = |n: usize| [format!("{{x.{n}}}!clock"), format!("{{x.{n}}}!live")];
    let mut partitions = Vec::new();
    for n in 0..7 {
        let [clock, live] = names(n);
        set(&mut raw, &clock, "partitions", "1").await;
        let args = ["1", "7", "", "", "5", "9:2:2000:3"];
        let _: Found = step(&mut raw, IDENTIFY, &[&clock, &live], &args).await;
        set(&mut raw, &clock, "at", at([7, 20, 30, 40])).await;
        partitions.push([clock, live, "5".to_owned()]);
    }
    set(&mut raw, &partitions[1][0], "off", "1").await;
    partitions[2][2] = "6".to_owned();
    set(&mut raw, &partitions[3][0], "run", "aa:bb").await;
    set(&mut raw, &partitions[4][0], "at", "cut").await;
    set(&mut raw, &partitions[5][0], "at", "PARTITIONS 4").await;
    let _: i64 = run(&mut raw, &["DEL", &partitions[6][1]]).await;
    let _: i64 = run(&mut raw, &["LPUSH", &partitions[6][1], "x"]).await;
    let rows: [Row; 7] = [
        [1, 7, 20, 30, 40, 7, 0],
        [1, 7, 20, 30, 40, 7, 1],
        [1, 7, 20, 30, 40, 0, 0],
        [0, 7, 20, 30, 40, 7, 0],
        [0, 0, 0, 0, 0, 7, 0],
        [0; 7],
        [1, 7, 20, 30, 40, 0, 0],
    ];
    let mut args: Vec<&str> = partitions.iter().flatten().map(|name| &**name).collect();
    args.push("77");
    let keys = [args.remove(0), args.remove(0)];
    let (nonce, _, incarnation, answered): (u64, u64, String, Vec<Row>) =
        step(&mut raw, HEARTBEAT, &keys, &args).await;
    assert_eq!((nonce, &*answered), (77, &rows[..]));
    let known = field(&mut raw, &partitions[0][0], "run").await;
    assert_eq!(known, Some(incarnation));
    for (n, ([clock, live, id], row)) in partitions.iter().zip(rows).enumerate() {
        let alone = try_step(&mut raw, HEARTBEAT, &[clock, live], &[id, "78"]).await;
        let alone: Result<(u64, u64, String, Vec<Row>), _> = alone;
        // The error of a partition that is alone is its answer: it names the number of partitions.
        match alone {
            Ok((nonce, .., alone)) => assert_eq!((n == 5, nonce, &*alone), (false, 78, &[row][..])),
            Err(error) => assert!(
                n == 5 && error.to_string().contains("4 partitions"),
                "{error}"
            ),
        }
    }
}

/// Rule 16.
#[tokio::test]
async fn a_note_of_several_members_changes_the_lists_of_their_generations() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    // The list, what the member has joined and measured, and what is there afterwards.
    let cases = [
        ("3:50", "3", "49", Some("3:50"), 1),
        ("3:50", "3", "50", Some("3:50"), 1),
        ("3:50", "3", "51", Some("3:51"), 1),
        ("4:50", "3", "51", None, 1),
        ("damaged", "3", "51", None, 1),
        // Makes no sense: the others are noted all the same.
        ("3:50", "3", "x", None, 0),
        (
            "3:50",
            "3",
            "9007199254740992",
            Some("3:9007199254740992"),
            1,
        ),
    ];
    let name = |n: usize| format!("{{x.{n}}}!live");
    for are_several in [true, false] {
        let (mut args, mut answers) = (Vec::new(), Vec::new());
        for (n, (list, generation, age, ..)) in cases.iter().enumerate() {
            let live = name(n);
            let _: i64 = run(&mut raw, &["DEL", &live]).await;
            set(&mut raw, &live, "list", list).await;
            let one = ["5", "9:2:2000:3", generation, age];
            if are_several {
                args.push(live);
                args.extend(one.map(str::to_owned));
            } else {
                let alone = try_step(&mut raw, NOTE, &[&live], &one).await;
                answers.push(alone.ok().map(|[answer]: [u64; 1]| answer));
            }
        }
        if are_several {
            let live = args.remove(0);
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let several: Vec<u64> = step(&mut raw, NOTE, &[&live], &args).await;
            answers.extend(several.into_iter().map(Some));
        }
        // The error of a partition that is alone is raised.
        let expected = cases.map(|case| (case.4 == 1 || are_several).then_some(case.4));
        assert_eq!(answers, expected);
        for (n, (list, .., after, _)) in cases.iter().enumerate() {
            let stored = field(&mut raw, &name(n), "list").await.unwrap();
            assert_eq!(stored, after.unwrap_or(list));
            let member = field(&mut raw, &name(n), "5").await;
            assert_eq!(member.is_some(), after.is_some(), "{list}");
        }
    }
}

#[tokio::test]
async fn clocks_name_numbers_of_partitions_up_to_sixteen() {
    // Anything else is no number of partitions.
    const NAMED: [(&str, u64); 9] = [
        ("1", 1),
        ("2", 2),
        ("16", 16),
        ("17", 0),
        ("99", 0),
        ("016", 0),
        ("0", 0),
        ("-1", 0),
        ("x", 0),
    ];
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let mut clocks = Vec::new();
    for (n, (named, _)) in NAMED.iter().enumerate() {
        let clock = format!("{{x.{n}}}!clock");
        set(&mut raw, &clock, "partitions", named).await;
        clocks.push(clock);
    }
    let other = "{x.other}!clock";
    let _: i64 = run(&mut raw, &["LPUSH", other, "x"]).await;
    let mut names: Vec<&str> = clocks.iter().map(String::as_str).collect();
    names.extend([other, "{x.missing}!clock", &clocks[1]]);
    let numbers: Vec<u64> = step(&mut raw, NUMBERS, &names[..1], &names[1..]).await;
    let expected: Vec<u64> = NAMED.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, [expected, vec![0, 0, 2]].concat());
}

/// Rule 27: the step changes what it was asked to change, and answers what is so then.
#[tokio::test]
async fn a_clock_is_told_a_number_of_partitions_once() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let names = ["clock", "log", "live"].map(own_key);
    let keys = names.each_ref().map(String::as_str);
    // What it names, its own set, `from`, `to`; and the answer. Without `from` it grows only.
    for (named, own, from, to, answer) in [
        ("", "2", "0", "2", 2),
        ("17", "2", "0", "2", 2),
        ("1", "1", "1", "4", 4),
        ("2", "2", "", "4", 4),
        ("2", "1", "", "2", 2),
        ("4", "2", "", "2", 4),
        ("2", "2", "0", "4", 2),
        ("4", "2", "2", "8", 4),
        ("8", "16", "8", "16", 16),
    ] {
        let _: i64 = run(&mut raw, &["DEL", keys[0], keys[1], keys[2]]).await;
        set(&mut raw, keys[0], "partitions", named).await;
        set(&mut raw, keys[0], "at", at([7, 20, 30, 40])).await;
        let _: String = run(&mut raw, &["XADD", keys[1], "20-0", "m", "x"]).await;
        set(&mut raw, keys[2], "list", "3:50").await;
        let answered: u64 = step(&mut raw, PARTITIONS, &keys, &[own, from, to]).await;
        let case = (named, own, from, to);
        assert_eq!(answered, answer, "{case:?}");
        let is_told = named != to && answer.to_string() == to;
        let expected = if is_told { to } else { named };
        let partitions = field(&mut raw, keys[0], "partitions").await;
        assert_eq!(partitions.as_deref(), Some(expected), "{case:?}");
        // Nothing reads the log and the members of a partition that is closed.
        let is_closed = is_told && own != to;
        let left: u64 = run(&mut raw, &["EXISTS", keys[1], keys[2]]).await;
        assert_eq!(left, if is_closed { 0 } else { 2 }, "{case:?}");
        let tombstone = format!("PARTITIONS {to}").into_bytes();
        let expected = if is_closed {
            tombstone
        } else {
            at([7, 20, 30, 40])
        };
        assert_eq!(position(&mut raw, keys[0]).await, expected, "{case:?}");
    }
    // A key of another type names none.
    let _: i64 = run(&mut raw, &["DEL", keys[0]]).await;
    let _: i64 = run(&mut raw, &["LPUSH", keys[0], "x"]).await;
    let answered: u64 = step(&mut raw, PARTITIONS, &keys, &["2", "0", "2"]).await;
    assert_eq!(answered, 2);
    // Writes that wait would be found by no worker.
    set(&mut raw, keys[0], "writes", "5").await;
    let closed = try_step::<u64>(&mut raw, PARTITIONS, &keys, &["2", "2", "4"]).await;
    assert!(closed.unwrap_err().to_string().contains("write-behind"));
    let partitions = field(&mut raw, keys[0], "partitions").await;
    assert_eq!(partitions.as_deref(), Some("2"));
    let partitions: u64 = step(&mut raw, PARTITIONS, &keys, &["2", "2", "2"]).await;
    assert_eq!(partitions, 2, "which changes nothing");
}

/// An instance that has connected before learns it by the next step.
#[tokio::test]
async fn a_closed_partition_refuses_every_step_and_stays_closed() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    let names = ["clock", "log", "live"].map(own_key);
    let keys = names.each_ref().map(String::as_str);
    let closed: u64 = step(&mut raw, PARTITIONS, &keys, &["1", "1", "4"]).await;
    assert_eq!(closed, 4);
    let payload = payload_of(Kind::Invalidate, &["k"]);
    let value = sealed(b"new");
    for n in 0..2 {
        let refused = match n {
            0 => partition
                .invalidate(&["k"], &payload, Duration::ZERO)
                .await
                .map(drop),
            _ => partition
                .insert(&[("k", &value)], &payload, None)
                .await
                .map(drop),
        };
        let error = refused.expect_err("it is closed");
        assert!(error.is_refused(), "{error:?}");
        assert_eq!(position(&mut raw, keys[0]).await, b"PARTITIONS 4");
    }
    subscription.heartbeat(NOTHING);
    super::end(&mut *subscription).await;
}

/// The entry of a member as far as Lua can count in it. Any other one may have replaced a member's.
#[tokio::test]
async fn a_member_whose_numbers_are_beyond_the_bounds_is_taken_off_the_list() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let live = &*own_key("live");
    let (most, more) = (BOUND.to_string(), (BOUND + 2).to_string());
    let own = "5";
    for (id, entry, is_kept) in [
        (own, format!("{most}:{most}:3600000:{most}"), true),
        (&most, "0:0:0:0".to_owned(), true),
        (own, format!("{more}:1:2000:1"), false),
        (own, format!("1:{more}:2000:1"), false),
        (own, format!("1:1:2000:{more}"), false),
        (own, "1:1:3600001:1".to_owned(), false),
        (own, "1:1:2000".to_owned(), false),
        (own, "1:1:2000:1:1".to_owned(), false),
        (own, "1:-1:2000:1".to_owned(), false),
        (&more, "1:1:2000:1".to_owned(), false),
        ("five", "1:1:2000:1".to_owned(), false),
    ] {
        for ids in [&[][..], &[id]] {
            let _: i64 = run(&mut raw, &["DEL", live]).await;
            set(&mut raw, live, "list", "3:50").await;
            set(&mut raw, live, "6", "1:2:2000:3").await;
            set(&mut raw, live, id, &entry).await;
            let args = [&["7"], ids].concat();
            let (generation, mut known): (u64, Vec<String>) =
                step(&mut raw, MEMBERS, &[live], &args).await;
            let mut expected = vec![];
            if is_kept {
                expected.extend([id, &*entry]);
            }
            if ids.is_empty() {
                expected.extend(["6", "1:2:2000:3"]);
            }
            expected.sort_unstable();
            known.sort_unstable();
            assert_eq!(known, expected, "{entry}");
            assert_eq!(generation, if is_kept { 3 } else { 7 }, "{id} {entry}");
            let list = field(&mut raw, live, "list").await;
            let expected = if is_kept { "3:50" } else { "7:0" };
            assert_eq!(list.as_deref(), Some(expected));
            let stored = field(&mut raw, live, id).await;
            assert_eq!(stored.is_some(), is_kept, "{id} {entry}");
        }
    }
}

/// The sweeper answers as a look at the members does: it may be the one that finds the list damaged.
#[tokio::test]
async fn a_sweep_that_finds_the_list_damaged_starts_another_generation() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (live, sweeper) = (&*own_key("live"), &*own_key("sweeper"));
    set(&mut raw, live, "6", "1:2:2000:3").await;
    let found: (u64, Vec<String>) =
        step(&mut raw, SWEEP, &[live, sweeper], &["7", "5", "60000"]).await;
    assert_eq!(found, (7, ["6", "1:2:2000:3"].map(str::to_owned).into()));
    let other: Option<(u64, Vec<String>)> =
        step(&mut raw, SWEEP, &[live, sweeper], &["8", "6", "60000"]).await;
    assert_eq!(other, None, "another instance is the sweeper");
}

/// With nobody in the list nobody is waited for, however young it is.
#[tokio::test]
async fn an_invalidation_waits_as_long_as_the_slowest_member_believes() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let live = own_key("live");
    let payload = payload_of(Kind::InvalidateAwaited, &["k"]);
    for (id, staleness, longest) in [
        ("", 0, 0),
        ("5", 20, 20),
        ("6", 7, 20),
        ("7", 3_600_000, 3_600_000),
    ] {
        if !id.is_empty() {
            set(&mut raw, &live, id, format!("1:1:{staleness}:1")).await;
        }
        let awaited = partition.invalidate(&["k"], &payload, Duration::ZERO).await;
        let longest = Duration::from_millis(longest);
        assert_eq!(awaited.unwrap().longest_staleness, longest, "{id}");
    }
}

/// Or a list would be made anew by an instance that may not read it.
#[tokio::test]
async fn a_missing_right_is_not_taken_for_a_missing_key() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (_, _subscription) = subscribe(&*partition).await;
    let live = own_key("live");
    // Connected before: a new connection needs these rights, too.
    assert_eq!(partition.members(&[]).await.unwrap().list.len(), 1);
    let before = field(&mut raw, &live, "list").await;
    for command in ["hget", "hgetall"] {
        let (no, yes) = (format!("-{command}"), format!("+{command}"));
        let _: () = run(&mut raw, &["ACL", "SETUSER", "default", &no]).await;
        let refused = partition.members(&[]).await.map(drop).unwrap_err();
        assert!(refused.is_refused(), "{refused:?}");
        // Redis 7.0 does not say which right is missing.
        let shown = super::shown(&refused);
        assert!(
            shown.contains(&format!("may not run {command};")),
            "{shown}"
        );
        let _: () = run(&mut raw, &["ACL", "SETUSER", "default", &yes]).await;
        assert_eq!(field(&mut raw, &live, "list").await, before);
    }
    assert_eq!(partition.members(&[]).await.unwrap().list.len(), 1);
}

/// Deadlines and lifetimes are compared with it, in whole milliseconds.
#[tokio::test]
async fn the_time_of_an_answer_is_that_of_the_server() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (clock, live) = (&*own_key("clock"), &*own_key("live"));
    let time = async |raw: &mut MultiplexedConnection| {
        let (seconds, micros): (u64, u64) = run(raw, &["TIME"]).await;
        seconds * 1000 + micros / 1000
    };
    // In paused time it begins with a whole second.
    sleep(Duration::from_millis(1)).await;
    let before = time(&mut raw).await;
    let (_, now, _, _): (u64, u64, String, Vec<Row>) =
        step(&mut raw, HEARTBEAT, &[clock, live], &["5", "1"]).await;
    let after = time(&mut raw).await;
    assert!((before..=after).contains(&now), "{before} {now} {after}");
}

/// Fields that are older than a day are added up, the others not; what is no text of counters counts as ended.
#[tokio::test]
async fn the_counters_of_a_day_are_kept_apart() {
    const DAY: u64 = 86_400_000;
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let stats = own_key("stats");
    let (seconds, micros): (u64, u64) = run(&mut raw, &["TIME"]).await;
    let now = seconds * 1000 + micros / 1000;
    set(&mut raw, &stats, "0", "0 0 loads=100").await;
    set(
        &mut raw,
        &stats,
        "6",
        format!("{} 1 loads=1", now - DAY - 1),
    )
    .await;
    // On a slow machine it takes some time until the step.
    set(
        &mut raw,
        &stats,
        "7",
        format!("{} 1 loads=10", now - DAY + 60_000),
    )
    .await;
    set(&mut raw, &stats, "8", "x 1 loads=1000").await;
    // A text that has no number counts as the oldest one.
    set(&mut raw, &stats, "5", "loads=7").await;
    let counts = StoredCounts {
        instance: 5,
        at: 0,
        text: "loads=2",
        folds: true,
    };
    partition.store_counts(counts).await.unwrap();
    let mut stored = partition.counts().await.unwrap();
    stored.sort();
    let texts: Vec<(u64, &str)> = stored
        .iter()
        .map(|(id, text)| (*id, text.rsplit(' ').next().unwrap()))
        .collect();
    assert_eq!(texts, [(0, "loads=1101"), (5, "loads=2"), (7, "loads=10")]);
    assert_eq!(stored[0].1, "0 0 loads=1101", "for other releases");
}

/// A prefix is bypassed until a time of at most fifteen digits.
#[tokio::test]
async fn a_bypass_without_a_time_that_makes_sense_is_none() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let keys = &[&*own_key("stats"), &own_key("bypass")];
    for (till, is_bypassed) in [
        ("999999999999999", true),
        ("9999999999999999", false),
        ("1000", false),
        ("1e14", false),
        ("", false),
    ] {
        set(&mut raw, keys[1], "eu:", till).await;
        set(&mut raw, keys[1], "us: tea", "8999999999999").await;
        let args = ["5", "1", "loads=1", "0"];
        let found: Vec<String> = step(&mut raw, STORE_COUNTS, keys, &args).await;
        let own = format!("{till} eu:");
        let listed: Vec<&str> = found[1..].iter().map(String::as_str).collect();
        let other = "8999999999999 us: tea";
        let expected = if is_bypassed {
            vec![&*own, other]
        } else {
            vec![other]
        };
        assert_eq!(listed, expected, "{till}");
        let now: u64 = found[0].parse().unwrap();
        let (seconds, _): (u64, u64) = run(&mut raw, &["TIME"]).await;
        assert!(now.abs_diff(seconds * 1000) < 10_000);
    }
}
