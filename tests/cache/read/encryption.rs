//! Encrypted values: what Redis holds shows nothing, and what was not written for an entry is a miss of it.

use std::time::Duration;

use larder::codec::{Bincode, Encrypted, EncryptionKeys};
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::{Loaded, Source as Level};

use crate::fleet::{Fleet, Set, Source, Texts, over_both_stores};
use crate::support::forgery::Stored;
use crate::support::home;

over_both_stores! {
    keys_change_without_a_flush,
    a_fleet_moves_to_encryption_without_a_flush,
    what_cannot_be_decrypted_is_loaded_anew,
}

const SECRET: &str = "nobody may read this";
const ONE: [u8; 32] = [1; 32];
const TWO: [u8; 32] = [2; 32];

fn keys(id: u32, key: &[u8]) -> EncryptionKeys {
    EncryptionKeys::new(id, key).unwrap()
}

fn encrypted() -> Encrypted<Bincode> {
    Encrypted::new(Bincode, keys(1, &ONE))
}

/// An instance that asks L2 at every look-up.
async fn reader(fleet: &Fleet, set: impl FnOnce(Set) -> Set) -> Texts {
    fleet.instance_with(|b| set(b.l1_capacity(0))).await.0
}

fn server(fleet: &Fleet) -> &crate::support::redis_server::RedisServer {
    match fleet {
        Fleet::Redis { server, .. } => server,
        _ => panic!("there is no server, or several"),
    }
}

/// All bytes that Redis holds, of all keys, as they are.
async fn everything(redis: &mut MultiplexedConnection) -> Vec<u8> {
    let as_it_is = ["SET", "rdbcompression", "no"];
    let mut config = cmd("CONFIG");
    let () = config.arg(&as_it_is).query_async(redis).await.unwrap();
    let names: Vec<String> = redis.keys("*").await.unwrap();
    let mut all = Vec::new();
    for name in names {
        let dump: Vec<u8> = cmd("DUMP").arg(name).query_async(redis).await.unwrap();
        all.extend(dump);
    }
    all
}

