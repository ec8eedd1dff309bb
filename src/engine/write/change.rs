//! A write on its way to L2: what it changes, and the caller that waits for its end.
//!
//! A write that is dropped before L2 has accepted it is deferred, as when the runtime of its task ends (rule 14).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::warn;

use super::order::Ordered;
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::engine::context::Context;
use crate::engine::deferred::{Deferral, Target};
use crate::error::{L2Error, WriteError};
use crate::key::Key;
use crate::l1::{OpGuard, Tags};
use crate::l2::{EncodedValue, Kind, Stamp, Version, WriteAck};
use crate::token::Token;
use crate::vocabulary::Value;

/// How a write ended.
pub(crate) type WriteResult = Result<Accepted, WriteError>;

/// What L2 did with a write that it has accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Accepted {
    /// It was carried out, as the write that this names.
    Done(Token),
    /// The same for an invalidation, of which this message was published.
    Published(WriteAck),
    /// A clear was, as the write that this names, with a message of this number.
    Cleared(Stamp, u64),
    /// No load that began before is stored, and what is written later has a higher version than this.
    LeasesEnded(Stamp),
    /// Nothing: it was for another version of the value.
    Unchanged,
    /// Nothing: too many writes wait for their source.
    #[cfg(feature = "write-behind")]
    Full,
}

impl Accepted {
    /// Names the write, if anything was changed.
    pub(crate) fn token(self) -> Option<Token> {
        match self {
            Self::Done(token) => Some(token),
            Self::Published(ack) => Some(ack.stamp.version().into()),
            Self::Cleared(stamp, _) => Some(stamp.version().into()),
            Self::LeasesEnded(_) | Self::Unchanged => None,
            #[cfg(feature = "write-behind")]
            Self::Full => None,
        }
    }

    /// Of two writes of one call.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self.token(), other.token()) {
            (None, _) => other,
            (Some(this), Some(other)) if this != other => Self::Done(this.and(other)),
            _ => self,
        }
    }
}

/// What happens to a key, or to all of them.
pub(crate) enum Change<V> {
    /// Boxed, as writes are moved from list to list: an insert takes 4 % more instructions without.
    Insert(Box<Insert<V>>),
    Remove {
        kind: Kind,
        hold: Duration,
    },
    /// What is stored is stale from now on.
    Expire,
    /// Values that have the tag which stands for the key are no longer current. They may have any key, so it comes in its
    /// place among the writes of this instance like a clear.
    Tag,
    Clear,
    /// The first step of the removal of all keys with a prefix: loads that are under way are not stored. It changes no
    /// key, and comes in its place among the writes of this instance like a clear.
    EndLeases,
}

/// Changes of one sort can be sent in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Insert,
    /// Each in a step of its own, as it may be refused.
    InsertIf,
    Remove(Kind, Duration),
    Expire,
    Tags,
    Clear,
    EndLeases,
}

/// A value to be stored.
pub(crate) struct Insert<V> {
    /// Under way since the call, so that L1 takes nothing older in between (rule 3).
    pub(crate) op: OpGuard<V>,
    /// Until L2 has it.
    pub(crate) value: Option<V>,
    pub(crate) encoded: EncodedValue,
    /// Registered since the call, too.
    pub(crate) tags: Tags,
    /// What it is stored on.
    pub(crate) only_if: Option<Condition>,
}

/// What has to hold for a value to be stored.
pub(crate) enum Condition {
    /// This version is there.
    Version(Version),
    /// The stream of writes has room for it, where it then waits for its source; and the version is there, if one is asked
    /// for. Boxed, so that other inserts take no more memory.
    #[cfg(feature = "write-behind")]
    Room(Box<Queued>),
}

/// What the stream of writes is given with a value.
#[cfg(feature = "write-behind")]
pub(crate) struct Queued {
    pub(crate) encoded_key: Vec<u8>,
    /// How many writes may wait.
    pub(crate) most: u64,
    /// The version in whose place the value is stored.
    pub(crate) version: Option<Version>,
}

/// What became of a value that was to wait for its source.
#[cfg(feature = "write-behind")]
pub(crate) enum Appending {
    Accepted(Token),
    /// Nothing was changed: too many writes wait.
    Full,
    /// Nothing was changed: another version is stored.
    OtherVersion,
}

impl<V> Change<V> {
    pub(crate) fn sort(&self) -> Sort {
        match self {
            Self::Insert(insert) if insert.only_if.is_some() => Sort::InsertIf,
            Self::Insert(_) => Sort::Insert,
            Self::Remove { kind, hold } => Sort::Remove(*kind, *hold),
            Self::Expire => Sort::Expire,
            Self::Tag => Sort::Tags,
            Self::Clear => Sort::Clear,
            Self::EndLeases => Sort::EndLeases,
        }
    }

    /// What has to be known of it if it is deferred before it was sent.
    pub(crate) fn deferral(&self) -> Deferral {
        let hold = match self {
            Self::Remove { hold, .. } => *hold,
            Self::Insert(_) | Self::Expire | Self::Tag | Self::Clear | Self::EndLeases => {
                Duration::ZERO
            }
        };
        Deferral {
            hold,
            keeps_value: matches!(self, Self::Expire),
            ..Deferral::default()
        }
    }
}

/// A change on its way to L2.
pub(crate) struct Write<V: Value> {
    ctx: Arc<Context<V>>,
    /// The key, the tag, or the prefix. Empty for a clear.
    pub(crate) key: Key,
    pub(crate) change: Change<V>,
    /// The number of its call, among the writes and deferrals of this instance.
    pub(crate) order: u64,
    pub(crate) called_at: Tick,
    /// What has to be known of it if it is deferred.
    deferral: Deferral,
    weight: u32,
    ends_call: bool,
    /// Whether it delivers what was deferred.
    is_delivery: bool,
    /// What it takes of the writer's capacity.
    capacity: Option<OwnedSemaphorePermit>,
    answer: Option<oneshot::Sender<WriteResult>>,
}

