//! Whether a primary that has taken over has all that the former one has executed, by what that says of itself (rule
//! 28).

use std::sync::Mutex;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

use crate::l2::redis::primary::witness_links::{Links, WITNESS_TIMEOUT};
use crate::l2::redis::server::{Address, Connector};
use crate::util::lock::lock;
use crate::util::shared_result::{SharedResult, shared_result};

/// Between two questions to a primary that was not demoted yet, or has not resynced.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// The last question that was asked: of this primary, after this incarnation. Its answer is the proof, or empty.
#[derive(Default)]
pub(super) struct LastHandover(Mutex<Option<(Address, String, SharedResult<String>)>>);

impl LastHandover {
    /// The answer to a question, which is asked if it is another one than the last. All partitions that move share it, also
    /// those that ask when it was answered: a proof stays true.
    pub(super) async fn proof(
        &self,
        to: &Address,
        former: &str,
        asking: impl Future<Output = Option<String>> + Send + 'static,
    ) -> String {
        let proof = self.ask(to, former, asking);
        proof.wait().await.unwrap_or_default()
    }

    fn ask(
        &self,
        to: &Address,
        former: &str,
        asking: impl Future<Output = Option<String>> + Send + 'static,
    ) -> SharedResult<String> {
        let mut last = lock(&self.0);
        // The runtime of its task may have ended.
        if let Some((of, incarnation, proof)) = &*last
            && (of, incarnation.as_str()) == (to, former)
            && !proof.is_lost()
        {
            return proof.clone();
        }
        let (sender, proof) = shared_result();
        *last = Some((to.clone(), former.to_owned(), proof.clone()));
        tokio::spawn(async move {
            let found = timeout(WITNESS_TIMEOUT, asking).await;
            sender.send(found.ok().flatten().unwrap_or_default());
        });
        proof
    }
}

/// Asks nodes of which one may be the former primary. The proof is `run_id:replid replid`, for IDENTIFY.
pub(super) async fn prove(
    links: &Links,
    nodes: impl Iterator<Item = Connector>,
    former: &str,
) -> Option<String> {
    let asked: FuturesUnordered<_> = nodes.map(|node| ask(links, node, former)).collect();
    let mut proofs = asked.filter_map(std::future::ready);
    proofs.next().await
}

/// Asks a node until it is a replica. `None` if it was not the former primary, is not the same process any more, or was
/// resynced in full.
async fn ask(links: &Links, node: Connector, former: &str) -> Option<String> {
    let (run, history) = former.split_once(':')?;
    let question = |mut connection: MultiplexedConnection| async move {
        let mut info = cmd("INFO");
        info.arg("server").arg("replication");
        info.query_async(&mut connection).await
    };
    loop {
        let info: String = links
            .ask(&node, || node.connection(), question)
            .await
            .ok()?;
        let said = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        if said("run_id")? != run {
            return None;
        }
        if said("role")? == "slave" && said("master_link_status")? == "up" {
            let is_continued = said("master_replid2")? == history;
            let present = said("master_replid")?;
            return is_continued.then(|| format!("{former} {present}"));
        }
        sleep(ASK_AGAIN).await;
    }
}
