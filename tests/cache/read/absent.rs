//! Values that are an `Option`: that something does not exist is cached like anything else.

use std::io;
use std::time::Duration;

use larder::entry::SomeEntry;
use larder::{Cache, Clock, MemoryL2, Source};
use serde::{Deserialize, Serialize};

/// Not `Clone`: it is shared.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Name(String);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn name(of: u64) -> Option<Name> {
    (of == 7).then(|| Name("tea".to_owned()))
}

#[tokio::test]
async fn an_entry_of_an_option_becomes_an_option_of_an_entry() {
    let l2 = MemoryL2::new();
    let [a, b] = [(); 2].map(|()| -> Cache<u64, Option<Name>> {
        let builder = Cache::builder("test:names").l2(l2.clone());
        builder.build().unwrap()
    });
    a.ready().await;
    b.ready().await;
    for (cache, source) in [(&a, Source::Loader), (&b, Source::L2), (&b, Source::L1)] {
        for id in [7, 8] {
            let load = move || async move { Ok::<_, io::Error>(name(id)) };
            let entry = cache.get_or_load(&id, load).await.unwrap();
            let (shared, meta) = (entry.clone(), entry.meta());
            assert_eq!(meta.source(), source);
            let Some(some) = entry.transpose() else {
                assert_eq!(id, 8);
                continue;
            };
            assert_eq!((id, &*some), (7, &Name("tea".to_owned())));
            let held = shared.value().as_ref().unwrap();
            assert!(std::ptr::eq(some.value(), held), "it is not copied");
            assert_eq!(some.clone().meta(), meta);
        }
    }
    assert_eq!(a.stats().loads + b.stats().loads, 2);
}

#[tokio::test]
async fn a_transposed_entry_shows_its_value() {
    let names: Cache<u64, Option<Name>> = Cache::builder("test:names").build().unwrap();
    names.insert(&7, name(7)).await.unwrap();
    let some = names.get(&7).await.unwrap().transpose().unwrap();
    assert_eq!(some.to_string(), "tea");
    assert_eq!(serde_json::to_string(&some).unwrap(), r#""tea""#);
    let shown = format!("{some:?}");
    assert!(
        shown.starts_with(r#"SomeEntry { value: Name("tea"), meta: Meta"#),
        "{shown}"
    );
}

/// The recipe of the documentation.
#[tokio::test]
async fn what_does_not_exist_may_have_a_ttl_of_its_own() {
    const SECOND: Duration = Duration::from_secs(1);
    let clock = Clock::manual();
    let builder = Cache::builder("test:names")
        .clock(clock.clone())
        .jitter(0.0);
    let names = builder.l2_ttl(60 * SECOND).ttl_of(|name: &Option<Name>| {
        let is_absent = name.is_none();
        is_absent.then_some(30 * SECOND)
    });
    let names: Cache<u64, _> = names.build().unwrap();
    for id in [7, 8] {
        let load = move || async move { Ok::<_, io::Error>(name(id)) };
        let found = names.get_or_load(&id, load).await.unwrap();
        assert_eq!(found.transpose().is_some(), id == 7);
    }
    clock.advance(29 * SECOND);
    assert!(names.get(&8).await.unwrap().transpose().is_none());
    clock.advance(SECOND);
    assert!(names.get(&8).await.is_none() && names.get(&7).await.is_some());
}

/// It is a snapshot, and knows what it knew.
#[tokio::test]
async fn a_transposed_entry_outlives_what_the_cache_holds() {
    let clock = Clock::manual();
    let builder = Cache::builder("test:names")
        .clock(clock.clone())
        .jitter(0.0);
    let builder = builder.soft_ttl(Duration::from_secs(1));
    let names: Cache<u64, Option<Name>> = builder.build().unwrap();
    names.insert(&7, name(7)).await.unwrap();
    clock.advance(Duration::from_secs(1));
    let some: SomeEntry<Name> = names.get(&7).await.unwrap().transpose().unwrap();
    names.invalidate(&7).await.unwrap();
    drop(names);
    assert_eq!(some.0, "tea");
    assert!(some.meta().is_stale());
}
