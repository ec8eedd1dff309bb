//! Values that stay in the process, in caches without an L2: types without serde are cached as all others are.

use std::convert::Infallible;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::builder::Verify;
use larder::{
    BuildError, Builder, Cache, Caches, Clock, Loaded, LoadingCache, Local, MemoryL2,
    ServiceSettings, Settings, Source,
};
use serde_json::{from_value, json};

use crate::support::eventually::eventually;

const HOUR: Duration = Duration::from_secs(3600);

/// A type without serde, `Clone` and `Debug`.
struct Compiled(u32);

type Log = Local<Mutex<Vec<u32>>>;
type Templates = Cache<String, Local<Compiled>>;
type Set = Builder<String, Local<Compiled>>;

/// Counts its loads, and has each of them return another value.
#[derive(Clone, Default)]
struct Compiler(Arc<AtomicU32>);

impl Compiler {
    async fn compile(self) -> Result<Local<Compiled>, Infallible> {
        tokio::task::yield_now().await;
        Ok(Local(Compiled(self.0.fetch_add(1, SeqCst) + 1)))
    }

    async fn through(&self, cache: &Templates, key: &str) -> u32 {
        let compiler = self.clone();
        let loaded = cache.get_or_load(key, || compiler.compile()).await;
        loaded.unwrap().0.0
    }

    fn calls(&self) -> u32 {
        self.0.load(SeqCst)
    }
}

fn templates(set: impl FnOnce(Set) -> Set) -> Templates {
    set(Cache::builder("test:templates")).build().unwrap()
}

#[test]
fn a_local_value_is_used_as_the_value_itself() {
    let text = Local("tea".to_owned());
    assert_eq!(text.len(), 3);
    assert_eq!(text.clone().into_inner(), *text);
    assert_eq!(Local::from("tea".to_owned()), text);
    assert_eq!(Local::<u32>::default(), Local(0));
}

#[tokio::test]
async fn callers_share_one_load_and_one_value() {
    let logs: Cache<String, Log> = Cache::builder("test:logs").build().unwrap();
    let load = || async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Local(Mutex::new(Vec::new())))
    };
    let both = tokio::join!(logs.get_or_load("a", load), logs.get_or_load("a", load));
    both.0.unwrap().lock().unwrap().push(1);
    both.1.unwrap().lock().unwrap().push(2);
    let hit = logs.get("a").await.unwrap();
    assert_eq!(hit.meta().source(), Source::L1);
    assert_eq!(*hit.lock().unwrap(), [1, 2]);
    assert_eq!((logs.stats().loads, logs.stats().unstorable_values), (1, 0));
}

#[tokio::test]
async fn a_removed_value_is_loaded_again() {
    let (cache, compiler) = (templates(|b| b), Compiler::default());
    assert_eq!(compiler.through(&cache, "page").await, 1);
    assert_eq!(compiler.through(&cache, "page").await, 1);
    cache.invalidate("page").await.unwrap();
    assert!(cache.get("page").await.is_none());
    assert_eq!(compiler.through(&cache, "page").await, 2);
    assert_eq!(cache.invalidate_prefix("pa").await.unwrap(), 1);
    assert_eq!(compiler.through(&cache, "page").await, 3);
    cache.clear().await.unwrap();
    assert_eq!(compiler.through(&cache, "page").await, 4);
    let token = cache.invalidate("page").await.unwrap();
    let compile = compiler.clone();
    let view = cache.at_least(&token);
    let loaded = view.get_or_load("page", move || compile.compile()).await;
    assert_eq!(loaded.unwrap().0.0, 5);
}

#[tokio::test]
async fn a_removed_value_is_dropped() {
    let connections: Cache<u64, Local<Arc<Compiled>>> =
        Cache::builder("test:connections").build().unwrap();
    let connection = Arc::new(Compiled(1));
    let kept = Local(Arc::clone(&connection));
    connections.insert(&7, kept).await.unwrap();
    assert_eq!(Arc::strong_count(&connection), 2);
    connections.invalidate(&7).await.unwrap();
    assert_eq!(Arc::strong_count(&connection), 1);
}

#[tokio::test]
async fn a_tag_removes_the_values_that_have_it() {
    let cache =
        templates(|b| b.tags_of(|_, template: &Local<Compiled>| [("version", template.0.0)]));
    let own = Loaded::new(Local(Compiled(1))).tags(["theme"]);
    cache.insert("a", own).await.unwrap();
    cache.insert("b", Local(Compiled(2))).await.unwrap();
    cache.invalidate_tag(&("version", 2)).await.unwrap();
    assert!(cache.get("b").await.is_none());
    assert!(cache.get("a").await.is_some());
    cache.invalidate_tag("theme").await.unwrap();
    assert!(cache.get("a").await.is_none());
}

#[tokio::test]
async fn values_expire() {
    let clock = Clock::manual();
    let ttl_of = |template: &Local<Compiled>| (template.0.0 == 0).then_some(HOUR / 60);
    let cache = templates(|b| {
        b.clock(clock.clone())
            .jitter(0.0)
            .l2_ttl(HOUR)
            .ttl_of(ttl_of)
    });
    cache.insert("long", Local(Compiled(1))).await.unwrap();
    cache.insert("touched", Local(Compiled(1))).await.unwrap();
    cache.insert("short", Local(Compiled(0))).await.unwrap();
    assert!(cache.touch("touched", 2 * HOUR).await.unwrap());
    clock.advance(HOUR / 60);
    assert!(cache.get("short").await.is_none());
    assert!(cache.get("long").await.is_some());
    clock.advance(HOUR);
    assert!(cache.get("long").await.is_none());
    assert!(cache.get("touched").await.is_some());
}

