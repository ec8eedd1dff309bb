//! The customers: they come at random times, whether or not the shop keeps up, and look at a few products most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use rand::distr::weighted::WeightedIndex;
use rand::distr::{Distribution as _, Uniform};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::seen::Seen;
use crate::plan::{Name, Plan};
use crate::product::PRODUCTS;
use crate::run::redis::Redis;
use crate::service::failure::Trouble;
use crate::service::watch::Report;
use crate::user::PASSWORD;

/// Between two requests of a customer, in the mean.
const THINKS: f64 = 10.0;
/// How long a customer waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many sessions there are. More would only show how long a login takes.
const SESSIONS: u64 = 50;
/// How many customers ask for one product at once, in a stampede.
const CROWD: usize = 200;

/// What the customers of one shop have seen, and what it has cost.
pub(super) struct Tally {
    /// How long each product page took, in µs, from the moment at which its customer came.
    pub(super) pages: Histogram<u64>,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) stale: u64,
    pub(super) queries: u64,
    pub(super) commands: u64,
    /// Queries for one product that was renamed while many were asking for it.
    pub(super) stampede: u64,
}

impl Tally {
    pub(super) fn new() -> Result<Self, Trouble> {
        Ok(Self {
            pages: Histogram::new(3)?,
            requests: 0,
            errors: 0,
            stale: 0,
            queries: 0,
            commands: 0,
            stampede: 0,
        })
    }

    pub(super) fn add_costs(&mut self, before: Costs, after: Costs) {
        self.queries += after.queries.saturating_sub(before.queries);
        self.commands += after.commands.saturating_sub(before.commands);
    }

    fn add(&mut self, outcome: &Outcome) {
        self.requests += 1;
        self.errors += u64::from(!outcome.is_ok);
        self.stale += u64::from(outcome.is_stale);
        if outcome.is_page {
            let took = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
            // It grows as it has to.
            _ = self.pages.record(took);
        }
    }
}

/// The counters of a shop since it was started.
#[derive(Clone, Copy)]
pub(super) struct Costs {
    queries: u64,
    commands: u64,
}

struct Outcome {
    took: Duration,
    is_page: bool,
    is_ok: bool,
    is_stale: bool,
}

/// The customers of one shop.
pub(super) struct Driver {
    /// How many come in a second.
    rate: f64,
    random: StdRng,
    shop: Arc<Shop>,
}

struct Shop {
    plan: Plan,
    client: Client,
    /// Those of customers who have logged in.
    sessions: Vec<String>,
    products: WeightedIndex<f64>,
    seen: Seen,
}

/// What a customer does.
#[derive(Clone, Copy)]
enum Visit {
    Page(u64),
    List,
    View(u64),
    Account(usize),
    Order(u64, usize),
    Rename(u64),
}

impl Driver {
    pub(super) async fn new(plan: Plan, users: u32) -> Result<Self, Trouble> {
        let client = Client::builder().timeout(PATIENCE).build()?;
        let log_in = (1..=SESSIONS).map(async |user| {
            let body = json!({ "login": format!("user-{user}"), "password": PASSWORD });
            let url = format!("http://{}/api/login", plan.address((Name::Gateway, 0)));
            let answer = client
                .post(url)
                .json(&body)
                .send()
                .await?
                .error_for_status()?;
            let cookie = answer.headers().get("set-cookie");
            let cookie = cookie
                .and_then(|cookie| cookie.to_str().ok())
                .unwrap_or_default();
            let session = cookie.split(';').next().unwrap_or_default();
            Ok::<_, reqwest::Error>(session.to_owned())
        });
        let sessions = join_all(log_in)
            .await
            .into_iter()
            .collect::<Result<_, _>>()?;
        Ok(Self {
            rate: f64::from(users) / THINKS,
            // The same customers in each shop.
            random: StdRng::seed_from_u64(1),
            shop: Arc::new(Shop {
                plan,
                client,
                sessions,
                products: WeightedIndex::new((1..=PRODUCTS).map(|rank| 1.0 / f64::from(rank)))?,
                seen: Seen::default(),
            }),
        })
    }

