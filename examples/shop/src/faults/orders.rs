//! No piece is sold twice: orders, the pieces that were sold and those that are left belong together.

use std::collections::HashMap;

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::time::sleep;

use super::WAVE;
use super::found::Found;
use crate::customers::driver::SESSIONS;
use crate::customers::visit::{Customers, Visit};
use crate::plan::Name;
use crate::service::failure::Trouble;

/// How many pieces there are of the product that many want at once, and how many these are.
const PIECES: u64 = 20;
const CROWD: u16 = 12;

/// The state of the stock before a fault, and the orders that were accepted since.
pub(super) struct Orders {
    wanted: u64,
    before: HashMap<u64, Stock>,
    accepted: HashMap<u64, u64>,
}

/// Of a product.
#[derive(Clone, Copy, Default)]
struct Stock {
    sold: u64,
    left: u64,
    orders: u64,
}

impl Orders {
    /// With few pieces of this product.
    pub(super) async fn new(customers: &Customers, wanted: u64) -> Result<Self, Trouble> {
        let path = format!("operate/stock/{wanted}");
        let set = customers.request(Method::POST, 0, &path).json(&PIECES);
        set.send().await?.error_for_status()?;
        Ok(Self {
            wanted,
            before: stock(customers).await?,
            accepted: HashMap::new(),
        })
    }

    /// Many order the product at once. How many got a piece.
    pub(super) async fn rush(&self, customers: &Customers) -> u64 {
        let orders = (0..CROWD).map(|n| {
            let order = Visit::Order(self.wanted, usize::from(n) % SESSIONS);
            customers.visit(order, n)
        });
        let orders = join_all(orders).await.into_iter();
        orders.filter(|order| order.answer.is_ok()).count() as u64
    }

    /// Twice, a wave after the other.
    pub(super) async fn waves(&self, customers: &Customers) -> u64 {
        let first = self.rush(customers).await;
        sleep(WAVE).await;
        first + self.rush(customers).await
    }

    pub(super) fn accept(&mut self, product: u64, many: u64) {
        *self.accepted.entry(product).or_default() += many;
    }

    pub(super) fn accept_rush(&mut self, many: u64) {
        self.accept(self.wanted, many);
    }

    /// To be called when no order is under way.
    pub(super) async fn check(
        &self,
        customers: &Customers,
        found: &mut Found,
    ) -> Result<(), Trouble> {
        for (product, now) in stock(customers).await? {
            let before = self.before.get(&product).copied().unwrap_or_default();
            let accepted = self.accepted.get(&product).copied().unwrap_or(0);
            let (sold, orders) = (now.sold - before.sold, now.orders - before.orders);
            found.orders += accepted;
            let were = before.left;
            let facts = json!({
                "product": product, "pieces": were, "left": now.left, "sold": sold, "orders": orders, "accepted": accepted,
            });
            found.check(accepted + now.left <= were, || format!("oversold: {facts}"));
            found.check(sold + now.left == were, || {
                format!("pieces do not add up: {facts}")
            });
            found.check(orders == sold, || {
                format!("orders are not what was sold: {facts}")
            });
            found.check(accepted <= sold, || {
                format!("an accepted order was not sold: {facts}")
            });
        }
        Ok(())
    }
}

/// Of each product, as the databases have it.
async fn stock(customers: &Customers) -> Result<HashMap<u64, Stock>, Trouble> {
    let sold: Vec<(u64, u64, u64)> = customers.ask((Name::Inventory, 0), "sold").await?;
    let orders: Vec<(u64, u64)> = customers.ask((Name::Order, 0), "orders").await?;
    let orders: HashMap<_, _> = orders.into_iter().collect();
    let each = sold.into_iter().map(|(product, sold, left)| {
        let orders = orders.get(&product).copied().unwrap_or(0);
        (product, Stock { sold, left, orders })
    });
    Ok(each.collect())
}
