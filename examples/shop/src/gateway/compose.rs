//! Pages that are made of the answers of several services.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::header::{ACCEPT_LANGUAGE, CACHE_CONTROL, VARY};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::join;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::plan::Name;
use crate::product::{Product, Review};
use crate::service::failure::{Answer, Failure};
use crate::service::values::Found;
use crate::service::{Service, uncached};

/// For five seconds a page is fresh; for another five minutes it is shown while it is made anew. A change of what matters
/// invalidates it, so only the number of pieces and the recommendations on it may be older than in their services.
const SHOWN: &str = "max-age=5, stale-while-revalidate=300";
/// The header that says how long, to the cache of the gateway alone.
pub(super) const TO_GATEWAYS: HeaderName = HeaderName::from_static("gateway-cache-control");
/// No invalidation reaches a browser, so it asks each time.
const TO_OTHERS: (HeaderName, &str) = (CACHE_CONTROL, "no-cache");
/// A page with an old piece is not kept: the next one may be better.
const DEGRADED: &str = "no-store";

/// The product that a response is about, for its tag. Only the handler knows: a path has many spellings.
#[derive(Clone, Copy)]
pub(super) struct About(pub(super) u64);

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    RawQuery(query): RawQuery,
) -> Answer<impl IntoResponse> {
    let path = query.map_or("/products".to_owned(), |query| format!("/products?{query}"));
    let products: Vec<Product> = service.peers.get(Name::Product, &path).await?;
    Ok(([(TO_GATEWAYS, SHOWN), TO_OTHERS], Json(products)))
}

/// A piece of a page: its value and how it was found, or why it is missing.
fn piece<T: serde::Serialize>(piece: &Answer<Found<T>>) -> Value {
    match piece {
        Ok(found) => json!(found),
        Err(failure) => json!({ "missing": failure.text }),
    }
}

fn is_current<T>(piece: &Answer<Found<T>>) -> bool {
    piece.as_ref().is_ok_and(|found| !found.how.is_old)
}

pub(super) async fn product(
    State(service): State<Arc<Service>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
) -> Answer<Response> {
    let (products, stocks, all) = (Name::Product, Name::Inventory, Name::Recommendation);
    let (product, price, reviews, stock, together) = join!(
        get::<Product>(&service, products, format!("/products/{id}")),
        get::<u64>(&service, products, format!("/products/{id}/price")),
        get::<Vec<Review>>(&service, products, format!("/products/{id}/reviews")),
        get::<u64>(&service, stocks, format!("/stock/{id}")),
        get::<Vec<u64>>(&service, all, format!("/together/{id}")),
    );
    if let Err(
        failure @ Failure {
            status: StatusCode::NOT_FOUND,
            ..
        },
    ) = product
    {
        return Err(failure);
    }
    let is_current = is_current(&product)
        && is_current(&price)
        && is_current(&reviews)
        && is_current(&stock)
        && is_current(&together);
    let language = headers
        .get(ACCEPT_LANGUAGE)
        .and_then(|value| value.to_str().ok());
    let is_german = language.is_some_and(|language| language.starts_with("de"));
    let shown = price
        .as_ref()
        .ok()
        .map(|found| in_words(found.value, is_german));
    let page = json!({
        "id": id,
        "product": piece(&product),
        "price": piece(&price),
        "price_shown": shown,
        "reviews": piece(&reviews),
        "stock": piece(&stock),
        "together": piece(&together),
    });
    let headers = [
        (TO_GATEWAYS, if is_current { SHOWN } else { DEGRADED }),
        TO_OTHERS,
        (VARY, "accept-language"),
    ];
    Ok((Extension(About(id)), headers, Json(page)).into_response())
}

/// The same without any cache: each piece is read from its database.
pub(super) async fn uncached_product(
    service: State<Arc<Service>>,
    id: Path<u64>,
    headers: HeaderMap,
) -> Answer<Response> {
    uncached::during(product(service, id, headers)).await
}

async fn get<T: DeserializeOwned>(service: &Service, from: Name, path: String) -> Answer<Found<T>> {
    service.peers.get(from, &path).await
}

fn in_words(cents: u64, is_german: bool) -> String {
    let (whole, rest) = (cents / 100, cents % 100);
    if is_german {
        format!("{whole},{rest:02} €")
    } else {
        format!("€{whole}.{rest:02}")
    }
}
