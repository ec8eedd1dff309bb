//! A write on its way to L2: what it changes, and the caller that waits for its end.
//!
//! A write that is dropped before L2 has accepted it is deferred, as when the runtime of its task ends (rule 14:
//! deferred writes).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::warn;

use super::order::Ordered;
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::engine::context::Context;
use crate::engine::deferred::{Deferral, Target};
use crate::error::{L2Error, WriteError};
use crate::key::Key;
use crate::l1::{Op, Tags};
use crate::l2::{EncodedValue, Step, Written};
use crate::vocabulary::AnyValue;

/// How a write ended.
pub(crate) type WriteResult = Result<Written, WriteError>;

/// A value to be stored.
pub(crate) struct Insert {
    /// Under way since the call, so that L1 takes nothing older in between (rule 3: floors).
    pub(crate) op: Op,
    /// Until L2 has it.
    pub(crate) value: Option<AnyValue>,
    pub(crate) encoded: EncodedValue,
    /// Registered since the call, too.
    pub(crate) tags: Tags,
}

/// A change of one key, tag or prefix on its way to L2.
pub(crate) struct Write {
    ctx: Arc<Context>,
    /// The key, the tag, or the prefix. Empty for a clear.
    pub(crate) key: Key,
    pub(crate) step: Step,
    /// The value, if one is stored. Boxed, as writes are moved from list to list: an insert takes 4 % more instructions
    /// without.
    pub(crate) insert: Option<Box<Insert>>,
    /// The number of its call, among the writes and deferrals of this instance.
    pub(crate) order: u64,
    pub(crate) called_at: Tick,
    /// What has to be known of it if it is deferred.
    pub(super) deferral: Deferral,
    /// Whether it is the last write of its call.
    pub(super) ends_call: bool,
    /// Whether it delivers what was deferred.
    is_delivery: bool,
    /// What it takes of the writer's capacity.
    pub(super) capacity: Option<OwnedSemaphorePermit>,
    /// Whether it need not be deferred if it is dropped.
    is_over: bool,
    answer: Option<oneshot::Sender<WriteResult>>,
}

impl Write {
    pub(crate) fn new(ctx: &Arc<Context>, key: Key, step: Step) -> Self {
        let hold = match step {
            Step::Invalidate { hold, .. } => hold,
            _ => Duration::ZERO,
        };
        Self {
            ctx: Arc::clone(ctx),
            key,
            deferral: Deferral {
                hold,
                keeps_value: step == Step::Expire,
                ..Deferral::default()
            },
            step,
            insert: None,
            order: ctx.deferred.next_order(),
            called_at: ctx.now(),
            ends_call: false,
            is_delivery: false,
            capacity: None,
            is_over: false,
            answer: None,
        }
    }

    /// Waits for its end.
    pub(super) fn answered(&mut self) -> impl Future<Output = WriteResult> + use<> {
        let (answer, answered) = oneshot::channel();
        self.answer = Some(answer);
        // Every write answers, so that error is not seen.
        answered.map(|answer| answer.unwrap_or_else(|_| Err(stopped())))
    }

    /// Marks a write that delivers what was deferred. If it fails, it is deferred again, and neither counted nor a
    /// reason to ask for a heartbeat at once: a store that refuses it would be asked again and again.
    pub(crate) fn delivering(mut self) -> Self {
        self.is_delivery = true;
        self
    }

    /// It is about to be sent: it may land until `deadline` of the partition's time, which is about `at` of ours.
    pub(crate) fn may_land_until(&mut self, deadline: u64, at: Tick) {
        self.deferral.settles_after = deadline;
        self.deferral.settled_at = at;
    }

    /// What is invalidated if it is deferred.
    pub(crate) fn target(&self) -> Target {
        match self.step {
            Step::InvalidateTags => Target::Tag(self.key.clone()),
            Step::Clear | Step::EndLeases => Target::All,
            _ => Target::Key(self.key.clone()),
        }
    }

    /// It need not be sent: another write has done the same.
    pub(crate) fn withdraw(mut self) {
        self.is_over = true;
    }

    /// L2 has not accepted it. Unless it `was_sent` it cannot land.
    pub(crate) fn fail(mut self, error: &L2Error, was_sent: bool) {
        if !was_sent {
            self.may_land_until(0, 0);
        }
        // What is stored stays, which is somebody else's. Any other write has to be made up for: its caller takes the
        // value for gone.
        if self.step.is_conditional() && (!was_sent || error.is_refused()) {
            return self.answer(Err(WriteError::refused(error.clone())));
        }
        self.defer(error);
    }

    /// L2 has to be sent an invalidation in its place, as soon as it answers.
    fn defer(&mut self, error: &L2Error) {
        let ctx = &*self.ctx;
        if self.is_delivery {
            ctx.defer(&self.target(), self.deferral);
            return self.answer(Err(WriteError::deferred(error.clone())));
        }
        ctx.counters.writes_deferred.bump();
        // Where L2 is this instance's own, it is enough to change L1.
        if !without(Rule::Deferred) && !ctx.l1.freshness.is_unshared() {
            ctx.defer(&self.target(), self.deferral);
            if ctx.deferred.is_closed() && ctx.options.may_log() {
                warn!(
                    namespace = ctx.options.namespace.as_str(),
                    error = error as &dyn Error,
                    "a write could not be sent to L2, and its cache is closed; L2 may keep an old value until it expires"
                );
            }
        }
        ctx.drop_deferred(&self.target());
        self.answer(Err(WriteError::deferred(error.clone())));
    }

    /// Ends it: nothing is left to be deferred.
    pub(super) fn answer(&mut self, result: WriteResult) {
        self.is_over = true;
        self.capacity = None;
        if let Some(answer) = self.answer.take() {
            // The caller may have been cancelled.
            let _ = answer.send(result);
        }
    }
}

/// The error of a write whose task has ended with its runtime.
pub(super) fn stopped() -> WriteError {
    WriteError::deferred(L2Error::closed())
}

impl Ordered for Write {
    fn key(&self) -> Option<&Key> {
        match self.step {
            Step::InvalidateTags | Step::Clear | Step::EndLeases => None,
            _ => Some(&self.key),
        }
    }

    fn is_joint(&self) -> bool {
        matches!(self.step, Step::InvalidateTags | Step::EndLeases)
    }

    fn is_insert(&self) -> bool {
        self.step.is_insert()
    }

    /// A KiB of a stored value counts as much as 64 bytes of the key, which every instance is sent and the log keeps; or
    /// as four tags, as the step reads and writes the tag version of each.
    fn weight(&self) -> u32 {
        let stored = (self.insert.as_ref()).map_or(0, |insert| {
            insert.encoded.body.len() / 1024 + insert.tags.len() / 4
        });
        u32::try_from(1 + stored + self.key.len() / 64).unwrap_or(u32::MAX)
    }

    fn ends_call(&self) -> bool {
        self.ends_call
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        if !self.is_over {
            self.defer(&L2Error::closed());
        }
    }
}
