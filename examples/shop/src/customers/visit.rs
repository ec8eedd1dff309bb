//! One request of one customer.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use rand::Rng;
use rand::distr::Distribution as _;
use rand::distr::weighted::WeightedIndex;
use reqwest::{Client, Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::RwLock;

use super::seen::Seen;
use crate::plan::{Instance, Name, Plan};
use crate::product::PRODUCTS;
use crate::service::failure::Trouble;
use crate::service::watch::Report;
use crate::user::PASSWORD;

/// How long a customer waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// The card that all of them pay with.
pub(crate) const CARD: &str = "4929165830274018";

/// What a customer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    Page(u64),
    List,
    View(u64),
    Account(usize),
    Order(u64, usize),
    Rename(u64),
}

/// What came of a visit.
pub(crate) struct Outcome {
    pub(crate) visit: Visit,
    pub(crate) asked: Instant,
    pub(crate) took: Duration,
    /// The body, or why there is none.
    pub(crate) answer: Result<Value, String>,
    /// If the page is older than it may be: how it calls the product, and the number that its reader could know of.
    pub(crate) stale: Option<(String, u64)>,
}

/// The customers of one shop, and what they know.
pub(crate) struct Customers {
    pub(crate) plan: Plan,
    pub(crate) client: Client,
    /// Those of customers who have logged in.
    sessions: RwLock<Vec<String>>,
    products: WeightedIndex<f64>,
    pub(crate) seen: Seen,
}

impl Customers {
    /// Nobody has logged in yet.
    pub(crate) fn new(plan: Plan) -> Result<Self, Trouble> {
        Ok(Self {
            plan,
            client: Client::builder().no_proxy().timeout(PATIENCE).build()?,
            sessions: RwLock::default(),
            // A few products are looked at most.
            products: WeightedIndex::new((1..=PRODUCTS).map(|rank| 1.0 / f64::from(rank)))?,
            seen: Seen::default(),
        })
    }

    /// A product as they choose it.
    pub(crate) fn product(&self, random: &mut impl Rng) -> u64 {
        1 + self.products.sample(random) as u64
    }

    /// Has so many log in, in the place of those before.
    pub(crate) async fn log_in(&self, many: usize) -> Result<(), Trouble> {
        let sessions = try_join_all((1..).take(many).map(|user| self.session(user))).await?;
        *self.sessions.write().await = sessions;
        Ok(())
    }

    /// Logs a user in. The cookie of the session.
    pub(crate) async fn session(&self, user: u64) -> Result<String, Trouble> {
        let body = json!({ "login": format!("user-{user}"), "password": PASSWORD });
        let request = self.request(Method::POST, 0, "api/login").json(&body);
        let answer = request.send().await?.error_for_status()?;
        let cookie = answer.headers().get("set-cookie");
        let cookie = cookie.and_then(|cookie| cookie.to_str().ok());
        let session = cookie.and_then(|cookie| cookie.split(';').next());
        Ok(session.ok_or("a login has no cookie")?.to_owned())
    }

    pub(crate) async fn reports(&self, gateway: u16) -> Result<Vec<Report>, Trouble> {
        let request = self.request(Method::GET, gateway, "operate/report");
        Ok(request.send().await?.json().await?)
    }

    /// What one instance answers, which no gateway chooses.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        instance: Instance,
        path: &str,
    ) -> Result<T, Trouble> {
        let url = format!("http://{}/{path}", self.plan.address(instance));
        let answer = self.client.get(url).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    /// A request to a gateway.
    pub(crate) fn request(&self, method: Method, gateway: u16, path: &str) -> RequestBuilder {
        let gateway = (Name::Gateway, gateway % self.plan.instances);
        let url = format!("http://{}/{path}", self.plan.address(gateway));
        self.client.request(method, url)
    }

    pub(crate) async fn visit(&self, visit: Visit, gateway: u16) -> Outcome {
        let number = match visit {
            Visit::Rename(id) => self.seen.begin(id),
            _ => None,
        };
        // One change of a product at a time: the others look at it.
        let visit = match (visit, number) {
            (Visit::Rename(id), None) => Visit::Page(id),
            _ => visit,
        };
        let asked = Instant::now();
        let answer = self.answer(visit, gateway, number).await;
        let took = asked.elapsed();
        let answer: Result<Value, _> =
            answer.map(|body| serde_json::from_slice(&body).unwrap_or_default());
        let mut stale = None;
        match (visit, number, &answer) {
            (Visit::Rename(id), Some(number), Ok(_)) => self.seen.changed(id, number),
            (Visit::Page(id), _, Ok(page)) => {
                let name = page.pointer("/product/value/name").and_then(Value::as_str);
                let missed = name.and_then(|name| self.seen.missed(id, name, asked));
                stale = name.map(str::to_owned).zip(missed);
            }
            _ => {}
        }
        Outcome {
            visit,
            asked,
            took,
            answer,
            stale,
        }
    }

    async fn answer(
        &self,
        visit: Visit,
        gateway: u16,
        number: Option<u64>,
    ) -> Result<Vec<u8>, String> {
        let (method, path, body) = match visit {
            Visit::Page(id) => (Method::GET, format!("products/{id}"), Value::Null),
            Visit::List => (Method::GET, "products?category=green".into(), Value::Null),
            Visit::View(id) => (Method::POST, format!("api/views/{id}"), Value::Null),
            Visit::Account(_) => (Method::GET, "api/me".into(), Value::Null),
            Visit::Order(id, _) => {
                let order = json!({ "product": id, "card": CARD });
                (Method::POST, "api/orders".into(), order)
            }
            Visit::Rename(id) => {
                let name = format!("Tea {id} #{}", number.unwrap_or(0));
                (Method::PUT, format!("api/products/{id}/name"), name.into())
            }
        };
        let session = match visit {
            Visit::Account(session) | Visit::Order(_, session) => {
                self.sessions.read().await.get(session).cloned()
            }
            _ => None,
        };
        let mut failure = String::new();
        for turn in 0..self.plan.instances {
            let mut request = self.request(method.clone(), gateway.wrapping_add(turn), &path);
            if !body.is_null() {
                request = request.json(&body);
            }
            if let Some(cookie) = &session {
                request = request.header("cookie", cookie);
            }
            let response = async {
                let response = request.send().await?;
                let status = response.status();
                Ok::<_, reqwest::Error>((status, response.bytes().await?))
            };
            match response.await {
                Ok((status, body)) if status.is_success() => return Ok(body.to_vec()),
                Ok((status, body)) => {
                    return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
                }
                Err(error) => {
                    failure = text(&error);
                    // As a load balancer does: nothing was sent, or it may be sent again, and it has not taken long.
                    if !error.is_connect() && (method != Method::GET || error.is_timeout()) {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }
}

/// With its sources, which say most.
fn text(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| {
        format!("{text}: {source}")
    })
}
