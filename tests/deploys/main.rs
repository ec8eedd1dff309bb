//! Two releases of a service side by side, each a process of its own, as during a rolling deploy: what the guide's page
//! "A deploy" says of each kind of change.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a step that fails ends the test"
)]

// The file has values of all codecs and layers.
#[cfg(all(
    feature = "json",
    feature = "postcard",
    feature = "messagepack",
    feature = "compression"
))]
mod bytes;
mod release;
#[path = "../support/mod.rs"]
mod support;

use crate::release::{Kind, Release};
use crate::support::redis_server::RedisServer;

const OLD: &str = "old";
const NEW: &str = "new";

async fn releases(old: Kind, new: Kind) -> (RedisServer, Release, Release) {
    let server = RedisServer::start().await;
    let old = Release::start(old, &server.url()).await;
    let new = Release::start(new, &server.url()).await;
    (server, old, new)
}

/// Empties L1 of both, so each look-up reads L2.
async fn forget(old: &mut Release, new: &mut Release) {
    for release in [old, new] {
        assert_eq!(release.ask("forget").await, "done");
    }
}

/// Each of both has called its loader so often.
async fn have_loaded(old: &mut Release, new: &mut Release, times: usize) {
    for release in [old, new] {
        assert_eq!(release.ask("loads").await, times.to_string());
    }
}

/// Each release loads a key once, and a change of either reaches both.
#[tokio::test]
async fn releases_with_two_schema_versions_keep_their_values_and_share_changes() {
    let (_server, mut old, mut new) = releases(Kind::Plain, Kind::SchemaVersion).await;
    for round in 1..=2 {
        for _ in 0..20 {
            assert_eq!(old.ask("load k old").await, OLD);
            assert_eq!(new.ask("load k new").await, NEW);
            forget(&mut old, &mut new).await;
        }
        have_loaded(&mut old, &mut new, round).await;
        let (changing, other) = if round == 1 {
            (&mut old, &mut new)
        } else {
            (&mut new, &mut old)
        };
        assert_eq!(changing.ask("invalidate k").await, "done");
        assert_eq!(other.ask("get k").await, "nothing");
    }
    assert_eq!(new.ask("load k new").await, NEW);
    assert_eq!(old.ask("insert k newer").await, "done");
    new.until("get k", "nothing").await;
    assert_eq!(old.ask("get k").await, "newer");
    assert_eq!(new.ask("errors").await, "0 0");
}

/// Each release finds the lock of the other, also after a value of its own type in front of it has expired.
#[tokio::test]
async fn a_lock_of_one_release_is_held_for_the_other() {
    let (_server, mut old, mut new) = releases(Kind::Plain, Kind::SchemaVersion).await;
    for (is_old, key) in [(true, "k"), (false, "l")] {
        let (holder, other) = if is_old {
            (&mut old, &mut new)
        } else {
            (&mut new, &mut old)
        };
        assert_eq!(holder.ask(&format!("claim {key} held")).await, "true");
        assert_eq!(other.ask(&format!("claim {key} stolen")).await, "false");
        let loaded = other.ask(&format!("load_for 300 {key} loaded")).await;
        assert_eq!(loaded, "loaded");
        assert_eq!(other.ask(&format!("claim {key} stolen")).await, "false");
        other.until(&format!("get {key}"), "nothing").await;
        assert_eq!(other.ask(&format!("claim {key} stolen")).await, "false");
        assert_eq!(holder.ask(&format!("get {key}")).await, "held");
        // Its end is the end of the lock for both.
        assert_eq!(holder.ask(&format!("invalidate {key}")).await, "done");
        assert_eq!(other.ask(&format!("claim {key} mine")).await, "true");
        assert_eq!(holder.ask(&format!("claim {key} another")).await, "false");
    }
}

/// The values of the other release are misses, and are replaced: correct, and no faster than without a cache.
#[tokio::test]
async fn releases_with_two_shapes_and_one_schema_version_replace_each_others_values() {
    let (_server, mut old, mut new) = releases(Kind::Plain, Kind::Shape).await;
    for round in 1..=3 {
        assert_eq!(old.ask("load k old").await, OLD);
        assert_eq!(new.ask("load k new").await, NEW);
        forget(&mut old, &mut new).await;
        have_loaded(&mut old, &mut new, round).await;
    }
    assert_eq!(old.ask("invalidate k").await, "done");
    assert_eq!(new.ask("get k").await, "nothing");
}

#[cfg(feature = "json")]
#[tokio::test]
async fn releases_with_two_codecs_read_each_others_values() {
    let (_server, mut old, mut new) = releases(Kind::Plain, Kind::Json).await;
    assert_eq!(old.ask("load k old").await, OLD);
    assert_eq!(new.ask("load k new").await, OLD);
    assert_eq!(new.ask("insert k new").await, "done");
    old.until("get k", NEW).await;
    assert_eq!(old.ask("invalidate k").await, "done");
    assert_eq!(new.ask("get k").await, "nothing");
}

/// Both append to one stream, and the worker of each takes its own writes.
#[cfg(feature = "write-behind")]
#[tokio::test]
async fn releases_with_two_schema_versions_write_their_own_writes_behind() {
    let (_server, mut old, mut new) = releases(Kind::Plain, Kind::SchemaVersion).await;
    for n in 1..=5 {
        assert_eq!(old.ask(&format!("append k{n} old{n}")).await, "done");
        assert_eq!(new.ask(&format!("append l{n} new{n}")).await, "done");
        old.until("written", &upto("old", n)).await;
        new.until("written", &upto("new", n)).await;
    }
}

/// What a release has written, in order.
#[cfg(feature = "write-behind")]
fn upto(release: &str, n: usize) -> String {
    let all: Vec<String> = (1..=n).map(|n| format!("{release}{n}")).collect();
    all.join(" ")
}

/// Nothing of one release reaches the other.
#[tokio::test]
async fn releases_with_two_namespaces_are_two_caches() {
    let (_server, mut old, mut new) = releases(Kind::Plain, Kind::Namespace).await;
    assert_eq!(old.ask("load k old").await, OLD);
    assert_eq!(new.ask("load k new").await, NEW);
    assert_eq!(new.ask("invalidate k").await, "done");
    assert_eq!(old.ask("get k").await, OLD);
}

/// The larger number counts for both, and the caches begin empty.
#[tokio::test]
async fn releases_with_two_numbers_of_partitions_use_the_larger_one() {
    let server = RedisServer::start().await;
    let mut old = Release::start(Kind::Plain, &server.url()).await;
    assert_eq!(old.ask("load k old").await, OLD);
    let mut new = Release::start(Kind::Partitions, &server.url()).await;
    assert_eq!(new.ask("load k new").await, NEW);
    // The old release hears of the partitions at its next heartbeat.
    old.until("get k", NEW).await;
    assert_eq!(old.ask("invalidate k").await, "done");
    assert_eq!(new.ask("get k").await, "nothing");
}
