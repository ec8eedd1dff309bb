//! Where the primary is: at one address, or where a majority of sentinels says (rule 26).
//!
//! The sentinels are asked whenever a connection is made, and beside each heartbeat. In between their `+switch-master`
//! says that a connection is no longer believed. Does not know what connections are for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{PushInfo, PushKind, Value, cmd};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout};

use super::error::{connect_error, l2_error};
use super::per_runtime::PerRuntime;
use super::server::{Connector, Server};
use crate::l2::L2Error;
use crate::util::lock::lock;

/// How long the sentinels may take to name a primary: less than a heartbeat may, by default, so that the reason is
/// told.
const ASK: Duration = Duration::from_secs(1);
/// The channel on which a sentinel says that another server is the primary.
const SWITCHED: &str = "+switch-master";

/// The way to the primary.
#[derive(Clone)]
pub(super) struct Primary {
    /// Of the primary; behind sentinels only its address is another one.
    pub(super) connector: Connector,
    sentinels: Option<Arc<Sentinels>>,
}

/// Where the primary was found.
pub(super) struct PrimaryAt {
    pub(super) connector: Connector,
    /// As a sentinel gives it. `None` for the one address that there is.
    pub(super) address: Option<Address>,
    pub(super) term: u64,
}

/// A host and its port.
pub(super) type Address = (String, u16);

struct Sentinels {
    name: String,
    all: Vec<Sentinel>,
    belief: watch::Sender<Belief>,
}

struct Sentinel {
    connector: Connector,
    links: PerRuntime<Link>,
}

/// A connection to a sentinel, once it is made, for the questions of all lanes and for its news.
#[derive(Default)]
pub(super) struct Link(Mutex<Arc<OnceCell<MultiplexedConnection>>>);

/// Which primary is believed.
#[derive(Default)]
struct Belief {
    /// Counts how often that has changed or was in doubt. A connection is believed in the term in which it was made.
    term: u64,
    address: Option<Address>,
    /// When the last question was asked by which a majority has named it.
    asked: Option<Instant>,
}

impl From<Connector> for Primary {
    fn from(connector: Connector) -> Self {
        Self {
            connector,
            sentinels: None,
        }
    }
}

impl Primary {
    /// The one that these sentinels name so. It is connected to as by this connector.
    pub(super) fn named(
        name: &str,
        sentinels: impl Iterator<Item = Server>,
        connector: Connector,
    ) -> Result<Self, L2Error> {
        let refuse = |what: &str| Err(L2Error::bad_config(what));
        let connectors: Vec<_> = sentinels.map(Server::connector).collect::<Result<_, _>>()?;
        if name.is_empty() || connectors.is_empty() {
            return refuse(
                "Sentinel needs the name of the primary and the addresses of the sentinels",
            );
        }
        let mut rest = connectors.as_slice();
        while let Some((one, others)) = rest.split_first() {
            if one.database() != 0 {
                return refuse(
                    "a sentinel has no databases; that of the values goes into primary_like",
                );
            }
            if others.iter().any(|other| other.leads_where(one)) {
                return refuse("a sentinel is given twice, and would count as two");
            }
            rest = others;
        }
        let all = connectors.into_iter().map(|connector| Sentinel {
            connector,
            links: PerRuntime::default(),
        });
        let sentinels = Sentinels {
            name: name.to_owned(),
            all: all.collect(),
            belief: watch::Sender::default(),
        };
        let named = Self {
            connector,
            sentinels: Some(Arc::new(sentinels)),
        };
        named.like(named.connector.clone())
    }

    /// Connected to as by this connector, but for the address.
    pub(super) fn like(&self, mut connector: Connector) -> Result<Self, L2Error> {
        let refuse = |what: &str| Err(L2Error::bad_config(what));
        if self.sentinels.is_none() {
            return refuse("primary_like is for a primary that sentinels name");
        }
        if connector.at(&Address::default()).is_none() {
            return refuse("sentinels name hosts and ports, and no unix sockets");
        }
        // A provider is not part of a server, in whatever order both are given.
        connector
            .credentials
            .clone_from(&self.connector.credentials);
        Ok(Self {
            connector,
            sentinels: self.sentinels.clone(),
        })
    }

    /// Asks where the primary is.
    pub(super) async fn find(&self) -> Result<PrimaryAt, L2Error> {
        let Some(sentinels) = &self.sentinels else {
            return Ok(PrimaryAt {
                connector: self.connector.clone(),
                address: None,
                term: 0,
            });
        };
        let (asked, term) = (Instant::now(), sentinels.belief.borrow().term);
        let asking = sentinels.ask().await;
        let address = asking.inspect_err(|_| self.doubt(term))?;
        let (term, connector) = (
            sentinels.believe(&address, asked),
            self.connector.at(&address),
        );
        let (Some(term), Some(connector)) = (term, connector) else {
            return Err(L2Error::closed());
        };
        Ok(PrimaryAt {
            connector,
            address: Some(address),
            term,
        })
    }

