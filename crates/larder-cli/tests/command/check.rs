//! What `larder check` finds, and its exit codes.

use std::io;
use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::write_behind::WriteBehind;
use larder::{Cache, Loaded};
use serde_json::Value;

use super::program::{self, NAMESPACE, Outcome, larder};
use super::support::eventually::eventually;
use super::support::redis_server::RedisServer;

/// Short, as members are watched for three times as long.
const STALENESS: Duration = Duration::from_millis(600);

const CLOCK: &str = "{shop:price.0}!clock";
const LOG: &str = "{shop:price.0}!log";
const LIVE: &str = "{shop:price.0}!live";
const STATS: &str = "{shop:price.0}!stats";

async fn instance(server: &RedisServer) -> Cache<String, String> {
    let cache = program::cache(&server.url(), |builder| builder.max_staleness(STALENESS));
    cache.ready().await;
    cache.insert("tea", "450".to_owned()).await.unwrap();
    cache
}

async fn check(server: &RedisServer, more: &[&str]) -> Outcome {
    larder(&server.url(), &[&["check", NAMESPACE], more].concat()).await
}

/// What it finds, in short.
async fn problems(server: &RedisServer) -> Vec<String> {
    let found = check(server, &["--json"]).await;
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    let code = i32::from(!problems.is_empty());
    assert_eq!((found.code, &*found.stderr), (Some(code), ""), "{found:?}");
    assert!(
        problems
            .iter()
            .all(|problem| problem["todo"].as_str().unwrap().len() > 5)
    );
    let what = problems
        .iter()
        .map(|problem| problem["what"].as_str().unwrap().to_owned());
    what.collect()
}

#[tokio::test]
async fn nothing_is_wrong() {
    let server = RedisServer::start().await;
    let cache = instance(&server).await;
    let found = check(&server, &[]).await;
    assert_eq!((found.code, &*found.stderr), (Some(0), ""), "{found:?}");
    assert_eq!((found.row("members"), found.row("keys")), ("1", "1, all"));
    assert_eq!(found.row("problems"), "0");
    assert!(!found.stdout.contains("note:"), "{found:?}");
    for key in ["milk", "salt"] {
        cache.insert(key, "450".to_owned()).await.unwrap();
    }
    assert_eq!(
        check(&server, &["--keys", "2"]).await.row("keys"),
        "2, not all"
    );

    cache.close().await;
    let found = check(&server, &[]).await;
    assert_eq!((found.code, found.row("members")), (Some(0), "0"));
    assert!(found.says("no instance is subscribed"), "{found:?}");
}

#[tokio::test]
async fn values_and_marks() {
    let server = RedisServer::start().await;
    let cache = instance(&server).await;
    let load = |_| async { Ok::<_, io::Error>(Loaded::new("450".to_owned()).tags(["asia"])) };
    cache.get_or_load_with("milk", load).await.unwrap();
    cache.insert("salt", "450".to_owned()).await.unwrap();
    cache.close().await;
    let mut redis = server.connection().await;
    let _: u64 = redis
        .setrange("{shop:price.0}:tea", 110, "x")
        .await
        .unwrap();
    let _: u64 = redis.lpush("{shop:price.0}:rice", "x").await.unwrap();
    let _: u64 = redis.del("{shop:price.0}!tag:asia").await.unwrap();
    let () = redis
        .set("{shop:price.0}!hold:salt", "W1-0:0:0:0")
        .await
        .unwrap();
    assert_eq!(
        problems(&server).await,
        [
            "damaged values: 1 (tea)",
            "keys of another type: 1 (rice)",
            "values whose tag versions are lost: 1 (milk)",
            "marks of writes that are lost: 1 (salt)",
        ]
    );
    let found = check(&server, &[]).await;
    let longest = found.stdout.lines().map(|line| line.chars().count()).max();
    assert!(found.code == Some(1) && longest <= Some(40), "{found:?}");
}

#[tokio::test]
async fn the_clock_and_the_log() {
    let server = RedisServer::start().await;
    instance(&server).await.close().await;
    let mut redis = server.connection().await;
    assert_eq!(problems(&server).await, [""; 0]);

    let add = |id: &'static str| {
        let mut add = cmd("XADD");
        add.arg(LOG).arg(id).arg("m").arg("x");
        add
    };
    let _: String = add("4000-0").query_async(&mut redis).await.unwrap();
    assert_eq!(
        problems(&server).await,
        ["the log of partition 0 is ahead of the clock"]
    );
    let _: u64 = redis.del(LOG).await.unwrap();
    let _: String = add("1-0").query_async(&mut redis).await.unwrap();
    let mut at: Vec<u8> = redis.hget(CLOCK, "at").await.unwrap();
    at[15] += 5;
    let _: u64 = redis.hset(CLOCK, "at", at).await.unwrap();
    assert_eq!(
        problems(&server).await,
        ["the log of partition 0 lacks the last message"]
    );
    let () = redis.set(LOG, "x").await.unwrap();
    assert_eq!(
        problems(&server).await,
        ["the log of partition 0 is of another type"]
    );
    let _: u64 = redis.del(LOG).await.unwrap();
    let _: u64 = redis.hdel(CLOCK, "at").await.unwrap();
    assert_eq!(problems(&server).await, ["partition 0 has lost its clock"]);
}

