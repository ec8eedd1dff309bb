//! Insert and invalidate: L2 first, in one step that also tells the others; then L1.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use super::Core;
use super::deferred::{Deferral, Delivery};
use super::queue::{Answer, Change, Write};
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::error::WriteError;
use crate::key::Key;
use crate::l2::{EncodedValue, L2Error, LeaseRequest, Stamp, Want};
use crate::options::LONGEST;
use crate::wire::codec::EncodeError;
use crate::wire::message::{self, Kind};

/// So many times `l2_timeout` after its last sign of life, who carries a write is given up: its runtime is
/// not driven.
pub(super) const PATIENCE: u32 = 8;

/// Writes that L2 can be told of in one step: of one sort. No two of them, as of all that go together, are of one key,
/// unless both remove it.
struct Group<V: Send + Sync + 'static> {
    sort: (Kind, Duration),
    writes: Vec<Write<V>>,
}

/// Somebody waits for the end of a write.
struct Waiting {
    key: Key,
    hold: Duration,
    answered: oneshot::Receiver<Answer>,
}

impl<V: Send + Sync + 'static> Group<V> {
    fn of(write: Write<V>) -> Self {
        Self {
            sort: write.change.sort(),
            writes: vec![write],
        }
    }

    /// As few as there can be, in the order of what is first in each.
    fn all(writes: Vec<Write<V>>) -> Vec<Self> {
        let mut sorts = writes.iter().map(|write| write.change.sort());
        if let Some(sort) = sorts.next()
            && sorts.all(|other| other == sort)
        {
            // So it is mostly. What they came in is big, so that is what they stay in.
            return vec![Self { sort, writes }];
        }
        let mut groups: Vec<Self> = Vec::new();
        for write in writes {
            let sort = write.change.sort();
            match groups.iter_mut().find(|group| group.sort == sort) {
                Some(group) => group.writes.push(write),
                None => groups.push(Self::of(write)),
            }
        }
        groups
    }

    fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.writes.iter().map(|write| &*write.key).collect();
        if self.sort.0 != Kind::Insert {
            keys.sort_unstable();
            keys.dedup();
        }
        keys
    }

    fn values(&self) -> impl Iterator<Item = (&str, &EncodedValue)> {
        self.writes.iter().filter_map(|write| match &write.change {
            Change::Insert { sealed, .. } => Some((&*write.key, sealed)),
            Change::Remove { .. } => None,
        })
    }

    /// When the first of them will have waited for too long.
    fn by(&self) -> Tick {
        self.writes.iter().map(|write| write.by).min().unwrap_or(0)
    }
}

