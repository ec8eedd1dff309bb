//! The buttons of the page: what they do in the instances, and in the process that has started these.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_extra::extract::CookieJar;
use futures::future::join_all;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{live, session};
use crate::plan::{Instance, Name};
use crate::service::Service;
use crate::service::failure::{Answer, Failure};
use crate::service::watch::Report;

/// How long an instance may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) fn routes(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/operate/report", get(report))
        .route("/operate/totals", get(totals))
        .route("/operate/keys/{cache}/{key}", get(key))
        .route("/operate/pages/{id}", get(pages))
        .route("/operate/sessions", get(sessions))
        .route("/operate/enabled", post(switch))
        .route("/operate/tags/{tag}", post(empty_tag))
        .route("/operate/stock/{id}", post(set_stock))
        .route("/operate/databases/{service}", post(set_database))
        .route("/operate/processes/{*action}", post(process))
        .with_state(Arc::clone(service))
}

async fn report(State(service): State<Arc<Service>>) -> Json<Vec<Report>> {
    let (client, plan) = (&service.peers.client, service.setup.plan);
    Json(live::reports(client, plan).await)
}

/// Sends the same to some instances. Each answers, or `None` if it has refused or is down.
async fn ask(
    service: &Service,
    which: impl Fn(Instance) -> bool,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Vec<(Instance, Option<Value>)> {
    let plan = service.setup.plan;
    let asked = plan.all().filter(|instance| which(*instance));
    let each = asked.map(async |instance| {
        let url = format!("http://{}{path}", plan.address(instance));
        let mut request = service.peers.client.request(method.clone(), url);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = async {
            let response = request.timeout(LIMIT).send().await.ok()?;
            let is_done = response.status().is_success();
            let answer = response.json().await.unwrap_or_default();
            is_done.then_some(answer)
        };
        (instance, answer.await)
    });
    join_all(each).await
}

/// Has some instances do it. How many have.
async fn tell(
    service: &Service,
    which: impl Fn(Instance) -> bool,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Json<Value> {
    let told = ask(service, which, method, path, body).await;
    let told = told.iter().filter(|(_, answer)| answer.is_some());
    Json(json!({ "told": told.count() }))
}

/// How each gateway, and each instance of the product service, calls a product.
async fn pages(State(service): State<Arc<Service>>, Path(id): Path<u64>) -> Json<Value> {
    let which = |(name, _)| matches!(name, Name::Gateway | Name::Product);
    let path = format!("/products/{id}");
    let pages = ask(&service, which, Method::GET, &path, None).await;
    let called = pages.into_iter().map(|((name, instance), page)| {
        let page = page.unwrap_or_default();
        let called = page.pointer("/product/value/name");
        let called = called.or_else(|| page.pointer("/value/name"));
        json!({ "service": name, "instance": instance, "name": called })
    });
    Json(called.collect())
}

/// On which instances the session of this client goes on.
async fn sessions(State(service): State<Arc<Service>>, jar: CookieJar) -> Answer<Json<Value>> {
    let path = format!("/sessions/{}", session(&jar)?);
    let is_user = |(name, _)| name == Name::User;
    let answers = ask(&service, is_user, Method::GET, &path, None).await;
    let each = answers
        .into_iter()
        .map(|((_, instance), answer)| json!({ "instance": instance, "is_in": answer.is_some() }));
    Ok(Json(each.collect()))
}

/// The counters of each cache in the whole fleet, from the first instance that has it.
async fn totals(State(service): State<Arc<Service>>) -> Json<Value> {
    let is_first = |(_, instance)| instance == 0;
    let all = ask(&service, is_first, Method::GET, "/internal/totals", None).await;
    let mut totals = serde_json::Map::new();
    for (_, of_instance) in all {
        if let Some(Value::Object(of_instance)) = of_instance {
            totals.extend(of_instance);
        }
    }
    Json(totals.into())
}

/// Where a key is: in which L1, and which version.
async fn key(
    State(service): State<Arc<Service>>,
    Path((cache, key)): Path<(String, String)>,
) -> Json<Value> {
    let path = format!("/internal/keys/{cache}/{key}");
    let found = ask(&service, |_| true, Method::GET, &path, None).await;
    let shown = found.into_iter().filter_map(|((name, instance), found)| {
        found.map(|found| json!({ "service": name, "instance": instance, "found": found }))
    });
    Json(shown.collect())
}

async fn switch(State(service): State<Arc<Service>>, Json(on): Json<bool>) -> Json<Value> {
    let path = "/internal/enabled";
    tell(&service, |_| true, Method::PUT, path, Some(on.into())).await
}

async fn empty_tag(State(service): State<Arc<Service>>, Path(tag): Path<String>) -> Json<Value> {
    // One instance of each service: the tag is that of all.
    let path = format!("/internal/tags/{tag}");
    let is_first = |(_, instance)| instance == 0;
    tell(&service, is_first, Method::DELETE, &path, None).await
}

async fn set_stock(
    State(service): State<Arc<Service>>,
    Path(id): Path<u64>,
    Json(pieces): Json<u64>,
) -> Answer<StatusCode> {
    let path = format!("/stock/{id}");
    let with = |request: reqwest::RequestBuilder| request.json(&pieces);
    service
        .peers
        .send(Name::Inventory, Method::PUT, &path, with)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Fault {
    slowed_by: u64,
    is_broken: bool,
}

async fn set_database(
    State(service): State<Arc<Service>>,
    Path(name): Path<Name>,
    Json(fault): Json<Fault>,
) -> Json<Value> {
    let body = json!({ "slowed_by": fault.slowed_by, "is_broken": fault.is_broken });
    let which = |(of, _)| of == name;
    let path = "/internal/database";
    tell(&service, which, Method::PUT, path, Some(body)).await
}

/// By the process that has started the services.
async fn process(
    State(service): State<Arc<Service>>,
    Path(action): Path<String>,
) -> Answer<Json<Value>> {
    let nobody = || {
        let text = "nobody else has started this service: there is nothing to start or kill";
        Failure::new(StatusCode::NOT_IMPLEMENTED, text)
    };
    let (url, password) = service.setup.control.as_ref().ok_or_else(nobody)?;
    let request = service.peers.client.post(format!("{url}/{action}"));
    let response = request.bearer_auth(password).send().await?;
    let status = response.status();
    let text = response.text().await?;
    if status.is_success() {
        return Ok(Json(json!({ "done": text })));
    }
    Err(Failure::new(status, text))
}