#[tokio::test]
async fn members() {
    let server = RedisServer::start().await;
    let cache = instance(&server).await;
    let mut redis = server.connection().await;
    // Has crashed.
    let _: u64 = redis.hset(LIVE, "10", "1:0:600:7").await.unwrap();
    // Goes on with its notes, and applies nothing.
    let late = tokio::spawn(async move {
        for note in 1.. {
            let _: u64 = redis
                .hset(LIVE, "11", format!("1:0:600:{note}"))
                .await
                .unwrap();
            tokio::time::sleep(STALENESS / 8).await;
        }
    });
    let mut redis = server.connection().await;
    // As instances store their counters.
    let stored = "1 1 release:0.1.0 instance:web/7 unstorable_values=3";
    let _: u64 = redis.hset(STATS, "10", stored).await.unwrap();
    let found = problems(&server).await;
    assert_eq!(found, ["member a (web/7) is silent", "member b is behind"]);
    let shown = larder(&server.url(), &["check", NAMESPACE]).await.stdout;
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let note = "note: values that could not be stored, so far: 3";
    assert!(shown.contains(note), "{shown}");
    let _: u64 = redis.hdel(STATS, "10").await.unwrap();
    late.abort();
    let _: u64 = redis.hdel(LIVE, &["10", "11"]).await.unwrap();

    let other = program::cache(&server.url(), |builder| {
        builder.max_staleness(STALENESS / 2)
    });
    other.ready().await;
    assert_eq!(
        problems(&server).await,
        ["max_staleness differs: 300ms in 1, 600ms in 1"]
    );
    // Any instance would remove the entry.
    other.close().await;
    cache.close().await;
    let _: u64 = redis.hset(LIVE, "12", "x").await.unwrap();
    assert_eq!(problems(&server).await, ["damaged entries of members: 1"]);
}

#[tokio::test]
async fn the_eviction_policy() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let _cache = instance(&server).await;
    assert_eq!(problems(&server).await, ["allkeys-lru may evict the clock"]);
}