#[tokio::test]
async fn values_are_stored_and_made_stale_by_hand() {
    let (cache, compiler) = (templates(|b| b), Compiler::default());
    let store = |_: &Local<Compiled>| async { Ok::<_, Infallible>(()) };
    let written = cache.write_through("page", Local(Compiled(7)), store).await;
    written.unwrap();
    assert_eq!(cache.get("page").await.unwrap().0.0, 7);
    cache.expire("page").await.unwrap();
    assert!(cache.get("page").await.unwrap().meta().is_stale());
    let compile = compiler.clone();
    let refreshed = cache.refresh("page", || compile.compile()).await;
    assert_eq!(refreshed.unwrap().0.0, 1);
}

#[tokio::test]
async fn a_cache_with_its_loader_has_local_values() {
    let compiler = Compiler::default();
    let compile = compiler.clone();
    let one: LoadingCache<String, Local<Compiled>> = Cache::builder("test:one")
        .read_through(move |_| compile.clone().compile())
        .build()
        .unwrap();
    assert_eq!(one.get_or_load("a").await.unwrap().0.0, 1);
    assert_eq!(one.get_or_load("a").await.unwrap().0.0, 1);
    assert_eq!(one.refresh("a").await.unwrap().0.0, 2);

    let many: LoadingCache<u32, Local<Compiled>> = Cache::builder("test:many")
        .batch_loads(Duration::from_millis(1), 10)
        .read_through_many(|keys: Vec<u32>| async {
            Ok::<_, Infallible>(keys.into_iter().map(|key| (key, Local(Compiled(key)))))
        })
        .build()
        .unwrap();
    let found = many.get_many_or_load(&[3, 4]).await.unwrap();
    let found: Vec<u32> = found.iter().map(|template| template.0.0).collect();
    assert_eq!((found, many.stats().loads), (vec![3, 4], 1));
}

#[tokio::test]
async fn options_that_need_no_bytes_are_those_of_any_cache() {
    let all = json!({ "max_value_size": 1, "lease_ttl": "3s", "lease_wait": "3s" });
    let settings: ServiceSettings = from_value(all).unwrap();
    let caches = Caches::with_l2("test", settings, MemoryL2::new());
    let built: Templates = caches
        .cache("templates")
        .soft_ttl(HOUR / 2)
        .build()
        .unwrap();
    assert_eq!(caches.iter().count(), 1);
    drop(built);

    let weigher = |_: &str, template: &Local<Compiled>| template.0.0;
    let weighed = templates(|b| b.l1_capacity_bytes(10).l1_weigher(weigher));
    weighed.insert("light", Local(Compiled(4))).await.unwrap();
    weighed.insert("heavy", Local(Compiled(11))).await.unwrap();
    assert!(weighed.get("light").await.is_some());
    eventually("the heavy one is evicted", async || {
        weighed.get("heavy").await.is_none()
    })
    .await;
}

#[tokio::test]
async fn hits_are_compared_by_the_function_that_is_set() {
    let same =
        |cached: &Local<Compiled>, loaded: &Local<Compiled>| cached.0.0 % 2 == loaded.0.0 % 2;
    let cache = templates(|b| {
        b.verify(Verify::share(1.0).by(same))
            .max_staleness(Duration::from_millis(10))
            .l2_timeout(Duration::from_millis(10))
    });
    let compiler = Compiler::default();
    compiler.through(&cache, "a").await;
    compiler.through(&cache, "a").await;
    eventually("2 is not 1", async || {
        cache.stats().mismatches_under_1m == 1
    })
    .await;
    compiler.through(&cache, "a").await;
    eventually("3 is as 1", async || cache.stats().verified == 1).await;
    assert_eq!((compiler.calls(), cache.stats().verify_failures), (3, 0));
}

fn refused(set: impl FnOnce(Set) -> Set) -> BuildError {
    set(Cache::builder("test:refused"))
        .build()
        .map(|_| ())
        .unwrap_err()
}

#[test]
fn options_that_need_bytes_are_refused() {
    let settings = |options| -> Settings { from_value(options).unwrap() };
    let in_bytes = settings(json!({ "l1_capacity": "1MiB" }));
    let verified = settings(json!({ "verify": 0.5 }));
    for error in [
        refused(|b| b.l1_capacity_bytes(1 << 20)),
        refused(|b| b.settings(&in_bytes)),
    ] {
        let text = error.to_string();
        assert!(
            text.contains("l1_capacity in bytes needs l1_weigher"),
            "{text}"
        );
    }
    for error in [
        refused(|b| b.verify(0.5)),
        refused(|b| b.settings(&verified)),
    ] {
        let text = error.to_string();
        assert!(text.contains("verify needs Verify::by"), "{text}");
    }
    let both = refused(|b| b.verify(0.5).l1_capacity_bytes(1 << 20)).to_string();
    assert!(
        both.contains("l1_weigher") && both.contains("Verify::by"),
        "{both}"
    );
    // None of them needs bytes.
    templates(|b| b.verify(0.0).l1_capacity(100));
    // Values that are serialized are weighed and compared by what serde is told.
    let texts: Builder<String, String> = Cache::builder("test:texts");
    texts
        .verify(0.5)
        .l1_capacity_bytes(1 << 20)
        .build()
        .unwrap();
}
