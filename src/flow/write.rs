//! Insert and invalidate: L2 first, in one step that also tells the others; then L1.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, Span, debug};

use super::Core;
use super::outbox::{Deferral, Delivery};
use crate::ablation::{Rule, without};
use crate::clock::millis;
use crate::error::WriteError;
use crate::l1::Key;
use crate::l2::{Ask, L2Error, Sealed, Stamp, Told, Want};
use crate::options::LONGEST;
use crate::wire::codec::EncodeError;
use crate::wire::envelope::Head;
use crate::wire::message::{self, Kind};

impl<V: Send + Sync + 'static> Core<V> {
    /// Stores a value in both levels. Once polled it goes on to its end, whether or not it is waited for.
    pub(crate) async fn insert(self: &Arc<Self>, key: Key, value: V) -> Result<(), WriteError> {
        let (head, sealed) = self.seal(&value).map_err(|error| match error {
            EncodeError::TooLarge { max, .. } => WriteError::too_large(max),
            EncodeError::Failed(error) => WriteError::encode(error),
        })?;
        let core = Arc::clone(self);
        self.to_the_end(async move { core.put(&key, value, &head, &sealed).await })
            .await
    }

    /// Removes a key from both levels, here and everywhere, and keeps loads from being stored for as long
    /// as `hold`. Once polled it goes on to its end.
    pub(crate) async fn invalidate(
        self: &Arc<Self>,
        key: Key,
        hold: Duration,
    ) -> Result<(), WriteError> {
        let core = Arc::clone(self);
        // What is longer overflows in Redis, which would refuse it again and again.
        let hold = hold.min(LONGEST);
        self.to_the_end(async move {
            let removed = core.remove(&key, Kind::Invalidate, hold).await;
            removed.map(|_| ())
        })
        .await
    }

    /// As [`invalidate`](Self::invalidate), and then waits until it is gone from all instances.
    pub(crate) async fn invalidate_and_wait(self: &Arc<Self>, key: Key) -> Result<(), WriteError> {
        let core = Arc::clone(self);
        self.to_the_end(async move {
            let kind = Kind::InvalidateAwaited;
            let told = core.remove(&key, kind, Duration::ZERO).await?;
            core.gone_everywhere(told).await;
            Ok(())
        })
        .await
    }

    /// Empties both levels, here and everywhere. Once polled it goes on to its end.
    pub(crate) async fn clear(self: &Arc<Self>) -> Result<(), WriteError> {
        let core = Arc::clone(self);
        self.to_the_end(async move { core.remove_all().await })
            .await
    }

    /// In a task of its own: a caller who is cancelled between the database and the cache must not leave
    /// the old value behind.
    async fn to_the_end(
        self: &Arc<Self>,
        write: impl Future<Output = Result<(), WriteError>> + Send + 'static,
    ) -> Result<(), WriteError> {
        self.ensure_listening();
        tokio::spawn(write.instrument(Span::current()))
            .await
            .unwrap_or_else(|_| Err(WriteError::stopped()))
    }

    async fn put(
        &self,
        key: &Key,
        value: V,
        head: &Head,
        sealed: &Sealed,
    ) -> Result<(), WriteError> {
        let begun = self.outbox.begin();
        let op = self.flights.begin(key);
        let tail = message::tail(Kind::Insert, self.origin, &[key]);
        let deadline = match self.insert_deadline(key).await {
            Ok(deadline) => deadline,
            Err(error) => return Err(self.defer(key, &error, Deferral::default())),
        };
        match self.heard(self.lane.insert(key, sealed, &tail, deadline).await) {
            Ok(stamp) => {
                self.accepted(key, begun, stamp, Duration::ZERO);
                self.l1.publish(&op, &self.slot(value, stamp, head));
                Ok(())
            }
            Err(error) => {
                let deferral = Deferral {
                    settles_after: deadline.unwrap_or(0),
                    ..Deferral::default()
                };
                Err(self.defer(key, &error, deferral))
            }
        }
    }

    async fn remove(&self, key: &Key, kind: Kind, hold: Duration) -> Result<Told, WriteError> {
        let begun = self.outbox.begin();
        // Here it is gone at once; what L2 still has may come back into L1 until L2 has answered.
        self.l1.evict(key);
        let tail = message::tail(kind, self.origin, &[key]);
        match self.heard(self.lane.invalidate(&[key], &tail, hold).await) {
            Ok(told) => {
                self.accepted(key, begun, told.stamp, hold);
                Ok(told)
            }
            Err(error) => {
                let deferral = Deferral {
                    hold,
                    ..Deferral::default()
                };
                Err(self.defer(key, &error, deferral))
            }
        }
    }

    async fn remove_all(&self) -> Result<(), WriteError> {
        let tail = message::tail(Kind::Clear, self.origin, &[]);
        let answer = self.heard(self.lane.clear(&tail).await);
        let cleared = match answer {
            Ok(_) => {
                self.counters.invalidations_sent.bump();
                Ok(())
            }
            Err(error) => {
                self.counters.writes_deferred.bump();
                self.outbox.defer_all();
                Err(WriteError::deferred(error))
            }
        };
        // The new epoch comes with the next beat; until then nothing is served, or stored, that is older.
        self.liveness.doubt();
        self.l1.reclaim();
        cleared
    }

    fn accepted(&self, key: &Key, begun: u64, stamp: Stamp, hold: Duration) {
        self.counters.invalidations_sent.bump();
        if !without(Rule::OwnMessages) {
            self.apply([&**key], stamp.epoch, stamp.ver);
        }
        self.outbox.overtaken(key, begun, stamp.written_at, hold);
    }

    /// Nobody knows what L2 did, or will do: the key is not used here until L2 has been told again.
    fn defer(&self, key: &Key, error: &L2Error, deferral: Deferral) -> WriteError {
        self.counters.writes_deferred.bump();
        if !without(Rule::Outbox) {
            self.outbox.defer(key, deferral);
        }
        self.forget(key);
        self.liveness.ask();
        WriteError::deferred(error.clone())
    }

    /// When, in the lane's time, an insert that is sent now must no longer be accepted: its sender will
    /// have given up, and may have told L2 otherwise.
    async fn insert_deadline(&self, key: &Key) -> Result<Option<u64>, L2Error> {
        if self.liveness.lane_time(self.now()).is_none() {
            // Connecting is what reads the lane's clock, and nothing has been asked of it yet.
            let ask = Ask::without_lease(Want::Nothing);
            self.heard(self.lane.lead(key, ask).await)?;
        }
        Ok(self
            .liveness
            .lane_time(self.now())
            .map(|now| now.saturating_add(millis(self.options.l2_timeout))))
    }

    /// Tells L2 what it could not be told before. What does not get through is tried again later.
    pub(super) async fn deliver_deferred(&self) {
        let mut lane_time = self.liveness.lane_time(self.now());
        while let Some(delivery) = self.outbox.next(lane_time) {
            let answer = match &delivery {
                Delivery::All(_) => {
                    let tail = message::tail(Kind::Clear, self.origin, &[]);
                    self.heard(self.lane.clear(&tail).await)
                }
                Delivery::Keys(keys) => {
                    let keys: Vec<&str> = keys.iter().map(|(key, _)| &**key).collect();
                    let tail = message::tail(Kind::Invalidate, self.origin, &keys);
                    let told = self.lane.invalidate(&keys, &tail, delivery.hold()).await;
                    self.heard(told).map(|told| told.stamp)
                }
            };
            let Ok(stamp) = answer else { return };
            // Not ours any more, which runs ahead of the lane's: what has been told too early would be told
            // again and again until that is over.
            lane_time = Some(stamp.written_at);
            match &delivery {
                Delivery::All(_) => {
                    self.counters.invalidations_sent.bump();
                    self.liveness.doubt();
                }
                Delivery::Keys(keys) => {
                    self.counters.invalidations_sent.add(keys.len() as u64);
                    self.apply(keys.iter().map(|(key, _)| &**key), stamp.epoch, stamp.ver);
                }
            }
            debug!(
                namespace = self.options.namespace.as_str(),
                "deferred invalidations were delivered"
            );
            self.outbox.settle(&delivery, stamp.written_at);
        }
    }
}