fn shows(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn redis_does_not_hold_the_text() {
    if home::is_simulated("it has no dump") {
        return;
    }
    let fleet = Fleet::redis().await;
    let mut redis = server(&fleet).connection().await;
    let writer = reader(&fleet, |b| b.codec(encrypted())).await;
    writer.insert("k", SECRET.to_owned()).await.unwrap();
    writer
        .insert("tagged", Loaded::new(SECRET.to_owned()).tags(["t"]))
        .await
        .unwrap();
    let loaded = Source::new(SECRET).through(&writer, "loaded").await;
    assert_eq!(*loaded.unwrap(), SECRET);
    assert!(!shows(&everything(&mut redis).await, SECRET));
    for key in ["k", "tagged", "loaded"] {
        let entry = writer.get(key).await.unwrap();
        let level = entry.meta().source();
        assert_eq!((entry.as_str(), level), (SECRET, Level::L2), "{key}");
    }
    let plain = reader(&fleet, |b| b).await;
    plain.insert("plain", SECRET.to_owned()).await.unwrap();
    assert!(shows(&everything(&mut redis).await, SECRET));
}

/// By somebody who knows the format and has write access, but not the key.
#[tokio::test]
async fn what_is_forged_is_refused() {
    let fleet = Fleet::redis().await;
    let mut redis = server(&fleet).connection().await;
    let writer = reader(&fleet, |b| b.codec(encrypted())).await;
    let tagged = |text: &str| Loaded::new(text.to_owned()).tags(["t"]);
    writer.insert("alice", tagged("alice")).await.unwrap();
    let alice = Stored::read(&mut redis, "test:text", "alice").await;
    let of_tag = |tag: &str| [&[0, 1], tag.as_bytes()].concat();
    assert_eq!(alice.tags, of_tag("t"));

    // What a forger can do without the key: the same checks pass, and it is the same value.
    alice.write(&mut redis, "test:text", "alice").await;
    assert_eq!(writer.get("alice").await.as_deref().unwrap(), "alice");

    let mut forged: Vec<(String, Stored)> = Vec::new();
    let mut add = |what: &str, stored: Stored| forged.push((what.to_owned(), stored));
    writer.insert("bob", tagged("bob")).await.unwrap();
    let bob = Stored::read(&mut redis, "test:text", "bob").await;
    add("bytes of another key", bob.clone());
    for at in 0..alice.payload.len() {
        let mut other = alice.clone();
        other.payload[at] ^= 1 << (at % 8);
        add(&format!("byte {at}"), other);
    }
    for length in 0..alice.payload.len() {
        let mut other = alice.clone();
        other.payload.truncate(length);
        add(&format!("cut to {length}"), other);
    }
    for tags in [Vec::new(), of_tag("u"), [of_tag("t"), of_tag("u")].concat()] {
        let mut other = alice.clone();
        other.tags = tags;
        add("other tags", other);
    }
    for codec in (0..=u8::MAX).filter(|id| *id != alice.codec) {
        add(
            "another codec",
            Stored {
                codec,
                ..alice.clone()
            },
        );
    }
    let plain = reader(&fleet, |b| b).await;
    plain.insert("alice", tagged("alice")).await.unwrap();
    add(
        "plain",
        Stored::read(&mut redis, "test:text", "alice").await,
    );

    for (what, stored) in forged {
        stored.write(&mut redis, "test:text", "alice").await;
        let errors = writer.stats().decode_errors;
        assert!(writer.get("alice").await.is_none(), "{what}");
        assert_eq!(writer.stats().decode_errors, errors + 1, "{what}");
    }
}

/// With the same keys, a value is still bound to the cache that it was written for.
#[tokio::test]
async fn what_another_cache_wrote_is_refused() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { l2, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server(&fleet).connection().await;
    let build = |namespace: &str, type_tag: &str, schema| {
        let builder = larder::Cache::<String, String>::builder(namespace)
            .l2(l2.clone())
            .partitions(1);
        let builder = builder.codec(encrypted()).type_tag(type_tag);
        builder
            .schema_version(schema)
            .l1_capacity(0)
            .build()
            .unwrap()
    };
    let cache = build("test:text", "user", 0);
    cache.insert("k", "ours".to_owned()).await.unwrap();
    let ours = Stored::read(&mut redis, "test:text", "k").await;
    for (namespace, type_tag, schema) in [
        ("test:other", "user", 0),
        ("test:text", "admin", 0),
        ("test:text", "user", 1),
    ] {
        let other = build(namespace, type_tag, schema);
        other.insert("k", "theirs".to_owned()).await.unwrap();
        assert_eq!(other.get("k").await.as_deref().unwrap(), "theirs");
        let theirs = Stored::read(&mut redis, namespace, "k").await;
        // Relabelled, and by a stamp that is valid here.
        let forged = Stored {
            payload: theirs.payload,
            ..ours.clone()
        };
        forged.write(&mut redis, "test:text", "k").await;
        assert!(cache.get("k").await.is_none(), "{namespace} {type_tag}");
        ours.write(&mut redis, "test:text", "k").await;
        assert_eq!(cache.get("k").await.as_deref().unwrap(), "ours");
    }
}

async fn keys_change_without_a_flush(fleet: Fleet) {
    let both = |keys: EncryptionKeys, id, key: &[u8]| keys.also_reads(id, key).unwrap();
    let steps = [
        keys(1, &ONE),
        both(keys(1, &ONE), 2, &TWO),
        both(keys(2, &TWO), 1, &ONE),
        keys(2, &TWO),
    ];
    let mut instances = Vec::new();
    for keys in steps {
        let codec = Encrypted::new(Bincode, keys);
        instances.push(reader(&fleet, |b| b.codec(codec)).await);
    }
    // While a fleet goes from one step to the next, it has instances of both.
    for pair in instances.windows(2) {
        for writer in pair {
            writer.insert("k", SECRET.to_owned()).await.unwrap();
            for reader in pair {
                assert_eq!(reader.get("k").await.as_deref().unwrap(), SECRET);
            }
        }
    }
    instances[0].insert("k", SECRET.to_owned()).await.unwrap();
    assert!(instances[3].get("k").await.is_none());
    assert_eq!(instances[3].stats().decode_errors, 1);
}

async fn a_fleet_moves_to_encryption_without_a_flush(fleet: Fleet) {
    let steps = [
        reader(&fleet, |b| b.codec(Bincode)).await,
        reader(&fleet, |b| b.codec(encrypted().write_unencrypted())).await,
        reader(&fleet, |b| b.codec(encrypted().accept_unencrypted())).await,
        reader(&fleet, |b| b.codec(encrypted())).await,
    ];
    let mut read = Vec::new();
    for writer in &steps {
        writer.insert("k", SECRET.to_owned()).await.unwrap();
        let mut row = Vec::new();
        for reader in &steps {
            row.push(reader.get("k").await.is_some());
        }
        read.push(row);
    }
    // By whom it was written, and by whom it is read.
    let expected = [
        [true, true, true, false],
        [true, true, true, false],
        [false, true, true, true],
        [false, true, true, true],
    ];
    assert_eq!(read, expected);
}

async fn what_cannot_be_decrypted_is_loaded_anew(fleet: Fleet) {
    let plain = reader(&fleet, |b| b).await;
    plain.insert("k", "old".to_owned()).await.unwrap();
    let one = reader(&fleet, |b| b.codec(encrypted())).await;
    let truth = Source::new(SECRET);
    assert_eq!(*truth.through(&one, "k").await.unwrap(), SECRET);
    assert_eq!(*truth.through(&one, "k").await.unwrap(), SECRET);
    assert_eq!((truth.loads(), one.stats().decode_errors), (1, 1));
    let other = reader(&fleet, |b| b.codec(Encrypted::new(Bincode, keys(1, &TWO)))).await;
    assert_eq!(*truth.through(&other, "k").await.unwrap(), SECRET);
    assert_eq!((truth.loads(), other.stats().decode_errors), (2, 1));
    assert!(plain.get("k").await.is_none());
    assert!(one.get("k").await.is_none());
}

/// What is loaded again unchanged, touched or made stale keeps its bytes, and its tags: it can still be read.
#[tokio::test]
async fn other_times_leave_it_readable() {
    let fleet = Fleet::redis().await;
    let mut redis = server(&fleet).connection().await;
    let cache = reader(&fleet, |b| b.codec(encrypted()).stale_wait(Duration::MAX)).await;
    let loaded = Loaded::new(SECRET.to_owned()).tags(["t"]);
    cache.insert("k", loaded).await.unwrap();
    let first = Stored::read(&mut redis, "test:text", "k").await;
    assert!(cache.touch("k", Duration::from_secs(60)).await.unwrap());
    let touched = Stored::read(&mut redis, "test:text", "k").await;
    assert_eq!(touched.payload, first.payload);
    assert_ne!(touched.stamp, first.stamp);
    assert_eq!(cache.get("k").await.as_deref().unwrap(), SECRET);
    let unchanged = async |tags: Option<&'static str>| {
        cache.expire("k").await.unwrap();
        let load = move |_| async move {
            let loaded = Loaded::unchanged();
            Ok::<_, std::io::Error>(match tags {
                None => loaded,
                Some(tag) => loaded.tags([tag]),
            })
        };
        let entry = cache.get_or_load_with("k", load).await.unwrap();
        assert!(!entry.meta().is_stale());
    };
    unchanged(None).await;
    let same = Stored::read(&mut redis, "test:text", "k").await;
    assert_eq!(same.payload, first.payload);
    assert_ne!(same.stamp, touched.stamp);
    // Tags are in the associated data: with others it is encrypted anew.
    unchanged(Some("u")).await;
    let other = Stored::read(&mut redis, "test:text", "k").await;
    assert_ne!(other.payload, first.payload);
    assert_eq!(cache.get("k").await.as_deref().unwrap(), SECRET);
    assert_eq!(cache.stats().decode_errors, 0);
}

