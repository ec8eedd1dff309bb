//! Which loads a caller may join, and which results it may have, if it comes with a token (rule 22).

use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::error::LoadError;
use crate::l1::Outcome;
use crate::token::Token;
use crate::vocabulary::{Source, Value};

/// A write that a caller knows of, and that this instance may not have applied yet.
#[derive(Clone, Copy)]
pub(crate) struct Since {
    /// The lowest number of a load that the caller is not too late for.
    pub(crate) number: u64,
    /// The write that its result must not be older than.
    pub(crate) at_least: Option<Token>,
}

impl Since {
    /// Nothing: every result will do.
    pub(crate) const ANY: Self = Self {
        number: 0,
        at_least: None,
    };

    /// A write that a token names. Since this number was the next one, L2 was asked for the key, and had nothing or did
    /// not answer.
    pub(crate) fn new(token: Token, number: u64) -> Self {
        if without(Rule::TokenLoads) {
            return Self::ANY;
        }
        Self {
            number,
            at_least: Some(token),
        }
    }

    /// Whether the caller may have a result: it was stored by that write or later, or it comes from a load that began
    /// after L2 was asked. A value that such a load has found in L1 is new enough only for the caller that has begun
    /// it.
    pub(crate) fn resolve<V: Value>(
        &mut self,
        ctx: &Context<V>,
        outcome: Outcome<V>,
        is_late: bool,
        is_own: bool,
    ) -> Resolved<V> {
        let is_enough = |token| ctx.l1.is_at_least(&outcome.slot, token);
        if self.at_least.is_none_or(is_enough) {
            return Resolved::Usable(outcome);
        }
        match outcome.failed {
            // A fallback never counts for a token: the caller looks it up again, without relying on the proof.
            Some(error) => Resolved::Failed(error),
            None if !is_late && (is_own || outcome.source != Source::L1) => {
                Resolved::Usable(outcome)
            }
            None => {
                if !is_late {
                    // Other callers' loads are content with the entry in L1, so the next load is the caller's own. No
                    // load has a number as high as this.
                    self.number = u64::MAX;
                }
                Resolved::Again
            }
        }
    }
}

/// Whether the result of a load is one for the caller.
pub(crate) enum Resolved<V> {
    /// The caller gets it.
    Usable(Outcome<V>),
    /// It takes the place of a value that could not be loaded, and may be too old.
    Failed(LoadError),
    /// The caller joins or begins another load.
    Again,
}
