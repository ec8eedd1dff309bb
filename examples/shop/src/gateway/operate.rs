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

/// Sends the same to some instances. The answers of those that have one.
async fn tell(
    service: &Service,
    which: impl Fn(Instance) -> bool,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Vec<(Instance, Value)> {
    let plan = service.setup.plan;
    let told = plan.all().filter(|instance| which(*instance));
    let each = told.map(async |instance| {
        let url = format!("http://{}/internal{path}", plan.address(instance));
        let mut request = service.peers.client.request(method.clone(), url);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        let is_done = response.status().is_success();
        let answer = response.json().await.unwrap_or_default();
        is_done.then_some((instance, answer))
    });
    join_all(each).await.into_iter().flatten().collect()
}

/// Asks some instances for a path.
async fn ask(
    service: &Service,
    name: Name,
    path: &str,
) -> Vec<(u16, Result<reqwest::Response, reqwest::Error>)> {
    let plan = service.setup.plan;
    let each = (0..plan.instances(name)).map(async |instance| {
        let url = format!("http://{}{path}", plan.address((name, instance)));
        let request = service.peers.client.get(url).timeout(LIMIT);
        (instance, request.send().await)
    });
    join_all(each).await
}

/// How each gateway, and each instance of the product service, calls a product.
async fn pages(State(service): State<Arc<Service>>, Path(id): Path<u64>) -> Json<Value> {
    let path = format!("/products/{id}");
    let mut all = Vec::new();
    for name in [Name::Gateway, Name::Product] {
        for (instance, response) in ask(&service, name, &path).await {
            let page: Value = match response {
                Ok(response) => response.json().await.unwrap_or_default(),
                Err(_) => Value::Null,
            };
            let called = page.pointer("/product/value/name");
            let called = called.or_else(|| page.pointer("/value/name"));
            all.push(json!({ "service": name, "instance": instance, "name": called }));
        }
    }
    Json(all.into())
}

/// On which instances the session of this client goes on.
async fn sessions(State(service): State<Arc<Service>>, jar: CookieJar) -> Answer<Json<Value>> {
    let path = format!("/sessions/{}", session(&jar)?);
    let answers = ask(&service, Name::User, &path).await;
    let each = answers.into_iter().map(|(instance, response)| {
        let is_in = response.is_ok_and(|response| response.status().is_success());
        json!({ "instance": instance, "is_in": is_in })
    });
    Ok(Json(each.collect()))
}

/// The counters of each cache in the whole fleet, from the first instance that has it.
async fn totals(State(service): State<Arc<Service>>) -> Json<Value> {
    let all = tell(
        &service,
        |(_, instance)| instance == 0,
        Method::GET,
        "/totals",
        None,
    )
    .await;
    let mut totals = serde_json::Map::new();
    for (_, of_instance) in all {
        if let Value::Object(of_instance) = of_instance {
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
    let path = format!("/keys/{cache}/{key}");
    let found = tell(&service, |_| true, Method::GET, &path, None).await;
    let shown = found.into_iter().map(|((name, instance), found)| {
        json!({ "service": name, "instance": instance, "found": found })
    });
    Json(shown.collect())
}

async fn switch(State(service): State<Arc<Service>>, Json(on): Json<bool>) -> Json<Value> {
    let told = tell(&service, |_| true, Method::PUT, "/enabled", Some(on.into())).await;
    Json(json!({ "told": told.len() }))
}

async fn empty_tag(State(service): State<Arc<Service>>, Path(tag): Path<String>) -> Json<Value> {
    // One instance of each service: the tag is that of all.
    let path = format!("/tags/{tag}");
    let told = tell(&service, |(_, n)| n == 0, Method::DELETE, &path, None).await;
    Json(json!({ "told": told.len() }))
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
    let told = tell(
        &service,
        |(of, _)| of == name,
        Method::PUT,
        "/database",
        Some(body),
    )
    .await;
    Json(json!({ "told": told.len() }))
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
