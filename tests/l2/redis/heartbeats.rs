//! What a heartbeat sends.

use deadpool_redis::redis::aio::MultiplexedConnection;

use super::members::answer;
use super::run;
use crate::store::*;

const BEATS: u64 = 20;
/// Of a beat, in bytes: both requests.
const MOST: u64 = 300;

/// What the server has received, in bytes.
async fn received(raw: &mut MultiplexedConnection) -> u64 {
    let stats: String = run(raw, &["INFO", "stats"]).await;
    let received = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_net_input_bytes:"));
    received.unwrap().parse().unwrap()
}

/// The commands that clients and scripts have sent, with how often.
async fn calls(raw: &mut MultiplexedConnection) -> Vec<(String, u64)> {
    let stats: String = run(raw, &["INFO", "commandstats"]).await;
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (name != "info").then(|| (name.to_owned(), calls))
    });
    calls.collect()
}

#[tokio::test]
async fn an_idle_instance_sends_little() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let (_, mut subscription) = subscribe(&*lane).await;
    // The first one loads the scripts.
    answer(&mut *subscription).await.unwrap();
    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    for _ in 0..BEATS {
        answer(&mut *subscription).await.unwrap();
    }
    let sent = received(&mut raw).await / BEATS;
    assert!((100..=MOST).contains(&sent), "{sent} bytes");

    let calls = calls(&mut raw).await;
    let all: u64 = calls.iter().map(|(_, count)| count).sum();
    assert!(all <= 10 * BEATS, "{calls:?}");
    let mut scripts = calls.iter().filter(|(name, _)| name.starts_with("eval"));
    assert!(scripts.all(|(name, count)| name.starts_with("evalsha") && *count == BEATS));
}

/// The scripts are loaded again, and the answer still comes after all messages before it, over the same connection.
#[tokio::test]
async fn a_server_that_has_forgotten_the_scripts_is_sent_them_once() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let (_, mut subscription) = subscribe(&*lane).await;
    answer(&mut *subscription).await.unwrap();
    let _: () = run(&mut raw, &["SCRIPT", "FLUSH"]).await;
    answer(&mut *subscription).await.unwrap();

    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    answer(&mut *subscription).await.unwrap();
    let calls = calls(&mut raw).await;
    assert!(
        !calls.iter().any(|(name, _)| name.starts_with("script")),
        "{calls:?}"
    );
}