impl<V: Value> Write<V> {
    pub(crate) fn new(
        ctx: &Arc<Context<V>>,
        key: Key,
        order: u64,
        change: Change<V>,
    ) -> (Self, oneshot::Receiver<WriteResult>) {
        let (answer, answered) = oneshot::channel();
        let write = Self {
            ctx: Arc::clone(ctx),
            weight: weight(&key, &change),
            key,
            deferral: change.deferral(),
            change,
            order,
            called_at: ctx.now(),
            ends_call: false,
            is_delivery: false,
            capacity: None,
            answer: Some(answer),
        };
        (write, answered)
    }

    /// Marks the last write of a call.
    pub(crate) fn end_call(&mut self) {
        self.ends_call = true;
    }

    /// Numbers and times a write that was made before its call as one that is called now.
    pub(crate) fn called_now(mut self) -> Self {
        self.order = self.ctx.deferred.next_order();
        self.called_at = self.ctx.now();
        self
    }

    /// Marks a write that delivers what was deferred. If it fails, it is deferred again, and neither counted nor a reason
    /// to ask for a heartbeat at once: a store that refuses it would be asked again and again.
    pub(crate) fn delivering(mut self) -> Self {
        self.is_delivery = true;
        self
    }

    pub(crate) fn take_capacity(&mut self, from: &mut OwnedSemaphorePermit) {
        let weight = from.num_permits().min(self.weight as usize);
        self.capacity = from.split(weight);
    }

    /// It is about to be sent: it may land until `deadline` of the lane's time, which is about `at` of ours.
    pub(crate) fn may_land_until(&mut self, deadline: u64, at: Tick) {
        self.deferral.settles_after = deadline;
        self.deferral.settled_at = at;
    }

    /// What is invalidated if it is deferred.
    pub(crate) fn target(&self) -> Target<'_> {
        match self.change {
            Change::Insert(_) | Change::Remove { .. } | Change::Expire => Target::Key(&self.key),
            Change::Tag => Target::Tag(&self.key),
            Change::Clear | Change::EndLeases => Target::All,
        }
    }

    /// L2 has accepted it.
    pub(crate) fn done(mut self, accepted: Accepted) {
        self.answer(Ok(accepted));
    }

    /// L2 has refused it, and changed nothing.
    pub(crate) fn refuse(mut self, error: &L2Error) {
        self.answer(Err(WriteError::refused(error.clone())));
    }

    /// L2 was not asked, so it cannot land.
    pub(crate) fn not_sent(mut self, error: &L2Error) {
        self.may_land_until(0, 0);
        // What is stored stays, which is somebody else's.
        if self.change.sort() == Sort::InsertIf {
            return self.refuse(error);
        }
        self.defer(error);
    }

    /// L2 has to be sent an invalidation in its place, as soon as it answers.
    pub(crate) fn defer(mut self, error: &L2Error) {
        self.deferred(error);
    }

    fn deferred(&mut self, error: &L2Error) {
        let ctx = &*self.ctx;
        if self.is_delivery {
            ctx.deferred.defer(self.target(), self.deferral);
            return self.answer(Err(WriteError::deferred(error.clone())));
        }
        ctx.counters.writes_deferred.bump();
        // Where L2 is this instance's own, it is enough to change L1.
        if !without(Rule::Deferred) && !ctx.l1.freshness().is_alone() {
            ctx.deferred.defer(self.target(), self.deferral);
            if ctx.deferred.should_warn_of_loss(ctx.now()) {
                warn!(
                    namespace = ctx.options.namespace.as_str(),
                    error = error as &dyn Error,
                    "a write could not be sent to L2, and its cache is closed; L2 may keep an old value until it expires"
                );
            }
        }
        // After it was deferred, or a read that begins in between could bring the old value back.
        match self.target() {
            Target::Key(key) => {
                ctx.l1.forget(key);
                ctx.backoff.forget(key);
            }
            Target::Tag(tag) => ctx.l1.forget_tag(tag),
            Target::All => ctx.l1.clear(),
        }
        ctx.l1.freshness().request_proof();
        self.answer(Err(WriteError::deferred(error.clone())));
    }

    fn answer(&mut self, result: WriteResult) {
        self.capacity = None;
        if let Some(answer) = self.answer.take() {
            // The caller may have been cancelled.
            let _ = answer.send(result);
        }
    }
}

/// A KiB of what is stored counts as much as 64 bytes of the key, which every instance is sent and the log keeps.
fn weight<V>(key: &str, change: &Change<V>) -> u32 {
    let stored = match change {
        Change::Insert(insert) => insert.encoded.body.len() / 1024,
        Change::Remove { .. }
        | Change::Expire
        | Change::Tag
        | Change::Clear
        | Change::EndLeases => 0,
    };
    u32::try_from(1 + stored + key.len() / 64).unwrap_or(u32::MAX)
}

impl<V: Value> Ordered for Write<V> {
    fn key(&self) -> Option<&Key> {
        match self.target() {
            Target::Key(key) => Some(key),
            Target::Tag(_) | Target::All => None,
        }
    }

    fn is_joint(&self) -> bool {
        matches!(self.change, Change::Tag | Change::EndLeases)
    }

    fn is_insert(&self) -> bool {
        matches!(self.change, Change::Insert(_))
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn ends_call(&self) -> bool {
        self.ends_call
    }
}

impl<V: Value> Drop for Write<V> {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.deferred(&L2Error::closed());
        }
    }
}
