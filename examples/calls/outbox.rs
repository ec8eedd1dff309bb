//! For a change whose old value must not stay, even if the process dies between the commit and the invalidation: the
//! transaction itself says what is to be invalidated, and the relay of any instance does it.

use std::error::Error;
use std::time::Duration;
use std::{env, fs, process};

use larder::{Cache, Caches, InvalidationBatch, MemoryL2, ServiceSettings};
use larder_outbox::rusqlite::Sqlite;
use larder_outbox::{Outbox, SQLITE_TABLE};
use rusqlite::Connection;
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let directory = env::temp_dir().join(format!("larder-calls-outbox-{}", process::id()));
    fs::create_dir_all(&directory)?;
    let path = directory.join("bank.sqlite");
    let mut db = Connection::open(&path)?;
    db.execute_batch(SQLITE_TABLE)?;
    db.execute_batch("CREATE TABLE balance (account INTEGER PRIMARY KEY, cents INTEGER)")?;
    let file = path.clone();
    let outbox = Outbox::new(Sqlite::new(move || Connection::open(&file)));

    // Two instances; each runs one relay for all of its caches, for as long as it lives.
    let l2 = MemoryL2::new();
    let [a, b] = [(), ()].map(|()| Caches::with_l2("bank", ServiceSettings::default(), l2.clone()));
    let of_a: Cache<u64, i64> = a.cache("balance").build()?;
    let pages_of_a: Cache<String, String> = a.cache("page").build()?;
    let of_b: Cache<u64, i64> = b.cache("balance").build()?;
    let _pages_of_b: Cache<String, String> = b.cache("page").build()?;
    let relay = outbox.relay().caches(&b).start()?;
    of_a.insert(&7, 100).await?;
    b.ready().await;
    assert!(of_b.get(&7).await.is_some());

    // The usual way: writes the rows, commits, and invalidates both caches.
    let tx = db.transaction()?;
    tx.execute("INSERT INTO balance VALUES (7, 70)", ())?;
    let changed = InvalidationBatch::new()
        .key(&of_a, &7)
        .tag(&pages_of_a, &("account", 7));
    outbox.blocking_commit(tx, changed)?.await?;
    assert!(of_a.get(&7).await.is_none());

    // The process dies right after the commit: here nothing but the commit is called.
    of_a.insert(&7, 70).await?;
    let tx = db.transaction()?;
    tx.execute("UPDATE balance SET cents = 40 WHERE account = 7", ())?;
    outbox.blocking_insert(&tx, &InvalidationBatch::new().key(&of_a, &7))?;
    tx.commit()?;
    drop((a, of_a, pages_of_a));

    while relay.stats().delivered < 3 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(of_b.get(&7).await.is_none(), "the relay of b has done it");
    assert_eq!(relay.stats().lag, Duration::ZERO, "no row waits");

    drop((relay, db));
    fs::remove_dir_all(&directory)?;
    Ok(())
}
