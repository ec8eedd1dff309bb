//! `#[cached]` together with `#[instrument]`, on either side of it; and the line of a function that cannot return an
//! error.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use larder::{Cache, LoadError, cached};
use tracing::subscriber::DefaultGuard;
use tracing::{info, instrument};
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone)]
struct Shop {
    products: Cache<u64, String>,
}

impl Shop {
    /// The span is of each call.
    #[cached(cache = "self.products")]
    #[instrument(skip(self), ret)]
    async fn below(&self, id: u64) -> Result<String, LoadError> {
        info!("loads");
        Ok(id.to_string())
    }

    /// The span is of each load.
    #[instrument(skip(self), fields(kind = "tea"))]
    #[cached(cache = "self.products", key = "id", shares_keys = true)]
    async fn above(&self, id: u64, #[skip] trace: &str) -> Result<String, LoadError> {
        info!(trace, "loads");
        Ok(id.to_string())
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Has all lines of this thread, until the guard is dropped.
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_span_events(FmtSpan::CLOSE)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn instrument_is_kept() {
    let (log, _guard) = Log::start();
    let products = Cache::builder("t").build().unwrap();
    let shop = Shop { products };

    for _ in 0..2 {
        assert_eq!(shop.below(7).await.unwrap(), "7");
    }
    let lines = log.lines();
    assert_eq!(count(&lines, "below{id=7}: loads"), 1, "{lines:#?}");
    assert_eq!(
        count(&lines, "below{id=7}: return=Ok(\"7\")"),
        2,
        "{lines:#?}"
    );
    assert_eq!(count(&lines, "below{id=7}: close"), 2, "{lines:#?}");

    for _ in 0..2 {
        assert_eq!(shop.above(8, "x").await.unwrap(), "8");
    }
    let lines = log.lines();
    assert_eq!(
        count(
            &lines,
            "above{id=8 trace=\"x\" kind=\"tea\"}: loads trace=\"x\""
        ),
        1,
        "{lines:#?}"
    );
    assert_eq!(count(&lines, ": close"), 1, "{lines:#?}");
}

#[tokio::test]
async fn a_function_without_a_result_logs_that_the_cache_fails() {
    #[cached(cache = "cache")]
    async fn length(#[skip] cache: &Cache<String, usize>, text: &str) -> usize {
        text.len()
    }

    let (log, _guard) = Log::start();
    let cache = Cache::builder("t").build().unwrap();
    assert_eq!(length(&cache, "tea").await, 3);
    // Longer than a key may be. One line in five seconds.
    for _ in 0..2 {
        assert_eq!(length(&cache, &"x".repeat(2000)).await, 2000);
    }
    let lines = log.lines();
    let line = "WARN a function without a Result runs without its cache, which has failed function=\"length\" \
        error=the key is longer than 1024 bytes";
    assert_eq!(count(&lines, line), 1, "{lines:#?}");
}
