//! Values are loaded before anybody asks for them, and none of them takes the place of a newer one.

use std::error::Error;
use std::io;

use indicatif::ProgressBar;
use larder::{Cache, MemoryL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Cache<u64, u64> = Cache::builder("catalog:price").l2(l2.clone()).build()?;
    let b: Cache<u64, u64> = Cache::builder("catalog:price").l2(l2).build()?;
    b.insert(&1, 470).await?;

    // Shown if standard error is a terminal.
    let bar = ProgressBar::new(0);
    let warming = a
        .warm_with_progress(0..3000, select, |warming| {
            bar.set_length(warming.total.unwrap_or(warming.done));
            bar.set_position(warming.done);
        })
        .await?;
    bar.finish();
    assert_eq!((warming.stored, warming.present), (2999, 1));
    assert_eq!(b.get(&2999).await.as_deref(), Some(&450));
    assert_eq!(a.get(&1).await.as_deref(), Some(&470));

    // Started again, it leaves what is there.
    let again = a.warm(0..3000, select).await?;
    assert_eq!((again.stored, again.present), (0, 3000));
    Ok(())
}

/// The prices of some products: of those that have none yet, 256 at most.
async fn select(ids: Vec<u64>) -> io::Result<Vec<(u64, u64)>> {
    // SELECT id, price FROM product WHERE id = ANY($1)
    Ok(ids.into_iter().map(|id| (id, 450)).collect())
}
