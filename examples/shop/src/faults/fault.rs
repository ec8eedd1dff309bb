//! The faults: how each is caused and healed, and which requests have a fallback meanwhile.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::customers::driver::SESSIONS;
use crate::customers::visit::{Customers, Visit};
use crate::plan::{Instance, Name};
use crate::run::Running;
use crate::service::failure::Trouble;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// `SIGSTOP` and `SIGCONT`: it has what it had.
    RedisPaused,
    /// And an instance that has deferred changes is killed, before Redis goes on: the outbox alone knows of them.
    RedisPausedAnd(Name),
    /// `SIGKILL`, and a start without data.
    RedisKilled,
    /// One `FLUSHALL`.
    RedisFlushed,
    Killed(Name),
    Paused(Name),
    Broken(Name),
    /// By [`SLOW`].
    Slow(Name),
    /// The kill switch of all caches, off and on.
    SwitchedOff,
    TagEmptied,
    /// All sessions of many customers end at once.
    LogoutStorm,
}

/// How long an instance stays away whose changes others deliver.
const ALONE: Duration = Duration::from_secs(2);
/// Added to each query, in ms.
const SLOW: u64 = 300;
const TAG: &str = "category:green";

/// In turn. Of the same kind each turn takes another service.
const KINDS: usize = 11;
const PROCESSES: [Name; 4] = [Name::Gateway, Name::User, Name::Product, Name::Inventory];
const DATABASES: [Name; 6] = [
    Name::Inventory,
    Name::Order,
    Name::Product,
    Name::User,
    Name::Payment,
    Name::Recommendation,
];

impl Fault {
    pub(super) fn of(turn: usize) -> Self {
        let round = turn / KINDS;
        let [process, other] = [round, round + 2].map(|at| one_of(&PROCESSES, at));
        let [database, slow] = [round, round + 3].map(|at| one_of(&DATABASES, at));
        match turn % KINDS {
            0 => Self::RedisPaused,
            1 => Self::Killed(process),
            2 => Self::RedisKilled,
            3 => Self::Broken(database),
            4 => Self::RedisFlushed,
            5 => Self::Paused(other),
            6 => Self::SwitchedOff,
            7 => Self::Slow(slow),
            8 => Self::TagEmptied,
            9 => Self::RedisPausedAnd(Name::Product),
            _ => Self::LogoutStorm,
        }
    }

