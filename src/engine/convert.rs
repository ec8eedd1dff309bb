//! Between the values of users and the bytes of L2, and between the times of both.
//!
//! Knows no flow and sends nothing.

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
use crate::vocabulary::Want;
use crate::wire::codec::{EncodeError, ValueCodec};
use crate::wire::envelope::{self, Head, Stamp};

pub(super) struct Convert<V> {
    codec: ValueCodec<V>,
    /// Tells values of this type from others under the same keys.
    type_tag: u64,
    options: Arc<Options>,
    counters: Arc<Counters>,
    /// Knows how far the lane's time is.
    l1: Arc<L1<V>>,
    decode_warnings: Throttle,
    encode_warnings: Throttle,
}

impl<V: Send + Sync + 'static> Convert<V> {
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
                Err("it is tagged as another type".to_owned())
            }
            Ok(envelope) => self
                .codec
                .decode(envelope.head.codec, envelope.payload)
                .map(|value| self.fresh(key, value, envelope.stamp, &envelope.head, now))
                .map_err(|error| error.reason().to_string()),
            Err(damage) => Err(damage.to_string()),
        };
        opened.map_err(|reason| {
            self.cannot_read(key, &reason, now);
            envelope::peek(bytes).map_or(Want::Nothing, |(stamp, _)| Want::NewerThan(stamp.ver))
        })
    }

    fn cannot_read(&self, key: &Key, reason: &str, now: Tick) {
        self.counters.decode_errors.bump();
        let namespace = self.options.namespace.as_str();
        if self.decode_warnings.allows(now) {
            warn!(namespace, reason, "a stored value cannot be read");
        }
        debug!(
            namespace,
            key = &**key,
            reason,
            "a stored value cannot be read"
        );
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
        encoded.inspect_err(|error| {
            self.counters.encode_errors.bump();
            if self.encode_warnings.allows(self.options.clock.now()) {
                warn!(
                    namespace = self.options.namespace.as_str(),
                    error = error as &dyn Error,
                    "a value cannot be stored"
                );
            }
        })?;
        let body = envelope::seal(body);
        Ok((head, EncodedValue { body, ttl }))
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
