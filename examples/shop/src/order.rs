//! Orders.
//!
//! - An order is written through: the page that comes next reads it, mostly on another instance.
//! - Products are asked for through the product service's own cache: the same namespace, of which this service is one
//!   more instance. A copy of its own would have to be invalidated by another way.
//! - An order is open while its piece is sold by another service. If the answer to that is lost, the piece is asked for
//!   again, until the order is known to be one or none.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use futures::FutureExt;
use larder::{CommitError, LoadingCache, OrDeferred as _};
use reqwest::Method;
use rusqlite::{OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::plan::Name;
use crate::product::{Product, products};
use crate::service::Service;
use crate::service::db::{Db, DbError};
use crate::service::failure::{Answer, Failure, Trouble};
use crate::service::values::{Found, Load, Values};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY, user INTEGER NOT NULL, product INTEGER NOT NULL, name TEXT NOT NULL, cents INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS open_order (
        id INTEGER PRIMARY KEY, user INTEGER NOT NULL, product INTEGER NOT NULL, name TEXT NOT NULL, cents INTEGER NOT NULL
    ) STRICT;";

/// How often open orders are looked for, and how long one is left to its own request.
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(6);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: u64,
    user: u64,
    product: u64,
    /// As it was called when it was ordered.
    name: String,
    cents: u64,
}

struct Orders {
    service: Arc<Service>,
    db: Db,
    written: Values<Option<Order>>,
    products: Values<Option<Product>>,
}

pub(crate) async fn routes(service: &Arc<Service>) -> Result<Router, Trouble> {
    let db = service.database(SCHEMA).await?;
    let of_orders = db.clone();
    let order: Load<_> = Arc::new(move |id| order(of_orders.clone(), id).boxed());
    let asking = Arc::clone(service);
    let product: Load<_> = Arc::new(move |id| product(Arc::clone(&asking), id).boxed());
    let orders = Orders {
        written: Values::new(service, "order", order, |cache| cache)?,
        products: products(service, product)?,
        service: Arc::clone(service),
        db,
    };
    let orders = Arc::new(orders);
    tokio::spawn(settle(Arc::downgrade(&orders)));
    Ok(Router::new()
        .route("/orders", get(counts).post(place))
        .route("/orders/{id}", get(show))
        .route("/open", get(open))
        .with_state(orders))
}

fn row(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get(0)?,
        user: row.get(1)?,
        product: row.get(2)?,
        name: row.get(3)?,
        cents: row.get(4)?,
    })
}

async fn order(db: Db, id: u64) -> Result<Option<Order>, Failure> {
    let query = "SELECT * FROM orders WHERE id = ?1";
    let found = db.read(move |db| db.query_row(query, [id], row).optional());
    Ok(found.await?)
}

/// The product, from the service that owns it.
async fn product(service: Arc<Service>, id: u64) -> Result<Option<Product>, Failure> {
    let path = format!("/source/products/{id}");
    service.peers.get(Name::Product, &path).await
}

async fn show(State(orders): State<Arc<Orders>>, Path(id): Path<u64>) -> Answer<Json<Order>> {
    let found = orders.written.get(id).await?;
    let order = found.value.ok_or_else(|| Failure::not_found("order"))?;
    Ok(Json(order))
}

#[derive(Deserialize)]
struct Place {
    user: u64,
    product: u64,
    card: String,
}

/// In a task of its own: a caller that hangs up does not leave a payment without its order.
async fn place(State(orders): State<Arc<Orders>>, Json(place): Json<Place>) -> Answer<Json<Order>> {
    let placed = tokio::spawn(async move { orders.place(place).await });
    let placed = placed
        .await
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(placed?))
}

impl Orders {
    async fn place(&self, place: Place) -> Answer<Order> {
        let peers = &self.service.peers;
        let found = self.products.get(place.product).await?.value;
        let product = found.ok_or_else(|| Failure::not_found("product"))?;
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        // SQLite has signed numbers.
        let id = u64::from_le_bytes(random) >> 1;
        let name = id.to_string();
        let stock = format!("/stock/{}", place.product);
        let hold = |request: reqwest::RequestBuilder| request.json(&name);
        peers
            .send(
                Name::Inventory,
                Method::POST,
                &format!("{stock}/held"),
                hold,
            )
            .await?;
        let price = format!("/products/{}/price", place.product);
        let paid = async {
            let cents = peers.get::<Found<u64>>(Name::Product, &price).await?.value;
            let payment = json!({ "order": name, "card": place.card, "cents": cents });
            let _: Value = peers.post(Name::Payment, "/payments", &payment).await?;
            let order = Order {
                id,
                user: place.user,
                product: place.product,
                name: product.name,
                cents,
            };
            self.begin(order.clone()).await?;
            Ok::<_, Failure>(order)
        };
        let order = match paid.await {
            Ok(order) => order,
            Err(failure) => {
                self.give_back(place.product, id).await;
                return Err(failure);
            }
        };
        self.sell(order.clone()).await?;
        // For "bought together", which can do without one.
        let bought = json!({ "user": order.user, "product": order.product });
        let _: Answer<Value> = peers.post(Name::Recommendation, "/bought", &bought).await;
        Ok(order)
    }

