//! The levels of one partition of an instance, and the state that several modules share.
//!
//! Architecture invariant: the state of one part is in that part, and logic is here only where several parts need it.

use std::sync::Arc;

use tokio::time::sleep;

use super::backoff::Backoff;
use super::breaker::Breaker;
use super::convert::Convert;
use super::deferred::{Deferral, Deferred, Target};
use super::metrics::Metrics;
use super::partitions::Partitions;
use super::switch::Switch;
use crate::clock::{Tick, nanos};
use crate::error::L2Error;
use crate::events::Events;
use crate::key::Key;
use crate::l1::{L1, Op};
use crate::l2::{
    AcceptedValue, Batch, Kind, LONGEST_PAUSE, LeaseReply, LeaseRequest, Partition, Step, Written,
    reconnect_delays,
};
use crate::options::Options;
use crate::stats::{Counters, Stats};
use crate::wire::message;

pub(crate) struct Context {
    pub(crate) options: Arc<Options>,
    /// For which keys the cache is on.
    pub(crate) switch: Arc<Switch>,
    pub(crate) l1: Arc<L1>,
    pub(crate) partition: Box<dyn Partition>,
    /// Requests that a caller waits for pass through it.
    pub(crate) breaker: Breaker,
    pub(crate) convert: Convert,
    /// Invalidations that L2 has yet to be sent.
    pub(crate) deferred: Deferred<Partitions<Arc<Self>>>,
    /// Keys whose load or refresh failed.
    pub(crate) backoff: Backoff,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Arc<Events>,
    pub(crate) metrics: Arc<Metrics>,
    /// The id of this instance, as its messages name it.
    pub(crate) instance: u64,
}

impl Partitions<Arc<Context>> {
    pub(crate) fn stats(&self) -> Stats {
        self.counted().with_entries(self.entries())
    }

    /// All but the number of entries.
    pub(crate) fn counted(&self) -> Stats {
        self.first().counters.snapshot(self.flushes())
    }

    /// How often L1 was flushed, in all partitions.
    pub(crate) fn flushes(&self) -> u64 {
        let flushes = (self.iter()).map(|ctx| ctx.l1.freshness.generation().flushes());
        flushes.sum()
    }

    /// How many entries L1 has.
    pub(crate) fn entries(&self) -> u64 {
        self.iter().map(|ctx| ctx.l1.entries.len()).sum()
    }
}

impl Context {
    #[inline]
    pub(crate) fn now(&self) -> Tick {
        self.options.clock.now()
    }

    /// Begins an operation on a key, unless [neither level may be used](Self::is_blocked) for it.
    pub(crate) fn begin(&self, key: &Key) -> Option<Op> {
        let op = self.l1.in_flight.begin(key);
        (!self.is_blocked(key)).then_some(op)
    }

    /// Defers an invalidation, to be delivered as soon as L2 answers.
    pub(crate) fn defer(&self, target: &Target, deferral: Deferral) {
        self.deferred.defer(target.clone(), deferral);
        self.hand_over();
    }

    /// Has the partitions that are used in place of this one deliver what is deferred here. Called after each deferral, and
    /// when there are such partitions: so none is left behind.
    pub(crate) fn hand_over(&self) {
        let Some(next) = self.deferred.next.get() else {
            return;
        };
        let partitions_of = |target: &Target| match target {
            Target::Key(key) => vec![next.for_key(key)],
            Target::Tag(_) | Target::All => next.iter().collect(),
        };
        let taken = self.deferred.hand_over(|target, deferral| {
            for ctx in partitions_of(target) {
                ctx.deferred.defer(target.clone(), deferral);
            }
        });
        for target in &taken {
            for ctx in partitions_of(target) {
                ctx.hand_over();
                ctx.drop_deferred(target);
            }
        }
    }

    /// Removes what was deferred from L1, and has it delivered. Called after it was deferred, or a read that begins in
    /// between could bring the old value back.
    pub(crate) fn drop_deferred(&self, target: &Target) {
        match target {
            Target::Key(key) => {
                self.l1.apply_unversioned(key);
                self.backoff.forget(key);
            }
            Target::Tag(tag) => self.l1.apply_unversioned_tag(tag),
            Target::All => self.l1.flush_and_revoke_proof(),
        }
        // For the heartbeat that this causes: its answer has the deferred writes sent.
        self.l1.freshness.wake_for_proof();
    }

    /// Asks for the value or the lease of a key: the read in which the server compares epochs.
    pub(crate) fn acquire_lease<'a>(
        &'a self,
        key: &'a str,
        ask: LeaseRequest,
    ) -> impl Future<Output = Result<LeaseReply, L2Error>> {
        let reply = self.partition.acquire_lease(key, ask);
        self.breaker.send("acquire_lease", reply)
    }

    /// Waits while L2 refuses the connection for requests. The subscription has a connection of its own.
    pub(crate) async fn not_refused(&self) {
        let mut pauses = reconnect_delays();
        while let Err(error) = self.partition.connected().await
            && error.is_refused()
        {
            // So that the log says why. An `Ok` would be no answer to a request.
            let _ = self.breaker.observe(Err::<(), _>(error));
            sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// The deadline of a request that is sent now, by L2's clock if that is known, and by this instance's clock. L2
    /// refuses the request afterwards: a write that arrives late must not undo later writes (rule 14: deferred writes).
    pub(crate) fn deadline(&self) -> (Option<u64>, Tick) {
        let by = self.now().saturating_add(nanos(self.options.l2_timeout));
        (self.l1.freshness.partition_time(by), by)
    }

    /// Makes L2's clock known, unless it is or need not be: each new connection reads it, so any request will do.
    pub(crate) async fn learn_clock(&self) -> Result<(), L2Error> {
        let freshness = &self.l1.freshness;
        if freshness.is_unshared() || freshness.partition_time(self.now()).is_some() {
            return Ok(());
        }
        let nothing = LeaseRequest::read_only(AcceptedValue::NoValue);
        self.acquire_lease("", nothing).await.map(|_| ())
    }

    /// A message of this instance.
    pub(crate) fn message(&self, kind: Kind, names: &[&str]) -> Vec<u8> {
        message::payload(kind, self.instance, names)
    }

    /// Publishes a message without a change of L2, by the invalidation of no key.
    pub(crate) async fn publish(&self, kind: Kind, names: &[&str]) -> Result<Written, L2Error> {
        self.invalidate(&[], kind, names).await
    }

    /// Removes keys from L2, and publishes a message, which need not name them.
    pub(crate) async fn invalidate(
        &self,
        keys: &[&str],
        kind: Kind,
        names: &[&str],
    ) -> Result<Written, L2Error> {
        let batch = Batch {
            keys,
            payload: &self.message(kind, names),
            ..Batch::default()
        };
        let invalidating = self.partition.write(&Step::INVALIDATE, batch);
        let written = self.breaker.send("invalidate", invalidating).await?;
        if let Written::Done(ack) = written {
            self.l1.freshness.note_answered(ack.numbers());
        }
        Ok(written)
    }

    /// Whether neither level may be used for a key: a write of it is deferred (rule 14: deferred writes), or the cache
    /// is off for it.
    pub(crate) fn is_blocked(&self, key: &Key) -> bool {
        // Callers ask after their operation has begun. A write that is deferred later, or a switch that comes later,
        // keeps the operation from L1 by its floor or generation; one that came before is seen here.
        self.switch.is_off_for(key) || self.deferred.holds(key)
    }
}
