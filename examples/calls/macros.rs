//! Functions that are cached by an attribute, and keys that are derived.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::{Cache, CacheKey, Caches, LoadError, MemoryL2, ServiceSettings, cached};

#[derive(Clone, Copy, CacheKey)]
struct BookId(u64);

#[derive(Clone)]
struct Library {
    titles: Cache<(String, BookId), String>,
}

impl Library {
    /// The request is for the log alone, so it is no part of the key.
    #[cached(cache = "self.titles", key = "(branch, id)", ttl = "1h", tags = [("branch", branch)])]
    async fn title(
        &self,
        branch: &str,
        id: BookId,
        #[skip] _request: u64,
    ) -> Result<String, LoadError> {
        Ok(format!("Book {} of {branch}", id.0))
    }
}

static QUERIES: AtomicU64 = AtomicU64::new(0);

/// Its cache is among those of the process. That nobody has lent a book is cached for a minute.
#[cached(namespace = "library:reader", ttl = "1h", none_ttl = "1m")]
async fn reader(book: u64) -> Result<Option<String>, LoadError> {
    QUERIES.fetch_add(1, Ordering::Relaxed);
    Ok((book < 100).then(|| "Ann".to_owned()))
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let titles = Cache::builder("library:title")
        .l2(MemoryL2::new())
        .build()?;
    let library = Library { titles };
    assert_eq!(
        library.title("north", BookId(7), 1).await?,
        "Book 7 of north"
    );
    assert!(library.title_get("north", BookId(7)).await.is_some());
    library.title_invalidate("north", BookId(7)).await?;
    assert!(library.title_get("north", BookId(7)).await.is_none());

    let caches = Caches::with_l2("library", ServiceSettings::default(), MemoryL2::new());
    caches
        .clone()
        .set_global()
        .map_err(|_| "the process has caches already")?;
    reader::cache()?;
    caches.check_settings()?;
    for _ in 0..2 {
        assert_eq!(reader(7).await?.as_deref(), Some("Ann"));
        assert_eq!(reader(700).await?, None);
    }
    assert_eq!(QUERIES.load(Ordering::Relaxed), 2);
    reader::refresh(7).await?;
    assert_eq!(QUERIES.load(Ordering::Relaxed), 3);
    Ok(())
}
