//! Bad input gets an error that says what to do, and loses nothing.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::key::MAX_KEY_BYTES;
use larder::{Cache, LoadError, WriteError};
use serde::{Deserialize, Serialize, Serializer};

use crate::fleet::{Fleet, Source};

#[test]
fn errors_can_be_shared_and_sent() {
    fn check<T: std::error::Error + Clone + Send + Sync + 'static>() {}
    check::<LoadError>();
    check::<WriteError>();
    check::<larder::BuildError>();
    check::<larder::L2Error>();
    check::<larder::codec::CodecError>();
    #[cfg(feature = "encryption")]
    check::<larder::codec::InvalidKey>();
}

#[test]
fn handles_can_be_shared_and_sent() {
    fn check<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    check::<Cache<String, String>>();
    check::<Cache<u64, std::sync::atomic::AtomicU64>>();
    check::<larder::Entry<String>>();
    check::<larder::entry::SomeEntry<String>>();
    check::<larder::MemoryL2>();
    check::<larder::RedisL2>();
    check::<larder::Clock>();
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused() {
    let (a, _) = Fleet::memory().instance().await;
    let (truth, key) = (Source::new("v"), "k".repeat(MAX_KEY_BYTES + 1));
    assert!(a.get_local(&key).is_none());
    assert!(a.get(&key).await.is_none());
    let error = truth.through(&a, &key).await.unwrap_err();
    assert!(
        error.is_key_too_long() && error.to_string().contains("1024"),
        "{error}"
    );
    assert!(
        a.insert(&key, String::new())
            .await
            .unwrap_err()
            .is_key_too_long()
    );
    assert!(a.invalidate(&key).await.unwrap_err().is_key_too_long());
    assert_eq!(truth.loads(), 0);

    let longest = "k".repeat(MAX_KEY_BYTES);
    assert_eq!(*truth.through(&a, &longest).await.unwrap(), "v");
    assert_eq!(*a.get_local(&longest).unwrap(), "v");
    // The empty key is one like any other.
    assert_eq!(*truth.through(&a, "").await.unwrap(), "v");
    assert_eq!(*a.get_local("").unwrap(), "v");
}

/// What the documentation says of loaders that return `anyhow::Error`.
#[tokio::test]
async fn errors_within_an_anyhow_error_are_found() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    async fn found(make: fn() -> anyhow::Error, is_converted: bool) -> Option<io::ErrorKind> {
        let cache: Cache<u64, u64> = Cache::builder("test:anyhow").build().unwrap();
        let error = if is_converted {
            let convert = anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace;
            let load = move || async move { Err(convert(make())) };
            cache.get_or_load(&1, load).await
        } else {
            cache
                .get_or_load(&1, move || async move { Err(make()) })
                .await
        };
        let error = error.unwrap_err();
        error.downcast_ref().map(io::Error::kind)
    }
    fn not_found() -> io::Error {
        io::ErrorKind::NotFound.into()
    }

    let plain = || anyhow::Error::from(not_found());
    let as_source = || anyhow::Error::from(Outer(not_found()));
    let in_context = || anyhow::Error::from(not_found()).context("outer");
    let in_two = || {
        anyhow::Error::from(not_found())
            .context("inner")
            .context("outer")
    };
    for make in [as_source, in_context, in_two] {
        assert_eq!(found(make, false).await, Some(io::ErrorKind::NotFound));
    }
    for make in [plain, as_source, in_context, in_two] {
        assert_eq!(found(make, true).await, Some(io::ErrorKind::NotFound));
    }
}

/// Another instance allows more. What is not decoded takes no memory.
#[tokio::test]
async fn a_stored_value_that_is_too_large_is_a_miss() {
    let fleet = Fleet::memory();
    let (other, _) = fleet.instance().await;
    let (a, _) = fleet.instance_with(|b| b.max_value_size(100)).await;
    other.insert("k", "v".repeat(101)).await.unwrap();
    assert!(a.get("k").await.is_none());
    assert_eq!(a.stats().decode_errors, 1);
    let loaded = Source::new("small").through(&a, "k").await.unwrap();
    assert!(loaded.meta().version().is_some(), "it is replaced");
    assert_eq!(*a.get("k").await.unwrap(), "small");
}

#[tokio::test]
async fn a_value_that_is_too_large_is_not_stored() {
    let (a, _) = Fleet::memory()
        .instance_with(|b| b.max_value_size(100))
        .await;
    a.insert("k", "small".to_owned()).await.unwrap();
    let error = a.insert("k", "v".repeat(101)).await.unwrap_err();
    assert!(error.is_value_too_large() && !error.is_deferred());
    assert!(error.to_string().contains("max_value_size"), "{error}");
    assert_eq!(*a.get("k").await.unwrap(), "small");

    // What was loaded is handed out all the same.
    let large = Source::new(&"v".repeat(101));
    let entry = large.through(&a, "other").await.unwrap();
    assert_eq!((entry.len(), entry.meta().version()), (101, None));
    assert!(a.get("other").await.is_none());
    assert_eq!(
        (a.stats().unstorable_values, a.stats().loads_not_stored),
        (2, 1)
    );
    large.set("now small");
    assert!(
        large
            .through(&a, "other")
            .await
            .unwrap()
            .meta()
            .version()
            .is_some(),
        "the lease was given back"
    );
}

