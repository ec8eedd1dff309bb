//! Views, and products that are bought together.
//!
//! - A view is counted in Redis, and reaches the database a moment later together with others: a page does not wait for
//!   its counter. While Redis is away the view is left out.
//! - Recommendations are made from all orders by a job in Python, `recompute.py`, which invalidates those that it has
//!   changed. An old one is better than none.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::FutureExt;
use larder::Cache;
use larder::write_behind::{Stored, Write, WriteBehind};
use rusqlite::{Connection, OptionalExtension as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::product::PRODUCTS;
use crate::service::db::{Db, DbError};
use crate::service::failure::{Answer, Failure, Trouble};
use crate::service::values::{Found, Load, Values};
use crate::service::{Service, Way};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS view (
        product INTEGER PRIMARY KEY, views INTEGER NOT NULL, version INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS bought (user INTEGER NOT NULL, product INTEGER NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS bought_by ON bought (user, product);
    CREATE INDEX IF NOT EXISTS buyers ON bought (product, user);
    CREATE TABLE IF NOT EXISTS together (product INTEGER PRIMARY KEY, others TEXT NOT NULL) STRICT;";

/// Those that the job has found; of a product that it does not know, those that are looked at most.
const TOGETHER: &str = "
    SELECT others FROM together WHERE product = ?1
    UNION ALL SELECT group_concat(product) FROM
        (SELECT product FROM view WHERE product != ?1 ORDER BY views DESC LIMIT 4)
    LIMIT 1";

struct Recommendations {
    db: Db,
    together: Values<Vec<u64>>,
    /// Without the crate each view is a statement.
    views: Option<WriteBehind<u64, u64>>,
}

pub(crate) async fn routes(service: &Arc<Service>) -> Result<Router, Trouble> {
    let db = service.database(SCHEMA).await?;
    let views = if service.setup.way == Way::Larder {
        let cache: Cache<u64, u64> = service.caches.cache("views").build()?;
        service.watch.cache(&cache);
        let into = db.clone();
        let views = WriteBehind::builder(cache).store(move |batch| store(into.clone(), batch));
        Some(views.build()?)
    } else {
        None
    };
    let of_all = db.clone();
    let load: Load<_> = Arc::new(move |id| together(of_all.clone(), id).boxed());
    let recommendations = Recommendations {
        db,
        together: Values::new(service, "together", load, |cache| {
            cache
                .l2_ttl(Duration::from_secs(10 * 60))
                .soft_ttl(Duration::from_secs(5 * 60))
                .stale_if_error(Duration::from_secs(60 * 60))
                .max_concurrent_loads(4)
        })?,
        views,
    };
    let all = 1..=u64::from(PRODUCTS);
    let row = |db: &Connection, id| ids(db, id).map(Some);
    (recommendations.together.warm(all, &recommendations.db, row)).await;
    Ok(Router::new()
        .route("/views", get(counts))
        .route("/views/{id}", get(count).post(view))
        .route("/bought", post(bought))
        .route("/together/{id}", get(show))
        .route("/together", post(show_many))
        .with_state(Arc::new(recommendations)))
}

async fn together(db: Db, id: u64) -> Result<Vec<u64>, Failure> {
    let found = db.read(move |db| ids(db, id));
    Ok(found.await?)
}

fn ids(db: &Connection, id: u64) -> rusqlite::Result<Vec<u64>> {
    let mut query = db.prepare_cached(TOGETHER)?;
    let text: Option<String> = query.query_row([id], |row| row.get(0))?;
    let text = text.unwrap_or_default();
    Ok(text.split(',').filter_map(|id| id.parse().ok()).collect())
}

/// A batch may come twice, and an old one late.
async fn store(db: Db, batch: Vec<Write<u64, u64>>) -> Result<Stored<u64>, DbError> {
    let refused = db.write(move |tx| {
        let mut upsert = tx.prepare(
            "INSERT INTO view VALUES (?1, ?2, ?3) ON CONFLICT (product)
             DO UPDATE SET views = ?2, version = ?3 WHERE view.version < ?3",
        )?;
        let mut refused = Vec::new();
        for write in batch {
            if upsert.execute((write.key, write.value, write.version))? == 0 {
                refused.push(write.key);
            }
        }
        Ok::<_, rusqlite::Error>(refused)
    });
    Ok(Stored::Changed(refused.await?))
}

async fn views(db: Db, id: u64) -> Result<u64, DbError> {
    let query = "SELECT views FROM view WHERE product = ?1";
    let views = db.read(move |db| db.query_row(query, [id], |row| row.get(0)).optional());
    Ok(views.await?.unwrap_or(0))
}

/// How long a view may take to be counted.
const VIEW_LIMIT: Duration = Duration::from_millis(500);

async fn view(State(all): State<Arc<Recommendations>>, Path(id): Path<u64>) -> Answer<Json<Value>> {
    if !(1..=u64::from(PRODUCTS)).contains(&id) {
        return Err(Failure::not_found("product"));
    }
    let Some(write_behind) = &all.views else {
        let upsert = "INSERT INTO view VALUES (?1, 1, 0) ON CONFLICT (product) DO UPDATE SET views = views + 1";
        all.db.write(move |tx| tx.execute(upsert, [id])).await?;
        return Ok(Json(json!({ "is_counted": true })));
    };
    let stored = || views(all.db.clone(), id);
    let counted = write_behind.update(&id, stored, |views| views + 1);
    // A page neither fails nor waits for its counter.
    let counted = timeout(VIEW_LIMIT, counted).await;
    let is_counted = counted.is_ok_and(|counted| counted.is_ok());
    Ok(Json(json!({ "is_counted": is_counted })))
}

async fn count(State(all): State<Arc<Recommendations>>, Path(id): Path<u64>) -> Answer<Json<u64>> {
    Ok(Json(views(all.db.clone(), id).await?))
}

/// Of all products, as the database has them when it has been told of all, if that is soon.
async fn counts(State(all): State<Arc<Recommendations>>) -> Answer<Json<Vec<(u64, u64)>>> {
    if let Some(write_behind) = &all.views {
        let _ = timeout(Duration::from_secs(1), write_behind.flush()).await;
    }
    let rows = all.db.read(|db| {
        let mut query = db.prepare_cached("SELECT product, views FROM view")?;
        let rows = query.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    });
    Ok(Json(rows.await?))
}

#[derive(Deserialize)]
struct Bought {
    user: u64,
    product: u64,
}

async fn bought(
    State(all): State<Arc<Recommendations>>,
    Json(bought): Json<Bought>,
) -> Answer<Json<Value>> {
    let insert = "INSERT INTO bought VALUES (?1, ?2)";
    all.db
        .write(move |tx| tx.execute(insert, (bought.user, bought.product)))
        .await?;
    // The job will see it.
    Ok(Json(json!({})))
}

async fn show(
    State(all): State<Arc<Recommendations>>,
    Path(id): Path<u64>,
) -> Answer<Json<Found<Vec<u64>>>> {
    Ok(Json(all.together.get(id).await?))
}

/// For a list of products, as a mail has them.
async fn show_many(
    State(all): State<Arc<Recommendations>>,
    Json(ids): Json<Vec<u64>>,
) -> Answer<Json<Vec<Found<Vec<u64>>>>> {
    if ids.len() > 100 {
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "at most 100 at a time",
        ));
    }
    Ok(Json(all.together.get_many(&ids).await?))
}
