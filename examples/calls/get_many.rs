//! For a page that shows many things: one round trip for all keys, and one call of the loader for all that are missing.

use std::error::Error;
use std::io;

use larder::Cache;

type Titles = Cache<u64, String>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let titles: Titles = Cache::builder("library:title").build()?;
    titles.insert(&11, "Emma".to_owned()).await?;

    // What is cached: one result per key, in the order of the keys.
    let shelf = titles.get_many(&[10, 11]).await;
    assert!(matches!(&*shelf, [None, Some(title)] if **title == "Emma"));

    // And with the database behind it. It has no book 99.
    let shelf = titles
        .get_many_or_load(&[10, 11, 12, 99], select_titles)
        .await?;
    let shelf: Vec<&str> = shelf.iter().flatten().map(|title| title.as_str()).collect();
    assert_eq!(shelf, ["Dracula", "Emma", "Ulysses"]);
    assert_eq!(titles.stats().loads, 1);
    assert!(titles.get(&12).await.is_some());
    Ok(())
}

/// `SELECT id, title FROM books WHERE id = ANY($1)`
async fn select_titles(ids: Vec<u64>) -> Result<Vec<(u64, String)>, io::Error> {
    tokio::task::yield_now().await;
    let books = [(10, "Dracula"), (11, "Emma"), (12, "Ulysses")];
    let found = books.into_iter().filter(|(id, _)| ids.contains(id));
    Ok(found.map(|(id, title)| (id, title.to_owned())).collect())
}
