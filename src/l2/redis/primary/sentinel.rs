//! Where a majority of sentinels says that the primary is (rule 26: a primary needs witnesses).
//!
//! The sentinels are asked whenever a connection is made, and beside each heartbeat. In between their `+switch-master`
//! says that a connection is no longer believed. Does not know what connections are for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{PushInfo, PushKind, RedisResult, Value, cmd};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::witness_links::{Links, WITNESS_TIMEOUT};
use crate::l2::L2Error;
use crate::l2::redis::server::{Address, Connector, Server};
use crate::util::per_runtime::PerRuntime;

/// The channel on which a sentinel says that another server is the primary.
const SWITCHED: &str = "+switch-master";

pub(crate) struct Sentinels {
    name: String,
    all: Vec<Connector>,
    /// Over which they are asked, and bring news.
    pub(super) links: PerRuntime<Links>,
    belief: watch::Sender<Belief>,
}

/// The primary that is believed.
#[derive(Default)]
struct Belief {
    /// Counts how often that has changed or was in doubt. A connection is believed in the term in which it was made.
    term: u64,
    address: Option<Address>,
    /// When the last question was asked by which a majority has named it.
    asked: Option<Instant>,
}

impl Sentinels {
    /// The sentinels that know the primary by this name.
    pub(crate) fn new(
        name: &str,
        sentinels: impl Iterator<Item = Server>,
    ) -> Result<Self, L2Error> {
        let refuse = |what: &str| Err(L2Error::bad_config(what));
        let all: Vec<_> = sentinels.map(Server::connector).collect::<Result<_, _>>()?;
        if name.is_empty() || all.is_empty() {
            return refuse(
                "Sentinel needs the name of the primary and the addresses of the sentinels",
            );
        }
        let mut rest = all.as_slice();
        while let Some((one, others)) = rest.split_first() {
            if one.database() != 0 {
                return refuse(
                    "a sentinel has no databases; that of the values goes into primary_like",
                );
            }
            if others.iter().any(|other| other.address() == one.address()) {
                return refuse("a sentinel is given twice, and would count as two");
            }
            rest = others;
        }
        Ok(Self {
            name: name.to_owned(),
            all,
            links: PerRuntime::default(),
            belief: watch::Sender::default(),
        })
    }

    /// The address of the primary, and the term of this.
    pub(super) async fn find(self: &Arc<Self>) -> Result<(Address, u64), L2Error> {
        let (asked, term) = (Instant::now(), self.belief.borrow().term);
        let address = self.ask().await.inspect_err(|_| self.doubt(term))?;
        let term = self.believe(&address, asked).ok_or_else(L2Error::closed)?;
        Ok((address, term))
    }

    /// Fails unless a majority still names the primary of this term, asked after this call. Then that is to be doubted.
    pub(super) async fn confirm(self: &Arc<Self>, term: u64) -> Result<(), L2Error> {
        let asked = Instant::now();
        let address = self.ask().await?;
        // The term goes on until the caller, which knows what to do before, ends it.
        let is_known = self.belief.borrow().address.as_ref() == Some(&address);
        let is_it = is_known && self.believe(&address, asked) == Some(term);
        is_it.then_some(()).ok_or_else(|| {
            L2Error::unexpected("the sentinels name another primary than the one that has answered")
        })
    }

    /// Whether a majority has named the primary of this term, asked not longer ago than this.
    pub(super) fn is_believed(&self, term: u64, within: Duration) -> bool {
        let belief = self.belief.borrow();
        let is_recent = belief.asked.is_some_and(|at| at.elapsed() <= within);
        belief.term == term && is_recent
    }

    /// Whether this term has not ended.
    pub(super) fn is_term(&self, term: u64) -> bool {
        self.belief.borrow().term == term
    }

    /// Waits until this term has ended.
    pub(super) fn term_ends(&self, term: u64) -> impl Future<Output = ()> + use<> {
        let mut belief = self.belief.subscribe();
        async move {
            // An error means that the sentinels are not watched any more: then no term ends.
            _ = belief.wait_for(|belief| belief.term != term).await;
        }
    }

    /// Ends a term: no connection is believed that was made in it.
    pub(super) fn doubt(&self, term: u64) {
        self.belief.send_if_modified(|belief| {
            let is_now = belief.term == term;
            belief.term += u64::from(is_now);
            is_now
        });
    }

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
        let found = timeout(WITNESS_TIMEOUT, counting).await.ok().flatten();
        found.ok_or_else(|| L2Error::explained(ballot))
    }

    /// The address that one sentinel names, if it knows the name.
    async fn vote(self: &Arc<Self>, which: usize) -> Result<Option<Address>, L2Error> {
        let sentinel = self.all.get(which).ok_or_else(L2Error::closed)?;
        let mut command = cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let question = |mut connection| {
            let command = &command;
            async move { command.query_async(&mut connection).await }
        };
        let connect = || self.connect(sentinel);
        self.links.get().ask(sentinel, connect, question).await
    }

    async fn connect(self: &Arc<Self>, sentinel: &Connector) -> RedisResult<MultiplexedConnection> {
        let this = Arc::downgrade(self);
        let hear = move |push| {
            if let Some(this) = this.upgrade() {
                this.hear(push);
            }
            Ok::<_, Infallible>(())
        };
        let mut connection = sentinel.subscriber(hear).await?;
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

    fn refusal(name: &str, sentinels: &[&str]) -> String {
        let sentinels = sentinels.iter().map(|url| Server::from(*url));
        let named = Sentinels::new(name, sentinels);
        named.map_or_else(|error| error.to_string(), |_| "good".to_owned())
    }

    #[test]
    fn settings_that_cannot_work_are_told_apart() {
        let cases = [
            (
                "m",
                &["redis://a:26379", "redis://a", "redis://b"][..],
                "good",
            ),
            ("", &["redis://a"], "the name of the primary"),
            ("m", &[], "the addresses of the sentinels"),
            ("m", &["redis://a,b"], "several hosts"),
            ("m", &["redis://a/1"], "no databases"),
            (
                "m",
                &["redis://a", "redis://b", "redis://:x@a"],
                "given twice",
            ),
        ];
        for (name, sentinels, what) in cases {
            let reason = refusal(name, sentinels);
            assert!(reason.contains(what), "{reason}");
        }
    }

    #[test]
    fn a_primary_has_the_term_of_the_majority_that_was_asked_last() {
        let sentinels = Sentinels::new("m", [Server::from("redis://a")].into_iter()).unwrap();
        let (began, host) = (Instant::now(), "b".to_owned());
        let believe = |(port, seconds)| {
            let asked = began + Duration::from_secs(seconds);
            sentinels.believe(&(host.clone(), port), asked)
        };
        let terms = [(1, 1), (1, 3), (2, 2), (1, 2), (2, 4), (2, 4)].map(believe);
        let expected = [Some(1), Some(1), None, Some(1), Some(2), Some(2)];
        assert_eq!(terms, expected);
    }
}
