//! The lines that users write first compile, without a type that they would have to name. Lines that do not compile are
//! in the documentation of `LookupBy`, with the error of the compiler.

#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "users write them, too"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::time::Duration;

use larder::{Cache, CacheKey, Loaded, LoadingCache, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

const HOUR: Duration = Duration::from_secs(3600);

fn cache<K, V>() -> Cache<K, V>
where
    K: CacheKey,
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    Cache::builder("test:first-lines").build().unwrap()
}

/// Each call that stores a value, with a value whose type the compiler has to infer.
macro_rules! stored {
    ($cache:expr, $value:expr) => {{
        let cache = $cache;
        cache.insert("k", $value).await.unwrap();
        cache.insert_many([("k", $value)]).await.unwrap();
        let seen = cache.get("k").await.unwrap().meta().version().unwrap();
        assert!(cache.insert_if("k", $value, seen).await.unwrap().is_some());
        cache.update("k", |_| $value).await.unwrap();
        let load = || async { Ok::<_, io::Error>($value) };
        cache.refresh("k", load).await.unwrap();
        cache.get_or_load("k", load).await.unwrap();
        let load = |_| async { Ok::<_, io::Error>($value) };
        cache.get_or_load_with("k", load).await.unwrap();
        let store = |_: &_| async { Ok::<_, io::Error>(()) };
        cache.write_through("k", $value, store).await.unwrap();
        let load = |keys: Vec<String>| async {
            Ok::<_, io::Error>(keys.into_iter().map(|key| (key, $value)))
        };
        cache.warm(["other".to_owned()], load).await.unwrap();
    }};
}

/// Not called, so that it is compiled up to the types and costs no code: each type of a value is another engine.
#[expect(dead_code, reason = "the compiler is the test")]
async fn values_are_stored_as_they_are() {
    stored!(cache::<String, u8>(), 7);
    stored!(cache::<String, i64>(), -7);
    stored!(cache::<String, f64>(), 1.5);
    stored!(cache::<String, bool>(), true);
    stored!(cache::<String, String>(), "v".to_owned());
    stored!(cache::<String, String>(), String::new());
    stored!(cache::<String, String>(), format!("v{}", 1));
    stored!(cache::<String, Option<String>>(), None);
    stored!(cache::<String, Option<u64>>(), Some(7));
    stored!(cache::<String, Vec<String>>(), Vec::new());
    stored!(cache::<String, Vec<u64>>(), vec![1, 2]);
    stored!(cache::<String, [u64; 2]>(), [1, 2]);
    stored!(cache::<String, (u64, String)>(), (7, String::new()));
    stored!(cache::<String, HashMap<String, u64>>(), HashMap::new());
    stored!(
        cache::<String, BTreeMap<u64, u64>>(),
        [(1, 2)].into_iter().collect::<BTreeMap<_, _>>()
    );
    stored!(cache::<String, Result<u64, String>>(), Ok(7));
    stored!(cache::<String, ()>(), ());
}

/// With options of its own, at the same calls.
#[tokio::test]
async fn values_are_stored_with_options() {
    let cache = cache::<String, Vec<u64>>();
    cache
        .insert("a", Loaded::new(Vec::new()).ttl(HOUR))
        .await
        .unwrap();
    let many = [("a", Loaded::new(vec![1])), ("b", Loaded::new(vec![2]))];
    cache.insert_many(many).await.unwrap();
    let locked = Loaded::new(vec![]).ttl(HOUR).tags(["t"]);
    assert!(
        cache
            .insert_if("c", locked, Version::ABSENT)
            .await
            .unwrap()
            .is_some()
    );
    let longer = |value: Option<&Vec<u64>>| {
        Loaded::new(value.cloned().unwrap_or_default()).tags([("tenant", 7)])
    };
    cache.update("c", longer).await.unwrap();
    let load = || async { Ok::<_, io::Error>(Loaded::new(vec![3]).soft_ttl(HOUR)) };
    cache.refresh("c", load).await.unwrap();
    let store = |value: &Vec<u64>| {
        let value = value.clone();
        async move { (value == [4]).then_some(()).ok_or("another value") }
    };
    let written = Loaded::new(vec![4]).tags(["t"]);
    cache.write_through("c", written, store).await.unwrap();
    assert_eq!(cache.get("c").await.as_deref(), Some(&vec![4]));
}

/// A function that is generic over the value passes it on.
#[tokio::test]
async fn generic_code_passes_values_on() {
    async fn put<V: Send + Sync + 'static>(cache: &Cache<String, V>, value: V) {
        cache.insert("k", value).await.unwrap();
    }
    async fn put_any<V: Send + Sync + 'static>(
        cache: &Cache<String, V>,
        value: impl Into<Loaded<V>>,
    ) {
        cache.insert("k", value).await.unwrap();
    }
    let cache = cache::<String, u64>();
    put(&cache, 7).await;
    put_any(&cache, 8).await;
    put_any(&cache, Loaded::new(9).ttl(HOUR)).await;
    assert_eq!(cache.get("k").await.as_deref(), Some(&9));
}

