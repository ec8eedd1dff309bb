//! What others do to the keys of write-behind, and users to its calls.

use super::*;

async fn add(redis: &RedisServer, fields: &[(&str, &[u8])]) {
    let mut add = cmd("XADD");
    add.arg(key("!writes")).arg("*");
    for (name, value) in fields {
        add.arg(*name).arg(*value);
    }
    let _: String = ask(redis, &add).await;
}

/// A text of 2^60 bytes, if one believes it.
#[tokio::test]
async fn a_key_that_claims_to_be_long_is_a_dead_letter() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let behind = source.behind(&cache);
    let long = [&[253][..], &(1_u64 << 60).to_le_bytes()].concat();
    add(&redis, &[("k", b"odd"), ("i", &long), ("b", b"")]).await;
    has_dead_letters(&behind, 1).await;
    behind.insert("k", &1).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(source.row("k"), Some(1));
}
