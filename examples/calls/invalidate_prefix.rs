//! For a rare change of all keys that begin alike, such as a directory that was moved. It reads through the keys of the
//! whole Redis database; for a change that is not rare, tags or a namespace of its own cost less.

use std::error::Error;

use larder::{Cache, MemoryL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Cache<String, u64> = Cache::builder("files:size").l2(l2.clone()).build()?;
    let b: Cache<String, u64> = Cache::builder("files:size").l2(l2).build()?;
    a.insert_many([
        ("/home/ann/a.txt", 120),
        ("/home/ann/b/c.txt", 7),
        ("/home/anne/d.txt", 30),
    ])
    .await?;

    // A prefix is plain text: end it where the name ends.
    let removed = b.invalidate_prefix("/home/ann/").await?;
    assert_eq!(removed, 2);
    assert!(b.get("/home/ann/a.txt").await.is_none());
    assert!(b.get("/home/ann/b/c.txt").await.is_none());
    assert!(b.get("/home/anne/d.txt").await.is_some());
    Ok(())
}