    /// Fails unless a majority still names the primary of this term, asked after this call. Then that is to be doubted.
    pub(super) async fn confirm(&self, term: u64) -> Result<(), L2Error> {
        let Some(sentinels) = &self.sentinels else {
            return Ok(());
        };
        let asked = Instant::now();
        let address = sentinels.ask().await?;
        // The term goes on until the caller, which knows what to do before, ends it.
        let is_known = sentinels.belief.borrow().address.as_ref() == Some(&address);
        let is_it = is_known && sentinels.believe(&address, asked) == Some(term);
        is_it.then_some(()).ok_or_else(|| {
            L2Error::unexpected("the sentinels name another primary than the one that has answered")
        })
    }

    /// Whether a majority has named the primary of this term, asked not longer ago than this.
    pub(super) fn is_believed(&self, term: u64, within: Duration) -> bool {
        self.sentinels.as_ref().is_none_or(|sentinels| {
            let belief = sentinels.belief.borrow();
            let is_recent = belief.asked.is_some_and(|at| at.elapsed() <= within);
            belief.term == term && is_recent
        })
    }

    /// Whether this term has not ended.
    pub(super) fn is_term(&self, term: u64) -> bool {
        self.sentinels
            .as_ref()
            .is_none_or(|sentinels| sentinels.belief.borrow().term == term)
    }

    /// Waits until this term has ended.
    pub(super) fn term_ends(&self, term: u64) -> Option<impl Future<Output = ()> + use<>> {
        let mut belief = self.sentinels.as_ref()?.belief.subscribe();
        Some(async move {
            // It does not fail before there is nothing left that could end.
            _ = belief.wait_for(|belief| belief.term != term).await;
        })
    }

    /// Ends a term: no connection is believed that was made in it.
    pub(super) fn doubt(&self, term: u64) {
        if let Some(sentinels) = &self.sentinels {
            sentinels.belief.send_if_modified(|belief| {
                let is_now = belief.term == term;
                belief.term += u64::from(is_now);
                is_now
            });
        }
    }

    /// The connections to the sentinels, which last for as long as anybody has them.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let all = self.sentinels.iter().flat_map(|sentinels| &sentinels.all);
        all.map(|sentinel| sentinel.links.get()).collect()
    }
}

impl Sentinels {
    /// The address that a majority of all sentinels names.
    async fn ask(self: &Arc<Self>) -> Result<Address, L2Error> {
        let votes = (0..self.all.len()).map(|which| {
            let this = Arc::clone(self);
            // A task, as the answer of a slow sentinel is not waited for, and its connection has to be made all the
            // same: its news may be the first.
            tokio::spawn(async move { this.vote(which).await })
        });
        let mut votes: FuturesUnordered<_> = votes.collect();
        let mut ballot = NoMajority::new(self);
        let mut named = HashMap::<Address, usize>::new();
        let counting = async {
            while let Some(vote) = votes.next().await {
                let vote = vote.unwrap_or_else(|_| Err(L2Error::closed()));
                ballot.silent -= usize::from(vote.is_ok());
                match vote {
                    Ok(Some(address)) => {
                        let count = named.entry(address.clone()).or_default();
                        *count += 1;
                        ballot.named = ballot.named.max(*count);
                        if *count >= ballot.needed {
                            return Some(address);
                        }
                    }
                    Ok(None) => ballot.unknown += 1,
                    Err(error) => ballot.reason = format!(" ({})", error.cause()),
                }
            }
            None
        };
        let found = timeout(ASK, counting).await.ok().flatten();
        found.ok_or_else(|| L2Error::explained(ballot))
    }

    /// The address that one sentinel names, if it knows the name.
    async fn vote(self: &Arc<Self>, which: usize) -> Result<Option<Address>, L2Error> {
        let sentinel = self.all.get(which).ok_or_else(L2Error::closed)?;
        let link = sentinel.links.get();
        let (vote, was_kept) = self.vote_over(sentinel, &link).await;
        match vote {
            // Connections that are seldom used may be lost at once, and each of them says nothing of the primary.
            Err(error) if error.is_unreachable() && was_kept => {
                self.vote_over(sentinel, &link).await.0
            }
            vote => vote,
        }
    }

