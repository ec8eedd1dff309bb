//! The text of a derived key: no two values share it, and it does not change.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use larder::CacheKey;
use larder::key::redis_key;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(CacheKey, Clone, Debug, PartialEq)]
struct Name(String);

#[derive(CacheKey, Clone, Debug, PartialEq)]
struct Listing {
    tenant: String,
    name: Name,
    page: Option<u8>,
}

#[derive(CacheKey, Clone, Debug, PartialEq)]
struct Pair<T>(T, T);

#[derive(CacheKey, Clone, Debug, PartialEq)]
struct Empty;

#[derive(CacheKey, Clone, Debug, PartialEq)]
struct Lone {
    name: String,
}

#[derive(CacheKey, Clone, Debug, PartialEq)]
#[allow(non_camel_case_types)]
enum Page {
    Home,
    lower,
    Name(Name),
    r#fn(String),
    Both(String, String),
    Listing { listing: Listing },
    Pair(Pair<Box<Page>>),
    Empty(Empty),
    Lone(Lone),
}

fn text<K: CacheKey + ?Sized>(key: &K) -> String {
    redis_key(key).unwrap()
}

/// Few characters, and those that matter, so that values are often almost alike.
fn strings() -> impl Strategy<Value = String> {
    "[:\\\\a]{0,3}"
}

fn listings() -> impl Strategy<Value = Listing> {
    let parts = (strings(), strings(), any::<Option<bool>>());
    parts.prop_map(|(tenant, name, page)| Listing {
        tenant,
        name: Name(name),
        page: page.map(u8::from),
    })
}

fn pages() -> impl Strategy<Value = Page> {
    let flat = prop_oneof![
        Just(Page::Home),
        Just(Page::lower),
        Just(Page::Empty(Empty)),
        strings().prop_map(|name| Page::Name(Name(name))),
        strings().prop_map(Page::r#fn),
        strings().prop_map(|name| Page::Lone(Lone { name })),
        (strings(), strings()).prop_map(|(a, b)| Page::Both(a, b)),
        listings().prop_map(|listing| Page::Listing { listing }),
    ];
    flat.prop_recursive(3, 8, 2, |page| {
        (page.clone(), page).prop_map(|(a, b)| Page::Pair(Pair(Box::new(a), Box::new(b))))
    })
}

fn assert_all_differ<K: CacheKey + Clone + PartialEq + std::fmt::Debug>(
    keys: &[K],
) -> Result<(), TestCaseError> {
    let mut seen: HashMap<String, K> = HashMap::new();
    for key in keys {
        // Too long for a cache, which refuses it.
        let Some(text) = redis_key(key) else { continue };
        if let Some(other) = seen.insert(text.clone(), key.clone()) {
            prop_assert_eq!(key, &other, "both write {:?}", text);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn values_that_differ_have_texts_that_differ(
        names in vec(strings().prop_map(Name), 40),
        listings in vec(listings(), 40),
        pairs in vec((strings(), strings()).prop_map(|(a, b)| Pair(a, b)), 40),
        nested in vec((listings(), listings()).prop_map(|(a, b)| Pair(a, b)), 40),
        pages in vec(pages(), 40),
    ) {
        assert_all_differ(&names)?;
        assert_all_differ(&listings)?;
        assert_all_differ(&pairs)?;
        assert_all_differ(&nested)?;
        assert_all_differ(&pages)?;
    }
}

/// Redis holds values under these texts, also when the next version of the crate looks for them: none may ever change.
#[test]
fn texts_are_frozen() {
    let listing = Listing {
        tenant: "a:b".to_owned(),
        name: Name("c".to_owned()),
        page: Some(7),
    };
    assert_eq!(text(&Name("a:b".to_owned())), "a:b");
    assert_eq!(
        text(&Lone {
            name: "a:b".to_owned()
        }),
        r"a\:b"
    );
    assert_eq!(text(&listing), r"a\:b:c:some\:7");
    assert_eq!(text(&Empty), "");
    assert_eq!(text(&Pair(1, 2)), "1:2");
    assert_eq!(text(&Page::Home), "Home");
    assert_eq!(text(&Page::r#fn("a".to_owned())), "fn:a");
    assert_eq!(
        text(&Page::Both(String::new(), ":".to_owned())),
        r"Both::\:"
    );
    assert_eq!(text(&Page::Empty(Empty)), "Empty:");
    assert_eq!(
        text(&Page::Listing { listing }),
        r"Listing:a\\\:b\:c\:some\\\:7"
    );
}

#[test]
fn generics_bounds_and_lifetimes_are_kept() {
    #[derive(CacheKey)]
    struct Of<'a, T: ?Sized, const N: usize = 2>
    where
        T: Send,
    {
        borrowed: &'a T,
        numbers: [u8; N],
    }
    #[derive(CacheKey)]
    enum Never {}

    let borrowed: &str = "a";
    assert_eq!(
        text(&Of {
            borrowed,
            numbers: [1, 2]
        }),
        r"a:2\:1\:2"
    );
    assert_eq!(text(&None::<Never>), "none");
}

#[tokio::test]
async fn a_derived_key_is_looked_up_by_itself_and_as_a_part() {
    let cache: larder::Cache<(String, Name), u8> = larder::Cache::builder("t").build().unwrap();
    let name = Name("tea".to_owned());
    cache.insert(&("acme", &name), 1).await.unwrap();
    assert_eq!(
        cache
            .get(&("acme".to_owned(), name.clone()))
            .await
            .as_deref(),
        Some(&1)
    );
    let cache: larder::Cache<Name, u8> = larder::Cache::builder("t").build().unwrap();
    cache.insert(&name, 1).await.unwrap();
    assert_eq!(cache.get(&name).await.as_deref(), Some(&1));
}