#[tokio::test]
async fn rights() {
    let server = RedisServer::start().await;
    let _cache = instance(&server).await;
    let mut redis = server.connection().await;
    let mut user = async |rights: &[&str]| {
        let mut user = cmd("ACL");
        user.arg("SETUSER")
            .arg("app")
            .arg(&["on", ">secret"])
            .arg(rights);
        let () = user.query_async(&mut redis).await.unwrap();
    };
    user(&["+@all", "~{shop:price.0}*", "&{shop:price.0}!events"]).await;
    let found = check(&server, &["--user", "app"]).await;
    assert_eq!(
        (found.code, found.row("problems")),
        (Some(0), "0"),
        "{found:?}"
    );

    user(&["-xtrim", "-client|setname", "resetchannels"]).await;
    let found = check(&server, &["--user", "app"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("subscribe"), "{found:?}");
    let lacks = "for every cache the user lacks: xtrim, client|setname, subscribe, publish";
    let as_app = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let found = larder(&as_app, &["check", NAMESPACE, "--json"]).await;
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(report["problems"][0]["what"], lacks);

    let unknown = check(&server, &["--user", "nobody"]).await;
    unknown.is_one_clear_line(3, "Redis has no user nobody");

    // Whether the service removes prefixes is not known.
    user(&[
        "+xtrim",
        "+client|setname",
        "&{shop:price.0}!events",
        "-getrange",
        "-scan",
    ])
    .await;
    let found = larder(&as_app, &["check", NAMESPACE, "--json"]).await;
    assert_eq!(found.code, Some(0), "{found:?}");
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    let notes = report["notes"].as_array().unwrap();
    let notes: Vec<_> = notes
        .iter()
        .map(|note| note["what"].as_str().unwrap())
        .collect();
    assert_eq!(
        notes,
        [
            "values were not looked at",
            "for expire, touch, sliding, insert_if, update, unchanged the user lacks: getrange",
            "for invalidate_prefix the user lacks: getrange, scan",
            "for write-behind the user lacks: getrange",
        ]
    );

    user(&["-acl"]).await;
    let found = larder(&as_app, &["check", NAMESPACE]).await;
    assert_eq!(found.code, Some(0), "{found:?}");
    assert!(found.says("rights were not looked at"), "{found:?}");
    assert!(found.says("values were not looked at"), "{found:?}");

    user(&["-hget"]).await;
    let refused = larder(&as_app, &["check", NAMESPACE]).await;
    refused.is_one_clear_line(3, "NOPERM: the Redis user may not run hget");
    user(&["+hget", "-evalsha_ro"]).await;
    let refused = larder(&as_app, &["check", NAMESPACE]).await;
    refused.is_one_clear_line(3, "NOPERM: the Redis user may not run evalsha_ro");
}

/// That a service uses write-behind can be seen in Redis.
#[tokio::test]
async fn rights_of_write_behind() {
    let server = RedisServer::start().await;
    let cache = instance(&server).await;
    let mut user = cmd("ACL");
    user.arg(&[
        "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-xdel", "-xlen",
    ]);
    let () = user
        .query_async(&mut server.connection().await)
        .await
        .unwrap();
    let lacks = "for write-behind the user lacks: xlen, xdel";
    let found = check(&server, &["--user", "app", "--json"]).await;
    assert_eq!(found.code, Some(0), "{found:?}");
    assert!(found.stdout.contains(lacks), "{found:?}");

    let writes = WriteBehind::builder(cache).store(|_| async { Ok::<_, io::Error>(()) });
    let writes = writes.build().unwrap();
    writes.insert("tea", "450".to_owned()).await.unwrap();
    let found = check(&server, &["--user", "app", "--json"]).await;
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(
        (found.code, &report["problems"][0]["what"]),
        (Some(1), &lacks.into())
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_used() {
    let server = RedisServer::start_with(&["--rename-command", "EVALSHA_RO", ""]).await;
    let found = problems(&server).await;
    assert!(
        found.len() == 1 && found[0].contains("does not know evalsha_ro"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_server_that_hides_its_process_or_history() {
    let renamed = &["--rename-command", "INFO", "ABOUT"][..];
    for (hidden, options) in [
        ("run_id", &[][..]),
        ("master_replid", &[]),
        ("master_replid", renamed),
    ] {
        let server = RedisServer::start_without(&[hidden], options).await;
        let _cache = instance(&server).await;
        let found = check(&server, &[]).await;
        assert_eq!(found.code, Some(0), "{found:?}");
        assert!(found.says(&format!("INFO hides {hidden}")), "{found:?}");
    }
}

/// A replica looks like a server that has restarted: the clock was made on another one.
#[tokio::test]
async fn a_server_that_is_not_that_of_the_clock_is_a_note() {
    let mut server = RedisServer::start().await;
    instance(&server).await.close().await;
    let mut redis = server.connection().await;
    let () = cmd("SAVE").query_async(&mut redis).await.unwrap();
    server.restart().await;
    let found = check(&server, &["--json"]).await;
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    let notes = report["notes"].as_array().unwrap();
    let what = "the server of partition 0 has restarted, or it is a replica";
    let note = notes.iter().find(|note| note["what"] == what);
    let todo = note.expect(what)["todo"].as_str().unwrap();
    assert!(todo.contains("the URL of the primary"), "{todo}");
}

#[tokio::test]
async fn what_cannot_be_looked_at_has_a_code_of_its_own() {
    let server = RedisServer::start().await;
    let unknown = check(&server, &[]).await;
    unknown.is_one_clear_line(3, "no cache in Redis has the name shop:price");
    let url = server.url();
    drop(server);
    larder(&url, &["check", NAMESPACE])
        .await
        .is_one_clear_line(3, "L2 cannot be reached");
}

#[tokio::test]
async fn old_values_that_verify_has_found() {
    let server = RedisServer::start().await;
    let cache = program::cache(&server.url(), |builder| {
        let builder = builder.l2_timeout(Duration::from_millis(500)).verify(1.0);
        builder.max_staleness(Duration::from_millis(300))
    });
    cache.ready().await;
    let keys = ["green чай", "tea"];
    for key in keys {
        cache.insert(key, "old".to_owned()).await.unwrap();
    }
    eventually("it is in the report", async || {
        for key in keys {
            let load = |_| async { Ok::<_, io::Error>("new".to_owned()) };
            cache.get_or_load_with(key, load).await.unwrap();
        }
        let found = program::json(&server.url(), &["check", NAMESPACE]).await;
        let notes = found["notes"].as_array().unwrap();
        let what = "old values that verify has found: green чай, tea";
        notes.iter().any(|note| note["what"] == what)
    })
    .await;
}
