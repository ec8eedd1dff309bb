//! What `larder forget` removes, and when it refuses.

use std::time::Duration;

use larder::l2::deadpool_redis::redis::AsyncCommands;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::cmd;

use super::program::{Fixture, NAMESPACE, cache, larder, number_of_keys};
use super::support::eventually::eventually;

const MS: Duration = Duration::from_millis(1);

async fn names(redis: &mut MultiplexedConnection) -> Vec<String> {
    let mut names: Vec<String> = redis.keys("*").await.unwrap();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn nothing_stays_but_what_has_a_ttl() {
    let shop = Fixture::new().await;
    let url = shop.url();
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    shop.cache.close().await;
    // The partitions of another number, and a tombstone in the former one.
    let wide = cache(&url, |builder| builder.partitions(3));
    for key in ["tea", "milk", "salt", "oil", "rice"] {
        wide.insert(key, "450".to_owned()).await.unwrap();
    }
    wide.close().await;
    let mut redis = shop.redis().await;
    // Of another cache, whose name begins alike.
    let () = redis.set("{shop:price2.0}!clock", "x").await.unwrap();
    let (mut lasting, mut others) = (Vec::new(), Vec::new());
    for name in names(&mut redis).await {
        let ttl: i64 = redis.pttl(&name).await.unwrap();
        let is_own = ttl < 0 && !name.contains("price2");
        (if is_own { &mut lasting } else { &mut others }).push(name);
    }
    assert!(lasting.len() > 8, "{lasting:?}");
    // Members that have crashed do not count: they note nothing.
    let _: u64 = redis
        .hset("{shop:price.0}!live", "77", "0:0:10:7")
        .await
        .unwrap();
    let would = larder(&url, &["forget", NAMESPACE, "--dry-run"]).await;
    let keys: usize = would.row("would remove keys of its own:").parse().unwrap();
    assert!(keys >= lasting.len(), "{keys}: {lasting:?}");
    assert!(would.says("unless one of these runs: 1"), "{would:?}");
    assert_eq!(would.code, Some(0));

    let done = larder(&url, &["forget", NAMESPACE, "--yes"]).await;
    let said = format!("removed keys of its own: {keys}\n");
    assert_eq!((done.code, done.stdout), (Some(0), said));
    let left = names(&mut redis).await;
    assert!(left.iter().all(|name| others.contains(name)), "{left:?}");
    assert!(left.contains(&"{shop:price2.0}!clock".to_owned()));
    let again = larder(&url, &["forget", NAMESPACE, "--yes"]).await;
    again.is_one_clear_line(1, "no cache in Redis has the name");

    // It can be used anew, and has none of the old values.
    let anew = cache(&url, |builder| builder);
    anew.ready().await;
    assert!(anew.get("tea").await.is_none());
    anew.insert("tea", "460".to_owned()).await.unwrap();
}

#[tokio::test]
async fn it_refuses_while_an_instance_runs() {
    let shop = Fixture::new().await;
    let url = shop.url();
    let running = cache(&url, |builder| builder.max_staleness(100 * MS));
    running.ready().await;
    running.insert("tea", "450".to_owned()).await.unwrap();
    shop.cache.close().await;
    let before = number_of_keys(&shop.server).await;
    let refused = larder(&url, &["forget", NAMESPACE, "--yes"]).await;
    refused.is_one_clear_line(1, "an instance runs");
    assert!(number_of_keys(&shop.server).await >= before);

    let forced = larder(&url, &["forget", NAMESPACE, "--yes", "--even-if-used"]).await;
    assert_eq!(forced.code, Some(0), "{forced:?}");
    eventually("it begins anew", async || {
        running.get("tea").await.is_none()
    })
    .await;
    running.ready().await;
    running.insert("tea", "460".to_owned()).await.unwrap();
    assert_eq!(running.get("tea").await.as_deref(), Some(&"460".to_owned()));
}

#[tokio::test]
async fn writes_that_are_nowhere_else_are_not_removed() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    shop.cache.close().await;
    let mut redis = shop.redis().await;
    for stream in ["{shop:price.0}!writes", "{shop:price.0}!dead"] {
        let mut add = cmd("XADD");
        add.arg(&[stream, "*", "k", "v"]);
        let _: String = add.query_async(&mut redis).await.unwrap();
        let before = number_of_keys(&shop.server).await;
        for force in [&[][..], &["--even-if-used"]] {
            let command = [&["forget", NAMESPACE, "--yes"][..], force].concat();
            let refused = larder(&shop.url(), &command).await;
            refused.is_one_clear_line(1, "writes wait for their source");
        }
        assert_eq!(number_of_keys(&shop.server).await, before);
        let _: u64 = redis.del(stream).await.unwrap();
    }
    let done = larder(&shop.url(), &["forget", NAMESPACE, "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// As every other command that changes something.
#[tokio::test]
async fn without_yes_nothing_is_removed() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    shop.cache.close().await;
    let before = number_of_keys(&shop.server).await;
    let asked = larder(&shop.url(), &["forget", NAMESPACE]).await;
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(asked.stdout.starts_with("would remove"), "{asked:?}");
    assert_eq!(number_of_keys(&shop.server).await, before);
}
