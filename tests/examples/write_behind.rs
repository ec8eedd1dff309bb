//! The example of write-behind, on a real Redis.

use crate::support::program::run;
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn it_writes_two_hundred_times_in_few_transactions() {
    let redis = RedisServer::start().await;
    let shown = run("write_behind", &[&redis.url()]).await;
    assert_eq!(
        (shown.code, shown.stderr.as_str()),
        (Some(0), ""),
        "{shown:?}"
    );
    let lines: Vec<_> = shown.stdout.lines().collect();
    assert!(lines.contains(&"200 views are acknowledged"), "{shown:?}");
    assert!(shown.stdout.contains("nothing waits: "), "{shown:?}");
    // Each line is a transaction; on a slow machine a transaction has fewer writes.
    assert!(lines.len() < 150, "{shown:?}");
}