/// Nobody would read the bytes.
#[tokio::test]
async fn without_l2_values_of_any_size_are_stored_and_not_encoded() {
    static ENCODED: AtomicUsize = AtomicUsize::new(0);
    #[derive(Deserialize)]
    struct Text(String);
    impl Serialize for Text {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            ENCODED.fetch_add(1, Ordering::Relaxed);
            self.0.serialize(serializer)
        }
    }

    let builder = Cache::<u64, Text>::builder("test:not_encoded");
    let cache = builder.max_value_size(100).build().unwrap();
    cache.insert(&0, Text("first".to_owned())).await.unwrap();
    let load = async || Ok::<_, io::Error>(Text("loaded".to_owned()));
    let values = [1, 9].map(|key| (key, "v".repeat(101)));
    let values = values.iter().map(|(key, text)| (key, Text(text.clone())));
    cache.insert_many(values).await.unwrap();
    cache.get_or_load(&10, load).await.unwrap();
    assert_eq!(ENCODED.load(Ordering::Relaxed), 0);
    assert_eq!(cache.get(&9).await.unwrap().0.len(), 101);
    assert_eq!(cache.get(&10).await.unwrap().0, "loaded");
}

/// bincode writes these, and cannot read them back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Number { value: u64 },
}

/// Is written with a field less than it is read with: the length of the list is taken for the first field, and the
/// first element for the length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Shifted {
    #[serde(skip_serializing)]
    cached: u8,
    list: Vec<u8>,
}

async fn is_not_stored<V>(value: V)
where
    V: Clone + std::fmt::Debug + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let builder = Cache::builder("test:types").l2(larder::MemoryL2::new());
    let cache: Cache<String, V> = builder.codec(larder::codec::Bincode).build().unwrap();
    let error = cache.insert("k", value.clone()).await.unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("Auto, MessagePack or Json"), "{reason}");
    let load = async move || Ok::<_, LoadError>(value);
    let loaded = cache.get_or_load("k", load).await.unwrap();
    assert_eq!(
        loaded.meta().version(),
        None,
        "it is handed out all the same"
    );
    assert!(cache.get("k").await.is_none());
    let stats = cache.stats();
    assert_eq!((stats.unstorable_values, stats.decode_errors), (2, 0));
}

/// A cache whose values are not stored is not well, though L2 is.
#[tokio::test]
async fn a_value_that_is_not_stored_shows_for_a_minute() {
    let clock = larder::Clock::manual();
    let l2 = larder::MemoryL2::with_clock(clock.clone());
    let builder = Cache::<u64, String>::builder("test:storing").l2(l2);
    let builder = builder
        .partitions(4)
        .max_staleness(Duration::from_secs(3600));
    let cache = builder.max_value_size(100).build().unwrap();
    cache.ready().await;
    assert!(cache.health().is_storing() && cache.health().is_ok());
    let load = async || Ok::<_, LoadError>("v".repeat(101));
    cache.get_or_load(&7, load).await.unwrap();
    let health = cache.health();
    assert!(!health.is_storing() && !health.is_ok() && health.is_l2_up());
    clock.advance(Duration::from_secs(59));
    assert!(!cache.health().is_storing());
    clock.advance(Duration::from_secs(1));
    assert!(cache.health().is_storing() && cache.health().is_ok());
}

#[tokio::test]
async fn a_type_that_cannot_be_read_back_is_not_stored() {
    is_not_stored(Tagged::Number { value: 7 }).await;
    is_not_stored(Shifted {
        cached: 9,
        list: vec![1, 0],
    })
    .await;
}

/// Cannot be written when it is two, and panics when one is read.
#[derive(Debug)]
struct Odd(u8);

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            2 => Err(serde::ser::Error::custom("I will not be stored")),
            number => output.serialize_u8(number),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(input)?;
        assert_ne!(number, 1, "not to be read");
        Ok(Self(number))
    }
}

#[tokio::test]
async fn a_value_that_does_not_encode_is_not_stored() {
    let cache: Cache<u64, Odd> = Cache::builder("test:stubborn")
        .l2(larder::MemoryL2::new())
        .build()
        .unwrap();
    let error = cache.insert(&1, Odd(2)).await.unwrap_err();
    assert!(error.is_encode());
    let chain: Vec<String> =
        std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
            .map(ToString::to_string)
            .collect();
    assert!(
        chain
            .iter()
            .any(|text| text.contains("I will not be stored")),
        "{chain:?}"
    );
    let entry = cache
        .get_or_load(&1, || async { Ok::<_, std::io::Error>(Odd(2)) })
        .await
        .unwrap();
    assert_eq!(entry.meta().version(), None);
}

/// A type whose own code panics harms only itself.
#[tokio::test]
async fn a_value_whose_decoding_panics_is_a_miss() {
    let l2 = larder::MemoryL2::new();
    let instance = || {
        Cache::<u64, Odd>::builder("test:panic")
            .l2(l2.clone())
            .build()
            .unwrap()
    };
    let writer = instance();
    assert!(
        writer.insert(&1, Odd(1)).await.unwrap_err().is_encode(),
        "no value of this shape has been read back yet"
    );
    writer.insert(&1, Odd(0)).await.unwrap();
    writer.insert(&1, Odd(1)).await.unwrap();
    let reader = instance();
    assert!(reader.get(&1).await.is_none());
    assert_eq!(reader.stats().decode_errors, 1);
    let entry = reader
        .get_or_load(&1, || async { Ok::<_, std::io::Error>(Odd(0)) })
        .await
        .unwrap();
    assert!(entry.meta().version().is_some());
}

/// A caller may keep an entry over a panic that it catches.
#[test]
fn an_entry_is_unwind_safe() {
    fn check<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
    check::<larder::Entry<String>>();
    check::<larder::entry::SomeEntry<String>>();
}
