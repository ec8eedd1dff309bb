//! Values that a former release has stored as another type, and that this release reads and converts.

use larder::codec::{
    Bincode, Codec, CodecError, CodecStack, Compressed, Encrypted, EncryptionKeys, Json,
    MessagePack, Postcard,
};
use larder::{Cache, Loaded, MemoryL2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct First {
    user: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Second {
    id: u64,
    name: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    id: u64,
    name: String,
    roles: Vec<String>,
}

fn session(id: u64, name: &str) -> Session {
    Session {
        id,
        name: name.to_owned(),
        roles: Vec::new(),
    }
}

fn second(id: u64, name: &str) -> Second {
    let name = name.to_owned();
    Second { id, name }
}

type Sessions = Cache<String, Session>;

fn sessions(l2: &MemoryL2, codec: impl CodecStack) -> Sessions {
    Cache::builder("test:former")
        .also_reads(|Second { id, name }| {
            assert_ne!(name, "panic", "the user's code");
            session(id, &name)
        })
        .also_reads(|First { user }| session(user, "of the first release"))
        .codec(codec)
        .l2(l2.clone())
        .build()
        .unwrap()
}

fn former<V>(l2: &MemoryL2, codec: impl CodecStack) -> Cache<String, V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let builder = Cache::builder("test:former").codec(codec);
    builder.l2(l2.clone()).build().unwrap()
}

async fn reads_all<C: CodecStack>(codec: impl Fn() -> C) {
    let l2 = MemoryL2::new();
    let first = former::<First>(&l2, codec());
    first.insert("first", First { user: 1 }).await.unwrap();
    let seconds = former::<Second>(&l2, codec());
    seconds.insert("second", second(2, "b")).await.unwrap();
    let sessions = sessions(&l2, codec());
    sessions.insert("third", session(3, "c")).await.unwrap();
    let all = sessions.get_many(["first", "second", "third"]).await;
    let expected = [(1, "of the first release"), (2, "b"), (3, "c")];
    for (entry, (id, name)) in all.iter().zip(expected) {
        assert_eq!(entry.as_deref(), Some(&session(id, name)));
    }
    let stats = sessions.stats();
    assert_eq!((stats.former_types, stats.other_shapes), (2, 0));
    assert!(sessions.get_local("first").is_some(), "L1 keeps it");
}

#[tokio::test]
async fn values_of_all_former_types_are_read_in_any_format() {
    reads_all(|| Bincode).await;
    reads_all(|| Postcard).await;
    reads_all(|| Json).await;
    reads_all(|| MessagePack).await;
    reads_all(|| Compressed::new(Bincode).threshold(0)).await;
    let keys = || EncryptionKeys::new(1, &[7; 32]).unwrap();
    reads_all(|| Encrypted::new(Compressed::new(Postcard), keys())).await;
}

/// A fleet changes the codec and the type in one release.
#[tokio::test]
async fn the_codec_may_be_another_one() {
    let l2 = MemoryL2::new();
    let seconds = former::<Second>(&l2, Postcard);
    seconds.insert("k", second(2, "b")).await.unwrap();
    let read = sessions(&l2, Json).get("k").await;
    assert_eq!(read.as_deref(), Some(&session(2, "b")));
}

#[tokio::test]
async fn a_converted_value_is_changed_and_invalidated_as_any() {
    let l2 = MemoryL2::new();
    let seconds = former::<Second>(&l2, Bincode);
    for key in ["updated", "replaced", "tagged"] {
        let tagged = Loaded::new(second(2, "b")).tags(["old"]);
        seconds.insert(key, tagged).await.unwrap();
    }
    let version = seconds.get("replaced").await.unwrap().meta().version();
    let sessions = sessions(&l2, Bincode);
    let entry = sessions.get("replaced").await.unwrap();
    assert_eq!(entry.meta().version(), version);
    let version = version.unwrap();
    assert!(
        sessions
            .insert_if("replaced", session(9, "x"), version)
            .await
            .unwrap()
            .is_some()
    );
    let change = |before: Option<&Session>| session(before.unwrap().id + 1, "updated");
    sessions.update("updated", change).await.unwrap();
    assert_eq!(
        sessions.get("updated").await.as_deref(),
        Some(&session(3, "updated"))
    );
    assert!(sessions.get("tagged").await.is_some());
    sessions.invalidate_tag("old").await.unwrap();
    assert!(sessions.get("tagged").await.is_none());
    assert!(sessions.get("replaced").await.is_some());
}

#[tokio::test]
async fn what_cannot_be_converted_is_a_miss() {
    let l2 = MemoryL2::new();
    let seconds = former::<Second>(&l2, Bincode);
    seconds.insert("panics", second(2, "panic")).await.unwrap();
    let texts = former::<String>(&l2, Bincode);
    texts
        .insert("text", "another one".to_owned())
        .await
        .unwrap();
    let sessions = sessions(&l2, Bincode);
    assert!(sessions.get("panics").await.is_none());
    assert!(sessions.get("text").await.is_none());
    let stats = sessions.stats();
    assert_eq!((stats.former_types, stats.decode_errors), (0, 1));
    assert_eq!(stats.other_shapes, 1);
}

#[test]
fn another_codec_is_refused() {
    struct Own;
    impl Codec for Own {
        const ID: u8 = 200;
        const NAME: &'static str = "own";

        fn encode<T: Serialize + ?Sized>(
            &self,
            value: &T,
            out: &mut Vec<u8>,
        ) -> Result<(), CodecError> {
            Bincode.encode(value, out)
        }

        fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T, CodecError> {
            Bincode.decode(bytes)
        }
    }

    let builder = Cache::<String, Session>::builder("test:former").codec(Own);
    assert!(builder.build().is_ok());
    let built = Cache::<String, Session>::builder("test:former")
        .also_reads(|First { user }| session(user, ""))
        .codec(Own)
        .build();
    let mistakes = built.expect_err("it is refused");
    assert!(mistakes.to_string().contains("also_reads"), "{mistakes}");
}
