//! The result of a load: its value, or a fallback if it fails, or the error. Callers that come later get the fallback
//! or the error for a while: `may_load` says whether a key may be loaded now. `fallback` of `read/lookup` finds one.

use futures::FutureExt;
use tracing::warn;

use super::Loads;
use super::load_job::{LoadJob, SharedOutcome};
use crate::engine::backoff::{After, ChangeCounts};
use crate::engine::read::tags::MayUseProof;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::{LoadOutcome, Outcome, OutcomeKind};

impl Loads {
    /// Waits for the outcome of a load.
    pub(crate) async fn wait_for_result(
        &self,
        key: &Key,
        shared_outcome: SharedOutcome,
    ) -> LoadOutcome {
        match shared_outcome.wait().await {
            Some(outcome) => outcome,
            // The runtime of its task has ended. Boxed, so that the futures of look-ups do not become larger.
            None => instead(
                self.reads
                    .fallback(key, MayUseProof::Yes, None)
                    .boxed()
                    .await,
                LoadError::stopped(),
            ),
        }
    }

    /// The fallback of a key whose load has just failed: it is not tried again yet.
    pub(crate) async fn fallback_while_paused(
        &self,
        key: &Key,
        may_use_proof: MayUseProof,
    ) -> Option<AnyEntry> {
        let ctx = &self.ctx;
        if ctx.options.stale_if_error.is_zero() || !ctx.backoff.is_throttled(key) {
            return None;
        }
        let found = self.reads.fallback(key, may_use_proof, None).await?;
        self.reads.hot_keys.note(key);
        Some(self.reads.hand_out_outcome(found))
    }

    /// The fallback of a key whose load has failed, for a caller that may not have the one that others got; or
    /// otherwise the error.
    pub(crate) async fn fallback_or(
        &self,
        key: &Key,
        may_use_proof: MayUseProof,
        error: LoadError,
    ) -> Result<AnyEntry, LoadError> {
        let found = self
            .reads
            .fallback(key, may_use_proof, None)
            .await
            .ok_or(error)?;
        Ok(self.reads.hand_out_outcome(found))
    }

    /// To be called before the load of a key is joined or begun.
    ///
    /// # Errors
    ///
    /// If the last load failed a moment ago, and the key is not loaded again yet; but not for a caller with a token:
    /// that load may have begun before the write that the token names (rule 22: a token names a write).
    pub(super) fn may_load(&self, key: &Key, has_token: bool) -> Result<(), LoadError> {
        let ctx = &*self.ctx;
        if !ctx.options.tuned().error_ttl.is_zero()
            && !has_token
            && !self.reads.is_shadow()
            && !ctx.switch.is_off_for(key)
            && let Some(error) = ctx.backoff.error(key, self.change_counts_now())
        {
            return Err(error);
        }
        Ok(())
    }

    /// The counts of the changes that can be of any key, for a load that begins now.
    pub(crate) fn change_counts_now(&self) -> ChangeCounts {
        let freshness = &self.ctx.l1.freshness;
        ChangeCounts {
            generation: freshness.generation(),
            tag_changes: freshness.tag_changes(),
        }
    }

    /// The outcome of a load that has failed, for its callers: a fallback, or otherwise the error. The next callers get
    /// the same for a while.
    pub(crate) async fn failed(&self, job: &LoadJob, error: LoadError) -> LoadOutcome {
        let (ctx, op) = (&*self.ctx, &job.op);
        let key = &op.key;
        let options = &*ctx.options;
        let Some(found) = self.reads.fallback(key, MayUseProof::Yes, Some(op)).await else {
            if !options.tuned().error_ttl.is_zero() {
                let pause = options.shortened(options.tuned().error_ttl);
                let (error, change_counts) = (error.clone(), job.change_counts);
                (ctx.backoff).wait(
                    key,
                    pause,
                    After::Error {
                        error,
                        change_counts,
                    },
                );
                // In this order: a change of the key that comes in between ends it. A caller that comes after a change
                // does not get the error of a load that began before (rule 4: detach).
                if !ctx.l1.in_flight.is_attached(op) {
                    ctx.backoff.forget(key);
                }
            }
            return Err(error);
        };
        if found.kind != OutcomeKind::Fresh {
            // An error of one caller must not keep other callers from loading.
            if !error.is_of_one_caller() {
                let pause = options.jittered(options.tuned().fallback_throttle);
                ctx.backoff.wait(key, pause, After::Fallback);
            }
            if options.may_log_cause(&error) {
                // Its sources are traced where the load has failed.
                warn!(
                    namespace = options.namespace.as_str(),
                    reason = %error,
                    "loads fail; older values are handed out"
                );
            }
        }
        instead(Some(found), error)
    }
}

/// The fallback that was found after a load has failed, or the error.
fn instead(found: Option<Outcome>, error: LoadError) -> LoadOutcome {
    let mut found = found.ok_or_else(|| error.clone())?;
    found.failed = Some(error);
    Ok(Some(found))
}
