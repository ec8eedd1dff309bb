//! The script by which programs in other languages invalidate, and the page about it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{Client, RedisResult, Script, Value, cmd};
use larder::{Cache, Loaded};
use tokio::sync::oneshot;

use crate::fleet::UNHURRIED;
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::redis_server::RedisServer;

const SCRIPT: &str = include_str!("../../examples/other_languages/invalidate.lua");
const PAGE: &str = include_str!("../../src/other_languages.md");
const PARTITION: &str = "{shop:price.0}";
const RANDOM: &str = "a text of the test";
/// So no heartbeat finds out that a message was lost.
const NEVER: Duration = Duration::from_secs(3600);

type Prices = Cache<String, String>;

fn instance(url: &str) -> Prices {
    let builder = Cache::builder("shop:price")
        .l2(home::open(url))
        .partitions(1);
    let builder = builder.max_staleness(NEVER).l2_timeout(UNHURRIED);
    builder.build().unwrap()
}

fn names(keys: &[&str], tags: &[&str]) -> Vec<String> {
    let keys = keys.iter();
    let keys = keys.flat_map(|key| {
        [
            format!("{PARTITION}:{key}"),
            format!("{PARTITION}!lease:{key}"),
        ]
    });
    let tags = tags.iter().map(|tag| format!("{PARTITION}!tag:{tag}"));
    let first = [format!("{PARTITION}!clock"), format!("{PARTITION}!log")];
    first.into_iter().chain(keys).chain(tags).collect()
}

async fn eval(
    redis: &mut MultiplexedConnection,
    names: &[String],
    args: &[&str],
) -> RedisResult<String> {
    let mut call = cmd("EVAL");
    call.arg(SCRIPT).arg(names.len()).arg(names).arg(args);
    call.query_async(redis).await
}

async fn invalidate(redis: &mut MultiplexedConnection, keys: &[&str], tags: &[&str]) {
    let done = eval(
        redis,
        &names(keys, tags),
        &["invalidate", home::database(), RANDOM],
    )
    .await;
    assert_eq!(done.unwrap(), "OK");
}

fn tagged(tag: &'static str) -> Loaded<String> {
    Loaded::new("450".to_owned()).tags([tag])
}

/// The commands of the page, which are for a shell.
fn commands() -> Vec<&'static str> {
    let blocks = PAGE.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

