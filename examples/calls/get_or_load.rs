//! The usual call: for what a database has, and what is read far more often than it changes.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, MemoryL2, Source};
use tokio::time::sleep;

#[derive(Debug, thiserror::Error)]
#[error("no member has the number {0}")]
struct NoSuchMember(u64);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Cache<u64, String> = Cache::builder("forum:member").l2(l2.clone()).build()?;
    let b: Cache<u64, String> = Cache::builder("forum:member").l2(l2).build()?;
    a.ready().await;
    b.ready().await;

    for (instance, source) in [(&a, Source::Loader), (&a, Source::L1), (&b, Source::L2)] {
        let name = instance.get_or_load(&7, || select_name(7)).await?;
        assert_eq!(*name, "Ann");
        assert_eq!(name.meta().source(), source);
    }

    // The error is the loader's own.
    let missing = a.get_or_load(&8, || select_name(8)).await;
    let error = missing.err().ok_or("there is no member 8")?;
    assert!(error.downcast_ref::<NoSuchMember>().is_some());
    Ok(())
}

async fn select_name(id: u64) -> Result<String, NoSuchMember> {
    sleep(Duration::from_millis(20)).await; // the database
    let name = (id == 7).then(|| "Ann".to_owned());
    name.ok_or(NoSuchMember(id))
}
