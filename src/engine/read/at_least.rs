//! Look-ups with a token: they answer with no value that is older than the write that it names, also before this
//! instance has applied that write (rule 22: a token names a write).
//!
//! An entry that was stored by that write or later is an answer. Otherwise L2 is asked, which has every write that it
//! has accepted; and only then the loader. The token may be made up, so nothing here waits for it, and nothing in L1
//! changes because of it.

use super::lookup::{Found, Reads};
use super::tags::MayUseProof;
use crate::ablation::{Rule, without};
use crate::entry::AnyEntry;
use crate::key::Key;
use crate::l1::NoValue;
use crate::token::Token;
use crate::vocabulary::{Source, Version};

impl Reads {
    /// The version of the write of this partition that a token names, or the version of no write.
    pub(crate) fn write_of(&self, token: &Token) -> Version {
        let no_write = || self.ctx.l1.freshness.no_write();
        token.of_partition(self.partition).unwrap_or_else(no_write)
    }

    /// Whether any look-up of this partition is one with this token.
    pub(crate) fn has_applied(&self, token: &Token) -> bool {
        self.ctx.l1.freshness.has_applied(self.write_of(token))
    }

    /// L1, if an entry is new enough, and otherwise L2. The results are in the order of the keys.
    pub(crate) async fn look_up_at_least(&self, keys: &[Key], token: &Token) -> Vec<Found> {
        let (ctx, write) = (&*self.ctx, self.write_of(token));
        let now = ctx.now();
        let here = keys.iter().map(|key| self.get_local_at_least(key, write));
        let mut found: Vec<_> = here
            .map(|entry| entry.ok_or(NoValue::Unavailable))
            .collect();
        let lacking = keys.iter().zip(&mut found);
        let lacking: Vec<_> = lacking.filter(|(_, found)| found.is_err()).collect();
        if lacking.is_empty() {
            return found;
        }
        let asked: Vec<Key> = lacking.iter().map(|(key, _)| Key::clone(key)).collect();
        // By operations of its own, and not by a read that others share: one that began before may be too old.
        let outcomes = self.read_many(&asked, MayUseProof::No).await;
        debug_assert_eq!(outcomes.len(), lacking.len(), "one outcome for each key");
        for ((key, index), outcome) in lacking.into_iter().zip(outcomes) {
            *index = match outcome {
                Err(NoValue::Unavailable) => self
                    .get_unproven(key)
                    .filter(|entry| ctx.l1.is_at_least(entry.record(), write))
                    .ok_or(NoValue::Unavailable),
                outcome => self.answer(key, outcome, now),
            };
        }
        found
    }

    /// L1 alone.
    fn get_local_at_least(&self, key: &Key, write: Version) -> Option<AnyEntry> {
        let ctx = &*self.ctx;
        let now = ctx.now();
        let record = ctx.l1.look_up(key, now)?;
        // The entry stays: the token may be made up, and for other callers the entry is as good as before.
        if !ctx.l1.is_at_least(&record, write) && !without(Rule::Tokens) {
            return None;
        }
        let before = ctx.counters.l1_hits.bump();
        self.note_hit(&record, before);
        Some(self.hand_out(record, now, Source::L1))
    }
}
