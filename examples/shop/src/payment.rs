//! Payments. There is no cache here, on purpose: a card has no place in one, and no payment is read twice.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::service::Service;
use crate::service::db::Db;
use crate::service::failure::{Answer, Failure, Trouble};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS payment (
        order_id TEXT PRIMARY KEY, last_digits TEXT NOT NULL, cents INTEGER NOT NULL
    ) STRICT;";

pub(crate) async fn routes(service: &Arc<Service>) -> Result<Router, Trouble> {
    let db = service.database(SCHEMA).await?;
    Ok(Router::new()
        .route("/payments", post(pay))
        .route("/payments/{order}", delete(give_back))
        .with_state(db))
}

#[derive(Deserialize)]
struct Payment {
    order: String,
    card: String,
    cents: u64,
}

/// Charges a card, once for each order.
async fn pay(State(db): State<Db>, Json(payment): Json<Payment>) -> Answer<Json<Value>> {
    let digits = payment.card.as_bytes();
    let is_card = digits.len() == 16 && digits.iter().all(u8::is_ascii_digit);
    let last = payment.card.get(12..).filter(|_| is_card);
    let refused = || Failure::new(StatusCode::PAYMENT_REQUIRED, "the card was refused");
    let last = last.ok_or_else(refused)?.to_owned();
    let insert = "INSERT OR IGNORE INTO payment VALUES (?1, ?2, ?3)";
    let (order, cents) = (payment.order, payment.cents);
    db.write(move |tx| tx.execute(insert, (order, last, cents)))
        .await?;
    Ok(Json(json!({ "paid": cents })))
}

/// Gives the money of an order back. To be called when nothing is sold for it.
async fn give_back(State(db): State<Db>, Path(order): Path<String>) -> Answer<StatusCode> {
    let delete = "DELETE FROM payment WHERE order_id = ?1";
    db.write(move |tx| tx.execute(delete, [order])).await?;
    Ok(StatusCode::NO_CONTENT)
}