fn is_installed(program: &str) -> bool {
    let mut version = Command::new(program);
    version
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn what_the_page_shows_works() {
    let server = home::start_with(&[]).await;
    let instances = [instance(&server.url()), instance(&server.url())];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/other_languages");
    assert_eq!(commands().len(), 5);
    for command in commands() {
        let program = command.split(' ').next().unwrap();
        if !is_installed(program) {
            eprintln!("skipped, as there is no {program}: {command}");
            continue;
        }
        if program == "python3" && home::on_cluster("the program knows databases only") {
            continue;
        }
        let [one, _] = &instances;
        one.insert("tea", tagged("tenant:7")).await.unwrap();
        one.insert("milk", "90".to_owned()).await.unwrap();
        for instance in &instances {
            instance.ready().await;
            eventually("both are in L1", async || {
                let both = ["tea", "milk"].map(|key| instance.get(key));
                futures::future::join_all(both)
                    .await
                    .iter()
                    .all(Option::is_some)
                    && instance.get_local("tea").is_some()
            })
            .await;
        }
        let port = format!("redis-cli -p {} ", server.port());
        let command = command.replace("redis-cli ", &port);
        let command = command.replace("redis://127.0.0.1:6379", &server.url());
        let command = command.replace(" 0 \"", &format!(" {} \"", home::database()));
        let mut shell = Command::new("sh");
        shell.args(["-ec", &command]).current_dir(&folder);
        let ended = shell.output().unwrap();
        assert!(ended.status.success(), "{command}: {ended:?}");
        let said = String::from_utf8(ended.stdout).unwrap();
        assert!(
            program == "python3" || said.ends_with("OK\n"),
            "{command}: {said}"
        );
        for instance in &instances {
            eventually(&command, async || instance.get("tea").await.is_none()).await;
            let milk = instance.get("milk").await.is_some();
            assert_eq!(milk, !command.contains("clear"), "{command}");
        }
    }
}

/// Each key has its partition, which the program has to find as an instance does.
#[tokio::test]
async fn the_program_finds_the_partitions() {
    if !is_installed("python3") {
        eprintln!("skipped, as there is no python3");
        return;
    }
    let server = home::start_with(&[]).await;
    let instance: Prices = Cache::builder("shop:price")
        .redis(server.url())
        .l2_timeout(UNHURRIED)
        .max_staleness(NEVER)
        .partitions(4)
        .build()
        .unwrap();
    instance.ready().await;
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let in_l1 = || {
        keys.iter()
            .filter(|key| instance.get_local(*key).is_some())
            .count()
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/other_languages");
    let named = keys[..30].iter().map(|key| format!("key:{key}")).collect();
    for (words, left) in [
        (named, 10),
        (vec!["tag:tenant:7".to_owned()], 0),
        (vec!["clear".to_owned()], 0),
    ] {
        let values = keys.iter().map(|key| (key, tagged("tenant:7")));
        instance.insert_many(values).await.unwrap();
        eventually("all are in L1", async || {
            instance.get_many(&keys).await;
            in_l1() == keys.len()
        })
        .await;
        let mut program = Command::new("python3");
        program.args(["invalidate.py", &server.url(), "shop:price", "partitions:4"]);
        let ended = program.args(&words).current_dir(&folder).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        eventually("they have left L1", async || in_l1() == left).await;
        let found = instance.get_many(&keys).await;
        assert_eq!(found.iter().flatten().count(), left, "{words:?}");
    }
}

/// Otherwise it would invalidate nothing, and be told that it did.
#[tokio::test]
async fn the_program_refuses_another_number_of_partitions() {
    if !is_installed("python3") {
        eprintln!("skipped, as there is no python3");
        return;
    }
    if home::on_cluster("the program knows databases only") {
        return;
    }
    let server = RedisServer::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/other_languages");
    let run = |partitions: u16, what: &str| {
        let partitions = format!("partitions:{partitions}");
        let mut program = Command::new("python3");
        program.args([
            "invalidate.py",
            &server.url(),
            "shop:price",
            &partitions,
            what,
        ]);
        program.current_dir(&folder).output().unwrap()
    };
    // Before the first instance any number will do.
    assert!(run(2, "key:tea").status.success());
    for (now, others) in [(2, [1, 3, 4]), (4, [1, 2, 8])] {
        let instance: Prices = Cache::builder("shop:price")
            .redis(server.url())
            .l2_timeout(UNHURRIED)
            .partitions(now)
            .build()
            .unwrap();
        instance.ready().await;
        instance.insert("tea", tagged("tenant:7")).await.unwrap();
        for other in others {
            for what in ["key:tea", "tag:tenant:7", "clear"] {
                let refused = run(other, what);
                let said = String::from_utf8_lossy(&refused.stderr).into_owned();
                assert!(!refused.status.success(), "{other} {what}");
                assert!(
                    said.contains(&format!("{now} partitions is the number")),
                    "{said}"
                );
            }
        }
        assert!(instance.get("tea").await.is_some());
        assert!(run(now, "key:tea").status.success());
        eventually("it is gone", async || instance.get("tea").await.is_none()).await;
    }
}

/// It would be taken for done.
#[tokio::test]
async fn the_program_refuses_what_it_does_not_understand() {
    if !is_installed("python3") {
        eprintln!("skipped, as there is no python3");
        return;
    }
    let server = home::start_with(&[]).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/other_languages");
    for (words, is_understood) in [
        (["key:tea", "tag:tenant:7"], true),
        (["key:tea", "keys:milk"], false),
        (["clear", "key:tea"], false),
    ] {
        let mut program = Command::new("python3");
        program.args(["invalidate.py", &server.url(), "test:others"]);
        let ended = program.args(words).current_dir(&folder).output().unwrap();
        assert_eq!(ended.status.success(), is_understood, "{ended:?}");
    }
}

#[tokio::test]
async fn keys_and_tags_go_from_both_levels_in_one_step() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let one = instance(&server.url());
    one.ready().await;
    one.insert("tea", tagged("tenant:7")).await.unwrap();
    one.insert("coffee", tagged("tenant:8")).await.unwrap();
    for key in ["milk", "water"] {
        one.insert(key, "90".to_owned()).await.unwrap();
    }
    let in_l1 = |key| one.get_local(key).is_some();
    eventually("all are in L1", async || {
        ["tea", "coffee", "milk", "water"].into_iter().all(in_l1)
    })
    .await;
    invalidate(&mut redis, &["milk"], &["tenant:7"]).await;
    eventually("both have left L1", async || {
        !in_l1("milk") && !in_l1("tea")
    })
    .await;
    let another = instance(&server.url());
    for (key, is_there) in [
        ("tea", false),
        ("milk", false),
        ("coffee", true),
        ("water", true),
    ] {
        assert_eq!(another.get(key).await.is_some(), is_there, "{key}");
        assert_eq!(one.get(key).await.is_some(), is_there, "{key}");
    }
}

#[tokio::test]
async fn a_load_that_began_before_is_not_stored() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let [one, another] = [instance(&server.url()), instance(&server.url())];
    for (keys, tags) in [(&["tea"][..], &[][..]), (&[], &["tenant:7"])] {
        one.ready().await;
        let (begun, is_begun) = oneshot::channel();
        let (go, may_go) = oneshot::channel::<()>();
        let loading = one.get_or_load_with("tea", move |_| async move {
            begun.send(()).unwrap();
            may_go.await.unwrap();
            Ok::<_, std::io::Error>(tagged("tenant:7"))
        });
        let invalidating = async {
            is_begun.await.unwrap();
            invalidate(&mut redis, keys, tags).await;
            go.send(()).unwrap();
        };
        let (loaded, ()) = tokio::join!(loading, invalidating);
        loaded.unwrap();
        assert!(another.get("tea").await.is_none(), "{keys:?} {tags:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_missing_or_damaged_heals() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let clock = format!("{PARTITION}!clock");
    for damage in [
        vec!["DEL", &clock],
        vec!["HSET", &clock, "at", "?"],
        vec!["SET", &clock, "?"],
    ] {
        let one = instance(&server.url());
        one.insert("tea", "450".to_owned()).await.unwrap();
        let mut damaging = cmd(damage[0]);
        let () = damaging
            .arg(&damage[1..])
            .query_async(&mut redis)
            .await
            .unwrap();
        invalidate(&mut redis, &["tea"], &["tenant:7"]).await;
        eventually("the old value is gone", async || {
            one.get("tea").await.is_none()
        })
        .await;
        let another = instance(&server.url());
        another.ready().await;
        another.insert("tea", "475".to_owned()).await.unwrap();
        eventually("the new one is seen", async || {
            one.get("tea").await.as_deref().map(String::as_str) == Some("475")
        })
        .await;
    }
}

#[tokio::test]
async fn a_clear_starts_another_epoch_whatever_the_random_text() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let one = instance(&server.url());
    one.ready().await;
    for _ in 0..2 {
        one.insert("tea", "450".to_owned()).await.unwrap();
        let kept: Value = cmd("DUMP")
            .arg(format!("{PARTITION}:tea"))
            .query_async(&mut redis)
            .await
            .unwrap();
        assert_ne!(kept, Value::Nil);
        let done = eval(
            &mut redis,
            &names(&[], &[]),
            &["clear", home::database(), RANDOM],
        )
        .await;
        assert_eq!(done.unwrap(), "OK");
        eventually("it is gone", async || one.get("tea").await.is_none()).await;
    }
    let another = instance(&server.url());
    assert!(another.get("tea").await.is_none());
}

#[tokio::test]
async fn instances_of_another_database_hear_of_it() {
    if home::on_cluster("it has no databases") {
        return;
    }
    let server = home::start_with(&[]).await;
    let url = format!("{}/1", server.url());
    let one = instance(&url);
    one.insert("tea", "450".to_owned()).await.unwrap();
    one.ready().await;
    eventually("it is in L1", async || {
        one.get("tea").await.is_some() && one.get_local("tea").is_some()
    })
    .await;
    let client = Client::open(url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let done = eval(
        &mut redis,
        &names(&["tea"], &[]),
        &["invalidate", "1", RANDOM],
    )
    .await;
    assert_eq!(done.unwrap(), "OK");
    eventually("it has left L1", async || one.get_local("tea").is_none()).await;
    assert_eq!(one.stats().invalidations_received, 1);
}

#[tokio::test]
async fn what_makes_no_sense_changes_nothing() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let [key, long] = [&names(&["tea"], &[]), &names(&[&"k".repeat(1025)], &[])];
    let none = &names(&[], &[]);
    let numbered: Vec<String> = (0..257).map(|n| n.to_string()).collect();
    let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
    let [many, many_tags] = [&names(&numbered, &[]), &names(&[], &numbered)];
    let usual = ["invalidate", "0", RANDOM];
    let mut foreign = names(&["tea"], &[]);
    foreign.push("{shop:page.0}!tag:x".to_owned());
    let mut mixed = names(&[], &["x"]);
    mixed.extend(names(&["tea"], &[]).drain(2..));
    for (names, args) in [
        (long, usual),
        (none, usual),
        (many, usual),
        (many_tags, usual),
        (&foreign, usual),
        (&mixed, usual),
        (&key[..3].to_vec(), usual),
        (&key[..1].to_vec(), usual),
        (&key[1..].to_vec(), usual),
        (&Vec::new(), usual),
        (key, ["clear", "0", RANDOM]),
        (key, ["remove", "0", RANDOM]),
        (key, ["invalidate", "", RANDOM]),
        (key, ["invalidate", "01", RANDOM]),
        (key, ["invalidate", "0", "short"]),
    ] {
        let refused = eval(&mut redis, names, &args).await.unwrap_err();
        let text = refused.to_string();
        // A cluster itself refuses names of two partitions.
        let is_refused = text.contains("larder: ") || text.contains("CrossSlot");
        assert!(is_refused, "{args:?}: {text}");
    }
    let keys: u64 = cmd("DBSIZE").query_async(&mut redis).await.unwrap();
    assert_eq!(keys, 0);
    // What is at a limit, or odd, is taken.
    let bounds = "\u{7f}\u{80}\u{7ff}\u{800}\u{fff}\u{1000}\u{cfff}\u{d000}\u{d7ff}\u{e000}\u{ffff}\u{10000}\
        \u{3ffff}\u{40000}\u{fffff}\u{100000}\u{10ffff}";
    let all = ["", "ü€𝄞", bounds, &"k".repeat(1024)];
    let most = &numbered[..256];
    invalidate(&mut redis, &all, &all).await;
    invalidate(&mut redis, most, most).await;
}

/// Each that got through would empty every L1, as instances could not read the message.
#[tokio::test]
async fn what_is_not_utf_8_changes_nothing() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let mut calls = Vec::new();
    for bytes in [
        &b"\xff"[..],
        b"\x80",
        b"\xc3",
        b"\xe2\x82",
        b"\xf0\x9d\x84",
        b"\xf8\x88\x80\x80\x80",
        // Longer forms of what is shorter: of a slash, and the highest of each length.
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xe0\x80\xaf",
        b"\xe0\x9f\xbf",
        b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf",
        // Surrogates: the first, the last, and a pair.
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa1\x8c\xed\xbe\xb4",
        // Above U+10FFFF.
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
    ] {
        assert!(str::from_utf8(bytes).is_err());
        for around in ["", "k", "ü€𝄞"] {
            let text = [around.as_bytes(), bytes, around.as_bytes()].concat();
            let name = |mark: &str| [PARTITION.as_bytes(), mark.as_bytes(), &text].concat();
            calls.push(vec![name("!tag:")]);
            calls.push(vec![name(":"), name("!lease:")]);
        }
    }
    for texts in calls {
        let mut call = cmd("EVAL");
        call.arg(SCRIPT).arg(2 + texts.len()).arg(names(&[], &[]));
        call.arg(&texts).arg(&["invalidate", "0", RANDOM]);
        let refused = call.query_async::<Value>(&mut redis).await.unwrap_err();
        assert!(
            refused.to_string().contains("UTF-8"),
            "{texts:x?}: {refused}"
        );
    }
    let keys: u64 = cmd("DBSIZE").query_async(&mut redis).await.unwrap();
    assert_eq!(keys, 0);
}

