//! The way into the shop: composes product pages, keeps their responses, and serves the page that shows the caches.
//!
//! A product page is made of five pieces from three services, side by side. A piece whose service fails is old, or
//! missing, and the page says so; the others are there. Pages and lists are the same for all clients, so their responses
//! are cached, by tags; carts, accounts and orders are those of one client, and are not.

mod compose;
mod live;
mod operate;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::Cookie;
use larder::Token;
use larder_http::CacheLayer;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use self::compose::About;
use crate::plan::Name;
use crate::service::failure::{Answer, Failure, Trouble};
use crate::service::pages::{self, Pages};
use crate::service::values::Found;
use crate::service::{Service, Way};
use crate::user::{Changed, LogIn, Profile, SEEN, Session};

/// A file of the page, and its type.
macro_rules! file {
    ($name:literal, $kind:literal) => {
        (
            concat!("/page/", $name),
            $kind,
            include_str!(concat!("page/", $name)),
        )
    };
}

/// The page that shows the caches.
const FILES: [(&str, &str, &str); 8] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("page/index.html"),
    ),
    file!("style.css", "text/css"),
    file!("page.js", "text/javascript"),
    file!("tools.js", "text/javascript"),
    file!("picture.js", "text/javascript"),
    file!("figures.js", "text/javascript"),
    file!("looks.js", "text/javascript"),
    file!("buttons.js", "text/javascript"),
];

/// The cookie that holds the session of a client.
const SESSION: &str = "session";

pub(crate) fn routes(service: &Arc<Service>) -> Result<Router, Trouble> {
    let mut shown = Router::new()
        .route("/products", get(compose::list))
        .route("/products/{id}", get(compose::product))
        .with_state(Arc::clone(service));
    if service.setup.way == Way::Larder {
        let layer = layer(service)?;
        service.watch.cache(layer.cache());
        shown = shown.layer(layer);
    }
    let own = Router::new()
        .route("/uncached/products/{id}", get(compose::uncached_product))
        .route("/api/login", post(log_in))
        .route("/api/logout", post(log_out))
        .route("/api/me", get(me))
        .route("/api/me/name", put(rename_me))
        .route("/api/views/{id}", post(view))
        .route("/api/orders", post(order))
        .route("/api/products/{id}/name", put(rename_product))
        .with_state(Arc::clone(service));
    let files = FILES
        .iter()
        .fold(Router::new(), |files, (path, kind, text)| {
            let headers = [(CONTENT_TYPE, *kind), (CACHE_CONTROL, "no-cache")];
            files.route(path, get(async move || (headers, *text)))
        });
    Ok(Router::new()
        .merge(shown)
        .merge(own)
        .merge(operate::routes(service))
        .merge(files)
        .route("/live", get(live::live).with_state(Arc::clone(service))))
}

/// The cache of responses. How long each is fresh is said by its handler.
fn layer(service: &Service) -> Result<CacheLayer, Trouble> {
    let cache = service
        .caches
        .cache(pages::NAME)
        // Pages that cannot be made anew are answered for so long.
        .stale_if_error(Duration::from_secs(10 * 60))
        .l1_capacity_bytes(32 << 20);
    let layer = CacheLayer::new(cache)?.targeted([compose::TO_GATEWAYS]);
    // Each gateway has an address of its own here. Behind a load balancer they would have one name.
    let layer = layer.key(|request| {
        let path = request.uri.path_and_query()?;
        Some(format!("{} {path}", request.method))
    });
    let layer = layer.tags(|_, response| {
        let about: Option<&About> = response.extensions.get();
        vec![about.map_or_else(|| Pages::LISTS.to_owned(), |about| Pages::tag(about.0))]
    });
    Ok(layer)
}

async fn log_in(
    State(service): State<Arc<Service>>,
    jar: CookieJar,
    Json(given): Json<LogIn>,
) -> Answer<(CookieJar, Json<Value>)> {
    let peers = &service.peers;
    let Session { session, user } = peers.post(Name::User, "/sessions", &given).await?;
    let cookie = Cookie::build((SESSION, session)).path("/").http_only(true);
    Ok((jar.add(cookie), Json(json!({ "user": user }))))
}

/// The session of a client. Its cookie may hold any text, and this becomes a part of a path.
fn session(jar: &CookieJar) -> Answer<&str> {
    let session = jar.get(SESSION).map_or("", Cookie::value);
    if session.is_empty() || !session.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::new(StatusCode::UNAUTHORIZED, "log in first"));
    }
    Ok(session)
}

async fn log_out(State(service): State<Arc<Service>>, jar: CookieJar) -> Answer<StatusCode> {
    let path = format!("/sessions/{}", session(&jar)?);
    let sending = service
        .peers
        .send(Name::User, Method::DELETE, &path, |request| request);
    sending.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The user of a session.
async fn user(service: &Service, jar: &CookieJar) -> Answer<u64> {
    let session = session(jar)?;
    service
        .peers
        .get(Name::User, &format!("/sessions/{session}"))
        .await
}

async fn me(State(service): State<Arc<Service>>, jar: CookieJar) -> Answer<Json<Value>> {
    let user = user(&service, &jar).await?;
    let seen = jar.get(SEEN).map(|seen| seen.value().to_owned());
    let with = |request: RequestBuilder| match &seen {
        Some(seen) => request.header(SEEN, seen),
        None => request,
    };
    let path = format!("/users/{user}");
    let found = service
        .peers
        .send(Name::User, Method::GET, &path, with)
        .await?;
    let found: Found<Profile> = found.json().await?;
    Ok(Json(
        json!({ "id": found.value.id, "name": found.value.name, "how": found.how }),
    ))
}

async fn rename_me(
    State(service): State<Arc<Service>>,
    jar: CookieJar,
    Json(name): Json<String>,
) -> Answer<CookieJar> {
    let user = user(&service, &jar).await?;
    let path = format!("/users/{user}/name");
    let with = |request: RequestBuilder| request.json(&name);
    let done = service
        .peers
        .send(Name::User, Method::PUT, &path, with)
        .await?;
    let Changed { seen } = done.json().await?;
    let Some(token) = seen.and_then(|token| token.parse::<Token>().ok()) else {
        return Ok(jar);
    };
    // With what the client has seen before, of whatever value.
    let before = jar.get(SEEN).and_then(|seen| seen.value().parse().ok());
    let both = before.map_or(token.clone(), |before: Token| before.and(token));
    Ok(jar.add(Cookie::build((SEEN, both.to_string())).path("/")))
}

async fn view(State(service): State<Arc<Service>>, Path(id): Path<u64>) -> Answer<Json<Value>> {
    let path = format!("/views/{id}");
    let counted = service
        .peers
        .post(Name::Recommendation, &path, &Value::Null);
    Ok(Json(counted.await?))
}

#[derive(Deserialize)]
struct Order {
    product: u64,
    card: String,
}

async fn order(
    State(service): State<Arc<Service>>,
    jar: CookieJar,
    Json(order): Json<Order>,
) -> Answer<Json<Value>> {
    let user = user(&service, &jar).await?;
    let body = json!({ "user": user, "product": order.product, "card": order.card });
    Ok(Json(
        service.peers.post(Name::Order, "/orders", &body).await?,
    ))
}

/// Open to everybody, as this shop is to be tried.
async fn rename_product(
    State(service): State<Arc<Service>>,
    Path(id): Path<u64>,
    Json(name): Json<String>,
) -> Answer<StatusCode> {
    let path = format!("/products/{id}/name");
    let with = |request: RequestBuilder| request.json(&name);
    service
        .peers
        .send(Name::Product, Method::PUT, &path, with)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
