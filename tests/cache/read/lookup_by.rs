//! By which forms a key is looked up. Most of this is for the compiler: it has to infer all types.

use std::io;
use std::sync::Arc;

use larder::key::{CacheKey, KeyWriter, LookupBy};
use larder::{Cache, Loaded};

fn cache<K: CacheKey>() -> Cache<K, u64> {
    Cache::builder("test:forms").build().unwrap()
}

/// A key that is neither `Clone` nor `Eq`.
struct Own(u64);

impl CacheKey for Own {
    fn write_key(&self, out: &mut KeyWriter) {
        self.0.write_key(out);
    }
}

/// Calls each method with one key.
macro_rules! looked_up {
    ($cache:expr, $key:expr) => {{
        let (cache, key) = (&$cache, $key);
        cache.insert(key, 1).await.unwrap();
        assert_eq!(*cache.get_local(key).unwrap(), 1);
        assert_eq!(*cache.get(key).await.unwrap(), 1);
        cache.invalidate(key).await.unwrap();
        assert!(cache.get(key).await.is_none());
        let load = || async { Ok::<_, io::Error>(2) };
        assert_eq!(*cache.get_or_load(key, load).await.unwrap(), 2);
        cache.invalidate_and_wait(key).await.unwrap();
        assert!(cache.get(key).await.is_none());
        cache.insert_many([(key, 3)]).await.unwrap();
        assert_eq!(cache.get_many([key]).await[0].as_deref(), Some(&3));
        cache.invalidate_many([key]).await.unwrap();
        let load = |_| async { Ok::<_, io::Error>(Loaded::new(5)) };
        assert_eq!(*cache.get_or_load_with(key, load).await.unwrap(), 5);
        cache.insert(key, Loaded::new(6)).await.unwrap();
        let many = [(key, Loaded::new(7))];
        cache.insert_many(many).await.unwrap();
        assert_eq!(*cache.get(key).await.unwrap(), 7);
        cache.insert(key, 4).await.unwrap();
        let hold = std::time::Duration::from_millis(1);
        cache.invalidate_and_hold(key, hold).await.unwrap();
        assert!(cache.get(key).await.is_none());
    }};
}

