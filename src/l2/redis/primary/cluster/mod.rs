//! Which node of a cluster is the primary of a slot, by what a majority of the primaries says (rule 26: a primary needs
//! witnesses).
//!
//! The nodes are asked whenever a partition connects, and beside each heartbeat: all partitions that ask at about the same
//! time share the answers. Does not know what connections are for.

mod handover;
mod view;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use futures::StreamExt;
use futures::future::try_join;
use futures::stream::FuturesUnordered;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use self::handover::{LastHandover, prove};
use self::view::{Owners, View, Views, WithoutOwner};
use super::witness_links::{Links, WITNESS_TIMEOUT};
use crate::l2::L2Error;
use crate::l2::redis::server::{Address, Connector, Server};
use crate::util::lock::lock;
use crate::util::per_runtime::PerRuntime;
use crate::util::shared_result::{SharedResult, shared_result};

/// If the primaries have not answered by then, all other nodes that are known are asked, too.
const ASK_ALL_AFTER: Duration = Duration::from_millis(250);

/// How often a question lets other tasks run before it is sent with theirs.
const YIELDS_BEFORE_SEND: usize = 8;

pub(crate) struct Cluster {
    /// All nodes are connected to as by this connector, but for the address.
    pub(super) like: Connector,
    /// Where the nodes are learnt from, if none is known.
    seeds: Vec<Connector>,
    /// Over which the nodes are asked.
    pub(super) links: PerRuntime<Links>,
    belief: Mutex<Belief>,
    /// The answers of the next question, until it is sent.
    next: Mutex<Option<SharedResult<Answers>>>,
    last_handover: LastHandover,
    without_owner: Mutex<WithoutOwner>,
}

/// The primaries that are believed.
#[derive(Default)]
struct Belief {
    owners: Arc<Owners>,
    /// When the question was asked that they come from.
    asked: Option<Instant>,
    /// The nodes that were named when one has answered last: those with slots, and the others.
    nodes: [Vec<Connector>; 2],
}

/// The primaries that are believed after a question, and why not all of them.
#[derive(Clone)]
struct Answers {
    owners: Arc<Owners>,
    otherwise: NoMajority,
}

impl Answers {
    fn owner(&self, slot: u16) -> Result<Address, L2Error> {
        let owner = self.owners.of(slot).cloned();
        owner.ok_or_else(|| L2Error::explained(self.otherwise.clone()))
    }
}

impl Cluster {
    pub(crate) fn new(seeds: impl Iterator<Item = Server>) -> Result<Self, L2Error> {
        let refuse = |what: &str| Err(L2Error::bad_config(what));
        let seeds: Vec<_> = seeds.map(Server::connector).collect::<Result<_, _>>()?;
        let Some(like) = seeds.first() else {
            return refuse("a cluster needs the address of one of its nodes, or of several");
        };
        if seeds.iter().any(|seed| seed.database() != 0) {
            return refuse("a Redis Cluster has no databases but the first");
        }
        if seeds
            .iter()
            .any(|seed| seed.at(&Address::default()).is_none())
        {
            return refuse("the nodes of a cluster name hosts and ports, and no unix sockets");
        }
        Ok(Self::with(like.clone(), seeds.clone()))
    }

    fn with(like: Connector, seeds: Vec<Connector>) -> Self {
        Self {
            like,
            seeds,
            links: PerRuntime::default(),
            belief: Mutex::default(),
            next: Mutex::default(),
            last_handover: LastHandover::default(),
            without_owner: Mutex::default(),
        }
    }

    /// A cluster with the addresses of this one, and with connectors that `change` has changed.
    pub(crate) fn map(&self, change: impl Fn(&mut Connector)) -> Self {
        let (mut like, mut seeds) = (self.like.clone(), self.seeds.clone());
        change(&mut like);
        seeds.iter_mut().for_each(change);
        Self::with(like, seeds)
    }

    /// The primary of a slot, asked after this call.
    pub(crate) async fn find(self: &Arc<Self>, slot: u16) -> Result<Address, L2Error> {
        self.ask().await?.owner(slot)
    }

    /// The primaries of slots, in their order, asked after this call.
    pub(crate) async fn find_all(self: &Arc<Self>, slots: &[u16]) -> Result<Vec<Address>, L2Error> {
        let answers = self.ask().await?;
        (slots.iter().map(|slot| answers.owner(*slot))).collect()
    }

    /// Fails unless this is the primary of a slot, asked after this call.
    pub(super) async fn confirm(
        self: &Arc<Self>,
        node: &Address,
        slot: Option<u16>,
    ) -> Result<(), L2Error> {
        let slot = slot.ok_or_else(L2Error::closed)?;
        let is_it = self.find(slot).await? == *node;
        is_it.then_some(()).ok_or_else(|| {
            L2Error::unexpected(
                "the partition is on another node of the cluster than the one that has answered",
            )
        })
    }

    /// Whether this is the primary of a slot, asked not longer ago than this.
    pub(super) fn is_believed(&self, node: &Address, slot: Option<u16>, within: Duration) -> bool {
        let belief = lock(&self.belief);
        let is_recent = belief.asked.is_some_and(|at| at.elapsed() <= within);
        is_recent && slot.is_some_and(|slot| belief.owners.of(slot) == Some(node))
    }