/// The format in the middle is bound, too, and what is compressed is not shown either.
#[cfg(all(feature = "compression", feature = "json"))]
#[tokio::test]
async fn layers_nest() {
    use larder::codec::{Compressed, Json};

    if home::is_simulated("it has no dump") {
        return;
    }
    let fleet = Fleet::redis().await;
    let mut redis = server(&fleet).connection().await;
    let codec = Encrypted::new(Compressed::new(Json), keys(1, &ONE));
    let nested = reader(&fleet, |b| b.codec(codec)).await;
    let alone = reader(&fleet, |b| b.codec(encrypted())).await;
    let text = SECRET.repeat(1_000);
    nested.insert("k", text.clone()).await.unwrap();
    let stored = Stored::read(&mut redis, "test:text", "k").await;
    assert!(stored.payload.len() < 500, "{}", stored.payload.len());
    assert!(!shows(&everything(&mut redis).await, SECRET));
    for reader in [&nested, &alone] {
        assert_eq!(reader.get("k").await.as_deref(), Some(&text));
    }
    alone.insert("k", text.clone()).await.unwrap();
    assert_eq!(nested.get("k").await.as_deref(), Some(&text));
}

/// Which SECURITY.md says, so that nobody compresses such values.
#[cfg(feature = "compression")]
#[tokio::test]
async fn the_size_of_what_is_compressed_tells_a_guess() {
    use larder::codec::Compressed;

    const TOKEN: &str = "token=4f9c61d07be2";

    if home::is_simulated("it has no dump") {
        return;
    }
    let fleet = Fleet::redis().await;
    let mut redis = server(&fleet).connection().await;
    let layers = Encrypted::new(Compressed::new(Bincode), keys(1, &ONE));
    let (cache, _) = fleet.instance_with(|b| b.codec(layers)).await;
    let mut sizes = Vec::new();
    for guess in ["token=4f9c61", "token=a1b2d3", "token=000000"] {
        let page = "<p>nothing to see</p>".repeat(100);
        let page = format!("{page}<p>{TOKEN}</p><p>you asked for {guess}</p>");
        cache.insert("k", page).await.unwrap();
        let size: usize = redis.strlen("{test:text.0}:k").await.unwrap();
        sizes.push(size);
    }
    assert!(sizes[0] < sizes[1] && sizes[1] == sizes[2], "{sizes:?}");
}
