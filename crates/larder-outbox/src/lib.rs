//! A transactional outbox: an invalidation commits with its change, and is carried out even if the process dies right
//! after the commit.
//!
//! A service commits a change to its database, and then calls [`invalidate`](larder::Cache::invalidate). If the process
//! dies in between, nobody invalidates the key, and the old value stays until its TTL ends. With an outbox the
//! transaction itself names the keys to invalidate, as rows of one more table. A task in each instance, the relay,
//! reads the rows, invalidates the keys and tags that they name, and deletes them.
//!
//! With `PostgreSQL`, `MySQL` or `MariaDB` by sqlx: the module `sqlx` has a sample, which also holds for sqlx 0.8 and
//! the module `sqlx_0_8`. With `SQLite` by rusqlite:
//!
#![cfg_attr(feature = "rusqlite", doc = "```")]
#![cfg_attr(not(feature = "rusqlite"), doc = "```ignore")]
//! # let dir = std::env::temp_dir().join(format!("larder-docs-mod-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir).unwrap();
//! # let path = dir.join("shop.sqlite");
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # let demo = async {
//! use larder_outbox::rusqlite::Sqlite;
//! use larder_outbox::{Outbox, SQLITE_TABLE};
//! use larder::{Cache, Caches, InvalidationBatch, MemoryL2, ServiceSettings};
//!
//! let caches = Caches::with_l2("shop", ServiceSettings::default(), MemoryL2::new());
//! let prices: Cache<String, u32> = caches.cache("price").build()?;
//! let pages: Cache<String, String> = caches.cache("page").build()?;
//! let mut db = rusqlite::Connection::open(&path)?;
//! db.execute_batch(SQLITE_TABLE)?;
//! db.execute_batch("CREATE TABLE price (id TEXT PRIMARY KEY, cents INTEGER)")?;
//!
//! // Once in each instance, for as long as it runs.
//! let file = path.clone();
//! let outbox = Outbox::new(Sqlite::new(move || rusqlite::Connection::open(&file)));
//! let relay = outbox.relay().caches(&caches).start()?;
//!
//! // At each change.
//! let tx = db.transaction()?;
//! tx.execute("INSERT OR REPLACE INTO price VALUES ('tea', 450)", ())?;
//! let changed = InvalidationBatch::new().key(&prices, "tea").tag(&pages, &("price", "tea"));
//! // Writes the rows, commits, and invalidates. If the process dies after the commit, any relay invalidates.
//! outbox.blocking_commit(tx, changed)?.await?;
//! # drop((relay, db));
//! # Ok::<_, Box<dyn std::error::Error>>(()) };
//! # runtime.block_on(demo).unwrap();
//! # // Waits for the read of the relay that is under way, which may open the file once more.
//! # drop(runtime);
//! # std::fs::remove_dir_all(&dir).unwrap();
//! ```
//!
//! # Guarantees
//!
//! Each row that was committed is delivered at least once: it is deleted when L2 has accepted the invalidation, and not
//! before. So once a transaction has committed, its keys are invalidated within the bound, whichever processes die:
//!
//! > **the bound** is the relay's [interval](RelayBuilder::interval), 1 s unless set, and the time to deliver: for each
//! > 256 rows that were written before, a read of the table, a request to L2 and a delete.
//!
//! The bound holds while the relay of some instance reaches the database and L2. After an outage of L2 the relay goes
//! on when one of its caches has delivered what it had deferred, which a cache does as soon as L2 accepts it. After an
//! outage of the database the relay tries again after pauses that grow to 10 s, or to the interval if that is longer.
//! Other instances return from their L1 as after any [`invalidate`](larder::Cache::invalidate): the old value for
//! `max_staleness` at most.
//!
//! - *Rolled back*: the rows are gone with the change, and nothing is invalidated.
//! - *Between the commit and the invalidation* readers get the old value: for the time of one request if the caller
//!   invalidates after the commit, and for the bound if the caller died.
//! - *Twice*: a row stays when the caller has invalidated its key, so the relay invalidates the key once more. That
//!   removes a value that was loaded in between, so a key may be loaded a second time after a change. To delete the row
//!   instead, the caller would need another transaction for each change, while the relay deletes many at a time. A
//!   value that was [inserted](larder::Cache::insert) in between is removed as well.
//! - *Deferred*: while L2 cannot be reached, `invalidate` is deferred in the memory of the process, and a crash loses
//!   the invalidation. The row stays until L2 has accepted the invalidation. Each relay that has tried drops the key
//!   from its own L1 and does not use it meanwhile, in [`Mode::Available`](larder::Mode::Available) as well; up to
//!   1 024 of these keys count towards [`max_deferred`](larder::Builder::max_deferred).
//!
//! # The rows
//!
//! A row has an id, the namespace of the cache, `key` or `tag`, the text of the key as Redis shows it, and when it was
//! written. The ids say nothing of the order of commits: a transaction may commit after another one with higher ids. So
//! the relay remembers no position: it reads the rows that are there, the lowest ids first. The time is by the writer's
//! clock, and serves the [lag](OutboxStats::lag) and the search for unknown namespaces. A row that names no possible
//! key, as its name is too long or not UTF-8, is deleted as if it were delivered.
//!
//! Each driver creates the same table, and can deliver the rows that the other one has written. The definitions are
//! constants, for your migrations: [`SQLITE_TABLE`], [`POSTGRES_TABLE`] and [`MYSQL_TABLE`].
//!
//! # The relay
//!
//! Every instance runs one relay, for all caches of the service: [`RelayBuilder::caches`] takes the
//! [`Caches`](larder::Caches), [`RelayBuilder::cache`] a cache that was built without them. An idle relay reads the
//! table once in each interval. Rows of a namespace whose L2 is away hold up no rows of other namespaces.
//!
//! Several services may share the table. A relay leaves the rows of other namespaces where they are. If such a row has
//! waited for a minute, no relay delivers it: [`OutboxStats::unknown`] counts it, and a line in the log names the
//! namespace once. So a cache that was renamed, or a relay that was forgotten, does not stay unnoticed.
//!
//! Relays need not know each other. As their pauses vary at random, mostly one relay finds a row and the others find
//! none. If several relays find a row, they all deliver it, which does no harm: invalidations can be repeated. Of a
//! long backlog each relay takes 256 of the first 1 024 rows, at random. A relay holds no lock while it asks L2; `FOR
//! UPDATE SKIP LOCKED` would need a transaction that is open for as long.
//!
//! # Two caches, of which one is made of the other
//!
//! Rows of two caches are delivered in any order. If pages are made of products, a page could be made of the old
//! product between the two deliveries, and stay. Write the row for the page when the row for the product is deleted, by
//! a trigger on the table; `examples/shop` has one. An instance that has missed the message about the product may use
//! its copy for `max_staleness` after that, and make a page of it: only the TTL of such pages bounds their age.
//!
//! # Another driver
//!
//! Implement [`OutboxTable`], three statements, which has a sample for tokio-postgres. Run the transaction by
//! [`InvalidationBatch::invalidate_after`](larder::InvalidationBatch::invalidate_after), so that a caller that is cancelled does
//! not come between the commit and the invalidation: `examples/tokio_postgres` does.
//!
//! # Needs
//!
//! An outbox needs an L2 that all instances share. Without an L2 the relay of a cache would deliver to one L1 alone.

#[doc = include_str!("guide.md")]
#[cfg(feature = "sqlx")]
pub mod guide {}

mod error;
mod handle;
#[cfg_attr(not(feature = "metrics"), path = "no_metrics.rs")]
mod metrics;
mod relay;
#[cfg(feature = "rusqlite")]
pub mod rusqlite;
mod schema;
#[cfg(feature = "sqlx")]
pub mod sqlx;
#[cfg(feature = "sqlx-0_8")]
pub mod sqlx_0_8;
mod stats;
mod table;

pub use self::error::OutboxError;
pub use self::handle::Outbox;
pub use self::relay::{Relay, RelayBuilder};
pub use self::schema::{MYSQL_TABLE, POSTGRES_TABLE, SQLITE_TABLE};
pub use self::stats::OutboxStats;
pub use self::table::{Namespaces, NewRow, OutboxTable, Row};
