//! The quickstart checks what it shows by itself: here it has to get to its end.

use crate::support::program::{Outcome, run};
use crate::support::redis_server::RedisServer;

fn assert_shown(shown: &Outcome) {
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    assert!(shown.stdout.contains("All as promised"), "{shown:?}");
}

#[tokio::test]
async fn without_arguments() {
    assert_shown(&run("quickstart", &[]).await);
}

#[tokio::test]
async fn over_redis() {
    let redis = RedisServer::start_with(&["--requirepass", "s3cret"]).await;
    assert_shown(&run("quickstart", &["--redis", &redis.url()]).await);
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_reported() {
    let ended = run("quickstart", &["--redis", "redis://127.0.0.1:1"]).await;
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    assert!(ended.stderr.contains("does not answer"), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}
