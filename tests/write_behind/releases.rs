//! Two releases with values of different types, which append to one stream during a deploy.

use super::*;

/// An instance of a release whose values have another type tag than those of [`instance`].
async fn of_next_release(redis: &RedisServer) -> Views {
    subscribed(|builder| builder.schema_version(1), redis).await
}

#[tokio::test]
async fn the_writes_of_each_release_reach_its_own_store() {
    let redis = RedisServer::start().await;
    let caches = (instance(&redis).await, of_next_release(&redis).await);
    let sources = (Source::new(), Source::new());
    // In batches that have writes of both, and in batches that have those of one release alone.
    for batch in [256, 2] {
        // Of the workers of the round before.
        let_work(&redis).await;
        let old = sources.0.builder(&caches.0).batch(batch).build().unwrap();
        let new = sources.1.builder(&caches.1).batch(batch).build().unwrap();
        for round in 1..=20 {
            for n in 0..3 {
                old.insert(&format!("old {n}"), round).await.unwrap();
                new.insert(&format!("new {n}"), round).await.unwrap();
            }
        }
        old.flush().await.unwrap();
        new.flush().await.unwrap();
        for n in 0..3 {
            let (of_old, of_new) = (format!("old {n}"), format!("new {n}"));
            assert_eq!(
                (sources.0.row(&of_old), sources.0.row(&of_new)),
                (Some(20), None)
            );
            assert_eq!(
                (sources.1.row(&of_old), sources.1.row(&of_new)),
                (None, Some(20))
            );
        }
        assert_eq!(old.stats().await.unwrap().dead_letters, 0);
    }
}

/// The release whose write of a key is the newest writes it; the older writes of the key end with it.
#[tokio::test]
async fn the_newest_write_of_a_key_counts_whichever_release_appends_it() {
    let redis = RedisServer::start().await;
    let caches = (instance(&redis).await, of_next_release(&redis).await);
    let sources = (Source::new(), Source::new());
    let old = sources.0.behind(&caches.0);
    let new = sources.1.behind(&caches.1);
    let_wait(&redis).await;
    for (key, first, last) in [("k", &old, &new), ("l", &new, &old)] {
        first.insert(key, 1).await.unwrap();
        last.insert(key, 2).await.unwrap();
    }
    let_work(&redis).await;
    old.flush().await.unwrap();
    let rows = |key| (sources.0.row(key), sources.1.row(key));
    assert_eq!((rows("k"), rows("l")), ((None, Some(2)), (Some(2), None)));
    let stats = old.stats().await.unwrap();
    assert_eq!((stats.pending, stats.dead_letters), (0, 0));
}

/// As after a rollback. The writes of the release that runs do not wait for that.
#[tokio::test]
async fn writes_of_a_release_that_does_not_run_any_more_are_dead_letters() {
    let redis = RedisServer::start().await;
    let caches = (instance(&redis).await, of_next_release(&redis).await);
    let sources = (Source::new(), Source::new());
    let old = sources.0.behind(&caches.0);
    let_wait(&redis).await;
    let new = sources.1.behind(&caches.1);
    for n in 0..250 {
        new.insert(&n.to_string(), 1).await.unwrap();
    }
    drop(new);
    old.insert("k", 1).await.unwrap();
    let_work(&redis).await;
    eventually("the writes behind them are written", async || {
        sources.0.row("k") == Some(1)
    })
    .await;
    assert_eq!(old.stats().await.unwrap().dead_letters, 0);
    eventually("all are dead letters", async || {
        let stats = old.stats().await.unwrap();
        (stats.pending, stats.dead_letters) == (0, 250)
    })
    .await;
    let letters = old.dead_letters(1).await.unwrap();
    assert!(letters[0].write.is_none());
    assert!(
        letters[0].reason.contains("schema_version"),
        "{}",
        letters[0].reason
    );

    // That release comes back.
    let new = sources.1.behind(&caches.1);
    assert_eq!(new.replay_dead_letters().await.unwrap(), 250);
    new.flush().await.unwrap();
    assert_eq!(
        (sources.1.row("0"), sources.1.row("249")),
        (Some(1), Some(1))
    );
}
