//! `larder dead-letters`: what it lists, and that the service's worker writes what is replayed.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::Cache;
use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::write_behind::{Write, WriteBehind};

use super::program::{Fixture, NAMESPACE, cache, json, larder};
use super::support::eventually::eventually;

/// A source, which refuses writes until it is mended.
#[derive(Clone, Default)]
struct Source {
    is_mended: Arc<AtomicBool>,
    written: Arc<Mutex<Vec<Write<String, String>>>>,
}

impl Source {
    /// Write-behind that gives a write up at once.
    fn write_behind(&self, cache: &Cache<String, String>) -> WriteBehind<String, String> {
        let source = self.clone();
        let store = move |batch: Vec<Write<String, String>>| {
            let source = source.clone();
            async move {
                if !source.is_mended.load(Ordering::SeqCst) {
                    return Err(io::Error::other("down"));
                }
                source.written.lock().unwrap().extend(batch);
                Ok(())
            }
        };
        let builder = WriteBehind::builder(cache.clone()).store(store);
        let builder = builder.attempts(1).interval(Duration::from_millis(20));
        builder.build().unwrap()
    }

    fn written(&self) -> Vec<Write<String, String>> {
        self.written.lock().unwrap().clone()
    }
}

async fn are_dead(writes: &WriteBehind<String, String>, many: u64) {
    eventually("they are dead letters", async || {
        writes.stats().await.unwrap().dead_letters == many
    })
    .await;
}

