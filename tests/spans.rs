//! Spans for a tracing backend: what a miss, a refresh and a subscription spend their time on. No key or value is in
//! them.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

#[path = "support/mod.rs"]
mod support;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Cache, Clock, MemoryL2};
use tokio::runtime::Builder;
use tokio::time::sleep;
use tracing::field::{Empty, Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Instrument, Subscriber, info_span};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

const SECRET: &str = "hunter2";

/// The spans of one thread, each a line: those that it is in, its name and its fields.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(u64, String)>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let scope = ctx.span_scope(id).into_iter().flatten();
        let path: Vec<_> = scope.map(|span| span.name()).collect();
        let mut line = path.join(" < ");
        attributes.record(&mut Line(&mut line));
        self.0.lock().unwrap().push((id.into_u64(), line));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        let span = spans.iter_mut().rfind(|(of, _)| *of == id.into_u64());
        values.record(&mut Line(&mut span.unwrap().1));
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        let line = format!("closed {}", ctx.span(&id).unwrap().name());
        self.0.lock().unwrap().push((id.into_u64(), line));
    }
}

/// The spans of what runs, on one thread, up to this level.
fn spans_up_to(level: LevelFilter, run: impl Future<Output = ()>) -> Vec<String> {
    let spans = Spans::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let subscriber = Registry::default().with(spans.clone()).with(level);
    tracing::subscriber::with_default(subscriber, || {
        let caller = info_span!("caller", otel.status_code = Empty, error.type = Empty);
        runtime.block_on(run.instrument(caller));
    });
    let spans = spans.0.lock().unwrap();
    let lines: Vec<String> = spans.iter().map(|(_, line)| line.clone()).collect();
    assert!(!lines.iter().any(|line| line.contains(SECRET)), "{lines:?}");
    lines
}

fn spans(run: impl Future<Output = ()>) -> Vec<String> {
    spans_up_to(LevelFilter::TRACE, run)
}

fn has(spans: &[String], parts: &[&str]) -> bool {
    let is_it = |line: &&String| parts.iter().all(|part| line.contains(part));
    spans.iter().any(|line| is_it(&line))
}

#[test]
fn a_miss_is_requests_and_a_load() {
    let spans = spans(async {
        let server = RedisServer::start().await;
        let cache: Cache<String, String> = Cache::builder("test:spans")
            .redis(server.url())
            .l2_timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        cache.ready().await;
        let load = || async { Ok::<_, std::io::Error>(SECRET.to_owned()) };
        let hits = cache.stats().l1_hits;
        cache.get_or_load(SECRET, load).await.unwrap();
        cache.get_or_load(SECRET, load).await.unwrap();
        assert_eq!(cache.stats().l1_hits, hits + 1);
        let fail = || async { Err::<String, _>(std::io::Error::other(SECRET)) };
        assert!(cache.get_or_load("other", fail).await.is_err());
        cache.invalidate(SECRET).await.unwrap();
    });
    assert!(has(
        &spans,
        &["larder.subscribe", "namespace=\"test:spans\""]
    ));
    let l2 = |operation: &str| {
        let operation = format!("db.operation.name=\"{operation}\"");
        let all = [
            "larder.l2",
            &operation,
            "otel.kind=\"client\"",
            "db.system.name=\"redis\"",
            "db.collection.name=\"test:spans\"",
        ];
        has(&spans, &all)
    };
    for operation in ["get", "acquire_lease", "fill", "invalidate"] {
        assert!(l2(operation), "{operation}: {spans:#?}");
    }
    // In the caller's own span, through the task of the load. A request that several writes share is in none.
    assert!(has(&spans, &["larder.load < caller"]), "{spans:#?}");
    let failed = [
        "larder.load < caller",
        "otel.status_code=\"ERROR\"",
        "error.type=\"loader\"",
    ];
    assert!(has(&spans, &failed), "{spans:#?}");
    let loads = spans.iter().filter(|line| line.starts_with("larder.load"));
    assert_eq!(loads.count(), 2, "a hit has none: {spans:#?}");
}

#[test]
fn a_refresh_and_an_l2_that_is_away() {
    let spans = spans(async {
        let (clock, soft) = (Clock::manual(), Duration::from_secs(60));
        let l2 = MemoryL2::with_clock(clock.clone());
        let cache: Cache<String, u32> = Cache::builder("test:spans")
            .l2(l2.clone())
            .clock(clock.clone())
            .soft_ttl(soft)
            .build()
            .unwrap();
        cache.insert(SECRET, 1).await.unwrap();
        clock.advance(2 * soft);
        let load = || async { Ok::<_, std::io::Error>(2) };
        cache.get_or_load(SECRET, load).await.unwrap();
        eventually("it is refreshed", || async { cache.stats().refreshes == 1 }).await;
        l2.set_reachable(false);
        assert!(cache.invalidate(SECRET).await.is_err());
    });
    assert!(
        has(&spans, &["larder.refresh < caller", "keys=1"]),
        "{spans:#?}"
    );
    assert!(
        has(&spans, &["larder.load < larder.refresh < caller"]),
        "{spans:#?}"
    );
    let away = [
        "larder.l2",
        "db.system.name=\"memory\"",
        "db.operation.name=\"invalidate\"",
        "otel.status_code=\"ERROR\"",
        "error.type=\"unreachable\"",
    ];
    assert!(has(&spans, &away), "{spans:#?}");
}

/// What a backend shows as the time of the request: it waits for the load, and not for the changes that may be on their
/// way.
#[test]
fn the_span_of_a_hit_that_is_compared_ends_with_the_load() {
    let all = spans(async {
        tokio::time::pause();
        let cache: Cache<String, u32> = Cache::builder("test:spans").verify(1.0).build().unwrap();
        cache.insert("k", 1).await.unwrap();
        let load = || async { Ok::<_, std::io::Error>(2) };
        let request = async { cache.get_or_load("k", load).await.unwrap() };
        request.instrument(info_span!("request")).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(
            (cache.stats().loads, cache.stats().mismatches_under_1m),
            (1, 0)
        );
        info_span!("soon").in_scope(|| ());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(cache.stats().mismatches_under_1m, 1);
    });
    assert!(has(&all, &["larder.load < request < caller"]), "{all:#?}");
    let place = |what: &str| all.iter().position(|line| line.starts_with(what));
    assert!(place("closed request") < place("soon"), "{all:#?}");
    assert!(place("closed request").is_some(), "{all:#?}");
}

/// The caller's span may have the same fields: an L2 that fails is no error of its request.
#[test]
fn without_spans_of_its_own_that_of_the_caller_says_nothing_of_l2() {
    let spans = spans_up_to(LevelFilter::INFO, async {
        let l2 = MemoryL2::new();
        let cache: Cache<String, u32> =
            Cache::builder("test:spans").l2(l2.clone()).build().unwrap();
        cache.ready().await;
        l2.set_reachable(false);
        assert!(cache.get("k").await.is_none());
        let fail = || async { Err::<u32, _>(std::io::Error::other("no")) };
        assert!(cache.get_or_load("k", fail).await.is_err());
        assert!(cache.stats().l2_errors > 0);
    });
    assert_eq!(spans, ["caller", "closed caller"]);
}
