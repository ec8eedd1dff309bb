//! What `larder inspect` says of a key in each state.

use std::future::pending;
use std::io;
use std::time::Duration;

use larder::Loaded;
use larder::codec::{Bincode, Compressed, Encrypted, EncryptionKeys, Json, MessagePack};
use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::write_behind::WriteBehind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::program::{Fixture, NAMESPACE, cache, cache_of, json, larder, number_of_keys};
use super::support::eventually::eventually;
use super::support::redis_server::RedisServer;

const KEY: &str = "{shop:price.0}:tea";

#[tokio::test]
async fn a_value_that_instances_use() {
    let shop = Fixture::new().await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let shown = shop.inspect("tea").await;
    assert!(shown.stdout.starts_with("shop:price tea\n"), "{shown:?}");
    assert_eq!(shown.row("partition"), "0 of 1");
    assert_eq!(
        shown.row("node"),
        shop.url().strip_prefix("redis://").unwrap()
    );
    assert_eq!(shown.row("value"), "1 of 1");
    assert_eq!(shown.row("  codec"), "bincode");
    assert_eq!(shown.row("  version"), shown.row("version"));
    assert!(shown.row("  written").ends_with("ago") && shown.row("  expires").starts_with("in "));
    assert_eq!(shown.row("  used"), "yes");
    assert_eq!((shown.row("lease"), shown.row("hold")), ("none", "none"));

    let shown = json(&shop.url(), &["inspect", NAMESPACE, "tea", "--value"]).await;
    let value = &shown["values"][0];
    assert_eq!(
        (&value["used"], &value["epoch"]),
        (&true.into(), &shown["epoch"])
    );
    let size: u64 = shop.redis().await.strlen(KEY).await.unwrap();
    assert_eq!(value["size"], size);
    // The shape, and the text with its length.
    let shape = value["shape"].as_str().unwrap();
    assert_eq!(value["value"], format!("{shape}03343530"));
}

#[tokio::test]
async fn the_texts_in_bytes_without_names() {
    let shop = Fixture::new().await;
    let text = "чай \u{1b}[2J";
    shop.cache.insert("tea", text.to_owned()).await.unwrap();
    let shown = larder(&shop.url(), &["inspect", NAMESPACE, "tea", "--value"]).await;
    // The length, three letters of two bytes each, and what a terminal must not get.
    assert!(shown.says("0bd187d0b0d0b920  .чай"), "{shown:?}");
    assert!(shown.says("1b5b324a          .[2J"), "{shown:?}");
}

#[tokio::test]
async fn nothing_is_changed_and_no_clock_is_made() {
    let server = RedisServer::start().await;
    larder(&server.url(), &["inspect", NAMESPACE, "tea"])
        .await
        .is_one_clear_line(1, "no cache in Redis has the name shop:price");
    assert_eq!(number_of_keys(&server).await, 0);
}

#[tokio::test]
async fn what_is_left_without_a_clock() {
    let shop = Fixture::new().await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    shop.cache.close().await;
    let mut redis = shop.redis().await;
    let _: u64 = redis.del("{shop:price.0}!clock").await.unwrap();
    let shown = shop.inspect("tea").await;
    assert_eq!((shown.row("clock"), shown.row("  used")), ("none", "no:"));
}

#[tokio::test]
async fn a_key_without_a_value() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let shown = shop.inspect("tea").await;
    assert_eq!(shown.row("value"), "none");
}

#[tokio::test]
async fn a_damaged_value() {
    let shop = Fixture::new().await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let _: u64 = shop.redis().await.setrange(KEY, 110, "x").await.unwrap();
    let shown = shop.inspect("tea").await;
    assert_eq!(shown.row("  used"), "no:");
    assert!(
        shown.says("the checksum does not match: it is"),
        "{shown:?}"
    );
    let shown = json(&shop.url(), &["inspect", NAMESPACE, "tea"]).await;
    assert_eq!(shown["values"][0]["used"], false);
}

#[tokio::test]
async fn a_key_of_another_program() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let _: u64 = shop.redis().await.lpush(KEY, "x").await.unwrap();
    assert_eq!(shop.inspect("tea").await.row("value"), "none, but a list");
}