    /// The same over the connection that is there, or a new one; and whether it was there.
    async fn vote_over(
        self: &Arc<Self>,
        sentinel: &Sentinel,
        link: &Link,
    ) -> (Result<Option<Address>, L2Error>, bool) {
        let cell = Arc::clone(&lock(&link.0));
        let was_kept = cell.initialized();
        let asking = async {
            let connecting = cell.get_or_try_init(|| self.connect(&sentinel.connector));
            let mut connection = connecting.await?.clone();
            let mut command = cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
            command.query_async(&mut connection).await.map_err(l2_error)
        };
        let vote = timeout(ASK, asking).await;
        let vote = vote.unwrap_or_else(|_| Err(L2Error::timed_out(ASK)));
        if vote.as_ref().is_err_and(|error| !error.is_refused()) {
            let mut current = lock(&link.0);
            if Arc::ptr_eq(&current, &cell) {
                *current = Arc::default();
            }
        }
        (vote, was_kept)
    }

    async fn connect(
        self: &Arc<Self>,
        connector: &Connector,
    ) -> Result<MultiplexedConnection, L2Error> {
        let this = Arc::downgrade(self);
        let hear = move |push| {
            if let Some(this) = this.upgrade() {
                this.hear(push);
            }
            Ok::<_, Infallible>(())
        };
        let connecting = connector.subscriber(hear).await;
        let mut connection = connecting.map_err(connect_error)?;
        // Its user may lack the right to it: then heartbeats find a new primary, a little later.
        _ = connection.subscribe(SWITCHED).await;
        Ok(connection)
    }

    /// Runs inside the driver of a connection.
    fn hear(&self, push: PushInfo) {
        let (PushKind::Message, Some(Value::BulkString(news))) = (push.kind, push.data.get(1))
        else {
            return;
        };
        let news = String::from_utf8_lossy(news);
        let mut words = news.split(' ');
        let (name, host, port) = (words.next(), words.nth(2), words.next());
        self.belief.send_if_modified(|belief| {
            let known = belief.address.as_ref();
            let is_known = known.is_some_and(|(known_host, known_port)| {
                host == Some(known_host)
                    && port.and_then(|port| port.parse().ok()) == Some(*known_port)
            });
            // Sentinels tell it one after the other, most of them when the connections lead there already.
            let is_news = name == Some(self.name.as_str()) && !is_known;
            belief.term += u64::from(is_news);
            is_news
        });
    }

    /// Takes what a majority has said since then. The term, unless another majority was asked later.
    fn believe(&self, address: &Address, asked: Instant) -> Option<u64> {
        let mut term = None;
        self.belief.send_if_modified(|belief| {
            let is_other = belief.address.as_ref() != Some(address);
            if is_other && belief.asked.is_some_and(|last| asked < last) {
                return false;
            }
            if is_other {
                // No connection was believed before the first answer.
                belief.term += 1;
                belief.address = Some(address.clone());
            }
            belief.asked = belief.asked.max(Some(asked));
            term = Some(belief.term);
            is_other
        });
        term
    }
}

/// What the sentinels have said instead.
#[derive(Debug, thiserror::Error)]
#[error(
    "{needed} of {all} sentinels must name the same primary for `{name}`: {named} do, {unknown} do not know the name, {silent} did not answer{reason}"
)]
struct NoMajority {
    name: String,
    all: usize,
    needed: usize,
    named: usize,
    unknown: usize,
    silent: usize,
    /// Why the last one of these did not.
    reason: String,
}

impl NoMajority {
    fn new(sentinels: &Sentinels) -> Self {
        let all = sentinels.all.len();
        Self {
            name: sentinels.name.clone(),
            all,
            needed: all / 2 + 1,
            named: 0,
            unknown: 0,
            silent: all,
            reason: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, sentinels: &[&str], like: &str) -> String {
        let sentinels = sentinels.iter().map(|url| Server::from(*url));
        let like = Server::from(like).connector().unwrap();
        let named = Primary::named(name, sentinels, like);
        named.map_or_else(|error| error.to_string(), |_| "good".to_owned())
    }

    #[test]
    fn settings_that_cannot_work_are_told_apart() {
        const HERE: &str = "redis://primary";
        let cases = [
            (
                "m",
                &["redis://a:26379", "redis://a", "redis://b"][..],
                HERE,
                "good",
            ),
            ("", &["redis://a"], HERE, "the name of the primary"),
            ("m", &[], HERE, "the addresses of the sentinels"),
            ("m", &["redis://a,b"], HERE, "several hosts"),
            ("m", &["redis://a/1"], HERE, "no databases"),
            (
                "m",
                &["redis://a", "redis://b", "redis://:x@a"],
                HERE,
                "given twice",
            ),
            (
                "m",
                &["redis://a"],
                "unix:///run/redis.sock",
                "no unix sockets",
            ),
        ];
        for (name, sentinels, like, what) in cases {
            let reason = refusal(name, sentinels, like);
            assert!(reason.contains(what), "{reason}");
        }
        let fixed = Primary::from(Server::from(HERE).connector().unwrap());
        assert!(fixed.like(fixed.connector.clone()).is_err());
    }
}