    /// Lets customers come for so long, and waits until the last has gone.
    pub(super) async fn slice(&mut self, long: Duration, tally: &mut Tally) -> Result<(), Trouble> {
        let mut visits = JoinSet::new();
        let even = Uniform::new(f64::MIN_POSITIVE, 1.0)?;
        let (began, mut at) = (tokio::time::Instant::now(), Duration::ZERO);
        loop {
            // The times between arrivals that do not depend on each other.
            at += Duration::from_secs_f64(-even.sample(&mut self.random).ln() / self.rate);
            if at >= long {
                break;
            }
            let visit = self.choose();
            let (shop, gateway) = (Arc::clone(&self.shop), self.random.random());
            sleep_until(began + at).await;
            // From when the customer was to come: a shop that is late is late for this one, too.
            let came = (began + at).into_std();
            visits.spawn(async move { shop.visit(visit, gateway, came).await });
        }
        while let Some(outcome) = visits.join_next().await {
            tally.add(&outcome?);
        }
        Ok(())
    }

    fn choose(&mut self) -> Visit {
        let random = &mut self.random;
        let id = 1 + self.shop.products.sample(random) as u64;
        let session = random.random_range(..self.shop.sessions.len());
        match random.random_range(..1000_u32) {
            ..800 => Visit::Page(id),
            800..880 => Visit::List,
            880..950 => Visit::View(id),
            950..980 => Visit::Account(session),
            980..995 => Visit::Order(id, session),
            _ => Visit::Rename(id),
        }
    }

    /// Renames a product while many ask for it, and counts the queries.
    pub(super) async fn stampede(&mut self, tally: &mut Tally) -> Result<(), Trouble> {
        let (shop, id) = (&self.shop, 3);
        for _ in 0..3 {
            let before = shop.queries().await?;
            let renamed = shop.visit(Visit::Rename(id), 0, Instant::now());
            let crowd = (0..CROWD).map(|n| {
                let gateway = u16::try_from(n).unwrap_or(0);
                shop.visit(Visit::Page(id), gateway, Instant::now())
            });
            renamed.await;
            join_all(crowd).await;
            tally.stampede += shop.queries().await?.saturating_sub(before);
        }
        Ok(())
    }

    pub(super) async fn costs(&self, redis: Option<&Redis>) -> Result<Costs, Trouble> {
        let commands = match redis {
            Some(redis) => redis.commands().await?,
            None => 0,
        };
        Ok(Costs {
            queries: self.shop.queries().await?,
            commands,
        })
    }
}

impl Shop {
    async fn queries(&self) -> Result<u64, Trouble> {
        let url = format!(
            "http://{}/operate/report",
            self.plan.address((Name::Gateway, 0))
        );
        let reports: Vec<Report> = self.client.get(url).send().await?.json().await?;
        Ok(reports.iter().map(|report| report.queries).sum())
    }

    async fn visit(&self, visit: Visit, gateway: u16, came: Instant) -> Outcome {
        let gateway = gateway % self.plan.instances;
        let address = self.plan.address((Name::Gateway, gateway));
        let number = match visit {
            Visit::Rename(id) => self.seen.next(id),
            _ => 0,
        };
        let (method, path, body) = match visit {
            Visit::Page(id) => (Method::GET, format!("products/{id}"), Value::Null),
            Visit::List => (Method::GET, "products?category=green".into(), Value::Null),
            Visit::View(id) => (Method::POST, format!("api/views/{id}"), Value::Null),
            Visit::Account(_) => (Method::GET, "api/me".into(), Value::Null),
            Visit::Order(id, _) => {
                let order = json!({ "product": id, "card": "4111111111111111" });
                (Method::POST, "api/orders".into(), order)
            }
            Visit::Rename(id) => {
                let name = format!("Tea {id} #{number}");
                (Method::PUT, format!("api/products/{id}/name"), name.into())
            }
        };
        let mut request = self
            .client
            .request(method, format!("http://{address}/{path}"));
        if !body.is_null() {
            request = request.json(&body);
        }
        if let Visit::Account(session) | Visit::Order(_, session) = visit
            && let Some(cookie) = self.sessions.get(session)
        {
            request = request.header("cookie", cookie);
        }
        let asked = Instant::now();
        let answer = async {
            let answer = request.send().await?.error_for_status()?;
            answer.bytes().await
        };
        let answer = answer.await;
        let mut outcome = Outcome {
            took: came.elapsed(),
            is_page: matches!(visit, Visit::Page(_)),
            is_ok: answer.is_ok(),
            is_stale: false,
        };
        match (visit, answer) {
            (Visit::Rename(id), Ok(_)) => self.seen.changed(id, number),
            (Visit::Page(id), Ok(page)) => {
                let page: Value = serde_json::from_slice(&page).unwrap_or_default();
                let name = page.pointer("/product/value/name").and_then(Value::as_str);
                outcome.is_stale = name.is_some_and(|name| self.seen.is_stale(id, name, asked));
            }
            _ => {}
        }
        outcome
    }
}
