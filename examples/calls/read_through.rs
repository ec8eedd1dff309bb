//! A cache that has its loader: its look-ups need none, and what single callers miss at the same time is loaded together.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, LoadingCache, MemoryL2};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // One query for each title.
    let titles: LoadingCache<u64, String> = Cache::builder("library:title")
        .l2(MemoryL2::new())
        .read_through(title_of)
        .build()?;
    assert_eq!(*titles.get_or_load(&7).await?, "Book 7");
    // All that a cache can do, it can do, too.
    titles.invalidate(&7).await?;
    assert!(titles.get_local(&7).is_none());

    // One query for many: for those that one caller asks for, and for those that several ask for within 2 ms.
    let loans: LoadingCache<u64, u64> = Cache::builder("library:loans")
        .l2(MemoryL2::new())
        .batch_loads(Duration::from_millis(2), 100)
        .read_through_many(loans_of)
        .build()?;
    let found = loans.get_many_or_load(&[1, 2, 3]).await?;
    assert_eq!(found.len(), 3);
    let (four, five) = tokio::try_join!(loans.get_or_load(&4), loans.get_or_load(&5))?;
    assert_eq!((*four, *five), (40, 50));
    assert_eq!(loans.stats().loads, 2);

    // A book that the query does not find is an error for its callers.
    let unknown = loans
        .get_or_load(&404)
        .await
        .err()
        .ok_or("there is no such book")?;
    assert!(unknown.is_not_found());
    Ok(())
}

async fn title_of(id: u64) -> Result<String, io::Error> {
    sleep(Duration::from_millis(5)).await; // SELECT title FROM book WHERE id = $1
    Ok(format!("Book {id}"))
}

async fn loans_of(ids: Vec<u64>) -> Result<HashMap<u64, u64>, io::Error> {
    sleep(Duration::from_millis(5)).await; // SELECT book, count(*) FROM loan WHERE book = ANY($1) GROUP BY book
    let books = ids.into_iter().filter(|id| *id < 100);
    Ok(books.map(|id| (id, 10 * id)).collect())
}