    /// The proof that this primary continues a former incarnation (rule 28: a handover is proven by the old primary).
    /// Empty if there is none.
    pub(super) async fn handover(self: &Arc<Self>, to: &Address, former: &str) -> String {
        let (this, node, incarnation) = (Arc::clone(self), to.clone(), former.to_owned());
        let asking = async move {
            let links = this.links.get();
            let view = view(&links, this.like.at(&node)?).await.ok()?;
            let nodes = view.followers().filter_map(|at| this.like.at(at));
            prove(&links, nodes, &incarnation).await
        };
        self.last_handover.proof(to, former, asking).await
    }

    /// Asks the nodes, together with all that ask before the question is sent.
    async fn ask(self: &Arc<Self>) -> Result<Answers, L2Error> {
        let answers = self.next_answers();
        answers.wait().await.ok_or_else(L2Error::closed)
    }

    fn next_answers(self: &Arc<Self>) -> SharedResult<Answers> {
        let mut next = lock(&self.next);
        // The runtime of its task may have ended.
        if let Some(answers) = next.as_ref().filter(|answers| !answers.is_lost()) {
            return answers.clone();
        }
        let (sender, answers) = shared_result();
        *next = Some(answers.clone());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            // After the heartbeats on other nodes, which are due together.
            for _ in 0..YIELDS_BEFORE_SEND {
                yield_now().await;
            }
            *lock(&this.next) = None;
            sender.send(this.count().await);
        });
        answers
    }

    /// Asks the nodes, until all slots have a primary that is believed, or no node is left.
    async fn count(&self) -> Answers {
        let began = Instant::now();
        let links = self.links.get();
        let [mut next, others] = lock(&self.belief).nodes.clone();
        let (mut views, mut owners) = (Views::default(), Owners::default());
        let (mut asked, mut reason) = (HashSet::new(), String::new());
        let mut answers = FuturesUnordered::new();
        let all = |of: BTreeSet<Address>| of.into_iter().filter_map(|at| self.like.at(&at));
        let mut is_wide = next.is_empty();
        if is_wide {
            next.clone_from(&self.seeds);
        }
        let counting = async {
            loop {
                for node in next.drain(..) {
                    if asked.insert(node.address()) {
                        answers.push(view(&links, node));
                    }
                }
                let answer = if is_wide {
                    answers.next().await
                } else {
                    timeout_at(began + ASK_ALL_AFTER, answers.next())
                        .await
                        .unwrap_or_default()
                };
                match answer {
                    Some(Ok(view)) => {
                        views.add(view);
                        owners = views.owners();
                        if owners.are_all {
                            return;
                        }
                    }
                    Some(Err(error)) => reason = format!(" ({})", error.cause()),
                    None if is_wide => return,
                    None => {
                        is_wide = true;
                        next = [&*self.seeds, &others].concat();
                        next.extend(all(views.named(false)));
                    }
                }
                next.extend(all(views.named(true)));
            }
        };
        // Of those that have answered by then.
        _ = timeout(WITNESS_TIMEOUT, counting).await;
        self.check_epoch(&views);
        let owners = Arc::new(owners);
        let nodes = [true, false].map(|has_slots| all(views.named(has_slots)).collect::<Vec<_>>());
        let mut belief = lock(&self.belief);
        if belief.asked.is_none_or(|last| last <= began) {
            belief.owners = Arc::clone(&owners);
            belief.asked = Some(began);
            if views.count() > 0 {
                links.keep_only(&[&*self.seeds, &nodes[0], &nodes[1]].concat());
                belief.nodes = nodes;
            }
        }
        drop(belief);
        Answers {
            owners,
            otherwise: NoMajority {
                nodes: views.count(),
                asked: asked.len(),
                reason,
            },
        }
    }

    /// Warns, once for each, of an epoch that belongs to no node: no view has the second kind of majority then.
    fn check_epoch(&self, views: &Views) {
        let found = views.epoch_without_owner();
        let epoch = found.map(|(epoch, _)| epoch);
        let is_news = lock(&self.without_owner).is_news(epoch, Instant::now());
        if let Some((epoch, node)) = found.filter(|_| is_news) {
            warn!(
                epoch,
                node,
                "an epoch of the cluster belongs to no primary, as after an election without a winner, so the loss of one primary may turn all partitions off: send CLUSTER BUMPEPOCH to this node"
            );
        }
    }
}

/// Asks a node for its view.
async fn view(links: &Links, node: Connector) -> Result<View, L2Error> {
    let question = |connection: MultiplexedConnection| async move {
        let ask = |what: &'static str| {
            let mut connection = connection.clone();
            async move { (cmd("CLUSTER").arg(what).query_async(&mut connection)).await }
        };
        // In this order, and in one round trip: what it votes for in between shows.
        try_join(ask("NODES"), ask("INFO")).await
    };
    let answers = links.ask(&node, || node.connection(), question).await;
    let (nodes, info): (String, String) = answers?;
    let view = View::read(&nodes, &info, &node.host_and_port());
    view.ok_or_else(|| L2Error::unexpected("the answer to CLUSTER NODES cannot be read"))
}

/// How many nodes have answered, for a slot of which no primary is believed.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "no majority of the primaries of the cluster names one for the slot of this partition; {nodes} of {asked} nodes have answered{reason}"
)]
struct NoMajority {
    nodes: usize,
    asked: usize,
    reason: String,
}
