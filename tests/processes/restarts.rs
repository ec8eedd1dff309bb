//! Redis dies and comes back with what it had, with some of it, or with nothing; or it only sleeps.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use crate::rig::{LONG, Rig, SHORT};

/// Once for a moment, once for so long that everybody notices.
async fn kill_twice(rig: &mut Rig) {
    let old = rig.epoch().await;
    rig.redis.restart().await;
    rig.epoch_is_not(old).await;
    rig.recovered().await;

    let old = rig.epoch().await;
    rig.redis.kill();
    rig.all_degraded().await;
    rig.go_on(LONG).await;
    // One of them finds it later than the others.
    rig.proxies[2].refuse(true);
    rig.redis.restart().await;
    rig.epoch_is_not(old).await;
    rig.go_on(LONG).await;
    rig.proxies[2].heal();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn killed_without_persistence() {
    let mut rig = Rig::start().await;
    kill_twice(&mut rig).await;
    let verdict = rig.finish().await;
    assert!(verdict.deferred() > 0);
}

/// Deleted values are back, and the numbers of the messages go on from where they were.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn killed_with_a_snapshot_of_before() {
    let mut rig = Rig::start().await;
    for outage in [None, Some(LONG)] {
        let old = rig.epoch().await;
        let _: () = rig.redis("SAVE").await;
        rig.write_all_keys().await;
        match outage {
            None => rig.redis.restart().await,
            Some(time) => {
                rig.redis.kill();
                rig.all_degraded().await;
                rig.go_on(time).await;
                rig.redis.restart().await;
            }
        }
        let info: String = rig.redis("INFO persistence").await;
        assert!(!info.contains("rdb_last_load_keys_loaded:0"), "{info}");
        rig.epoch_is_not(old).await;
        rig.recovered().await;
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn killed_with_all_of_it_on_disk() {
    let mut rig = Rig::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let seq = rig.seq().await;
    kill_twice(&mut rig).await;
    assert!(rig.seq().await >= seq, "it has lost something");
    let verdict = rig.finish().await;
    assert!(verdict.deferred() > 0);
}

/// As when the power fails: what had not reached the disk is gone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn killed_with_its_last_second_not_on_disk() {
    let mut rig = Rig::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
    for _ in 0..2 {
        let old = rig.epoch().await;
        let file = append_only_file(&rig);
        let on_disk = fs::metadata(&file).unwrap().len();
        rig.write_all_keys().await;
        rig.redis.kill();
        assert!(fs::metadata(&file).unwrap().len() > on_disk);
        let truncated = OpenOptions::new().write(true).open(&file).unwrap();
        truncated.set_len(on_disk).unwrap();
        rig.redis.restart().await;
        rig.epoch_is_not(old).await;
        rig.recovered().await;
    }
    rig.finish().await;
}

fn append_only_file(rig: &Rig) -> PathBuf {
    fs::read_dir(rig.redis.path().join("appendonlydir"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .expect("Redis appends to a file")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn stopped_for_a_while() {
    let mut rig = Rig::start().await;
    let epoch = rig.epoch().await;
    for _ in 0..3 {
        rig.redis.pause();
        rig.go_on(SHORT).await;
        rig.redis.resume();
        rig.go_on(SHORT).await;
    }
    for _ in 0..2 {
        rig.redis.pause();
        rig.all_degraded().await;
        rig.go_on(LONG).await;
        rig.redis.resume();
        rig.recovered().await;
    }
    assert_eq!(rig.epoch().await, epoch, "nothing was lost");
    let verdict = rig.finish().await;
    assert!(verdict.deferred() > 0);
}
