//! The first call of a cached function builds its cache. A subscriber hears of it, and may call the function. One test,
//! as a process sets its caches once.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::sync::mpsc::{Sender, channel};

use larder::{Caches, MemoryL2, ServiceSettings, cached};
use tracing::{Event, Subscriber, subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

#[cached(namespace = "shop:find")]
async fn find(id: u64) -> u64 {
    id
}

/// Calls the function that it hears of.
struct Curious(Sender<(usize, Result<(), String>)>);

impl<S: Subscriber> Layer<S> for Curious {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("larder") {
            let found = find::cache().map(|_| ()).map_err(|error| error.to_string());
            self.0.send((larder::locks_held(), found)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_subscriber_may_call_what_it_hears_of() {
    // An option that has no effect is a line while the cache is built.
    let settings = r#"{ "find": { "stale_wait": "1s" } }"#;
    let settings: ServiceSettings = serde_json::from_str(settings).unwrap();
    let caches = Caches::with_l2("shop", settings, MemoryL2::new());
    caches.set_global().unwrap();

    let (heard, hears) = channel();
    let subscriber = registry().with(Curious(heard));
    let built = subscriber::with_default(subscriber, || find::cache().is_ok());
    assert!(built);
    let lines: Vec<_> = hears.try_iter().collect();
    let (locks, error) = lines.first().unwrap();
    let error = error.as_ref().unwrap_err();
    assert!(error.contains("while it is built"), "{error}");
    assert_eq!(*locks, 0);
    assert_eq!(find(7).await, 7);
}
