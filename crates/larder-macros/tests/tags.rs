//! A tag has one text, wherever it is written: a value that has it is gone when it is invalidated, whatever the parts of
//! the tag have in them.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use larder::{Cache, InvalidationBatch, LoadError, Loaded, MemoryL2, cached};

const TENANTS: [&str; 8] = ["acme", "eu:acme", r"a\b", "a b", "ä:€", "", ":", r"\:"];

#[derive(Clone)]
struct Users {
    cache: Cache<(String, u64), String>,
}

impl Users {
    #[cached(cache = "self.cache", key = "(tenant, id)", tags = [("tenant", tenant), id, "users", tenant])]
    async fn by_macro(&self, tenant: &str, id: u64) -> Result<String, LoadError> {
        assert!(id < 10);
        Ok(tenant.to_owned())
    }
}

type Values = Cache<(String, u64), String>;

/// Each way to store a value with the tag of a tenant.
async fn store(cache: &Values, way: u64, tenant: &str) {
    let key = (tenant, way);
    let tagged = || Loaded::new(tenant.to_owned()).tags([("tenant", tenant)]);
    let value = tagged();
    match way {
        0 => {
            let users = Users {
                cache: cache.clone(),
            };
            users.by_macro(tenant, way).await.unwrap();
        }
        1 => drop(cache.insert(&key, tagged()).await.unwrap()),
        2 => {
            let load = async move |_| Ok::<_, LoadError>(value);
            cache.get_or_load_with(&key, load).await.unwrap();
        }
        // By the option `tags_of`.
        _ => drop(cache.insert(&key, format!("of {tenant}")).await.unwrap()),
    }
}

/// Each way to invalidate the tag.
async fn invalidate(cache: &Values, way: usize, tenant: &str) {
    let tag = ("tenant", tenant);
    match way {
        0 => drop(cache.invalidate_tag(&tag).await.unwrap()),
        1 => drop(cache.invalidate_tags([tag]).await.unwrap()),
        2 => {
            let all = InvalidationBatch::new().tag(cache, &tag);
            all.invalidate().await.unwrap();
        }
        // The text, as it is in Redis.
        _ => {
            let text = larder::key::redis_key(&tag).unwrap();
            cache.invalidate_tag(&*text).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_tag_has_one_text() {
    let builder = Cache::builder("test:tags").l2(MemoryL2::new());
    let tags_of = |_: &str, value: &String| {
        let tenant = value.strip_prefix("of ");
        tenant.map(|tenant| ("tenant", tenant.to_owned()))
    };
    let cache: Values = builder.tags_of(tags_of).build().unwrap();
    for tenant in TENANTS {
        for stored in 0..4 {
            for invalidated in 0..4 {
                let other = ("other tenant", stored);
                store(&cache, stored, other.0).await;
                store(&cache, stored, tenant).await;
                assert!(cache.get(&(tenant, stored)).await.is_some());
                invalidate(&cache, invalidated, tenant).await;
                let left = cache.get(&(tenant, stored)).await;
                assert!(left.is_none(), "{tenant:?}, {stored}, {invalidated}");
                assert!(cache.get(&other).await.is_some());
            }
        }
    }
}

/// An argument alone is a tag by itself, and a text is a tag as it is.
#[tokio::test]
async fn all_tags_of_the_attribute_count() {
    let builder = Cache::builder("test:tags").l2(MemoryL2::new());
    let users = Users {
        cache: builder.build().unwrap(),
    };
    for tag in 0..3 {
        users.by_macro("eu:acme", 7).await.unwrap();
        match tag {
            0 => users.cache.invalidate_tag(&7).await.unwrap(),
            1 => users.cache.invalidate_tag("users").await.unwrap(),
            _ => users.cache.invalidate_tag("eu:acme").await.unwrap(),
        };
        assert!(users.by_macro_get("eu:acme", 7).await.is_none(), "{tag}");
    }
}