#[tokio::test]
async fn lone_keys_are_looked_up_as_they_can_be_borrowed() {
    let text = String::from("x");
    looked_up!(cache::<String>(), "x");
    looked_up!(cache::<String>(), &text);
    looked_up!(cache::<Arc<str>>(), "x");
    looked_up!(cache::<&'static str>(), "x");
    looked_up!(cache::<&'static str>(), &"x");
    looked_up!(cache::<u64>(), &7);
    looked_up!(cache::<u64>(), &"7".parse().unwrap());
    looked_up!(cache::<Own>(), &Own(7));
    looked_up!(cache::<[u64; 2]>(), &[7, 8]);
    looked_up!(cache::<Option<u64>>(), &None);
    looked_up!(cache::<()>(), &());
}

#[tokio::test]
async fn tuples_are_looked_up_by_references_to_their_parts() {
    let (text, own) = (String::from("x"), Own(7));
    looked_up!(cache::<(String,)>(), &("x",));
    looked_up!(cache::<(String, u64)>(), &("x", 7));
    looked_up!(cache::<(String, u64)>(), &("x", &7));
    looked_up!(cache::<(String, u64)>(), &(&text, 7));
    looked_up!(cache::<(u64, String)>(), &(7, "x"));
    looked_up!(cache::<(String, String)>(), &("x", "y"));
    looked_up!(cache::<(String, String)>(), &("x", text.clone()));
    looked_up!(cache::<(String, String)>(), &(text.clone(), "y"));
    looked_up!(cache::<(&'static str, String)>(), &("x", "y"));
    looked_up!(cache::<(String, &'static str)>(), &("x", "y"));
    looked_up!(cache::<((String, u64), u64)>(), &(&(text.clone(), 7), 8));
    looked_up!(cache::<(u64, Own, String)>(), &(7, own, "x"));
    looked_up!(
        cache::<(u64, String, u64, String, u64, u64, u64, String)>(),
        &(1, "2", 3, "4", 5, 6, 7, "8")
    );
    looked_up!(
        cache::<(u64, u64, u64, u64, u64, u64, u64, String)>(),
        &(1, 2, 3, 4, 5, 6, 7, "8")
    );
}

#[tokio::test]
async fn tuples_are_looked_up_by_themselves() {
    let text = String::from("x");
    looked_up!(cache::<(&'static str, u64)>(), &("x", 7));
    looked_up!(cache::<(&'static str, &'static str)>(), &("x", "y"));
    looked_up!(cache::<(u64, u64)>(), &(7, 8));
    looked_up!(cache::<(String, u64)>(), &(text.clone(), 7));
    looked_up!(cache::<(Own, u64)>(), &(Own(7), 8));
    looked_up!(cache::<(Own, String)>(), &(Own(7), text));
}

/// All forms of one key have one entry.
#[tokio::test]
async fn a_key_has_one_entry_whatever_it_is_looked_up_by() {
    let cache = cache::<(String, String)>();
    let (a, b) = (String::from("a:b"), String::from("c"));
    cache.insert(&("a:b", "c"), 1).await.unwrap();
    assert!(cache.get(&(&a, "c")).await.is_some());
    assert!(cache.get(&(a.clone(), "c")).await.is_some());
    assert!(cache.get(&("a:b", b.clone())).await.is_some());
    assert!(cache.get(&("a", "b:c")).await.is_none());
    cache.invalidate(&("a:b", &b)).await.unwrap();
    assert!(cache.get(&(a, b)).await.is_none());
}

#[tokio::test]
async fn loaders_get_owned_keys() {
    let pairs = cache::<(String, u64)>();
    let load = |missing: Vec<(String, u64)>| async move {
        Ok::<_, io::Error>(missing.into_iter().map(|key| {
            let value = key.1 * 10;
            (key, value)
        }))
    };
    let found = pairs.get_many_or_load(&[("a", 1), ("b", 2)], load).await;
    let found: Vec<u64> = found.unwrap().into_iter().flatten().map(|e| *e).collect();
    assert_eq!(found, [10, 20]);
    let owned = [("a".to_owned(), 1), ("c".to_owned(), 3)];
    let found = pairs.get_many_or_load(&owned, load).await.unwrap();
    assert_eq!(found[1].as_deref(), Some(&30));

    // A reference in each place.
    let triples = cache::<(String, u64, String)>();
    let load = async |missing: Vec<_>| {
        let value = |key| (key, 1);
        Ok::<_, io::Error>(missing.into_iter().map(value).collect::<Vec<_>>())
    };
    let load = move |missing| load(missing);
    let x = || "x".to_owned();
    for found in [
        triples.get_many_or_load(&[("x", 1, "x")], load).await,
        triples.get_many_or_load(&[("x", &2, x())], load).await,
        triples.get_many_or_load(&[(x(), &3, x())], load).await,
        triples.get_many_or_load(&[(x(), 4, "x")], load).await,
    ] {
        assert_eq!(found.unwrap()[0].as_deref(), Some(&1));
    }
    let keys = [1, 2, 3, 4].map(|n| (x(), n, x()));
    let found = triples.get_many(&keys).await;
    assert!(found.iter().all(Option::is_some));
}

struct OwnRef<'a>(&'a u64);

impl CacheKey for OwnRef<'_> {
    fn write_key(&self, out: &mut KeyWriter) {
        self.0.write_key(out);
    }
}

impl LookupBy<OwnRef<'_>> for Own {}

#[tokio::test]
async fn a_key_of_ones_own_is_looked_up_by_a_form_of_ones_own() {
    let cache = cache::<Own>();
    looked_up!(cache, &OwnRef(&7));
    cache.insert(&Own(7), 1).await.unwrap();
    assert!(cache.get(&OwnRef(&7)).await.is_some());
}

/// The bounds that a method of a generic type would have.
#[tokio::test]
async fn generic_code_passes_keys_on() {
    async fn find<K, Q, M>(cache: &Cache<K, u64>, key: &Q) -> Option<u64>
    where
        K: CacheKey + LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        cache.get(key).await.map(|entry| *entry)
    }
    async fn by_itself<K: CacheKey>(cache: &Cache<K, u64>, key: &K) -> Option<u64> {
        find(cache, key).await
    }
    let pairs = cache::<(String, u64)>();
    pairs.insert(&("a", 1), 10).await.unwrap();
    assert_eq!(find(&pairs, &("a", 1)).await, Some(10));
    assert_eq!(by_itself(&pairs, &("a".to_owned(), 1)).await, Some(10));
}

/// The futures are `Send`, also if the keys are references to what the task owns.
#[tokio::test]
async fn tasks_look_up_by_references_to_what_they_own() {
    let (pairs, literals) = (cache::<(String, u64)>(), cache::<(&'static str, u64)>());
    let task = tokio::spawn(async move {
        let tenant = String::from("acme");
        let load = || async { Ok::<_, io::Error>(1) };
        let loaded = pairs.get_or_load(&(tenant.as_str(), 7), load).await;
        assert_eq!(*loaded.unwrap(), 1);
        pairs.insert(&(tenant.as_str(), 7), 2).await.unwrap();
        literals.insert(&("acme", 7), 3).await.unwrap();
        let keys = [(tenant.as_str(), 7), (&tenant, 8)];
        let load = |_| async { Ok::<_, io::Error>([]) };
        let many = pairs.get_many_or_load(&keys, load).await.unwrap();
        pairs.invalidate_many(&keys).await.unwrap();
        let literal = literals.get(&("acme", 7)).await.map(|entry| *entry);
        (many[0].as_deref().copied(), literal)
    });
    assert_eq!(task.await.unwrap(), (Some(2), Some(3)));
}
