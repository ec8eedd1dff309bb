//! The HTTP surface: `/products/{id}`, `/health` and `/stats`.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use larder::{Entry, Source, WriteError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::catalog::Catalog;
use crate::error::ApiError;
use crate::product::{Draft, Product, parse_id};

/// The largest body in bytes, far more than a product needs.
const BODY_LIMIT: usize = 16 * 1024;

pub(crate) fn router(catalog: Catalog) -> Router {
    Router::new()
        .route(
            "/products/{id}",
            get(read_product).put(put_product).delete(delete_product),
        )
        .route("/health", get(health))
        .route("/stats", get(stats))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(catalog)
}

async fn read_product(State(catalog): State<Catalog>, Id(id): Id) -> Result<Response, ApiError> {
    let entry = catalog.find(id).await?;
    let answer = match entry.value() {
        Some(product) => Json(product).into_response(),
        None => ApiError::no_product(id).into_response(),
    };
    Ok((cache_headers(&entry), answer).into_response())
}

async fn put_product(
    State(catalog): State<Catalog>,
    Id(id): Id,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    // The content type is ignored: the service accepts JSON only.
    let draft = Draft::parse(&body?)?;
    let written = catalog.put(id, draft).await?;
    let header = invalidation_header(written.invalidated)?;
    Ok((header, Json(written.stored)).into_response())
}

async fn delete_product(State(catalog): State<Catalog>, Id(id): Id) -> Result<Response, ApiError> {
    let written = catalog.delete(id).await?;
    let answer = if written.stored {
        StatusCode::NO_CONTENT.into_response()
    } else {
        ApiError::no_product(id).into_response()
    };
    let header = invalidation_header(written.invalidated)?;
    Ok((header, answer).into_response())
}

#[derive(Serialize)]
struct HealthReport {
    status: &'static str,
    l2: &'static str,
    listener: &'static str,
}

/// Always 200, so that a readiness probe may ask for it: without Redis the database answers, and an outage must not take
/// all instances out of service. Alerts look at the status.
async fn health(State(catalog): State<Catalog>) -> Json<HealthReport> {
    let health = catalog.cache().health();
    Json(HealthReport {
        status: if health.is_ok() { "ok" } else { "degraded" },
        l2: if health.is_l2_up() { "up" } else { "down" },
        listener: if health.is_subscriber_live() {
            "live"
        } else {
            "lapsed"
        },
    })
}

async fn stats(State(catalog): State<Catalog>) -> Json<Value> {
    let stats = catalog.cache().stats();
    Json(json!({
        "l1_hits": stats.l1_hits,
        "l2_hits": stats.l2_hits,
        "loads": stats.loads,
        "refreshes": stats.refreshes,
        "invalidations_sent": stats.invalidations_sent,
        "invalidations_received": stats.invalidations_received,
        "l1_flushes": stats.l1_flushes,
        "replays": stats.replays,
        "l2_errors": stats.l2_errors,
        "decode_errors": stats.decode_errors,
        "l1_entries": stats.l1_entries,
    }))
}

async fn unknown_path(uri: Uri) -> ApiError {
    let path = uri.path();
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at {path}; there are /products/{{id}}, /health and /stats"),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible at {path}"),
    )
}

/// Where the answer came from, how old it is, and whether other instances can read it from Redis.
fn cache_headers(entry: &Entry<Option<Product>>) -> [(&'static str, String); 5] {
    let meta = entry.meta();
    let source = match meta.source() {
        Source::L1 => "l1",
        Source::L2 => "l2",
        _ => "loaded",
    };
    [
        ("x-cache", source.to_owned()),
        ("x-cache-stale", meta.is_stale().to_string()),
        ("x-cache-unproven", meta.is_unproven().to_string()),
        ("x-cache-stored", meta.version().is_some().to_string()),
        ("x-cache-age-ms", meta.age().as_millis().to_string()),
    ]
}

/// `deferred` when the write is stored, and the invalidation is sent as soon as Redis is back.
fn invalidation_header(
    invalidated: Result<(), WriteError>,
) -> Result<[(&'static str, &'static str); 1], ApiError> {
    let state = match invalidated {
        Ok(()) => "done",
        Err(error) if error.is_deferred() => "deferred",
        Err(error) => return Err(ApiError::internal(&error)),
    };
    Ok([("x-invalidation", state)])
}

/// The id in the path.
struct Id(u64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<String>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        parse_id(&path?)
            .map(Self)
            .map_err(|problem| ApiError::new(StatusCode::BAD_REQUEST, problem))
    }
}