/// Everything that needs a right.
async fn everything(redis: &mut MultiplexedConnection) -> RedisResult<()> {
    let (usual, clock, log) = (
        ["invalidate", home::database(), RANDOM],
        &names(&[], &[])[0],
        &names(&[], &[])[1],
    );
    let sha: String = cmd("SCRIPT")
        .arg("LOAD")
        .arg(SCRIPT)
        .query_async(redis)
        .await?;
    assert_eq!(sha, Script::new(SCRIPT).get_hash());
    let names = names(&["tea"], &["tenant:7"]);
    eval(redis, &names, &usual).await?;
    for _ in 0..50 {
        let mut call = cmd("EVALSHA");
        call.arg(&sha).arg(names.len()).arg(&names).arg(&usual);
        let _: String = call.query_async(redis).await?;
    }
    // A clock that the script has to make anew.
    let _: u64 = cmd("DEL").arg(clock).arg(log).query_async(redis).await?;
    eval(redis, &names, &usual).await?;
    eval(redis, &names[..2], &["clear", home::database(), RANDOM]).await?;
    Ok(())
}

#[tokio::test]
async fn the_rights_of_the_page_are_enough_and_needed() {
    let server = home::start_with(&[]).await;
    let mut admin = server.connection().await;
    let (_, block) = PAGE.split_once("```text\n").unwrap();
    let rights = home::rights(block.split_once("```").unwrap().0);
    let all: Vec<&str> = rights.split_whitespace().collect();
    assert_eq!(all.len(), 14, "{all:?}");
    for missing in [""].iter().chain(&all) {
        let rights = all.iter().filter(|right| *right != missing);
        let mut setting = cmd("ACL");
        setting
            .arg("SETUSER")
            .arg("cron")
            .arg("reset")
            .arg("on")
            .arg(">secret");
        setting.arg(rights.collect::<Vec<_>>());
        let () = setting.query_async(&mut admin).await.unwrap();
        // Otherwise a script that was loaded would do for a user who may not load it.
        let () = cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut admin)
            .await
            .unwrap();
        let url = format!("redis://cron:secret@127.0.0.1:{}", server.port());
        let client = Client::open(url).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        let done = everything(&mut redis).await;
        assert_eq!(
            done.is_ok(),
            missing.is_empty(),
            "without {missing:?}: {done:?}"
        );
    }
}
