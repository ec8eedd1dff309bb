//! Between the values of users and the bytes of L2, and between the times of both.
//!
//! Does not know which call it serves, and sends nothing.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::clock::{Tick, millis, nanos};
use crate::key::Key;
use crate::l1::{Fresh, L1, NEVER, Slot, UNSTORED};
use crate::l2::EncodedValue;
use crate::options::Options;
use crate::stats::Counters;
use crate::throttle::Throttle;
use crate::vocabulary::{Value, Want};
use crate::wire::codec::{EncodeError, ValueCodec};
use crate::wire::envelope::{self, Head, Stamp};

pub(super) struct Convert<V> {
    codec: ValueCodec<V>,
    /// Distinguishes values of this type from others under the same keys.
    type_tag: u64,
    options: Arc<Options>,
    counters: Arc<Counters>,
    /// Knows how far the lane's time is.
    l1: Arc<L1<V>>,
    decode_warnings: Throttle,
    encode_warnings: Throttle,
}

impl<V: Value> Convert<V> {
    pub(super) fn new(
        codec: ValueCodec<V>,
        type_tag: u64,
        options: &Arc<Options>,
        counters: &Arc<Counters>,
        l1: &Arc<L1<V>>,
    ) -> Self {
        Self {
            codec,
            type_tag,
            options: Arc::clone(options),
            counters: Arc::clone(counters),
            l1: Arc::clone(l1),
            decode_warnings: Throttle::default(),
            encode_warnings: Throttle::default(),
        }
    }

    /// Reads stored bytes. The caller decides whether their epoch and age are right.
    ///
    /// Where they cannot be read, says what else to ask for: something other than this.
    pub(super) fn open(&self, key: &Key, bytes: &[u8], now: Tick) -> Result<Fresh<V>, Want> {
        let opened = match envelope::open(bytes) {
            Ok(envelope) if envelope.head.type_tag != self.type_tag => {
                Err("it is tagged as another type".into())
            }
            Ok(envelope) => self
                .codec
                .decode(
                    envelope.head.codec,
                    envelope.payload,
                    self.options.max_value_size,
                )
                .map(|value| self.fresh(key, value, envelope.stamp, &envelope.head, now))
                .map_err(Box::from),
            Err(damage) => Err(damage.into()),
        };
        opened.map_err(|error: Box<dyn Error + Send + Sync>| {
            self.cannot_read(key, &*error, now);
            envelope::peek(bytes).map_or(Want::Nothing, |(stamp, _)| Want::NewerThan(stamp.ver))
        })
    }

    fn cannot_read(&self, key: &Key, error: &(dyn Error + 'static), now: Tick) {
        self.counters.decode_errors.bump();
        let namespace = self.options.namespace.as_str();
        // The sources of the error may quote the value, so they and the key go to DEBUG.
        if self.decode_warnings.allows(now) {
            warn!(namespace, reason = %error, "a stored value cannot be read");
        }
        let key = &**key;
        debug!(namespace, key, error, "a stored value cannot be read");
    }

    /// Encodes a value for L2, with TTLs of its own.
    pub(super) fn seal(&self, value: &V) -> Result<(Head, EncodedValue), EncodeError> {
        let ttl = self.options.jittered(self.options.l2_ttl);
        let soft_ttl = self
            .options
            .soft_ttl
            .map(|soft_ttl| self.options.jittered(soft_ttl));
        let head = Head {
            codec: self.codec.id(),
            type_tag: self.type_tag,
            soft_ttl_ms: soft_ttl.map_or(0, millis),
            hard_ttl_ms: millis(ttl),
        };
        let mut body = envelope::begin(&head);
        let encoded = self
            .codec
            .encode(value, &mut body, self.options.max_value_size);
        encoded.inspect_err(|error| self.cannot_store(error))?;
        let body = envelope::seal(body);
        Ok((head, EncodedValue { body, ttl }))
    }

    fn cannot_store(&self, error: &EncodeError) {
        self.counters.encode_errors.bump();
        let namespace = self.options.namespace.as_str();
        if self.encode_warnings.allows(self.options.clock.now()) {
            warn!(namespace, reason = %error, "a value cannot be stored");
        }
        let error = error as &dyn Error;
        debug!(namespace, error, "a value cannot be stored");
    }

    /// A value with a stamp, its times translated to this process's clock.
    pub(super) fn fresh(
        &self,
        key: &Key,
        value: V,
        stamp: Stamp,
        head: &Head,
        now: Tick,
    ) -> Fresh<V> {
        // The lane's time is overestimated, so a value seems older than it is, and goes early.
        let age = self
            .l1
            .freshness()
            .lane_time(now)
            .map_or(0, |lane_now| lane_now.saturating_sub(stamp.written_at));
        let born_at = now.saturating_sub(nanos(Duration::from_millis(age)));
        let after = |ms: u64| born_at.saturating_add(nanos(Duration::from_millis(ms)));
        let soft_at = if head.soft_ttl_ms == 0 {
            NEVER
        } else {
            after(head.soft_ttl_ms)
        };
        let l1_ttl = self.options.l1_ttl.map_or(NEVER, |ttl| {
            now.saturating_add(nanos(self.options.jittered(ttl)))
        });
        let slot = Slot::new(
            key.clone(),
            value,
            stamp.ver,
            born_at,
            soft_at,
            l1_ttl.min(after(head.hard_ttl_ms)),
        );
        Fresh {
            slot: Arc::new(slot),
            epoch: stamp.epoch,
        }
    }

    /// A value that L2 does not hold, for the callers that waited for it and for no other.
    pub(super) fn unstored(&self, key: &Key, value: V, now: Tick) -> Arc<Slot<V>> {
        self.counters.loads_not_stored.bump();
        Arc::new(Slot::new(key.clone(), value, UNSTORED, now, NEVER, now))
    }
}
