//! Addresses and passwords: what is refused, and what is never shown.

use larder_store_tests::steps::Steps;
use std::error::Error;

use larder::Cache;
use larder::l2::{L2Error, RedisL2};

use crate::store::*;

const SECRET: &str = "s3cr3t-pa55";

/// All that a log could show of an error.
fn shown(error: &impl Error) -> String {
    let mut texts = vec![format!("{error} {error:?} {error:#?}")];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(format!("{cause} {cause:?}"));
        source = cause.source();
    }
    texts.join(": ")
}

#[test]
fn a_url_that_cannot_be_used_is_refused_and_not_shown() {
    let bad = [
        "",
        " ",
        ":",
        "redis",
        "redis:",
        "redis://",
        "redis:///0",
        "127.0.0.1:6379",
        "http://127.0.0.1:6379",
        "redis://127.0.0.1:port",
        "redis://127.0.0.1:99999",
        "redis://127.0.0.1:-1",
        "redis://127.0.0.1:6379/first",
        "redis://127.0.0.1:6379/0/1",
        "redis://0.0.0.0:6379",
        "redis://127.0.0.1/-1",
        "redis://127.0.0.1:6379,127.0.0.1:6380",
        "rediss://127.0.0.1:6379#insecure",
        "unix:",
        "unix://",
        "redis+unix://host/path",
        "redis://:s3cr3t-pa55@host:notaport",
        "redis://:s3cr3t-pa55@",
        "redis://:s3cr3t-pa55@host:6379/nodb",
        "redis://user:s3cr3t-pa55@ho st:6379",
        "redis://s3cr3t-pa55:s3cr3t-pa55@:6379",
        "redis://user:s3cr3t-pa55%ff@host:6379",
        "rediss://user:s3cr3t-pa55@host:6379#s3cr3t-pa55",
        "redis://user:s3cr3t-pa55@a:1,b:2",
        "http://:s3cr3t-pa55@host",
        "redis//:s3cr3t-pa55@host",
        "s3cr3t-pa55",
    ];
    for url in bad {
        let Err(error) = RedisL2::open(url) else {
            panic!("{url:?} was taken");
        };
        assert!(error.is_bad_config(), "{url:?}: {error:?}");
        assert!(!shown(&error).contains(SECRET), "{}", shown(&error));

        let builder = Cache::<u64, String>::builder("test:urls").redis(url);
        assert!(!format!("{builder:?} {builder:#?}").contains(SECRET));
        let Err(error) = builder.build() else {
            panic!("{url:?} was built");
        };
        assert!(error.is_bad_l2_config(), "{url:?}: {error:?}");
        assert!(!shown(&error).contains(SECRET), "{}", shown(&error));
    }
}

#[test]
fn a_url_that_can_be_used_is_not_shown_either() {
    let good = [
        "redis://127.0.0.1",
        "redis://:s3cr3t-pa55@127.0.0.1:6379/3",
        "redis://user:s3cr3t-pa55@[::1]:6379",
        "redis://user:s3cr3t-pa55@localhost?protocol=resp3",
        "valkey://user:s3cr3t-pa55@localhost",
        "unix:///tmp/nobody.sock?pass=s3cr3t-pa55&db=1",
    ];
    for url in good {
        let l2 = RedisL2::open(url).unwrap_or_else(|error| panic!("{url:?}: {error}"));
        let partition = partition_of(&l2, NAMESPACE);
        assert!(!format!("{l2:?} {l2:#?} {partition:?} {partition:#?}").contains(SECRET));
        let builder = Cache::<u64, String>::builder("test:urls").redis(url);
        assert!(!format!("{builder:?} {builder:#?}").contains(SECRET));
        assert!(builder.build().is_ok(), "{url:?}");
    }
}

async fn refusals(url: &str) -> [L2Error; 3] {
    let l2 = RedisL2::open(url).expect("the URL is good");
    let partition = partition_of(&l2, NAMESPACE);
    [
        partition.get("k").await.expect_err("no access, no value"),
        partition.clear(&[]).await.expect_err("no access, no clear"),
        partition
            .subscribe(ME, NEWCOMER)
            .await
            .map(|_| ())
            .expect_err("no access"),
    ]
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_does_not_show_it() {
    let store = Redis::start_with(&["--requirepass", "the-right-one"]).await;
    insert(&*store.partition(), "k", b"v").await;
    let (_, mut subscription) = subscribe(&*store.partition()).await;
    heartbeat(&mut *subscription).await;
    let port = store.server.port();
    for login in [
        format!(":{SECRET}@"),
        format!("default:{SECRET}@"),
        format!("{SECRET}:{SECRET}@"),
        String::new(),
    ] {
        let url = format!("redis://{login}127.0.0.1:{port}");
        for error in refusals(&url).await {
            let shown = shown(&error);
            assert!(!shown.contains(SECRET), "{shown}");
            assert!(!shown.contains("the-right-one"), "{shown}");
            assert!(!error.is_timeout(), "{shown}");
        }
    }
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_that_does_not_show_the_password() {
    let mut store = Redis::start_with(&["--requirepass", SECRET]).await;
    insert(&*store.partition(), "k", b"v").await;
    store.server.kill();
    for error in refusals(&store.server.url()).await {
        let shown = shown(&error);
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(error.is_unreachable(), "{shown}");
    }
}
