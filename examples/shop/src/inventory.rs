//! The stock.
//!
//! - How much is left is read again after a minute: each order invalidates it, and a page only has to be about right.
//!   When the last piece is sold, no instance may show it any more, so that change is waited for.
//! - Whoever orders reserves a piece first, in the cache: a list for each product, which is stored by `insert_if` only if
//!   nobody has changed it since it was read. So two callers never get the same piece, in however many instances.
//! - The database has the last word: it takes no piece that is not there, also if Redis has lost the reservations.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::FutureExt;
use larder::{Cache, Version};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Value, json};

use crate::product::PRODUCTS;
use crate::service::db::Db;
use crate::service::failure::{Answer, Failure, Trouble};
use crate::service::pages::Pages;
use crate::service::values::{Found, Load, Values};
use crate::service::{Service, Way};

/// How long a piece is kept for an order that does not end.
const HELD: Duration = Duration::from_secs(30);
/// How often a reservation is tried while others come in between.
const ATTEMPTS: usize = 50;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS stock (product INTEGER PRIMARY KEY, pieces INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS sold (order_id TEXT PRIMARY KEY, product INTEGER NOT NULL) STRICT;";

/// The orders that have a piece reserved, and until when, in ms since 1970.
type Held = Vec<(String, u64)>;

struct Stock {
    db: Db,
    pieces: Values<u64>,
    /// Without the crate nothing is reserved: who comes too late hears it from the database.
    held: Option<Cache<u64, Held>>,
    pages: Pages,
}

pub(crate) async fn routes(service: &Arc<Service>) -> Result<Router, Trouble> {
    let db = service.database(SCHEMA).await?;
    db.write(|tx| {
        let mut insert = tx.prepare("INSERT OR IGNORE INTO stock VALUES (?1, ?2)")?;
        for id in 1..=PRODUCTS {
            insert.execute((id, 1_000_000))?;
        }
        Ok::<_, rusqlite::Error>(())
    })
    .await?;
    let of_pieces = db.clone();
    let load: Load<u64> = Arc::new(move |id| pieces(of_pieces.clone(), id).boxed());
    let held = (service.setup.way == Way::Larder)
        .then(|| service.caches.cache("held").l2_ttl(2 * HELD).build())
        .transpose()?;
    if let Some(held) = &held {
        service.watch.cache(held);
    }
    let stock = Stock {
        db,
        pieces: Values::new(service, "stock", load, |cache| {
            cache
                .l2_ttl(Duration::from_secs(10 * 60))
                .soft_ttl(Duration::from_secs(60))
                .stale_if_error(Duration::from_secs(60))
        })?,
        held,
        pages: Pages::new(service)?,
    };
    let all = 1..=u64::from(PRODUCTS);
    stock.pieces.warm(all, &stock.db, pieces_in).await;
    Ok(Router::new()
        .route("/stock/{id}", get(show).put(set))
        .route("/stock/{id}/held", post(hold))
        .route("/stock/{id}/held/{order}", axum::routing::delete(give_back))
        .route("/stock/{id}/sold", post(sell))
        .route("/sold", get(sold))
        .with_state(Arc::new(stock)))
}

async fn pieces(db: Db, id: u64) -> Result<u64, Failure> {
    let pieces = db.read(move |db| pieces_in(db, id));
    pieces.await?.ok_or_else(|| Failure::not_found("product"))
}

fn pieces_in(db: &Connection, id: u64) -> rusqlite::Result<Option<u64>> {
    let mut query = db.prepare_cached("SELECT pieces FROM stock WHERE product = ?1")?;
    query.query_row([id], |row| row.get(0)).optional()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn sold_out() -> Failure {
    Failure::new(StatusCode::CONFLICT, "sold out")
}

async fn show(State(stock): State<Arc<Stock>>, Path(id): Path<u64>) -> Answer<Json<Found<u64>>> {
    Ok(Json(stock.pieces.get(id).await?))
}

async fn set(
    State(stock): State<Arc<Stock>>,
    Path(id): Path<u64>,
    Json(pieces): Json<u64>,
) -> Answer<StatusCode> {
    let update = "UPDATE stock SET pieces = ?2 WHERE product = ?1";
    stock
        .db
        .write(move |tx| tx.execute(update, (id, pieces)))
        .await?;
    stock.changed(id, pieces).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reserves a piece for an order.
async fn hold(
    State(stock): State<Arc<Stock>>,
    Path(id): Path<u64>,
    Json(order): Json<String>,
) -> Answer<StatusCode> {
    // A cache that is switched off stores nothing.
    let Some(held) = stock.held.as_ref().filter(|held| held.is_enabled()) else {
        return Ok(StatusCode::NO_CONTENT);
    };
    for _ in 0..ATTEMPTS {
        let entry = held.get(&id).await;
        let version = entry.as_ref().and_then(|entry| entry.meta().version());
        let list = entry.map(|entry| entry.value().clone());
        // After the list was read: an order is in the database before it leaves the list.
        let (left, mut list) = stock.still_held(id, list.unwrap_or_default()).await?;
        if list.len() as u64 >= left {
            return Err(sold_out());
        }
        let until = now_ms() + u64::try_from(HELD.as_millis()).unwrap_or(u64::MAX);
        list.push((order.clone(), until));
        let version = version.unwrap_or(Version::ABSENT);
        match held.insert_if(&id, list, version).await {
            // Another order was faster.
            Ok(None) => {}
            // While Redis is away nothing is reserved, and the database decides alone.
            Ok(Some(_)) | Err(_) => return Ok(StatusCode::NO_CONTENT),
        }
    }
    Err(Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many orders at once",
    ))
}

async fn give_back(
    State(stock): State<Arc<Stock>>,
    Path((id, order)): Path<(u64, String)>,
) -> Answer<StatusCode> {
    stock.release(id, &order).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sells the piece of an order, once.
async fn sell(
    State(stock): State<Arc<Stock>>,
    Path(id): Path<u64>,
    Json(order): Json<String>,
) -> Answer<Json<Value>> {
    let of = order.clone();
    let left = stock.db.write(move |tx| {
        let insert = "INSERT OR IGNORE INTO sold VALUES (?1, ?2)";
        if tx.execute(insert, (of, id))? == 1 {
            let update = "UPDATE stock SET pieces = pieces - 1 WHERE product = ?1 AND pieces > 0";
            if tx.execute(update, [id])? == 0 {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
        }
        let query = "SELECT pieces FROM stock WHERE product = ?1";
        tx.query_row(query, [id], |row| row.get::<_, u64>(0))
    });
    let left = match left.await {
        Err(crate::service::db::DbError::Sqlite(rusqlite::Error::QueryReturnedNoRows)) => {
            return Err(sold_out());
        }
        left => left?,
    };
    stock.changed(id, left).await?;
    stock.release(id, &order).await?;
    Ok(Json(json!({ "left": left })))
}

/// How many pieces of each product were sold, and how many are left.
async fn sold(State(stock): State<Arc<Stock>>) -> Answer<Json<Vec<(u64, u64, u64)>>> {
    let query = "SELECT product, (SELECT count(*) FROM sold WHERE sold.product = stock.product), pieces FROM stock";
    let rows = stock.db.read(move |db| {
        let mut query = db.prepare_cached(query)?;
        let rows = query.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    });
    Ok(Json(rows.await?))
}

impl Stock {
    /// How many pieces there are, and which reservations are for some of them: those that were not sold meanwhile, and
    /// are not too old by the clock.
    async fn still_held(&self, id: u64, mut list: Held) -> Answer<(u64, Held)> {
        let found = self.db.read(move |db| {
            // Both from one state of the database.
            let tx = db.unchecked_transaction()?;
            let query = "SELECT pieces FROM stock WHERE product = ?1";
            let left = tx.query_row(query, [id], |row| row.get(0)).optional()?;
            let mut sold = tx.prepare_cached("SELECT 1 FROM sold WHERE order_id = ?1")?;
            let now = now_ms();
            list.retain(|(order, until)| *until > now && !sold.exists([order]).unwrap_or(false));
            Ok(left.map(|left| (left, list)))
        });
        found.await?.ok_or_else(|| Failure::not_found("product"))
    }
    /// After a commit.
    async fn changed(&self, id: u64, left: u64) -> Answer<()> {
        if left > 0 {
            self.pieces.changed(id).await?;
        } else {
            // The last one: no page is to show another.
            self.pieces.gone(id).await?;
            self.pages.changed(id).await?;
        }
        Ok(())
    }

    async fn release(&self, id: u64, order: &str) -> Answer<()> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        for _ in 0..ATTEMPTS {
            let Some(entry) = held.get(&id).await else {
                return Ok(());
            };
            let mut list = entry.value().clone();
            list.retain(|(of, _)| of != order);
            let Some(version) = entry.meta().version() else {
                return Ok(());
            };
            if held.insert_if(&id, list, version).await?.is_some() {
                return Ok(());
            }
        }
        // It ends by itself.
        Ok(())
    }
}
