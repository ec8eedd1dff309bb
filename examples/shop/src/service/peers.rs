//! Requests to other services: to each instance in its turn, and to the next one if one cannot be reached.
//!
//! Each service has a limit of requests at a time, a rate and a circuit breaker: one that is slow or away does not hold up
//! the others. The breaker opens when no instance answers several requests in a row. An error is an answer: a service
//! whose database is broken still has what is in its caches, and nobody would get it through an open breaker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use reqwest::{Client, Method, Request, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};
use tower_resilience_circuitbreaker::{CircuitBreakerHandle, CircuitBreakerLayer, CircuitState};

use super::failure::{Answer, Failure, Trouble};
use super::uncached;
use crate::plan::{Instance, Name, Plan};

const SECOND: Duration = Duration::from_secs(1);
/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How many requests to a service are under way at a time. What is more is refused.
const AT_ONCE: usize = 128;
/// How many are sent to a service in a second. What is more waits.
const RATE: u64 = 10_000;

/// After how many failures the breaker of a service opens. For a second it lets nothing pass, and then a few to try.
const IN_A_ROW: usize = 10;
const TRIED: usize = 3;

pub(crate) struct Peers {
    plan: Plan,
    pub(crate) client: Client,
    each: HashMap<Name, Peer>,
    sent: Sent,
}

/// How many requests each instance has got from this one.
type Sent = Arc<HashMap<Instance, AtomicU64>>;

/// Another service.
struct Peer {
    sends: BoxCloneSyncService<Request, Response, BoxError>,
    breaker: CircuitBreakerHandle,
}

impl Peers {
    pub(crate) fn new(plan: Plan) -> Result<Self, Trouble> {
        let client = Client::builder().connect_timeout(LIMIT).build()?;
        let counters = plan.all().map(|instance| (instance, AtomicU64::new(0)));
        let sent = Arc::new(counters.collect());
        let each = Name::ALL.map(|to| {
            let instances = Instances {
                to,
                plan,
                client: client.clone(),
                next: AtomicU16::new(0),
                sent: Arc::clone(&sent),
            };
            Ok((to, Peer::new(instances)?))
        });
        Ok(Self {
            each: each.into_iter().collect::<Result<_, Trouble>>()?,
            plan,
            client,
            sent,
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
        let peer = self.each.get(&to);
        let peer = peer.ok_or_else(|| Failure::not_found("service"))?;
        // Each instance is sent a copy, with a port of its own.
        let url = format!("http://{}{path}", self.plan.address((to, 0)));
        let request = uncached::pass_on(self.client.request(method, url).timeout(LIMIT));
        let response = peer.sends.clone().oneshot(with(request).build()?).await;
        let response = response.map_err(|error| {
            let text = format!("{to} cannot be asked: {error}");
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(response).await)
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

    /// The services to which a breaker lets no request pass, or only a few to try.
    pub(crate) fn broken(&self) -> Vec<Name> {
        let is_broken = |name: &Name| {
            let peer = self.each.get(name);
            peer.is_some_and(|peer| peer.breaker.state() != CircuitState::Closed)
        };
        Name::ALL.into_iter().filter(is_broken).collect()
    }

    /// How many requests each instance has got from this one.
    pub(crate) fn sent(&self) -> HashMap<Instance, u64> {
        let counts = self.sent.iter();
        counts
            .map(|(instance, count)| (*instance, count.load(Ordering::Relaxed)))
            .collect()
    }
}

impl Peer {
    fn new(instances: Instances) -> Result<Self, Trouble> {
        let (layer, breaker) = CircuitBreakerLayer::builder()
            .consecutive_failures(IN_A_ROW)
            .wait_duration_in_open(SECOND)
            .permitted_calls_in_half_open(TRIED)
            .build_with_handle()?;
        let instances = Arc::new(instances);
        let sends = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(AT_ONCE)
            .layer(layer)
            .buffer(AT_ONCE)
            .rate_limit(RATE, SECOND)
            .service_fn(move |request| {
                let instances = Arc::clone(&instances);
                async move { instances.send(request).await }
            });
        Ok(Self {
            sends: BoxCloneSyncService::new(sends),
            breaker,
        })
    }
}

/// The instances of a service.
struct Instances {
    to: Name,
    plan: Plan,
    client: Client,
    next: AtomicU16,
    sent: Sent,
}

impl Instances {
    async fn send(&self, mut request: Request) -> reqwest::Result<Response> {
        let all = self.plan.instances(self.to);
        // The counter is read once: other requests advance it, and two reads may name the instance that failed twice.
        let first = self.next.fetch_add(1, Ordering::Relaxed) % all;
        let mut tried = 0;
        loop {
            let instance = (self.to, (first + tried) % all);
            let port = self.plan.address(instance).port();
            // An URL of http has a port.
            _ = request.url_mut().set_port(Some(port));
            if let Some(count) = self.sent.get(&instance) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let again = request.try_clone();
            tried += 1;
            match (self.client.execute(request).await, again) {
                // Nothing was sent, or it may be sent again: the next instance may do it.
                (Err(error), Some(again))
                    if tried < all
                        && (error.is_connect()
                            || again.method() == Method::GET && !error.is_timeout()) =>
                {
                    request = again;
                }
                (done, _) => return done,
            }
        }
    }
}

/// The error of another service, as it was meant.
async fn refused(response: Response) -> Failure {
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    let text = body.get("error").and_then(Value::as_str);
    Failure::new(status, text.unwrap_or("it does not say why"))
}