    async fn begin(&self, order: Order) -> Answer<()> {
        let insert = "INSERT INTO open_order VALUES (?1, ?2, ?3, ?4, ?5)";
        let values = (order.id, order.user, order.product, order.name, order.cents);
        self.db.write(move |tx| tx.execute(insert, values)).await?;
        Ok(())
    }

    /// Sells the piece of an open order: then it is one, or none if there is no piece. If neither is known it stays open.
    async fn sell(&self, order: Order) -> Answer<()> {
        let (id, product) = (order.id, order.product);
        let (path, name) = (format!("/stock/{product}/sold"), json!(id.to_string()));
        let sold: Answer<Value> = self.service.peers.post(Name::Inventory, &path, &name).await;
        match sold {
            Ok(_) => self.write(order).await,
            Err(failure) => {
                if failure.status == StatusCode::CONFLICT {
                    self.give_back(product, id).await;
                    let delete = "DELETE FROM open_order WHERE id = ?1";
                    self.db.write(move |tx| tx.execute(delete, [id])).await?;
                }
                Err(failure)
            }
        }
    }

    /// Gives the piece back to the stock, and the money if the order was paid. A reservation that cannot be ended ends by
    /// itself.
    async fn give_back(&self, product: u64, order: u64) {
        let peers = &self.service.peers;
        for (to, path) in [
            (Name::Inventory, format!("/stock/{product}/held/{order}")),
            (Name::Payment, format!("/payments/{order}")),
        ] {
            let delete = peers.send(to, Method::DELETE, &path, |request| request);
            let _ = delete.await;
        }
    }

    async fn write(&self, order: Order) -> Answer<()> {
        let (db, id) = (self.db.clone(), order.id);
        let commit = async move {
            // Its own request and `settle` may both do it.
            let moving = "INSERT OR IGNORE INTO orders SELECT * FROM open_order WHERE id = ?1";
            let delete = "DELETE FROM open_order WHERE id = ?1";
            db.write(move |tx| {
                tx.execute(moving, [id])?;
                tx.execute(delete, [id])
            })
            .await
        };
        match self.written.larder() {
            Some(orders) => written(orders, id, order, commit).await,
            None => Ok(_ = commit.await?),
        }
    }
}

/// Goes on with open orders whose own request has ended.
async fn settle(orders: Weak<Orders>) {
    let mut since = HashMap::new();
    while let Some(orders) = orders.upgrade() {
        let open = orders.db.read(|db| {
            let mut query = db.prepare_cached("SELECT * FROM open_order LIMIT 100")?;
            query.query_map((), row)?.collect::<Result<Vec<_>, _>>()
        });
        let open = open.await.unwrap_or_default();
        since.retain(|id, _| open.iter().any(|order| order.id == *id));
        for order in open {
            let since: &Instant = since.entry(order.id).or_insert_with(Instant::now);
            if since.elapsed() > PATIENCE {
                // Otherwise the next time.
                let _ = orders.sell(order).await;
            }
        }
        drop(orders);
        sleep(LOOK).await;
    }
}

/// How many orders there are of each product.
async fn counts(State(orders): State<Arc<Orders>>) -> Answer<Json<Vec<(u64, u64)>>> {
    let rows = orders.db.read(|db| {
        let mut query =
            db.prepare_cached("SELECT product, count(*) FROM orders GROUP BY product")?;
        let rows = query.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    });
    Ok(Json(rows.await?))
}

/// How many orders are open.
async fn open(State(orders): State<Arc<Orders>>) -> Answer<Json<u64>> {
    Ok(Json(orders.db.count("open_order").await?))
}

async fn written(
    orders: &LoadingCache<u64, Option<Order>>,
    id: u64,
    order: Order,
    commit: impl Future<Output = Result<usize, DbError>> + Send + 'static,
) -> Answer<()> {
    let commit = async { commit.await.map(drop) };
    match orders
        .write_through(&id, Some(order), |_| commit)
        .await
        .or_deferred()
    {
        Ok(_) => Ok(()),
        Err(CommitError::Failed(error)) => Err(error.into()),
        Err(error) => Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error.to_string(),
        )),
    }
}
