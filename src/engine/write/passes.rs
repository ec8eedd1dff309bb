//! Passes over the keys of L2, which remove the values whose keys have a prefix: calls that come together share one.
//!
//! Knows nothing of the steps that have to come before a pass, and after it.

use std::sync::Mutex;

use tokio::sync::oneshot;

use crate::engine::context::Context;
use crate::error::L2Error;
use crate::key::Key;
use crate::l2::Stamp;
use crate::util::lock::lock;
use crate::util::pacing::gather;

/// How many prefixes share a pass, unless one call has more.
const MAX_PREFIXES_OF_A_PASS: usize = 1024;

/// A prefix, and the stamp that values have to be older than.
pub(crate) type Prefix = (Key, Stamp);

/// How many values were removed, for each prefix.
type Removed = Result<Vec<u64>, L2Error>;

/// The passes of an instance: one at a time.
#[derive(Default)]
pub(crate) struct Passes {
    /// In the order in which they came.
    waiting: Mutex<Vec<WaitingCall>>,
    /// Held by the call that makes a pass.
    turn: tokio::sync::Mutex<()>,
}

struct WaitingCall {
    prefixes: Vec<Prefix>,
    answer: oneshot::Sender<Removed>,
}

impl Passes {
    /// Removes the values with one of these prefixes: by a pass that begins after this is called, as one that has begun
    /// may be past their keys.
    pub(crate) async fn remove(&self, ctx: &Context, prefixes: Vec<Prefix>) -> Removed {
        let (answer, mut answered) = oneshot::channel();
        // Before the turn: the call that has it next makes the pass for all that wait by then.
        lock(&self.waiting).push(WaitingCall { prefixes, answer });
        let _turn = self.turn.lock().await;
        // Gathers the calls whose first step has just been answered, together with the first step of this call.
        gather().await;
        loop {
            match answered.try_recv() {
                Ok(removed) => return removed,
                // The call that made the pass has ended with its runtime.
                Err(oneshot::error::TryRecvError::Closed) => return Err(L2Error::closed()),
                Err(oneshot::error::TryRecvError::Empty) => self.pass(ctx).await,
            }
        }
    }

    async fn pass(&self, ctx: &Context) {
        let together = self.next_calls();
        let prefixes = together.iter().flat_map(|waiting| &waiting.prefixes);
        let prefixes = prefixes.map(|(prefix, before)| (&**prefix, *before));
        let prefixes: Vec<_> = prefixes.collect();
        let removing = ctx.partition.remove_prefixes(&prefixes);
        let removed = ctx.breaker.send("remove_prefix", removing).await;
        let mut removed = removed.map(Vec::into_iter);
        for WaitingCall { prefixes, answer } in together {
            let own = match &mut removed {
                Ok(removed) => Ok(removed.take(prefixes.len()).collect()),
                Err(error) => Err(error.clone()),
            };
            // It waits for its turn, unless its runtime has ended.
            let _ = answer.send(own);
        }
    }

    /// Those that are next.
    fn next_calls(&self) -> Vec<WaitingCall> {
        let mut waiting = lock(&self.waiting);
        let mut many = 0;
        let fit = waiting.iter().take_while(|next| {
            let is_first = many == 0;
            many += next.prefixes.len();
            is_first || many <= MAX_PREFIXES_OF_A_PASS
        });
        let fit = fit.count();
        debug_assert!(
            fit > 0 || waiting.is_empty(),
            "the first call always fits, or it would wait for ever"
        );
        waiting.drain(..fit).collect()
    }
}
