//! The catalogue: products, their prices and their reviews, each in a cache of its own with a TTL that fits it.
//!
//! A change of a product names in its own transaction what is to be invalidated, in an outbox: so a process that dies
//! after the commit leaves no old page behind. Pages at the gateway are made of products: first the product is gone from
//! every instance, then the pages are invalidated. The other way round a page could be made anew of the old product.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use futures::{FutureExt, join};
use larder::{InvalidationBatch, RefreshAhead};
use larder_outbox::rusqlite::Sqlite;
use larder_outbox::{Outbox, Relay, SQLITE_TABLE};
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use crate::service::Service;
use crate::service::db::{Db, DbError};
use crate::service::failure::{Answer, Failure, Trouble};
use crate::service::pages::Pages;
use crate::service::values::{Found, Load, Values};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) const PRODUCTS: u32 = 500;
const BRANDS: [&str; 5] = ["Ahmad", "Dammann", "Mariage", "Twinings", "Yamamoto"];
pub(crate) const CATEGORIES: [&str; 4] = ["black", "green", "herbal", "white"];

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS product (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, brand TEXT NOT NULL, category TEXT NOT NULL,
        cents INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS review (
        product INTEGER NOT NULL, stars INTEGER NOT NULL, text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS reviewed ON review (product);";

/// A relay keeps no order between two caches: so the rows for pages and lists are written when that for the product is
/// delivered.
const THEN_PAGES: &str = "
    CREATE TRIGGER IF NOT EXISTS then_pages AFTER DELETE ON larder_outbox WHEN old.namespace = 'shop:product'
    BEGIN
        INSERT INTO larder_outbox (namespace, kind, name, written_ms)
        VALUES ('shop:http', 'tag', 'product:' || old.name, old.written_ms),
            ('shop:http', 'tag', 'products', old.written_ms);
    END;";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) brand: String,
    pub(crate) category: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Review {
    pub(crate) stars: u8,
    pub(crate) text: String,
}

struct Catalogue {
    db: Db,
    products: Values<Option<Product>>,
    prices: Values<u64>,
    reviews: Values<Vec<Review>>,
    pages: Pages,
    outbox: Outbox<Sqlite>,
    _relay: Option<Relay>,
}

/// Products by their ids, with this loader. The service that owns them reads its database; another one asks that
/// service, and shares the values in both levels.
pub(crate) fn products(
    service: &Service,
    load: Load<Option<Product>>,
) -> Result<Values<Option<Product>>, Trouble> {
    Values::new(service, "product", load, |cache| {
        cache
            .soft_ttl(5 * MINUTE)
            .refresh_ahead(RefreshAhead::Share(0.8))
            .stale_if_error(60 * MINUTE)
            .track_hot_keys(true)
            // A wrong id costs one query in ten seconds.
            .ttl_of(|product: &Option<Product>| {
                product.is_none().then_some(Duration::from_secs(10))
            })
            .tags_of(|_, product: &Option<Product>| {
                let tags = product.iter();
                let tags = tags.flat_map(|of| [("category", &of.category), ("brand", &of.brand)]);
                tags.map(|(kind, name)| (kind, name.clone()))
                    .collect::<Vec<_>>()
            })
    })
}

pub(crate) async fn routes(service: &Arc<Service>) -> Result<Router, Trouble> {
    let db = service.database(SCHEMA).await?;
    seed(&db).await?;
    let (of_products, of_prices, of_reviews) = (db.clone(), db.clone(), db.clone());
    let product: Load<_> = Arc::new(move |id| product(of_products.clone(), id).boxed());
    let price: Load<_> = Arc::new(move |id| price(of_prices.clone(), id).boxed());
    let reviews: Load<_> = Arc::new(move |id| reviews(of_reviews.clone(), id).boxed());
    let products = products(service, product)?;
    let pages = Pages::new(service)?;
    let path = service.setup.data.join("product.sqlite");
    let outbox = Outbox::new(Sqlite::new(move || Connection::open(&path)));
    let relay = outbox.relay().caches(&service.caches);
    // Nobody writes a row where the crate does not cache.
    let relay = pages.cache().map(|_| relay.start()).transpose()?;
    let catalogue = Catalogue {
        products,
        // A change is waited for. The times are for those that a database is told by hand.
        prices: Values::new(service, "price", price, |cache| {
            cache.l2_ttl(10 * MINUTE).stale_if_error(10 * MINUTE)
        })?,
        reviews: Values::new(service, "review", reviews, |cache| {
            cache.l2_ttl(10 * MINUTE).stale_if_error(60 * MINUTE)
        })?,
        pages,
        db,
        outbox,
        _relay: relay,
    };
    catalogue.warm().await;
    Ok(Router::new()
        .route("/products", get(list))
        .route("/products/{id}", get(show))
        .route("/source/products/{id}", get(show_row))
        .route("/outbox", get(waiting))
        .route("/products/{id}/name", put(rename))
        .route("/products/{id}/price", get(show_price).put(set_price))
        .route("/products/{id}/reviews", get(show_reviews).post(add_review))
        .with_state(Arc::new(catalogue)))
}

impl Catalogue {
    /// Has all in Redis before anybody asks for it: a visit to the database for many products, and none for each.
    async fn warm(&self) {
        let (db, ids) = (&self.db, 1..=u64::from(PRODUCTS));
        let product = |db: &Connection, id| product_in(db, id).map(Some);
        let reviews = |db: &Connection, id| reviews_in(db, id).map(Some);
        join!(
            self.products.warm(ids.clone(), db, product),
            self.prices.warm(ids.clone(), db, price_in),
            self.reviews.warm(ids, db, reviews),
        );
    }
}

async fn seed(db: &Db) -> Result<(), Trouble> {
    db.write(|tx| {
        // Once: another instance may have done it.
        tx.execute_batch(SQLITE_TABLE)?;
        tx.execute_batch(THEN_PAGES)?;
        if tx.query_row("SELECT EXISTS (SELECT 1 FROM product)", (), |row| {
            row.get(0)
        })? {
            return Ok(());
        }
        let mut product = tx.prepare("INSERT INTO product VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let mut review = tx.prepare("INSERT INTO review VALUES (?1, ?2, ?3)")?;
        let kinds = BRANDS.iter().cycle().zip(CATEGORIES.iter().cycle());
        for (id, (brand, category)) in (1..=u64::from(PRODUCTS)).zip(kinds) {
            let name = format!("{brand} {category} no. {id}");
            product.execute((id, name, brand, category, 300 + id % 40 * 10))?;
            for stars in 3..=3 + id % 3 {
                review.execute((id, stars, format!("{stars} of 5")))?;
            }
        }
        Ok::<_, rusqlite::Error>(())
    })
    .await?;
    Ok(())
}

fn rows(
    db: &Connection,
    which: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Product>> {
    let query = format!("SELECT id, name, brand, category FROM product WHERE {which}");
    let mut query = db.prepare_cached(&query)?;
    let rows = query.query_map(params, |row| {
        Ok(Product {
            id: row.get(0)?,
            name: row.get(1)?,
            brand: row.get(2)?,
            category: row.get(3)?,
        })
    })?;
    rows.collect()
}

async fn product(db: Db, id: u64) -> Result<Option<Product>, Failure> {
    Ok(db.read(move |db| product_in(db, id)).await?)
}

fn product_in(db: &Connection, id: u64) -> rusqlite::Result<Option<Product>> {
    Ok(rows(db, "id = ?1", [id])?.pop())
}

async fn price(db: Db, id: u64) -> Result<u64, Failure> {
    let cents = db.read(move |db| price_in(db, id));
    cents.await?.ok_or_else(|| Failure::not_found("product"))
}

fn price_in(db: &Connection, id: u64) -> rusqlite::Result<Option<u64>> {
    let mut query = db.prepare_cached("SELECT cents FROM product WHERE id = ?1")?;
    query.query_row([id], |row| row.get(0)).optional()
}

async fn reviews(db: Db, id: u64) -> Result<Vec<Review>, Failure> {
    Ok(db.read(move |db| reviews_in(db, id)).await?)
}

fn reviews_in(db: &Connection, id: u64) -> rusqlite::Result<Vec<Review>> {
    let mut query = db.prepare_cached("SELECT stars, text FROM review WHERE product = ?1")?;
    let rows = query.query_map([id], |row| {
        Ok(Review {
            stars: row.get(0)?,
            text: row.get(1)?,
        })
    })?;
    rows.collect()
}

#[derive(Deserialize)]
struct Filter {
    category: Option<String>,
}

/// Not cached here: the gateway has the answers.
async fn list(
    State(catalogue): State<Arc<Catalogue>>,
    Query(filter): Query<Filter>,
) -> Answer<Json<Vec<Product>>> {
    let which = "?1 IS NULL OR category = ?1 ORDER BY id LIMIT 50";
    let found = catalogue
        .db
        .read(move |db| rows(db, which, [filter.category]));
    Ok(Json(found.await?))
}

async fn show(
    State(catalogue): State<Arc<Catalogue>>,
    Path(id): Path<u64>,
) -> Answer<Json<Found<Product>>> {
    let Found { value, how } = catalogue.products.get(id).await?;
    let value = value.ok_or_else(|| Failure::not_found("product"))?;
    Ok(Json(Found { value, how }))
}

/// The product from the database, for the loaders of other services. An answer from L1 could be an old one, which they
/// would store for all.
async fn show_row(
    State(catalogue): State<Arc<Catalogue>>,
    Path(id): Path<u64>,
) -> Answer<Json<Option<Product>>> {
    Ok(Json(product(catalogue.db.clone(), id).await?))
}

async fn rename(
    State(catalogue): State<Arc<Catalogue>>,
    Path(id): Path<u64>,
    Json(name): Json<String>,
) -> Answer<StatusCode> {
    let this = Arc::clone(&catalogue);
    let changed = catalogue.db.write(move |tx| {
        let update = "UPDATE product SET name = ?2 WHERE id = ?1";
        let changed = tx.execute(update, (id, name))?;
        if let Some(products) = this.products.larder() {
            let changed = InvalidationBatch::new().key(products, &id);
            this.outbox.blocking_insert(tx, &changed)?;
        }
        Ok::<_, DbError>(changed)
    });
    if changed.await? == 0 {
        return Err(Failure::not_found("product"));
    }
    catalogue.products.gone(id).await?;
    catalogue.pages.renamed(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many invalidations are still to be delivered.
async fn waiting(State(catalogue): State<Arc<Catalogue>>) -> Answer<Json<u64>> {
    Ok(Json(catalogue.db.count("larder_outbox").await?))
}

async fn show_price(
    State(catalogue): State<Arc<Catalogue>>,
    Path(id): Path<u64>,
) -> Answer<Json<Found<u64>>> {
    Ok(Json(catalogue.prices.get(id).await?))
}

async fn set_price(
    State(catalogue): State<Arc<Catalogue>>,
    Path(id): Path<u64>,
    Json(cents): Json<u64>,
) -> Answer<StatusCode> {
    let update = "UPDATE product SET cents = ?2 WHERE id = ?1";
    catalogue
        .db
        .write(move |tx| tx.execute(update, (id, cents)))
        .await?;
    catalogue.prices.gone(id).await?;
    catalogue.pages.changed(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn show_reviews(
    State(catalogue): State<Arc<Catalogue>>,
    Path(id): Path<u64>,
) -> Answer<Json<Found<Vec<Review>>>> {
    Ok(Json(catalogue.reviews.get(id).await?))
}

async fn add_review(
    State(catalogue): State<Arc<Catalogue>>,
    Path(id): Path<u64>,
    Json(review): Json<Review>,
) -> Answer<StatusCode> {
    let insert = "INSERT INTO review VALUES (?1, ?2, ?3)";
    catalogue
        .db
        .write(move |tx| tx.execute(insert, (id, review.stars, review.text)))
        .await?;
    catalogue.reviews.gone(id).await?;
    catalogue.pages.changed(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
