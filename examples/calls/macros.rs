//! Keys that are derived.

use std::error::Error;

use larder::{Cache, CacheKey};

#[derive(CacheKey)]
struct BookId(u64);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let titles: Cache<BookId, String> = Cache::builder("library:title").build()?;
    titles.insert(&BookId(7), "Book 7".to_owned()).await?;
    assert!(titles.get(&BookId(7)).await.is_some());
    Ok(())
}
