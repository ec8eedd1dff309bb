//! The screens in the README are those of the command.

use std::collections::BTreeMap;
use std::time::Duration;
use std::{fs, io};

use larder::codec::Json;
use larder::write_behind::WriteBehind;
use larder::{Cache, Loaded, RedisL2};

use super::program::{NAMESPACE, json, larder};
use super::support::eventually::eventually;
use super::support::redis_server::RedisServer;
use super::tail::Tail;
use super::top::hits;

const README: &str = include_str!("../../README.md");

/// A word without what differs from run to run: numbers, times and hashes.
fn alike(word: &str) -> String {
    let word = word.trim_start_matches('>');
    // That of a member has no zeros in front.
    let is_hash = word.len() >= 10 && word.chars().all(|char| char.is_ascii_hexdigit());
    let is_number = word
        .chars()
        .all(|char| char.is_ascii_digit() || char == '.');
    let is_time = word.starts_with(|char: char| char.is_ascii_digit()) && word.ends_with('s');
    if is_hash || is_number || is_time {
        return "…".to_owned();
    }
    // A port.
    word.chars().filter(|char| !char.is_ascii_digit()).collect()
}

fn lines_alike(text: &str) -> Vec<Vec<String>> {
    let lines = text.trim_end().lines();
    lines
        .map(|line| line.split_whitespace().map(alike).collect())
        .collect()
}

/// A cache with a write that its source has refused.
async fn dead_letter(url: &str) -> WriteBehind<String, u64> {
    let l2 = RedisL2::open(url).unwrap();
    let views = Cache::builder("shop:views").l2(l2);
    let views = views.instance_name("web/1").build().unwrap();
    let writes = WriteBehind::builder(views)
        .store(|_| async { Err::<(), _>(io::Error::other("down")) })
        .attempts(1)
        .build()
        .unwrap();
    writes.insert("tea", 1).await.unwrap();
    eventually("it is a dead letter", async || {
        writes.stats().await.unwrap().dead_letters == 1
    })
    .await;
    writes
}

#[tokio::test]
async fn its_screens_are_those_of_the_command() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let url = server.url();
    let l2 = RedisL2::open(&*url).unwrap();
    let cache: Cache<String, BTreeMap<String, u32>> = Cache::builder(NAMESPACE)
        .l2(l2)
        .codec(Json)
        .instance_name("web/1")
        // By this, counters are soon in Redis.
        .max_staleness(Duration::from_millis(500))
        .build()
        .unwrap();
    cache.ready().await;
    let _writes = dead_letter(&url).await;
    let mut tail = Tail::start(&url, &[]).await;
    for (key, tag) in [("tea", "hot"), ("milk", "cold"), ("eu:tea", "hot")] {
        let price = BTreeMap::from([("cents".to_owned(), 450)]);
        let load = move |_| async move { Ok::<_, io::Error>(Loaded::new(price).tags([tag])) };
        cache.get_or_load_with(key, load).await.unwrap();
    }
    cache.invalidate_tag("cold").await.unwrap();
    for _ in 0..97 {
        cache.get("tea").await.unwrap();
    }
    eventually("the counters are stored", async || {
        let shown = json(&url, &["top", NAMESPACE, "--once", "--every", "100ms"]).await;
        hits(&shown) == 97
    })
    .await;

    let (mut readme, mut shown) = (String::new(), 0);
    for part in README.split_inclusive("```text\n") {
        let Some((screen, rest)) = part
            .split_once("\n```\n")
            .filter(|_| part.starts_with("$ "))
        else {
            readme.push_str(part);
            continue;
        };
        let command = screen.lines().next().unwrap();
        let arguments: Vec<_> = command.split(' ').skip(2).collect();
        let printed = if arguments == ["tail", NAMESPACE] {
            // Each command of the page that changes something comes after it.
            cache.insert("salt", BTreeMap::new()).await.unwrap();
            format!("{}\n{}\n", tail.line().await, tail.line().await)
        } else {
            let mut printed = larder(&url, &arguments).await.stdout;
            // An instance says that it follows a bypass when it stores its counters: soon if there is news, or in a minute.
            for _ in 0..50 {
                if !printed.contains("not yet") {
                    break;
                }
                cache.get("tea").await;
                printed = larder(&url, &arguments).await.stdout;
            }
            printed
        };
        let printed = format!("{command}\n{}", printed.trim_end());
        shown += usize::from(lines_alike(&printed) == lines_alike(screen));
        readme.extend([&*printed, "\n```\n", rest]);
    }
    let screens = README.matches("```text\n$ ").count();
    if shown < screens || screens == 0 {
        let made = std::env::temp_dir().join("larder-cli-README.md");
        fs::write(&made, readme).unwrap();
        panic!(
            "{shown} of {screens} screens are those of the command; see {}",
            made.display()
        );
    }
}
