//! A look-up: L1, then L2. Reads of L2 are shared by all who ask for the key.

use std::sync::Arc;

use futures::FutureExt;

use super::Core;
use crate::entry::Entry;
use crate::l1::{Key, Op, ReadOutcome};
use crate::l2::{Ask, Lead, Want};
use crate::source::Source;

impl<V: Send + Sync + 'static> Core<V> {
    /// L1 alone. Does not wait, and does not allocate.
    pub(crate) fn get_local(&self, key: &str) -> Option<Entry<V>> {
        let now = self.now();
        let slot = self.l1.get(key, now)?;
        self.counters.l1_hits.bump();
        Some(self.hand_out(slot, now, Source::L1))
    }

    /// L1 alone, when it cannot prove that what it has is current: only if it may be available then.
    pub(super) fn get_unproven(&self, key: &str) -> Option<Entry<V>> {
        let limit = self.options.mode.limit()?;
        let now = self.now();
        let slot = self.l1.get_unproven(key, now, limit)?;
        self.counters.unproven_served.bump();
        Some(Entry::unproven(slot, now))
    }

    /// The same, before anybody waits for an L2 that is known not to answer.
    pub(crate) fn get_instead(&self, key: &str) -> Option<Entry<V>> {
        if self.does_l2_answer() {
            return None;
        }
        self.get_unproven(key)
    }

    /// L2, for what L1 did not have.
    pub(crate) async fn get(self: &Arc<Self>, key: Key) -> Option<Entry<V>> {
        self.ensure_listening();
        if let Some(entry) = self.get_instead(&key) {
            return Some(entry);
        }
        match self.read(&key).await {
            ReadOutcome::Hit(slot) => Some(self.hand_out(slot, self.now(), Source::L2)),
            ReadOutcome::Unavailable => self.get_unproven(&key),
            ReadOutcome::Miss | ReadOutcome::Unreadable(_) => None,
        }
    }

    /// Reads L2 once for all who ask meanwhile, and keeps what it finds in L1.
    ///
    /// The read is driven by whoever polls it: nobody has to stay for the others.
    pub(super) async fn read(self: &Arc<Self>, key: &Key) -> ReadOutcome<V> {
        let now = self.now();
        let read = self.flights.read(key, now, self.joinable_from(now), |op| {
            let core = Arc::clone(self);
            async move {
                let outcome = core.read_l2(&op).await;
                match &outcome {
                    ReadOutcome::Hit(slot) => {
                        core.counters.l2_hits.bump();
                        core.keep_or_outdate(&op, slot);
                    }
                    ReadOutcome::Miss => core.counters.l2_misses.bump(),
                    ReadOutcome::Unreadable(_) | ReadOutcome::Unavailable => {}
                }
                outcome
            }
            .boxed()
        });
        read.await
    }

    async fn read_l2(&self, op: &Op<V>) -> ReadOutcome<V> {
        if self.outbox.holds(op.key()) {
            return ReadOutcome::Unavailable;
        }
        // While the known epoch is proven, the value itself tells whether it is of it.
        if self.liveness.is_live() {
            let Ok(bytes) = self.heard(self.lane.get(op.key()).await) else {
                return ReadOutcome::Unavailable;
            };
            let Some(bytes) = bytes else {
                return ReadOutcome::Miss;
            };
            if op.is_current() {
                return match self.open(op.key(), &bytes) {
                    Ok(slot) if self.is_usable(op, &slot) => ReadOutcome::Hit(slot),
                    Ok(_) => ReadOutcome::Miss,
                    Err(instead) => ReadOutcome::Unreadable(instead),
                };
            }
        }
        // Otherwise the server compares epochs.
        let ask = Ask::without_lease(Want::Any);
        match self.heard(self.lane.lead(op.key(), ask).await) {
            Ok(Lead::Hit(bytes)) => self
                .open(op.key(), &bytes)
                .map_or_else(ReadOutcome::Unreadable, ReadOutcome::Hit),
            Ok(_) => ReadOutcome::Miss,
            Err(_) => ReadOutcome::Unavailable,
        }
    }
}