impl<V: Send + Sync + 'static> Core<V> {
    /// Stores values in both levels. Once polled it goes on to its end, whether or not it is waited for.
    pub(crate) async fn insert(
        self: &Arc<Self>,
        values: impl IntoIterator<Item = (Key, V)>,
    ) -> Result<(), WriteError> {
        let values = values.into_iter();
        // With room for just so many, here and below: there is mostly one, and a list that grows begins with four.
        let mut sealed = Vec::with_capacity(values.size_hint().0);
        // All of them, before anything is changed.
        for (key, value) in values {
            let (head, body) = self.seal(&value).map_err(|error| match error {
                EncodeError::TooLarge { max, .. } => WriteError::too_large(max),
                EncodeError::Failed(error) => WriteError::encode(error),
            })?;
            sealed.push((key, value, head, body));
        }
        let changes = sealed.into_iter().map(|(key, value, head, sealed)| {
            let begun = self.outbox.begin();
            let op = self.flights.begin_owned(&key);
            let change = Change::Insert {
                op,
                value: Some(value),
                head,
                sealed,
            };
            (key, begun, change)
        });
        let waiting = self.write(changes);
        self.end(waiting).await.map(|_| ())
    }

    /// Removes keys from both levels, here and everywhere, and keeps loads from being stored for as long
    /// as `hold`. Once polled it goes on to its end.
    pub(crate) async fn invalidate(
        self: &Arc<Self>,
        keys: impl IntoIterator<Item = Key>,
        hold: Duration,
    ) -> Result<(), WriteError> {
        // What is longer overflows in Redis, which would refuse it again and again.
        let waiting = self.remove(keys, Kind::Invalidate, hold.min(LONGEST));
        self.end(waiting).await.map(|_| ())
    }

    /// As [`invalidate`](Self::invalidate), and then waits until it is gone from all instances.
    pub(crate) async fn invalidate_and_wait(self: &Arc<Self>, key: Key) -> Result<(), WriteError> {
        let waiting = self.remove([key], Kind::InvalidateAwaited, Duration::ZERO);
        if let Some(told) = self.end(waiting).await? {
            self.gone_everywhere(told).await;
        }
        Ok(())
    }

    fn remove(
        self: &Arc<Self>,
        keys: impl IntoIterator<Item = Key>,
        kind: Kind,
        hold: Duration,
    ) -> Vec<Waiting> {
        self.write(keys.into_iter().map(|key| {
            let begun = self.outbox.begin();
            // Here it is gone at once; what L2 still has may come back into L1 until L2 has answered.
            self.l1.evict(&key);
            (key, begun, Change::Remove { kind, hold })
        }))
    }

    /// Begins writes, which others carry through: a caller who is cancelled between the database and the
    /// cache must not leave the old value behind.
    fn write(
        self: &Arc<Self>,
        changes: impl Iterator<Item = (Key, u64, Change<V>)>,
    ) -> Vec<Waiting> {
        self.ensure_listening();
        let many = changes.size_hint().0;
        let (mut writes, mut waiting) = (Vec::with_capacity(many), Vec::with_capacity(many));
        for (key, begun, change) in changes {
            let (_, hold) = change.sort();
            let (write, answered) = Write::new(self, key.clone(), begun, change);
            writes.push(write);
            waiting.push(Waiting {
                key,
                hold,
                answered,
            });
        }
        self.enqueue(writes);
        waiting
    }

    /// Waits until all writes have ended; the first error, if there is one.
    async fn end(&self, writes: Vec<Waiting>) -> Answer {
        let mut patience = self.options.l2_timeout.saturating_mul(PATIENCE);
        let mut outcome = Ok(None);
        for mut write in writes {
            let answer = match timeout(patience, &mut write.answered).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(WriteError::stopped())),
                Err(_) => {
                    drop(self.queue.give_up(Some(&write.key)));
                    let error = L2Error::timed_out(patience);
                    patience = Duration::ZERO;
                    write.answered.try_recv().unwrap_or_else(|_| {
                        let deferral = Deferral {
                            hold: write.hold,
                            ..Deferral::default()
                        };
                        Err(self.defer(&write.key, &error, deferral))
                    })
                }
            };
            outcome = match outcome {
                Ok(_) => answer,
                error => error,
            };
        }
        outcome
    }

    /// Tells L2 of writes, in as few steps as there can be, and ends them.
    pub(super) async fn tell(&self, writes: Vec<Write<V>>) {
        let groups = Group::all(writes);
        // Before all of them: they are sent one after the other then, with nothing to wait for in between.
        let clock = &match self.needs_clock(&groups) {
            // Once in a lane's life, so it does not make room for this in every task.
            Some(key) => self.read_clock(key).boxed().await,
            None => Ok(()),
        };
        join_all(
            groups
                .into_iter()
                .map(|group| self.tell_group(group, clock)),
        )
        .await;
    }

    async fn tell_group(&self, group: Group<V>, clock: &Result<(), L2Error>) {
        let refused = self.try_to_tell(group, clock).await;
        // It may be the fault of one key, which is no concern of the others.
        let each = refused.into_iter().map(async |write| {
            let refused = self.try_to_tell(Group::of(write), clock).await;
            debug_assert!(refused.is_empty(), "one alone has an end");
        });
        join_all(each).await;
    }

    /// Tells L2 of writes in one step, and ends them; those of several that L2 refuses are given back.
    async fn try_to_tell(&self, mut group: Group<V>, clock: &Result<(), L2Error>) -> Vec<Write<V>> {
        let keys = group.keys();
        let (kind, hold) = group.sort;
        let payload = message::payload(kind, self.origin, &keys);
        let told = if kind == Kind::Insert {
            match clock {
                Ok(()) => {
                    // At `by` the sender of one will have given up, and may have told L2 otherwise.
                    let deadline = self.liveness.lane_time(group.by());
                    for write in &mut group.writes {
                        write.settles_after = deadline.unwrap_or(0);
                    }
                    let values: Vec<_> = group.values().collect();
                    let told = self.lane.insert(&values, &payload, deadline).await;
                    self.heard(told).map(|stamp| (stamp, None))
                }
                Err(error) => Err(error.clone()),
            }
        } else {
            let told = self.lane.invalidate(&keys, &payload, hold).await;
            self.heard(told).map(|told| (told.stamp, Some(told)))
        };
        match told {
            Ok((stamp, told)) => {
                let now = self.now();
                for write in &mut group.writes {
                    self.accepted(write, stamp, now);
                }
                Write::let_follow(&mut group.writes);
                // All at once: who is woken one at a time puts the threads to sleep in between, and comes
                // back alone.
                for write in group.writes {
                    write.done(told);
                }
            }
            Err(error) if error.is_refused() && group.writes.len() > 1 => return group.writes,
            Err(error) => {
                for write in group.writes {
                    write.defer(&error);
                }
            }
        }
        Vec::new()
    }

    fn accepted(&self, write: &mut Write<V>, stamp: Stamp, now: Tick) {
        self.counters.invalidations_sent.bump();
        match &mut write.change {
            Change::Insert {
                op, value, head, ..
            } => {
                if let Some(value) = value.take() {
                    let fresh = self.fresh_at(&write.key, value, stamp, head, now);
                    if without(Rule::OwnMessages) {
                        self.l1.publish(op, &fresh);
                    } else {
                        self.supersede(op, &fresh);
                    }
                }
            }
            Change::Remove { .. } if without(Rule::OwnMessages) => {}
            Change::Remove { .. } => self.apply([&*write.key], stamp.epoch, stamp.ver),
        }
        let (_, hold) = write.change.sort();
        self.outbox
            .overtaken(&write.key, write.begun, stamp.written_at, hold);
    }

    /// Nobody knows what L2 did, or will do: the key is not used here until L2 has been told again.
    pub(super) fn defer(&self, key: &Key, error: &L2Error, deferral: Deferral) -> WriteError {
        self.counters.writes_deferred.bump();
        // Where there is nobody to tell, it is enough to forget it.
        if !without(Rule::Deferred) && !self.liveness.is_alone() {
            self.outbox.defer(key, deferral);
        }
        self.forget(key);
        self.liveness.ask();
        WriteError::deferred(error.clone())
    }

    /// A key of those that may not be inserted until the lane's time is known, as they must not be accepted after a
    /// time of the lane's.
    fn needs_clock(&self, groups: &[Group<V>]) -> Option<Key> {
        let mut inserts = groups.iter().filter(|group| group.sort.0 == Kind::Insert);
        let key = &inserts.find_map(|group| group.writes.first())?.key;
        let is_known = self.liveness.lane_time(self.now()).is_some() || self.liveness.is_alone();
        (!is_known).then(|| key.clone())
    }

    async fn read_clock(&self, key: Key) -> Result<(), L2Error> {
        // Connecting is what reads it, and nothing has been asked of L2 yet.
        let ask = LeaseRequest::read_only(Want::Nothing);
        self.heard(self.lane.acquire_lease(&key, ask).await)
            .map(|_| ())
    }

    /// Tells L2 what it could not be told before. What does not get through is tried again later.
    pub(super) async fn deliver_deferred(&self) {
        let mut lane_time = self.liveness.lane_time(self.now());
        while let Some(delivery) = self.outbox.next(lane_time) {
            let accepted_at = match self.deliver(&delivery).await {
                Ok(accepted_at) => Some(accepted_at),
                Err(error) if error.is_refused() => {
                    self.outbox.put_back(&delivery);
                    // It may be the fault of one key, which is no concern of the others.
                    let each = delivery.each();
                    let each = join_all(each.iter().map(|one| self.deliver(one))).await;
                    each.into_iter().flatten().max()
                }
                Err(_) => None,
            };
            if accepted_at.is_none() {
                return;
            }
            // Not ours any more, which runs ahead of the lane's: what has been told too early would be told
            // again and again until that is over.
            lane_time = accepted_at;
        }
    }

    /// Says when, in the lane's time, L2 accepted it.
    async fn deliver(&self, delivery: &Delivery) -> Result<u64, L2Error> {
        let stamp = match delivery {
            Delivery::All(_) => {
                let stamp = self.tell_clear().await?;
                self.liveness.doubt();
                stamp
            }
            Delivery::Keys(keys) => {
                let keys: Vec<&str> = keys.iter().map(|(key, _)| &**key).collect();
                let payload = message::payload(Kind::Invalidate, self.origin, &keys);
                let told = self.lane.invalidate(&keys, &payload, delivery.hold()).await;
                let stamp = self.heard(told)?.stamp;
                self.counters.invalidations_sent.add(keys.len() as u64);
                self.apply(keys, stamp.epoch, stamp.ver);
                stamp
            }
        };
        debug!(
            namespace = self.options.namespace.as_str(),
            "deferred invalidations were delivered"
        );
        self.outbox.settle(delivery, stamp.written_at);
        Ok(stamp.written_at)
    }
}
