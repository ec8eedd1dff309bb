//! Requests to other services: to each instance in its turn, and to the next one if one cannot be reached. Each service
//! has a limit of requests at a time: one that is slow does not hold up the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::failure::{Answer, Failure, Trouble};
use crate::plan::{Name, Plan};

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How many requests to a service are under way at a time.
const AT_ONCE: usize = 128;

pub(crate) struct Peers {
    plan: Plan,
    pub(crate) client: Client,
    each: HashMap<Name, Peer>,
}

struct Peer {
    next: AtomicU16,
    at_once: Semaphore,
}

impl Peers {
    pub(crate) fn new(plan: Plan) -> Result<Self, Trouble> {
        let peer = || Peer {
            next: AtomicU16::new(0),
            at_once: Semaphore::new(AT_ONCE),
        };
        Ok(Self {
            plan,
            client: Client::builder().connect_timeout(LIMIT).build()?,
            each: Name::ALL.map(|name| (name, peer())).into(),
        })
    }

    /// Sends a request, to another instance if the first cannot be reached. A status of an error is one.
    pub(crate) async fn send(
        &self,
        to: Name,
        method: Method,
        path: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Answer<Response> {
        let busy = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("{to} is busy"));
        let peer = self.each.get(&to).ok_or_else(busy)?;
        let _permit = peer.at_once.try_acquire().map_err(|_| busy())?;
        let instances = self.plan.instances(to);
        let first = peer.next.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for turn in 0..instances {
            let instance = first.wrapping_add(turn) % instances;
            let url = format!("http://{}{path}", self.plan.address((to, instance)));
            let request = self.client.request(method.clone(), url).timeout(LIMIT);
            match with(request).send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => return Err(refused(response).await),
                // Nothing was sent: the next instance may do it.
                Err(error) if error.is_connect() => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or_else(busy, |error| {
            let text = format!("{to} cannot be reached: {error}");
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, text)
        }))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, from: Name, path: &str) -> Answer<T> {
        let response = self
            .send(from, Method::GET, path, |request| request)
            .await?;
        Ok(response.json().await?)
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        to: Name,
        path: &str,
        body: &impl Serialize,
    ) -> Answer<T> {
        let with = |request: RequestBuilder| request.json(body);
        let response = self.send(to, Method::POST, path, with).await?;
        Ok(response.json().await?)
    }
}

/// The error of another service, as it was meant.
async fn refused(response: Response) -> Failure {
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    let text = body.get("error").and_then(Value::as_str);
    Failure::new(status, text.unwrap_or("it does not say why"))
}
