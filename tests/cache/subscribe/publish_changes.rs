//! What an instance changes, as other programs are told of it.

use futures::StreamExt;
use larder::l2::deadpool_redis::redis::{Client, cmd};
use larder::{Cache, Loaded, MemoryL2};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::fleet::UNHURRIED;
use crate::support::eventually::eventually;
use crate::support::home;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

type Prices = Cache<String, u64>;

#[tokio::test]
async fn each_own_change_is_published_in_its_order() {
    if home::is_simulated("a client reaches it by no socket") {
        return;
    }
    let server = home::start_with(&[]).await;
    let client = Client::open(server.url()).unwrap();
    let mut told = client.get_async_pubsub().await.unwrap();
    told.subscribe("changes").await.unwrap();
    let mut told = told.into_on_message();
    let build = || {
        Cache::builder("test:told")
            .l2(home::open(server.url()))
            .l2_timeout(UNHURRIED)
            .partitions(1)
    };
    let prices: Prices = build().publish_changes("changes").build().unwrap();
    let other: Prices = build().build().unwrap();
    prices.ready().await;
    // Of another instance, and no change.
    other.insert("coffee", 600).await.unwrap();
    let load = || async { Ok::<_, std::io::Error>(90) };
    prices.get_or_load("milk", load).await.unwrap();

    prices.insert("tea", 450).await.unwrap();
    let tagged = || Loaded::new(475).tags(["hot"]);
    let both = [("tea", tagged()), ("maté", tagged())];
    prices.insert_many(both).await.unwrap();
    prices.expire("tea").await.unwrap();
    prices.invalidate("tea").await.unwrap();
    prices.invalidate_and_wait("tea").await.unwrap();
    prices.invalidate_tag("hot").await.unwrap();
    prices.invalidate_prefix("te").await.unwrap();
    prices.clear().await.unwrap();
    prices.insert("tea", 450).await.unwrap();

    let mut last = (0, 0);
    for (change, field, texts) in [
        ("insert", "keys", json!(["tea"])),
        ("insert", "keys", json!(["maté", "tea"])),
        ("invalidate", "keys", json!(["tea"])),
        ("invalidate", "keys", json!(["tea"])),
        ("invalidate", "keys", json!(["tea"])),
        ("tags", "tags", json!(["hot"])),
        ("prefix", "prefix", json!("te")),
        ("clear", "nothing", Value::Null),
        ("insert", "keys", json!(["tea"])),
    ] {
        let message = timeout(LIMIT, told.next()).await.unwrap().unwrap();
        let mut event: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        if let Some(keys) = event["keys"].as_array_mut() {
            keys.sort_by_key(ToString::to_string);
        }
        assert_eq!(event["namespace"], "test:told", "{event}");
        assert_eq!((&event["change"], &event[field]), (&json!(change), &texts));
        let at = ["epoch", "version"].map(|number| event[number].as_u64().unwrap());
        assert!(at[0] != last.0 || at[1] > last.1, "{event}");
        last = (at[0], at[1]);
    }
    assert_eq!(prices.stats().changes_published, 9);
    assert_eq!(prices.stats().changes_dropped, 0);
}

#[tokio::test]
async fn without_the_right_to_publish_all_else_works() {
    if home::is_simulated("it has one user") {
        return;
    }
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let mut setting = cmd("ACL");
    setting.arg("SETUSER").arg("service").arg("on").arg(">x");
    setting.arg("~*").arg("&{test:told.0}!events").arg("+@all");
    let () = setting.query_async(&mut redis).await.unwrap();
    let url = format!("redis://service:x@127.0.0.1:{}", server.port());
    let prices: Prices = Cache::builder("test:told")
        .redis(url)
        .publish_changes("changes")
        .build()
        .unwrap();
    prices.ready().await;
    prices.insert("tea", 450).await.unwrap();
    eventually("it is dropped", async || {
        prices.stats().changes_dropped == 1
    })
    .await;
    assert!(prices.health().is_ok());
    assert_eq!(prices.stats().l2_errors, 0);
}

#[test]
fn an_instance_does_not_listen_to_itself() {
    let builder = Cache::<String, u64>::builder("test:told").l2(MemoryL2::new());
    let builder = builder.listen_to("changes", |_| Vec::new());
    let refused = builder.publish_changes("changes").build().err().unwrap();
    assert!(refused.to_string().contains("for ever"), "{refused}");
    let builder = Cache::<String, u64>::builder("test:told").publish_changes("changes");
    let refused = builder.build().err().unwrap();
    assert!(
        refused.to_string().contains("publish_changes needs"),
        "{refused}"
    );
}
