//! The pages that everybody opens first are never slow: a schedule refreshes them, and one instance does it for all.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use larder::{Cache, LoadingCache, MemoryL2};
use tokio::time::sleep;

const PAGES: [&str; 2] = ["home", "prices"];

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (l2, rendered) = (MemoryL2::new(), Arc::new(AtomicU32::new(0)));
    let instance = || {
        let rendered = Arc::clone(&rendered);
        Cache::builder("shop:front")
            .l2(l2.clone())
            .l2_ttl(Duration::from_secs(3600))
            .read_through(move |name: String| render(name, Arc::clone(&rendered)))
            .build()
    };
    let (a, b): (LoadingCache<String, String>, LoadingCache<String, String>) =
        (instance()?, instance()?);
    for instance in [&a, &b] {
        let pages = PAGES.map(str::to_owned);
        // Ends with the cache.
        tokio::spawn(instance.keep_warm(pages, Duration::from_secs(60)));
    }
    for instance in [&a, &b] {
        while PAGES.iter().any(|page| instance.get_local(*page).is_none()) {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(rendered.load(Relaxed), 2, "once each, for both instances");
    Ok(())
}

async fn render(name: String, rendered: Arc<AtomicU32>) -> Result<String, io::Error> {
    sleep(Duration::from_millis(20)).await; // a dozen queries
    rendered.fetch_add(1, Relaxed);
    Ok(format!("<h1>{name}</h1>"))
}
