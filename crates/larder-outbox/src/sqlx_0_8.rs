//! The outbox by [sqlx](sqlx_0_8) 0.8: as the module `sqlx` for 0.9, which has the same source. What that
//! module says, and its sample, hold here word for word.
//!
//! ```toml
//! larder = { version = "0.1", features = ["sqlx-0_8"] }
//! sqlx = { version = "0.8", features = ["postgres", "runtime-tokio"] }
//! ```
//!
//! The table is the same for both versions. So when your program moves to sqlx 0.9, change the feature to
//! `sqlx`: its relays deliver the rows that are there. A program with pools of both versions may have both
//! features.

use ::sqlx_0_8 as driver;
use driver::{Database, IntoArguments};

pub use self::table::OutboxDatabase;

#[allow(
    clippy::duplicate_mod,
    reason = "it is compiled once for each version of sqlx"
)]
#[path = "sqlx/table.rs"]
mod table;

type Parameters<'q, DB> = <DB as Database>::Arguments<'q>;

/// A database whose statements take its own [`Parameters`], which is so for all of them: the compiler has to be told.
trait Binds<'q>: Database<Arguments<'q>: IntoArguments<'q, Self>> {}

impl<'q, DB: Database<Arguments<'q>: IntoArguments<'q, DB>>> Binds<'q> for DB {}

fn safe(sql: &str) -> &str {
    sql
}
