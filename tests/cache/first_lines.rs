//! The lines that users write first compile, without a type that they would have to name. Lines that do not compile are in
//! the documentation of `LookupBy`, with the error of the compiler.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use larder::{Cache, CacheKey, Loaded, Version};
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
        assert!(cache.insert_if("k", $value, seen).await.unwrap());
        cache.update("k", |_| $value).await.unwrap();
        let load = || async { Ok::<_, io::Error>($value) };
        cache.refresh("k", load).await.unwrap();
        cache.get_or_load("k", load).await.unwrap();
        let load = |_| async { Ok::<_, io::Error>($value) };
        cache.get_or_load_with("k", load).await.unwrap();
        let store = |_: &_| async { Ok::<_, io::Error>(()) };
        cache.write_through("k", $value, store).await.unwrap();
        let rows = futures::stream::iter([("other".to_owned(), $value)]);
        assert_eq!(cache.warm(rows).await.unwrap().stored, 1);
    }};
}

#[tokio::test]
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
    assert!(cache.insert_if("c", locked, Version::ABSENT).await.unwrap());
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