/// Each call that takes many keys, with one list of two; and with an iterator over it.
macro_rules! listed {
    ($cache:expr, $keys:expr) => {{
        let cache = $cache;
        let load = |missing: Vec<_>| async move {
            Ok::<_, io::Error>(missing.into_iter().map(|key| (key, 7)))
        };
        let found = cache.get_many_or_load($keys, load).await.unwrap();
        assert_eq!(found.iter().flatten().count(), 2);
        let load = |missing: Vec<(_, _)>| async move {
            Ok::<_, io::Error>(missing.into_iter().map(|(key, _)| (key, 7)))
        };
        cache.get_many_or_load_with($keys, load).await.unwrap();
        let token = cache
            .insert_many($keys.into_iter().map(|key| (key, 8)))
            .await
            .unwrap();
        assert_eq!(cache.get_many($keys).await.iter().flatten().count(), 2);
        assert_eq!(cache.at_least(&token).get_many($keys).await.len(), 2);
        for key in $keys {
            assert!(cache.get(key).await.is_some());
        }
        cache.invalidate_many($keys).await.unwrap();
        assert_eq!(cache.get_many($keys).await.iter().flatten().count(), 0);
    }};
}

/// The same for a cache that has its loader.
macro_rules! loaded {
    ($keys:expr) => {{
        let cache: LoadingCache<String, u64> = Cache::builder("test:first-lines")
            .read_through(|key: String| async move { Ok::<_, io::Error>(key.len() as u64) })
            .build()
            .unwrap();
        assert_eq!(cache.get_many_or_load($keys).await.unwrap().len(), 2);
        let token = cache.invalidate_many($keys).await.unwrap();
        assert_eq!(
            cache
                .at_least(&token)
                .get_many_or_load($keys)
                .await
                .unwrap()
                .len(),
            2
        );
    }};
}

/// Not called, so that it is compiled up to the types and costs no code: each type of a value is another engine.
#[expect(dead_code, reason = "the compiler is the test")]
async fn many_keys_are_given_as_any_list() {
    let texts = ["a".to_owned(), "b".to_owned()];
    let (vec, slice): (Vec<String>, &[String]) = (texts.to_vec(), &texts);
    let literals: Vec<&str> = vec!["a", "b"];
    listed!(cache::<String, u64>(), ["a", "b"]);
    listed!(cache::<String, u64>(), &["a", "b"]);
    listed!(cache::<String, u64>(), literals.clone());
    listed!(cache::<String, u64>(), &literals);
    listed!(cache::<String, u64>(), literals.as_slice());
    listed!(cache::<String, u64>(), &texts);
    listed!(cache::<String, u64>(), slice);
    listed!(cache::<String, u64>(), &vec);
    listed!(cache::<String, u64>(), vec.iter());
    listed!(cache::<String, u64>(), vec.iter().map(String::as_str));
    listed!(
        cache::<String, u64>(),
        vec.iter().collect::<Vec<&String>>().iter()
    );
    listed!(
        cache::<String, u64>(),
        &literals.iter().copied().collect::<BTreeSet<_>>()
    );
    listed!(
        cache::<String, u64>(),
        &vec.iter().cloned().collect::<HashSet<String>>()
    );
    listed!(cache::<u64, u64>(), &[1, 2]);
    listed!(cache::<u64, u64>(), &vec![1, 2]);
    listed!(cache::<u64, u64>(), [1, 2].iter());
    listed!(cache::<u64, u64>(), &(1..3).collect::<Vec<_>>());
    listed!(cache::<(String, u64), u64>(), &[("a", 1), ("b", 2)]);
    listed!(
        cache::<(String, u64), u64>(),
        &[("a".to_owned(), 1), ("b".to_owned(), 2)]
    );
    listed!(cache::<&'static str, u64>(), &["a", "b"]);
    loaded!(["a", "b"]);
    loaded!(&["a", "b"]);
    loaded!(literals.clone());
    loaded!(slice);
    loaded!(&vec);
}

#[tokio::test]
async fn tags_are_given_as_any_list() {
    let cache = cache::<u64, u64>();
    let texts = vec!["a".to_owned(), "b".to_owned()];
    cache
        .insert(&1, Loaded::new(1).tags(["a", "b"]).tags(&["c"]))
        .await
        .unwrap();
    cache
        .insert(&2, Loaded::new(2).tags(&texts).tags([("tenant", 7)]))
        .await
        .unwrap();
    cache.invalidate_tags(["x", "y"]).await.unwrap();
    cache.invalidate_tags(&["x", "y"]).await.unwrap();
    cache.invalidate_tags([("tenant", 8)]).await.unwrap();
    assert_eq!(cache.get_many(&[1, 2]).await.iter().flatten().count(), 2);
    cache
        .invalidate_tags(texts.iter().map(String::as_str))
        .await
        .unwrap();
    cache.invalidate_tags(&texts).await.unwrap();
    cache.invalidate_tags(texts).await.unwrap();
    assert_eq!(cache.get_many(&[1, 2]).await.iter().flatten().count(), 0);
}

#[tokio::test]
async fn one_of_each_does_as_it_says() {
    stored!(cache::<String, u64>(), 7);
    listed!(cache::<String, u64>(), &["a", "b"]);
    loaded!(&["a", "b"]);
}
