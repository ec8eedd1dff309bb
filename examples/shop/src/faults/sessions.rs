//! No instance accepts a session after its logout was acknowledged.

use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use reqwest::{Method, StatusCode};
use tokio::time::{sleep, sleep_until};

use super::WAVE;
use super::found::Found;
use crate::customers::seen::BOUND;
use crate::customers::visit::Customers;
use crate::plan::Name;
use crate::service::failure::Trouble;
use crate::user::LATER;

/// How long an instance may take to say whether it accepts one. One that is paused does not.
const LIMIT: Duration = Duration::from_secs(1);
/// The users who log out come after those who stay.
const FIRST: u64 = 500;

/// Sessions that end during a fault. Each is in the L1 of all instances before.
pub(super) struct Sessions {
    open: Vec<String>,
    /// From when on no instance may accept it.
    ended: Vec<(String, Instant)>,
    /// Those whose logout is to be carried out when Redis answers.
    deferred: Vec<(String, Instant)>,
}

impl Sessions {
    pub(super) async fn new(customers: &Customers, many: usize) -> Result<Self, Trouble> {
        let users = (FIRST..).take(many);
        let open = try_join_all(users.map(|user| customers.session(user))).await?;
        for session in &open {
            let of = accepting(customers, session).await;
            let all = usize::from(customers.plan.instances(Name::User));
            if of.len() < all {
                return Err(format!("a new session is accepted by {} of {all}", of.len()).into());
            }
        }
        Ok(Self {
            open,
            ended: Vec::new(),
            deferred: Vec::new(),
        })
    }

    /// So many log out at once. Looks at each at once that was acknowledged.
    async fn log_out(&mut self, many: usize, customers: &Customers, found: &mut Found) {
        let open: Vec<_> = self.open.drain(..many).collect();
        let each = (0..).zip(open).map(async |(gateway, session)| {
            let request = customers.request(Method::POST, gateway, "api/logout");
            let answer = async {
                let answer = request.header("cookie", &session).send().await?;
                Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
            };
            let (answer, at) = (answer.await, Instant::now());
            let accepting = accepting(customers, &session).await;
            (session, answer, at, accepting)
        });
        for (session, answer, at, accepting) in join_all(each).await {
            match answer {
                Ok((StatusCode::NO_CONTENT, _)) => {
                    found.logouts += 1;
                    check(&accepting, at, found);
                    self.ended.push((session, at));
                }
                Ok((_, text)) if text.contains(LATER) => self.deferred.push((session, at + BOUND)),
                // Nobody knows whether it was carried out.
                _ => {}
            }
        }
    }

    /// Half of them log out, and the others a wave later. Looks at those again that have ended when the fault is over.
    pub(super) async fn waves(&mut self, over: Instant, customers: &Customers, found: &mut Found) {
        self.log_out(self.open.len() / 2, customers, found).await;
        sleep(WAVE).await;
        self.log_out(self.open.len(), customers, found).await;
        sleep_until(over.into()).await;
        self.check(customers, found).await;
    }

    /// Of those for which it is time. While Redis is away, no instance knows of a logout that is deferred, but none uses
    /// its copies for longer than the bound.
    async fn check(&self, customers: &Customers, found: &mut Found) {
        for (session, from) in self.ended.iter().chain(&self.deferred) {
            if Instant::now() >= *from {
                check(&accepting(customers, session).await, *from, found);
            }
        }
    }

    /// When Redis has been told of all: from the bound after that.
    pub(super) async fn check_at_the_end(
        &mut self,
        customers: &Customers,
        well: Instant,
        found: &mut Found,
    ) {
        for (_, from) in &mut self.deferred {
            *from = well + BOUND;
            found.logouts += 1;
        }
        if !self.deferred.is_empty() {
            sleep_until((well + BOUND).into()).await;
        }
        self.check(customers, found).await;
    }
}

fn check(accepting: &[u16], from: Instant, found: &mut Found) {
    found.check(accepting.is_empty(), || {
        let late = from.elapsed();
        format!("a session that ended {late:?} ago is accepted by the instances {accepting:?}")
    });
}

/// The instances that accept a session.
async fn accepting(customers: &Customers, session: &str) -> Vec<u16> {
    let id = session.split_once('=').map_or("", |(_, id)| id);
    let each = (0..customers.plan.instances(Name::User)).map(async |instance| {
        let address = customers.plan.address((Name::User, instance));
        let request = customers
            .client
            .get(format!("http://{address}/sessions/{id}"));
        let answer = request.timeout(LIMIT).send().await;
        answer
            .is_ok_and(|answer| answer.status().is_success())
            .then_some(instance)
    });
    join_all(each).await.into_iter().flatten().collect()
}