#[tokio::test]
async fn they_are_listed_and_tried_again() {
    let shop = Fixture::new().await;
    let source = Source::default();
    let writes = source.write_behind(&shop.cache);
    // One after the other, as a batch has its keys in their own order.
    for (key, many) in [("tea", 1), ("milk", 2)] {
        writes.insert(key, "450".to_owned()).await.unwrap();
        are_dead(&writes, many).await;
    }
    let versions = writes.dead_letters(10).await.unwrap();
    let url = shop.url();
    let list = larder(&url, &["dead-letters", "list", NAMESPACE]).await;
    assert_eq!((list.code, &*list.stderr), (Some(0), ""), "{list:?}");
    assert_eq!(
        (list.row("pending"), list.row("dead"), list.row("worker")),
        ("0", "2", "yes")
    );
    assert!(list.says("store returned an error"), "{list:?}");
    assert!(
        list.stdout.lines().all(|line| line.chars().count() <= 40),
        "{list:?}"
    );
    let one = larder(&url, &["dead-letters", "list", NAMESPACE, "--most", "1"]).await;
    assert_eq!((one.row("letter"), one.row("not shown")), ("tea", "1"));
    let listed = json(&url, &["dead-letters", "list", NAMESPACE]).await;
    assert_eq!(
        (&listed["dead_letters"], &listed["has_worker"]),
        (&2.into(), &true.into())
    );
    assert_eq!(listed["letters"][1]["key"], "milk");

    let replay = ["dead-letters", "replay", NAMESPACE];
    let asked = larder(&url, &replay).await;
    assert_eq!(
        (asked.code, &*asked.stdout),
        (Some(1), "would replay dead letters: 2\n")
    );
    assert_eq!(
        asked.stderr,
        "larder: nothing was changed; give --yes to do it\n"
    );
    let dry = larder(&url, &[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!((dry.code, &dry.stdout), (Some(0), &asked.stdout), "{dry:?}");
    assert_eq!(writes.stats().await.unwrap().dead_letters, 2);

    source.is_mended.store(true, Ordering::SeqCst);
    let done = larder(&url, &[&replay[..], &["--yes"]].concat()).await;
    assert_eq!((done.code, &*done.stderr), (Some(0), ""), "{done:?}");
    assert_eq!(done.stdout, "wait again: 2\n");
    eventually("the worker writes them", async || {
        source.written().len() == 2
    })
    .await;
    // With the versions that they had, by which a source refuses late writes.
    for letter in versions {
        let write = letter.write.unwrap();
        assert!(source.written().contains(&write), "{write:?}");
    }
    let list = larder(&url, &["dead-letters", "list", NAMESPACE]).await;
    assert_eq!(
        (list.row("dead"), list.stdout.contains("letter ")),
        ("0", false)
    );
}

/// As `WriteBehind::replay_dead_letters`: the newer write is the one that counts.
#[tokio::test]
async fn an_older_write_is_removed_while_a_newer_one_waits() {
    let shop = Fixture::new().await;
    let source = Source::default();
    let writes = source.write_behind(&shop.cache);
    writes.insert("tea", "450".to_owned()).await.unwrap();
    are_dead(&writes, 1).await;
    // Without a worker the newer one waits.
    drop(writes);
    let idle = WriteBehind::builder(shop.cache.clone());
    let idle = idle.store(|_| std::future::pending::<Result<(), io::Error>>());
    let idle = idle.build().unwrap();
    idle.insert("tea", "500".to_owned()).await.unwrap();
    let done = larder(&shop.url(), &["dead-letters", "replay", NAMESPACE, "--yes"]).await;
    assert_eq!(
        (done.code, &*done.stdout),
        (Some(0), "wait again: 0\n"),
        "{done:?}"
    );
    let listed = json(&shop.url(), &["dead-letters", "list", NAMESPACE]).await;
    assert_eq!(
        (&listed["dead_letters"], &listed["pending"]),
        (&0.into(), &1.into())
    );
}

#[tokio::test]
async fn letters_of_all_partitions() {
    let shop = Fixture::new().await;
    let many = cache(&shop.url(), |builder| builder.partitions(4));
    let source = Source::default();
    let writes = source.write_behind(&many);
    for key in ["tea", "milk", "salt", "rice", "mate"] {
        writes.insert(key, "450".to_owned()).await.unwrap();
    }
    are_dead(&writes, 5).await;
    let list = larder(&shop.url(), &["dead-letters", "list", NAMESPACE]).await;
    assert_eq!(
        (list.row("dead"), list.stdout.matches("letter ").count()),
        ("5", 5),
        "{list:?}"
    );
    source.is_mended.store(true, Ordering::SeqCst);
    let done = larder(&shop.url(), &["dead-letters", "replay", NAMESPACE, "--yes"]).await;
    assert_eq!(done.stdout, "wait again: 5\n", "{done:?}");
    eventually("the workers write them", async || {
        source.written().len() == 5
    })
    .await;
}

#[tokio::test]
async fn trouble_is_one_clear_line() {
    let shop = Fixture::new().await;
    for what in ["list", "replay"] {
        let unknown = larder(&shop.url(), &["dead-letters", what, "shop:prize"]).await;
        unknown.is_one_clear_line(1, "no cache in Redis has the name shop:prize");
    }
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let none = larder(&shop.url(), &["dead-letters", "list", NAMESPACE]).await;
    assert_eq!(
        (none.code, none.row("dead"), none.row("worker")),
        (Some(0), "0", "no")
    );

    let mut redis = shop.redis().await;
    let mut user = cmd("ACL");
    user.arg(&[
        "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-xlen",
    ]);
    let () = user.query_async(&mut redis).await.unwrap();
    let as_app = format!("redis://app:secret@127.0.0.1:{}", shop.server.port());
    for arguments in [&["list", NAMESPACE][..], &["replay", NAMESPACE, "--yes"]] {
        let refused = larder(&as_app, &[&["dead-letters"], arguments].concat()).await;
        refused.is_one_clear_line(1, "NOPERM: the Redis user may not run xlen");
    }
    // Another program has put something else there.
    let () = redis.set("{shop:price.0}!dead", "x").await.unwrap();
    let damaged = larder(&shop.url(), &["dead-letters", "list", NAMESPACE]).await;
    damaged.is_one_clear_line(1, "WRONGTYPE");
}
