//! For a change whose old value must not stay, even if the process dies between the commit and the invalidation: the
//! transaction itself says what is to be invalidated, and the relay of any instance does it.

use std::error::Error;
use std::time::Duration;
use std::{env, fs, process};

use larder::outbox::rusqlite::Outbox;
use larder::{Cache, MemoryL2};
use rusqlite::Connection;
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let directory = env::temp_dir().join(format!("larder-calls-outbox-{}", process::id()));
    fs::create_dir_all(&directory)?;
    let path = directory.join("bank.sqlite");
    let mut db = Connection::open(&path)?;
    db.execute_batch(Outbox::TABLE)?;
    db.execute_batch("CREATE TABLE balance (account INTEGER PRIMARY KEY, cents INTEGER)")?;

    // Two instances; each runs a relay for as long as it lives.
    let l2 = MemoryL2::new();
    let a: Cache<u64, i64> = Cache::builder("bank:balance").l2(l2.clone()).build()?;
    let b: Cache<u64, i64> = Cache::builder("bank:balance").l2(l2).build()?;
    let file = path.clone();
    let relay = Outbox::relay(&b, move || Connection::open(&file)).start()?;
    a.insert(&7, 100).await?;
    b.ready().await;
    assert!(b.get(&7).await.is_some());

    let tx = db.transaction()?;
    tx.execute("INSERT INTO balance VALUES (7, 70)", ())?;
    Outbox::invalidate(&tx, &a, &[7])?;
    tx.commit()?;
    // Here `a` would call `a.invalidate(&7).await?`. It has died.
    drop(a);

    while relay.stats().delivered == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(b.get(&7).await.is_none(), "the relay of b has done it");
    assert_eq!(relay.stats().lag, Duration::ZERO, "no row waits");

    drop((relay, db));
    fs::remove_dir_all(&directory)?;
    Ok(())
}
