//! The outbox in `PostgreSQL`, `MySQL`, `MariaDB` or `SQLite`, by [`sqlx`] 0.9. The module `sqlx_0_8` is
//! for 0.8.
//!
//! A [`Pool`](::sqlx::Pool) is the [`OutboxTable`](super::OutboxTable) of any driver of sqlx: `Postgres`, `MySql` and
//! `Sqlite`. The feature of this crate turns none of them on, nor a runtime or TLS: choose them by the features of your
//! own sqlx, which needs `runtime-tokio`. Not for the driver `Any`, which does not translate the placeholders of
//! statements.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use larder_outbox::{Outbox, POSTGRES_TABLE};
//! use larder::{Cache, Caches, InvalidationBatch, ServiceSettings};
//! # /*
//! use sqlx::PgPool;
//! # */
//! # use sqlx::SqlitePool as PgPool;
//!
//! let caches = Caches::new("shop", ServiceSettings::from_env("CACHE_")?)?;
//! let products: Cache<i64, String> = caches.cache("product").build()?;
//! let pages: Cache<String, String> = caches.cache("page").build()?;
//!
//! let db = PgPool::connect("postgres://localhost/shop").await?;
//! sqlx::raw_sql(POSTGRES_TABLE).execute(&db).await?; // by a migration, in a service
//! let outbox = Outbox::new(db.clone());
//! let relay = outbox.relay().caches(&caches).start()?;
//!
//! // In a handler.
//! let mut tx = db.begin().await?;
//! let rename = sqlx::query("UPDATE product SET name = $1 WHERE id = $2");
//! rename.bind("green tea").bind(7_i64).execute(&mut *tx).await?;
//! let changed = InvalidationBatch::new().key(&products, &7).tag(&pages, &("product", 7));
//! outbox.commit(tx, changed).await?;
//! # Ok(()) }
//! ```
//!
//! The tests of this crate run on `SQLite`; `sh tests/proof.sh databases` runs the tests of `PostgreSQL` 15 and
//! `MariaDB` 10.11. On `MySQL` it was not run. `PostgreSQL` stores no NUL character in texts: a key that has one is an
//! error.

use ::sqlx as driver;
use driver::{AssertSqlSafe, Database, IntoArguments};

pub use self::table::OutboxDatabase;

mod table;

type Parameters<'q, DB> = <DB as Database>::Arguments;

/// A database whose statements take its own [`Parameters`], which is so for all of them: the compiler has to be told.
trait Binds<'q>: Database<Arguments: IntoArguments<Self>> {}

impl<DB: Database<Arguments: IntoArguments<DB>>> Binds<'_> for DB {}

/// The text of a statement that holds no text of others: that is in the parameters.
fn safe(sql: &str) -> AssertSqlSafe<&str> {
    AssertSqlSafe(sql)
}
