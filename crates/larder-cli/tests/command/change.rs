//! What the commands that change a cache do to its instances, and when they change nothing.

use std::io;
#[cfg(unix)]
use std::process::Stdio;
use std::time::Duration;

#[cfg(unix)]
use larder::l2::deadpool_redis::redis::AsyncCommands;
#[cfg(unix)]
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::cmd;
use larder::{Cache, Loaded, RedisL2};
#[cfg(unix)]
use tokio::process::Command;
#[cfg(unix)]
use tokio::time::timeout;

#[cfg(unix)]
use super::program::LIMIT;
use super::program::{Fixture, NAMESPACE, json, larder, number_of_keys};
use super::support::eventually::eventually;
use super::support::redis_server::RedisServer;
#[cfg(unix)]
use super::support::signal;

impl Fixture {
    /// Runs a command that changes the cache, and returns what it says it has done.
    async fn change(&self, arguments: &[&str]) -> String {
        let done = larder(&self.url(), &[arguments, &["--yes"]].concat()).await;
        assert_eq!((done.code, &*done.stderr), (Some(0), ""), "{done:?}");
        done.stdout.trim_end().to_owned()
    }

    async fn stores(&self, keys: &[&str]) {
        for key in keys {
            self.cache.insert(*key, "450".to_owned()).await.unwrap();
        }
    }

    /// Whether the instance, with its L1, has a value.
    async fn has(&self, key: &str) -> bool {
        self.cache.get(key).await.is_some()
    }
}

#[tokio::test]
async fn invalidate_evicts_from_an_instance() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    shop.stores(&["tea", "milk", "salt"]).await;
    let done = shop
        .change(&["invalidate", NAMESPACE, "tea", "milk", "--wait"])
        .await;
    assert_eq!(done, "invalidated: 2");
    assert!(!shop.has("tea").await && !shop.has("milk").await && shop.has("salt").await);

    let done = shop.change(&["invalidate", NAMESPACE, "salt"]).await;
    assert_eq!(done, "invalidated: 1");
    eventually("its message arrives", async || !shop.has("salt").await).await;
}

#[tokio::test]
async fn expire_makes_a_value_stale() {
    let shop = Fixture::new().await;
    shop.stores(&["tea"]).await;
    assert_eq!(
        shop.change(&["expire", NAMESPACE, "tea"]).await,
        "made stale: 1"
    );
    assert!(shop.inspect("tea").await.row("  stale").ends_with("ago"));
    eventually("its message arrives", async || {
        shop.cache.get("tea").await.unwrap().meta().is_stale()
    })
    .await;
}

