//! The example of the HTTP layer, on a real Redis.

use crate::support::program::run;
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn two_servers_share_a_response_until_it_changes() {
    let redis = RedisServer::start().await;
    let shown = run("http_layer", &[&redis.url()]).await;
    assert_eq!(
        (shown.code, shown.stderr.as_str()),
        (Some(0), ""),
        "{shown:?}"
    );
    let lines: Vec<_> = shown.stdout.lines().collect();
    let begins = [
        "a: tea: 450 cents (larder; fwd=uri-miss; fwd-status=200; stored",
        "a again: tea: 450 cents (larder; hit; ttl=",
        "b: tea: 450 cents (larder; hit; ttl=",
        "a changes it: raised (larder; fwd=method; fwd-status=200)",
        "a: tea: 470 cents (larder; fwd=uri-miss; fwd-status=200; stored",
    ];
    assert_eq!(lines.len(), begins.len(), "{shown:?}");
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line} {begin}");
    }
}