#[tokio::test]
async fn an_expired_value_that_is_kept() {
    let shop = Fixture::new().await;
    let keeps = |builder: larder::Builder<_, _>| {
        let ttl = Duration::from_millis(1);
        builder
            .l2_ttl(ttl)
            .jitter(0.0)
            .stale_if_error(Duration::from_secs(600))
    };
    let cache = cache(&shop.url(), keeps);
    cache.insert("tea", "450".to_owned()).await.unwrap();
    eventually("it expires", async || {
        let shown = shop.inspect("tea").await;
        let why = shown
            .stdout
            .lines()
            .find(|line| line.trim().starts_with("expired "));
        shown.row("  used") == "no:" && why.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_value_of_another_epoch() {
    let shop = Fixture::new().await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let epoch = shop.inspect("tea").await.row("epoch").to_owned();
    shop.cache.clear().await.unwrap();
    let shown = shop.inspect("tea").await;
    assert_eq!(shown.row("  used"), "no:");
    assert!(
        shown.says(&format!("its epoch {epoch} is over")),
        "{shown:?}"
    );
}

#[tokio::test]
async fn a_value_from_before_a_restart() {
    let mut shop = Fixture::new().await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    shop.cache.close().await;
    let () = cmd("SAVE")
        .query_async(&mut shop.redis().await)
        .await
        .unwrap();
    shop.server.restart().await;
    let shown = shop.inspect("tea").await;
    assert_eq!(shown.row("  used"), "no:");
    assert!(shown.says("the server has restarted since"), "{shown:?}");
}

#[tokio::test]
async fn a_value_with_a_version_that_was_not_issued() {
    let shop = Fixture::new().await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let mut redis = shop.redis().await;
    let mut at: Vec<u8> = redis.hget("{shop:price.0}!clock", "at").await.unwrap();
    at[16..].fill(0);
    let _: u64 = redis.hset("{shop:price.0}!clock", "at", at).await.unwrap();
    let shown = shop.inspect("tea").await;
    assert!(shown.says("its version was never issued"), "{shown:?}");
}

#[tokio::test]
async fn a_value_whose_tag_was_invalidated_or_lost() {
    let shop = Fixture::new().await;
    let value = || Ok::<_, io::Error>(Loaded::new("450".to_owned()).tags(["hot", "asia"]));
    (shop
        .cache
        .get_or_load_with("tea", move |_| async move { value() }))
    .await
    .unwrap();
    let shown = shop.inspect("tea").await;
    assert_eq!(
        (shown.row("  used"), shown.row("  tag")),
        ("yes", "asia, version 0")
    );

    shop.cache.invalidate_tag("asia").await.unwrap();
    let _: u64 = shop
        .redis()
        .await
        .del("{shop:price.0}!tag:hot")
        .await
        .unwrap();
    let shown = shop.inspect("tea").await;
    let last = shown.row("version");
    assert_eq!(shown.row("  used"), "no:");
    assert!(
        shown.says(&format!("tag asia was invalidated at {last}")),
        "{shown:?}"
    );
    assert!(shown.says("the version of tag hot is lost"), "{shown:?}");
}

#[tokio::test]
async fn a_lease_and_a_hold() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let load = shop.cache.clone();
    let load = async move {
        let never = || async { pending::<Result<String, io::Error>>().await };
        load.get_or_load("tea", never).await
    };
    let load = tokio::spawn(load);
    eventually("the load has its lease", async || {
        let shown = shop.inspect("tea").await;
        shown.row("lease").starts_with("for type ") && shown.row("  awaited") == "no"
    })
    .await;
    load.abort();

    let held = Duration::from_secs(60);
    shop.cache.invalidate_and_hold("tea", held).await.unwrap();
    let shown = shop.inspect("tea").await;
    assert_eq!(shown.row("lease"), "none");
    assert!(shown.row("hold").ends_with("s more"), "{shown:?}");
}

#[tokio::test]
async fn a_lease_that_another_load_waits_for() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let other = cache(&shop.url(), |builder| builder);
    let load = |cache: larder::Cache<String, String>| async move {
        let never = || async { pending::<Result<String, io::Error>>().await };
        cache.get_or_load("tea", never).await
    };
    let loads = [shop.cache.clone(), other].map(|cache| tokio::spawn(load(cache)));
    eventually("the second load waits", async || {
        let shown = shop.inspect("tea").await;
        shown.stdout.contains("\n  awaited  yes\n")
    })
    .await;
    loads.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_write_that_waits_for_its_source() {
    let shop = Fixture::new().await;
    let writes = WriteBehind::builder(shop.cache.clone())
        .store(|_| pending::<Result<(), io::Error>>())
        .build()
        .unwrap();
    writes.insert("tea", "450".to_owned()).await.unwrap();
    let shown = shop.inspect("tea").await;
    assert_eq!(shown.row("  used"), "yes");
    let mark = shown.row("mark");
    assert!(
        mark.starts_with("write ") && mark.ends_with(" waits"),
        "{shown:?}"
    );
    let _: u64 = shop
        .redis()
        .await
        .del("{shop:price.0}!writes")
        .await
        .unwrap();
    assert!(shop.inspect("tea").await.row("mark").ends_with(" is lost"));
}

#[tokio::test]
async fn two_type_tags() {
    let shop = Fixture::new().await;
    let next = cache(&shop.url(), |builder| builder.schema_version(2));
    for cache in [&shop.cache, &next] {
        let load = || async { Ok::<_, io::Error>("450".to_owned()) };
        cache.get_or_load("tea", load).await.unwrap();
    }
    let shown = json(&shop.url(), &["inspect", NAMESPACE, "tea"]).await;
    let values = shown["values"].as_array().unwrap();
    assert_eq!(values.len(), 2, "{shown:#}");
    assert!(
        values.iter().all(|value| value["used"] == true),
        "{shown:#}"
    );
    assert_ne!(values[0]["type"], values[1]["type"]);
    assert!(shop.inspect("tea").await.stdout.contains("2 of 2"));
}

#[tokio::test]
async fn values_with_names_are_shown_as_json() {
    let server = RedisServer::start().await;
    let url = server.url();
    cache_of(&url, Json)
        .insert("json", vec![1, 2])
        .await
        .unwrap();
    cache_of(&url, MessagePack)
        .insert("messagepack", vec![1, 2])
        .await
        .unwrap();
    for codec in ["json", "messagepack"] {
        let shown = json(&url, &["inspect", NAMESPACE, codec, "--value"]).await;
        let value = &shown["values"][0];
        assert_eq!(value["codec"], codec);
        assert_eq!(value["value"].to_string(), "[1,2]");
    }
}

#[tokio::test]
async fn compressed_values_are_shown_like_others() {
    let server = RedisServer::start().await;
    let url = server.url();
    let value = vec![7; 2000];
    for (key, format) in [("json", "json"), ("bincode", "bincode")] {
        let stored = if key == "json" {
            cache_of(&url, Compressed::new(Json))
                .insert(key, value.clone())
                .await
        } else {
            cache_of(&url, Compressed::new(Bincode))
                .insert(key, value.clone())
                .await
        };
        stored.unwrap();
        let shown = larder(&url, &["inspect", NAMESPACE, key]).await;
        assert_eq!(shown.row("  codec"), format!("{format}, compressed"));
        let shown = json(&url, &["inspect", NAMESPACE, key, "--value"]).await;
        let shown = &shown["values"][0];
        assert_eq!(
            (&shown["codec"], &shown["layer"]),
            (&format.into(), &"compressed".into())
        );
        assert!(shown["payload_size"].as_u64() < Some(200), "{shown}");
        if key == "json" {
            assert_eq!(shown["value"], serde_json::to_value(&value).unwrap());
        } else {
            // Its shape comes first.
            assert!(
                shown["value"]
                    .as_str()
                    .unwrap()
                    .starts_with(shown["shape"].as_str().unwrap())
            );
        }
    }
}

#[tokio::test]
async fn an_encrypted_value_is_named_so() {
    let server = RedisServer::start().await;
    let url = server.url();
    let keys = EncryptionKeys::new(1, &[7; 32]).unwrap();
    let codec = Encrypted::new(Compressed::new(Json), keys);
    cache_of(&url, codec)
        .insert("tea", vec![1, 2])
        .await
        .unwrap();
    let shown = larder(&url, &["inspect", NAMESPACE, "tea", "--value"]).await;
    assert_eq!(
        (shown.row("  codec"), shown.row("  used")),
        ("encrypted", "yes")
    );
    assert!(shown.says("not shown: the value is encrypted"), "{shown:?}");
    let shown = json(&url, &["inspect", NAMESPACE, "tea", "--value"]).await;
    let shown = &shown["values"][0];
    assert_eq!(
        (&shown["codec"], &shown["value"]),
        (&"encrypted".into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_key_in_one_of_several_partitions() {
    let shop = Fixture::new().await;
    let cache = cache(&shop.url(), |builder| builder.partitions(4));
    let keys = ["tea", "milk", "salt", "rice", "mate"];
    for key in keys {
        cache.insert(key, "450".to_owned()).await.unwrap();
        let shown = shop.inspect(key).await;
        assert!(shown.row("partition").ends_with(" of 4"), "{shown:?}");
        assert_eq!(shown.row("  used"), "yes");
    }
}

#[tokio::test]
async fn trouble_is_one_clear_line() {
    let server = RedisServer::start().await;
    let inspect = ["inspect", NAMESPACE, "tea"];
    let nobody = format!("redis://app:secret@127.0.0.1:{}", server.port());
    larder(&nobody, &inspect)
        .await
        .is_one_clear_line(1, "WRONGPASS");

    let mut redis = server.connection().await;
    let mut user = cmd("ACL");
    user.arg(&["SETUSER", "app", "on", ">secret", "~*", "&*", "+hget"]);
    let () = user.query_async(&mut redis).await.unwrap();
    let refused = larder(&nobody, &inspect).await;
    refused.is_one_clear_line(1, "NOPERM: the Redis user may not run ");
    assert!(!refused.stderr.contains("secret"), "{refused:?}");

    let port = server.port();
    drop(server);
    // It may not be the server that is meant.
    let refused = larder(&format!("{nobody}/3"), &inspect).await;
    refused.is_one_clear_line(1, "L2 cannot be reached: Connection refused");
    let address = format!(" (at 127.0.0.1:{port} database 3)\n");
    assert!(refused.stderr.ends_with(&address), "{refused:?}");
    let bad = larder("http://user:secret@host", &inspect).await;
    bad.is_one_clear_line(1, "the Redis URL begins with none of");
    assert!(!bad.stderr.contains("secret"), "{bad:?}");
}

/// Whoever answers in the place of Redis does not write to the terminal of the operator.
#[tokio::test]
async fn an_error_of_the_server_cannot_move_the_cursor() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let answering = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|many| many > 0) {
                if stream
                    .write_all("-ERR \u{1b}[2Jno\u{9b}\r\n".repeat(8).as_bytes())
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
    };
    let inspect = ["inspect", NAMESPACE, "tea"];
    let refused = tokio::select! {
        refused = larder(&url, &inspect) => refused,
        () = answering => unreachable!("it answers until the command has ended"),
    };
    refused.is_one_clear_line(1, r"ERR \u001b[2Jno\u009b");
}

/// A key with characters that are not seen, or that turn the text around, does not look like another.
#[tokio::test]
async fn a_key_does_not_look_like_another() {
    let shop = Fixture::new().await;
    let key = "t\u{200b}ea\u{202e}klim\u{feff}";
    shop.cache.insert(key, "450".to_owned()).await.unwrap();
    let shown = shop.inspect(key).await;
    let title = r"shop:price t\u200bea\u202eklim\ufeff";
    assert_eq!(shown.stdout.lines().next(), Some(title));
    assert_eq!(shown.row("value"), "1 of 1");
    let shown = json(&shop.url(), &["inspect", NAMESPACE, key]).await;
    assert_eq!(shown["key"], key);
    // Letters of all scripts are shown.
    let shown = shop.inspect("чай").await;
    assert_eq!(shown.stdout.lines().next(), Some("shop:price чай"));
}

#[tokio::test]
async fn wrong_usage_has_a_code_of_its_own() {
    for arguments in [
        &["inspect"][..],
        &["inspect", "ns", "key", "--cluster", "--sentinel", "x"],
        &[],
    ] {
        let outcome = larder("redis://user:secret@host", arguments).await;
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("Usage: "), "{outcome:?}");
        // The variable has it.
        assert!(!outcome.stderr.contains("--url <URL> <"), "{outcome:?}");
        assert!(!outcome.stderr.contains("secret"), "{outcome:?}");
    }
    let help = larder("redis://user:secret@host", &["--help"]).await;
    assert!(
        help.code == Some(0) && !help.stdout.contains("secret"),
        "{help:?}"
    );
}