#[tokio::test]
async fn expire_says_which_keys_have_no_value() {
    let shop = Fixture::new().await;
    shop.stores(&["tea", "salt"]).await;
    let done = shop.change(&["expire", NAMESPACE, "milk", "tea"]).await;
    assert_eq!(done, "made stale: 1\nno value: milk");
    let done = shop.change(&["expire", NAMESPACE, "milk"]).await;
    assert_eq!(done, "made stale: 0\nno value: milk");
    // Redis keeps the value, and no instance uses it.
    shop.cache.clear().await.unwrap();
    let expire = ["expire", NAMESPACE, "salt"];
    let dry = larder(&shop.url(), &[&expire[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry.stdout, "would make stale salt: values 0\n", "{dry:?}");
    assert_eq!(shop.change(&expire).await, "made stale: 0\nno value: salt");
}

#[tokio::test]
async fn a_key_may_begin_with_a_hyphen() {
    let shop = Fixture::new().await;
    shop.stores(&["-5", "-x", "tea", "--yse", "-h"]).await;
    let shown = json(&shop.url(), &["inspect", NAMESPACE, "-5"]).await;
    assert_eq!(
        (&shown["key"], &shown["values"][0]["used"]),
        (&"-5".into(), &true.into())
    );
    // A typo in an option is no key.
    let typo = ["invalidate", NAMESPACE, "-x", "--yse", "--yes"];
    let refused = larder(&shop.url(), &typo).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("'--yse'"), "{refused:?}");
    let help = larder(&shop.url(), &["invalidate", NAMESPACE, "-x", "-h"]).await;
    assert!(help.stdout.contains("Usage: "), "{help:?}");
    assert!(shop.has("-x").await && shop.has("--yse").await);

    let url = shop.url();
    let options_between = [
        "invalidate",
        NAMESPACE,
        "-5",
        "--wait",
        "--url",
        &url,
        "tea",
    ];
    let done = shop.change(&options_between).await;
    assert_eq!(done, "invalidated: 2");
    assert!(!shop.has("-5").await && !shop.has("tea").await);
    let all = [
        "invalidate",
        NAMESPACE,
        "--yes",
        "--wait",
        "-x",
        "--",
        "--yse",
        "-h",
    ];
    let done = larder(&url, &all).await;
    assert_eq!(done.stdout, "invalidated: 3\n", "{done:?}");
    assert!(!shop.has("-x").await && !shop.has("--yse").await && !shop.has("-h").await);
}

#[tokio::test]
async fn tag_removes_the_values_that_have_it() {
    let shop = Fixture::new().await;
    for (key, tag) in [("tea", "asia"), ("milk", "alps")] {
        let load =
            move |_| async move { Ok::<_, io::Error>(Loaded::new("450".to_owned()).tags([tag])) };
        shop.cache.get_or_load_with(key, load).await.unwrap();
    }
    assert_eq!(
        shop.change(&["tag", NAMESPACE, "asia"]).await,
        "tags invalidated: 1"
    );
    eventually("its message arrives", async || !shop.has("tea").await).await;
    assert!(shop.has("milk").await);
}

#[tokio::test]
async fn prefix_and_clear_remove_keys_of_all_partitions() {
    let shop = Fixture::new().await;
    let url = shop.url();
    let cache = super::program::cache(&url, |builder| builder.partitions(4));
    let keys = ["eu:tea", "eu:milk", "eu:salt", "us:tea", "us:milk"];
    for key in keys {
        cache.insert(key, "450".to_owned()).await.unwrap();
    }
    let dry = larder(&url, &["prefix", NAMESPACE, "eu:", "--dry-run"]).await;
    assert_eq!(dry.stdout, "would remove keys: 3\n", "{dry:?}");
    assert_eq!(
        shop.change(&["prefix", NAMESPACE, "eu:"]).await,
        "removed: 3"
    );
    let dry = larder(&url, &["clear", NAMESPACE, "--dry-run"]).await;
    assert_eq!(dry.stdout, "would remove keys: 2\n", "{dry:?}");
    assert_eq!(shop.change(&["clear", NAMESPACE]).await, "cleared");
    for key in keys {
        eventually("the messages arrive", async || {
            cache.get(key).await.is_none()
        })
        .await;
        assert!(shop.inspect(key).await.row("partition").ends_with(" of 4"));
    }
}

#[tokio::test]
async fn all_instances_are_switched_off_and_on() {
    let shop = Fixture::new().await;
    let url = shop.url();
    let cache = super::program::cache(&url, |builder| builder.partitions(4));
    cache.ready().await;
    for (state, is_on) in [("off", false), ("on", true)] {
        let dry = larder(&url, &["switch", NAMESPACE, state, "--dry-run"]).await;
        assert_eq!(dry.stdout, format!("would switch all instances {state}\n"));
        let done = shop.change(&["switch", NAMESPACE, state]).await;
        assert_eq!(done, format!("switched {state}"));
        eventually("it follows", async || cache.is_enabled() == is_on).await;
        let checked = larder(&url, &["check", NAMESPACE]).await;
        let is_told = checked.stdout.contains("it is switched off everywhere");
        assert_eq!(is_told, !is_on, "{checked:?}");
    }
    let neither = larder(&url, &["switch", NAMESPACE, "maybe", "--yes"]).await;
    assert_eq!(neither.code, Some(2), "{neither:?}");
}

#[tokio::test]
async fn without_yes_nothing_is_changed() {
    let shop = Fixture::new().await;
    shop.stores(&["tea"]).await;
    let commands: [&[&str]; 6] = [
        &["invalidate", NAMESPACE, "tea", "milk"],
        &["expire", NAMESPACE, "tea"],
        &["tag", NAMESPACE, "asia"],
        &["prefix", NAMESPACE, "t"],
        &["clear", NAMESPACE],
        &["switch", NAMESPACE, "off"],
    ];
    let mut redis = shop.redis().await;
    let mut clock = cmd("HGET");
    clock.arg("{shop:price.0}!clock").arg("at");
    let before: Vec<u8> = clock.query_async(&mut redis).await.unwrap();
    for command in commands {
        let asked = larder(&shop.url(), command).await;
        assert_eq!(asked.code, Some(1), "{asked:?}");
        assert_eq!(
            asked.stderr,
            "larder: nothing was changed; give --yes to do it\n"
        );
        let dry = larder(&shop.url(), &[command, &["--dry-run"]].concat()).await;
        assert_eq!((dry.code, &dry.stdout), (Some(0), &asked.stdout), "{dry:?}");
        assert!(dry.stdout.starts_with("would "), "{dry:?}");
        let both = larder(&shop.url(), &[command, &["--dry-run", "--yes"]].concat()).await;
        assert_eq!(both.code, Some(2), "{both:?}");
    }
    let after: Vec<u8> = clock.query_async(&mut redis).await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn no_namespace_is_made_by_a_wrong_name() {
    let server = RedisServer::start().await;
    for command in [
        &["clear", "shop:prize", "--yes"][..],
        &["tail", "shop:prize"],
    ] {
        let done = larder(&server.url(), command).await;
        let address = format!("shop:prize (at 127.0.0.1:{})", server.port());
        done.is_one_clear_line(1, &format!("no cache in Redis has the name {address}"));
    }
    assert_eq!(number_of_keys(&server).await, 0);
}

#[tokio::test]
async fn the_nearest_names_are_told_for_a_wrong_one() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let others = ["shop:views", "blog:page", "shop:user"].map(|name| {
        let l2 = RedisL2::open(&*shop.url()).unwrap();
        Cache::<String, String>::builder(name)
            .l2(l2)
            .build()
            .unwrap()
    });
    for cache in &others {
        cache.ready().await;
    }
    let unknown = "no cache in Redis has the name shop:prize";
    let address = format!("(at 127.0.0.1:{})", shop.server.port());
    let told = format!("{unknown}; the nearest: shop:price, shop:user, shop:views {address}");
    for (command, code) in [
        (&["inspect", "shop:prize", "tea"][..], 1),
        (&["inspect", "shop:prize", "tea", "--json"], 1),
        (&["check", "shop:prize"], 3),
        (&["tail", "shop:prize"], 1),
        (&["top", "shop:prize", "--once"], 1),
        (&["dead-letters", "list", "shop:prize"], 1),
        (&["invalidate", "shop:prize", "tea", "--dry-run"], 1),
        (&["forget", "shop:prize", "--dry-run"], 1),
    ] {
        larder(&shop.url(), command)
            .await
            .is_one_clear_line(code, &told);
    }

    let mut user = cmd("ACL");
    user.arg(&[
        "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-scan",
    ]);
    let () = user.query_async(&mut shop.redis().await).await.unwrap();
    let url = format!("redis://app:secret@127.0.0.1:{}", shop.server.port());
    let told = larder(&url, &["tail", "shop:prize"]).await;
    told.is_one_clear_line(1, &format!("{unknown} {address}"));
}

#[tokio::test]
async fn a_change_that_is_refused_is_one_clear_line() {
    let shop = Fixture::new().await;
    shop.stores(&["tea"]).await;
    let mut user = cmd("ACL");
    user.arg(&[
        "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-evalsha", "-scan",
    ]);
    let () = user.query_async(&mut shop.redis().await).await.unwrap();
    let url = format!("redis://app:secret@127.0.0.1:{}", shop.server.port());
    let refused = larder(&url, &["invalidate", NAMESPACE, "tea", "--yes"]).await;
    refused.is_one_clear_line(1, "not certainly done; run it again");
    assert!(
        refused.stderr.contains("may not run evalsha"),
        "{refused:?}"
    );
    let refused = larder(&url, &["switch", NAMESPACE, "off", "--yes"]).await;
    refused.is_one_clear_line(1, "may not run evalsha");
    let address = format!(" (at 127.0.0.1:{})\n", shop.server.port());
    assert!(refused.stderr.ends_with(&address), "{refused:?}");
    // Before it has ended any lease.
    let refused = larder(&url, &["prefix", NAMESPACE, "t", "--yes"]).await;
    refused.is_one_clear_line(
        1,
        "L2 refused the request: NOPERM: the Redis user may not run scan",
    );
    assert!(shop.has("tea").await);
}

/// As the user of a service that never removes a prefix.
#[tokio::test]
async fn a_clear_needs_no_scan() {
    let shop = Fixture::new().await;
    shop.stores(&["tea"]).await;
    let mut user = cmd("ACL");
    user.arg(&[
        "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-scan",
    ]);
    let () = user.query_async(&mut shop.redis().await).await.unwrap();
    let url = format!("redis://app:secret@127.0.0.1:{}", shop.server.port());
    let dry = larder(&url, &["clear", NAMESPACE, "--dry-run"]).await;
    let would = "would remove all keys; to count them needs +scan\n";
    assert_eq!((dry.code, &*dry.stdout), (Some(0), would), "{dry:?}");
    assert!(shop.has("tea").await);
    let done = larder(&url, &["clear", NAMESPACE, "--yes"]).await;
    assert_eq!(
        (done.code, &*done.stdout),
        (Some(0), "cleared\n"),
        "{done:?}"
    );
    eventually("the message arrives", async || !shop.has("tea").await).await;
}

/// An instance that waits for all others does not wait for one of the command.
#[tokio::test]
async fn no_member_is_left_behind() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    shop.change(&["invalidate", NAMESPACE, "tea"]).await;
    let mut list = cmd("HLEN");
    list.arg("{shop:price.0}!live");
    let fields: u64 = list.query_async(&mut shop.redis().await).await.unwrap();
    // The instance, and the generation of the list.
    assert_eq!(fields, 2);
    let waited = tokio::time::timeout(
        Duration::from_secs(30),
        shop.cache.invalidate_and_wait("tea"),
    );
    waited.await.unwrap().unwrap();
}

