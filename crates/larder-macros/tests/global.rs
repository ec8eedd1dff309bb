//! Functions whose caches are among those of the process. One test, as a process sets them once.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::error::Error as _;
use std::time::Duration;

use larder::{BuildError, Cache, Caches, Clock, LoadError, MemoryL2, ServiceSettings, cached};

#[cached(namespace = "shop:product", key = "(tenant, id)", ttl = "5m", soft_ttl = "1m", tags = [("tenant", tenant)])]
async fn product(tenant: &str, id: u64) -> Result<String, LoadError> {
    Ok(format!("{tenant}:{id}"))
}

#[cached(namespace = "shop:find", ttl = "5m", none_ttl = "30s")]
async fn find(id: u64) -> Option<u64> {
    (id != 404).then_some(id)
}

#[cached(namespace = "shop:product")]
async fn of_the_same_name(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "bank:product")]
async fn of_another_service(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

fn mistake(error: &LoadError) -> String {
    assert!(error.is_misuse());
    error.to_string()
}

#[tokio::test]
async fn caches_of_the_process() {
    // Before they are set.
    let none = "cannot build the cache \"shop:product\": the process has no caches: call larder::Caches::set_global at \
        its start";
    assert_eq!(mistake(&product("acme", 7).await.unwrap_err()), none);
    let error = product::invalidate("acme", 7).await.unwrap_err();
    assert!(error.is_misuse() && error.to_string() == none);
    assert!(product::get("acme", 7).await.is_none());
    assert_eq!(find(7).await, Some(7));

    let settings = r#"{ "product": { "l2_ttl": "2m" }, "find": { "l1_capacity": 10 } }"#;
    let settings: ServiceSettings = serde_json::from_str(settings).unwrap();
    let clock = Clock::manual();
    let caches = Caches::with_l2("shop", settings, MemoryL2::with_clock(clock.clone()));
    caches.clone().set_global().unwrap();
    assert!(caches.clone().set_global().is_err());

    // A section of the settings is of no cache until the function's is built.
    assert!(caches.check_settings().is_err());
    let cache: &Cache<(String, u64), String> = product::cache().unwrap();
    find::cache().unwrap();
    caches.check_settings().unwrap();
    assert_eq!(cache.namespace(), "shop:product");
    assert!(Caches::global().unwrap().get("product").is_some());

    assert_eq!(product("acme", 7).await.unwrap(), "acme:7");
    assert_eq!(cache.get(&("acme", 7)).await.as_deref().unwrap(), "acme:7");
    caches.invalidate_tag("tenant:acme").await.unwrap();
    assert!(product::get("acme", 7).await.is_none());

    // The settings count more than the attribute: two minutes.
    product("acme", 7).await.unwrap();
    find(404).await;
    find(7).await;
    let advance = async |seconds| {
        clock.advance(Duration::from_secs(seconds));
        caches.ready().await;
    };
    advance(31).await;
    assert!(find::get(404).await.is_none());
    assert!(find::get(7).await.is_some());
    assert!(!product::get("acme", 7).await.unwrap().meta().is_stale());
    // TTLs differ by a tenth.
    advance(40).await;
    assert!(product::get("acme", 7).await.unwrap().meta().is_stale());
    advance(70).await;
    assert!(product::get("acme", 7).await.is_none());
    assert!(find::get(7).await.is_some());

    let error = mistake(&of_the_same_name(7).await.unwrap_err());
    assert!(
        error.contains("a cache of this name was built already"),
        "{error}"
    );
    let error = of_another_service(7).await.unwrap_err();
    assert!(
        mistake(&error).ends_with("write namespace = \"shop:…\""),
        "{error}"
    );
    assert!(error.source().is_none());
    let _: BuildError = of_another_service::cache().err().unwrap();
}
