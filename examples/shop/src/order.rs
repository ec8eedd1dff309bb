//! Orders.
//!
//! - An order is written through: the page that comes next reads it, mostly on another instance.
//! - Products are asked for through the product service's own cache: the same namespace, of which this service is one
//!   more instance. A copy of its own would have to be invalidated by another way.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::FutureExt;
use larder::{CommitError, LoadingCache, OrDeferred as _};
use reqwest::Method;
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plan::Name;
use crate::product::{Product, products};
use crate::service::Service;
use crate::service::db::{Db, DbError};
use crate::service::failure::{Answer, Failure, Trouble};
use crate::service::values::{Found, Load, Values};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY, user INTEGER NOT NULL, product INTEGER NOT NULL, name TEXT NOT NULL, cents INTEGER NOT NULL
    ) STRICT;";

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
    Ok(Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(show))
        .with_state(Arc::new(orders)))
}

async fn order(db: Db, id: u64) -> Result<Option<Order>, Failure> {
    let query = "SELECT user, product, name, cents FROM orders WHERE id = ?1";
    let found = db.read(move |db| {
        let row = db.query_row(query, [id], |row| {
            Ok(Order {
                id,
                user: row.get(0)?,
                product: row.get(1)?,
                name: row.get(2)?,
                cents: row.get(3)?,
            })
        });
        row.optional()
    });
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

async fn place(State(orders): State<Arc<Orders>>, Json(place): Json<Place>) -> Answer<Json<Order>> {
    let peers = &orders.service.peers;
    let found = orders.products.get(place.product).await?.value;
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
        let sold = format!("{stock}/sold");
        let _: Value = peers.post(Name::Inventory, &sold, &json!(name)).await?;
        Ok::<_, Failure>(cents)
    };
    let cents = match paid.await {
        Ok(cents) => cents,
        Err(failure) => {
            let held = format!("{stock}/held/{name}");
            let give_back = peers.send(Name::Inventory, Method::DELETE, &held, |request| request);
            // If that fails, too, it ends by itself.
            let _ = give_back.await;
            return Err(failure);
        }
    };
    let order = Order {
        id,
        user: place.user,
        product: place.product,
        name: product.name,
        cents,
    };
    orders.write(order.clone()).await?;
    // For "bought together", which can do without one.
    let bought = json!({ "user": order.user, "product": order.product });
    let _: Answer<Value> = peers.post(Name::Recommendation, "/bought", &bought).await;
    Ok(Json(order))
}

impl Orders {
    async fn write(&self, order: Order) -> Answer<()> {
        let (db, id) = (self.db.clone(), order.id);
        let row = order.clone();
        let commit = async move {
            let insert = "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5)";
            let values = (row.id, row.user, row.product, row.name, row.cents);
            db.write(move |tx| tx.execute(insert, values)).await
        };
        match self.written.larder() {
            Some(orders) => written(orders, id, order, commit).await,
            None => Ok(_ = commit.await?),
        }
    }
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