    /// How long it lasts: if something is paused, longer than the caches may be used without Redis.
    pub(super) fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::RedisPaused | Self::RedisPausedAnd(_) | Self::RedisKilled => 3500,
            Self::Paused(_) => 3000,
            Self::Killed(_) | Self::Broken(_) | Self::Slow(_) | Self::SwitchedOff => 2000,
            Self::RedisFlushed | Self::TagEmptied | Self::LogoutStorm => 1000,
        })
    }

    /// Whether Redis has all that it was given.
    pub(super) fn keeps_redis(self) -> bool {
        !matches!(self, Self::RedisKilled | Self::RedisFlushed)
    }

    /// Whether a request of this kind that fails meanwhile is a violation.
    ///
    /// | request | fallback |
    /// | --- | --- |
    /// | page, list | the other gateway; old or missing pieces; the response that was stored |
    /// | view | it is left out |
    /// | account | the other instance; but only the caches have sessions, and only its database a profile |
    /// | change of a name | its invalidation is deferred; it needs its database |
    /// | order | none: it needs its session, and each database and instance on its way |
    pub(super) fn has_fallback(self, visit: Visit) -> bool {
        let (is_redis_away, one) = match self {
            Self::RedisPaused | Self::RedisKilled | Self::RedisFlushed | Self::SwitchedOff => {
                (true, None)
            }
            Self::RedisPausedAnd(name) => (true, Some(name)),
            Self::Killed(name) | Self::Paused(name) | Self::Broken(name) => (false, Some(name)),
            Self::Slow(_) | Self::TagEmptied | Self::LogoutStorm => (false, None),
        };
        let is_way_cut = self == Self::Killed(Name::Gateway);
        match visit {
            Visit::Page(_) | Visit::List => true,
            Visit::View(_) => !is_way_cut,
            Visit::Account(_) => !is_redis_away && one != Some(Name::User),
            Visit::Rename(_) => !is_way_cut && one != Some(Name::Product),
            Visit::Order(..) => {
                // An order does without recommendations, and a session without the database.
                let done_without = [
                    Self::Broken(Name::Recommendation),
                    Self::Broken(Name::User),
                    Self::Paused(Name::Gateway),
                ];
                !is_redis_away && (one.is_none() || done_without.contains(&self))
            }
        }
    }

    pub(super) async fn cause(self, running: &Running, customers: &Customers) -> Done {
        match self {
            Self::RedisPaused | Self::RedisPausedAnd(_) => {
                customers.seen.redis_goes();
                running.redis()?.signal(Signal::SIGSTOP).await
            }
            Self::RedisKilled => {
                customers.seen.redis_goes();
                running.redis()?.kill().await
            }
            Self::RedisFlushed => running.redis()?.flush().await,
            Self::Killed(name) => running.processes.kill(target(name)).await,
            Self::Paused(name) => {
                running
                    .processes
                    .signal(target(name), Signal::SIGSTOP)
                    .await
            }
            Self::Broken(name) => set_database(customers, name, 0, true).await,
            Self::Slow(name) => set_database(customers, name, SLOW, false).await,
            Self::SwitchedOff => tell(customers, "enabled", json!(false)).await,
            Self::TagEmptied => tell(customers, &format!("tags/{TAG}"), Value::Null).await,
            Self::LogoutStorm => Ok(()),
        }
    }

    pub(super) async fn heal(self, running: &Running, customers: &Customers) -> Done {
        match self {
            Self::RedisPaused => {
                customers.seen.redis_resumes();
                running.redis()?.signal(Signal::SIGCONT).await
            }
            Self::RedisPausedAnd(name) => {
                running.processes.kill(target(name)).await?;
                customers.seen.redis_resumes();
                running.redis()?.signal(Signal::SIGCONT).await?;
                // Another instance has to deliver them: one that starts does so at once.
                sleep(ALONE).await;
                running.processes.start(target(name)).await
            }
            Self::RedisKilled => running.redis()?.restart().await,
            Self::Killed(name) => running.processes.start(target(name)).await,
            Self::Paused(name) => {
                running
                    .processes
                    .signal(target(name), Signal::SIGCONT)
                    .await
            }
            Self::Broken(name) | Self::Slow(name) => set_database(customers, name, 0, false).await,
            Self::SwitchedOff => tell(customers, "enabled", json!(true)).await,
            Self::RedisFlushed | Self::TagEmptied | Self::LogoutStorm => Ok(()),
        }
    }

    /// What the customers have to do once the shop is well.
    pub(super) async fn recover(self, customers: &Customers) -> Done {
        if !self.keeps_redis() {
            customers.log_in(SESSIONS).await?;
        }
        Ok(())
    }
}

type Done = Result<(), Trouble>;

/// The last instance: the first gateway is the one that is asked how the shop is.
fn target(name: Name) -> Instance {
    (name, 1)
}

fn one_of(names: &[Name], at: usize) -> Name {
    let mut names = names.iter().cycle().skip(at);
    names.next().copied().unwrap_or(Name::Gateway)
}

async fn set_database(customers: &Customers, of: Name, slowed_by: u64, is_broken: bool) -> Done {
    let fault = json!({ "slowed_by": slowed_by, "is_broken": is_broken });
    tell(customers, &format!("databases/{of}"), fault).await
}

/// Has a button of the page do something.
async fn tell(customers: &Customers, what: &str, body: Value) -> Done {
    let request = customers.request(Method::POST, 0, &format!("operate/{what}"));
    request.json(&body).send().await?.error_for_status()?;
    Ok(())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RedisPaused => f.write_str("Redis paused"),
            Self::RedisPausedAnd(name) => write!(f, "Redis paused, {name} killed"),
            Self::RedisKilled => f.write_str("Redis killed"),
            Self::RedisFlushed => f.write_str("Redis flushed"),
            Self::Killed(name) => write!(f, "{name} killed"),
            Self::Paused(name) => write!(f, "{name} paused"),
            Self::Broken(name) => write!(f, "{name} database broken"),
            Self::Slow(name) => write!(f, "{name} database slow"),
            Self::SwitchedOff => f.write_str("caches off and on"),
            Self::TagEmptied => f.write_str("tag emptied"),
            Self::LogoutStorm => f.write_str("logout storm"),
        }
    }
}
