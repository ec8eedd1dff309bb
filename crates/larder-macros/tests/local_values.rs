//! Functions whose values stay in the process: of types without serde. One test, as a process sets its caches once.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use larder::{Cache, Caches, LoadError, Local, ServiceSettings, cached};

/// Has no serde: a call clones the handle.
#[derive(Clone)]
struct Template(Arc<str>);

static CALLS: AtomicU64 = AtomicU64::new(0);

#[cached(namespace = "shop:template", ttl = "5m", tags = [("theme", theme)])]
async fn template(theme: &str) -> Result<Local<Template>, LoadError> {
    CALLS.fetch_add(1, SeqCst);
    Ok(Local(Template(theme.into())))
}

#[cached(cache = "cache")]
async fn of_a_given_cache(
    id: u64,
    #[skip] cache: &Cache<u64, Local<Template>>,
) -> Result<Local<Template>, LoadError> {
    CALLS.fetch_add(1, SeqCst);
    Ok(Local(Template(id.to_string().into())))
}

#[tokio::test]
async fn a_function_returns_local_values() {
    // Without a server: the caches have no L2.
    let caches = Caches::new("shop", ServiceSettings::default()).unwrap();
    caches.set_global().map_err(|_| "there are others").unwrap();
    let first = template("dark").await.unwrap();
    let second = template("dark").await.unwrap();
    assert!(&*first.0.0 == "dark" && Arc::ptr_eq(&first.0.0, &second.0.0));
    assert_eq!(CALLS.load(SeqCst), 1);
    let cache = template::cache().unwrap();
    cache.invalidate_tag(&("theme", "dark")).await.unwrap();
    assert!(template::get("dark").await.is_none());
    template::refresh("dark").await.unwrap();
    assert_eq!(CALLS.load(SeqCst), 2);

    let cache = Cache::builder("test:template").build().unwrap();
    for _ in 0..2 {
        let seventh = of_a_given_cache(7, &cache).await.unwrap();
        assert_eq!(&*seventh.0.0, "7");
    }
    assert_eq!(CALLS.load(SeqCst), 3);
}