/// How many messages the log has.
#[cfg(unix)]
async fn messages_of(redis: &MultiplexedConnection) -> u64 {
    let mut length = cmd("XLEN");
    length.arg("{shop:price.0}!log");
    length.query_async(&mut redis.clone()).await.unwrap()
}

/// Nor if it is killed, which leaves it no time to leave.
#[cfg(unix)]
#[tokio::test]
async fn a_command_that_is_killed_leaves_nobody_to_wait_for() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut redis = shop.redis().await;
    let list = "{shop:price.0}!live";
    // A member that has crashed, for which the command waits.
    let crashed = ("77", "0:0:3600000:0");
    let _: u64 = redis.hset(list, crashed.0, crashed.1).await.unwrap();
    let before: Vec<String> = redis.hkeys(list).await.unwrap();
    for name in ["KILL", "INT", "TERM", "HUP"] {
        let messages: u64 = messages_of(&redis).await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["invalidate", NAMESPACE, "tea", "--yes", "--wait"]);
        command.env("REDIS_URL", shop.url()).kill_on_drop(true);
        let command = command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        eventually("it waits", async || {
            let now: u64 = messages_of(&redis).await;
            now == messages + 1
        })
        .await;
        if name == "KILL" {
            child.start_kill().unwrap();
        } else {
            signal::send(child.id().unwrap(), name);
        }
        let ended = timeout(LIMIT, child.wait_with_output()).await;
        let ended = ended.expect("it ends").unwrap();
        if name != "KILL" {
            let said = String::from_utf8(ended.stderr).unwrap();
            let line = "larder: ended by a signal, and not certainly done; run it again\n";
            assert_eq!((ended.status.code(), &*said), (Some(1), line));
        }
        let after: Vec<String> = redis.hkeys(list).await.unwrap();
        assert_eq!(after, before, "{name}");
    }
    let _: u64 = redis.hdel(list, crashed.0).await.unwrap();

    // One step for all keys, and nobody to wait for but the instance.
    let messages: u64 = messages_of(&redis).await;
    let keys = ["tea", "milk", "salt", "oil"];
    shop.stores(&keys).await;
    let stored: u64 = messages_of(&redis).await;
    assert_eq!(stored, messages + 4);
    let command = [&["invalidate", NAMESPACE][..], &keys, &["--wait"]].concat();
    assert_eq!(shop.change(&command).await, "invalidated: 4");
    let after: u64 = messages_of(&redis).await;
    assert_eq!(after, stored + 1);
    for key in keys {
        assert!(shop.cache.get_local(key).is_none(), "{key}");
    }
}
