//! Between the values of users and the bytes of L2, and between the times of both.
//!
//! Does not know which call it serves, and sends nothing.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::ahead::RefreshAhead;
use crate::clock::{Tick, nanos};
use crate::error::Misuse;
use crate::key::Key;
use crate::l1::{L1, NEVER, Record, RecordHead, SharedRecord, Tags, Weigher, entry_bytes};
#[cfg(feature = "write-behind")]
use crate::l2::Waiting;
use crate::l2::{EncodedValue, Ttls};
use crate::loaded::{Loaded, OwnTags, OwnTtls, TagNames, names};
use crate::options::{DEFAULT_TTL, LONGEST, Options};
use crate::stats::Counters;
use crate::util::logged_once::LoggedOnce;
use crate::util::time_slice;
use crate::vocabulary::{AcceptedValue, AnyValue, L1Capacity, Mode, Version};
use crate::wire::codec::{CodecError, FormerType, ValueCodec, ValueContext};
use crate::wire::envelope::{self, ChecksumSeed, Envelope, Lifetime, Stamp, ValueFormat};

const MINUTE: Duration = Duration::from_secs(60);

/// A TTL from the value itself.
pub(crate) type TtlOf = Box<dyn Fn(&AnyValue) -> Option<Duration> + Send + Sync>;

/// The tags of a value, by its key and by itself, in addition to those that were set for it.
pub(crate) type TagsOf = Box<dyn Fn(&str, &AnyValue, OwnTags) -> TagNames + Send + Sync>;

/// Whether two values are the same.
pub(crate) type Same = Box<dyn Fn(&AnyValue, &AnyValue) -> bool + Send + Sync>;

type BoxError = Box<dyn Error + Send + Sync>;

/// A value, and the stored bytes taken apart.
type Decoded<'b> = (AnyValue, Envelope<'b>);

/// The functions of the builder that know the type of the values.
pub(crate) struct TypeRules {
    pub(crate) codec: Box<dyn ValueCodec>,
    /// Whether values stay in the instance that has loaded them.
    pub(crate) are_local: bool,
    pub(crate) also_reads: Vec<FormerType>,
    pub(crate) weigher: Option<Weigher>,
    /// `None`: by the bytes of the codec.
    pub(crate) same: Option<Same>,
    pub(crate) ttl_of: Option<TtlOf>,
    pub(crate) tags_of: Option<TagsOf>,
    /// Whether a value of the type took long to decode, which is said once for all partitions.
    pub(crate) logged_slow: LoggedOnce,
    /// Whether the default codec had to take its second format for a value, which is said once for all partitions.
    pub(crate) logged_second_format: LoggedOnce,
}

impl TypeRules {
    /// The options that cannot work with local values, and why.
    pub(crate) fn mistakes(&self, options: &Options) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !self.are_local {
            return mistakes;
        }
        // L1 would take each value for too large, and keep none.
        if matches!(options.l1_capacity, L1Capacity::Bytes(_)) && self.weigher.is_none() {
            let mistake = "l1_capacity in bytes needs l1_weigher for Local values, whose size nothing tells: set it, or a number of entries";
            mistakes.push(mistake.to_owned());
        }
        // Each check would cost a load, and compare nothing.
        if options.tuned().verify > 0.0 && self.same.is_none() {
            let mistake = "verify needs Verify::by for Local values, which have no bytes to compare: set it, or a share of 0.0";
            mistakes.push(mistake.to_owned());
        }
        mistakes
    }

    /// How L1 weighs entries: as code says, or by their bytes if that is what it is bounded in.
    pub(crate) fn weigher(self: &Arc<Self>, capacity: L1Capacity) -> Option<Weigher> {
        if let L1Capacity::Bytes(_) = capacity
            && self.weigher.is_none()
        {
            let rules = Arc::clone(self);
            return Some(Arc::new(move |key, value| {
                // A value that cannot be serialized cannot be stored, and is not kept.
                let value = rules.codec.memory_of(value).unwrap_or(usize::MAX);
                u32::try_from(value.saturating_add(entry_bytes(key))).unwrap_or(u32::MAX)
            }));
        }
        self.weigher.clone()
    }
}

pub(crate) struct Convert {
    rules: Arc<TypeRules>,
    pub(crate) ahead: RefreshAhead,
    /// Distinguishes values of this type from others under the same keys.
    type_tag: u64,
    namespace: ChecksumSeed,
    options: Arc<Options>,
    counters: Arc<Counters>,
    /// Until when a value that could not be stored is a fault of the present.
    unstorable_until: AtomicU64,
    /// Knows how far the partition's time is.
    l1: Arc<L1>,
}

impl Convert {
    pub(crate) fn new(
        rules: &Arc<TypeRules>,
        type_tag: u64,
        options: &Arc<Options>,
        counters: &Arc<Counters>,
        l1: &Arc<L1>,
    ) -> Self {
        Self {
            rules: Arc::clone(rules),
            type_tag,
            ahead: RefreshAhead::new(options),
            namespace: ChecksumSeed::namespace(&options.namespace),
            options: Arc::clone(options),
            counters: Arc::clone(counters),
            unstorable_until: AtomicU64::new(0),
            l1: Arc::clone(l1),
        }
    }

    /// Reads stored bytes. The caller decides whether their epoch and age are right, and [its tags](super::read::tags)
    /// valid.
    ///
    /// If they have no value of this type, returns the request for one; if it cannot be read, for another one.
    pub(crate) fn open(
        &self,
        key: &Key,
        bytes: &[u8],
        now: Tick,
    ) -> Result<SharedRecord, AcceptedValue> {
        self.counters.l2_read_bytes.add(bytes.len() as u64);
        match self.decode(key, bytes) {
            Ok(Some((value, read))) => {
                let tags = self.l1.register_tags(&read.tags);
                Ok(self.record(key, value, read.stamp, read.lifetime, tags, now))
            }
            // Instances of another release have stored theirs (rule 29: a change is of all types).
            Ok(None) => Err(AcceptedValue::Any),
            Err(error) => {
                self.cannot_read(key, &*error);
                // By its version, if it has one: a value that another load has stored meanwhile is read, not loaded
                // again.
                let stamp = envelope::stamp_of(bytes, self.type_tag);
                Err(stamp.map_or(AcceptedValue::NoValue, |stamp| {
                    AcceptedValue::OtherThan(stamp.ver)
                }))
            }
        }
    }

    /// Reads a value that waits for its source, which has no stamp. `None` if it is of another type.
    #[cfg(feature = "write-behind")]
    pub(crate) fn open_waiting(&self, waiting: &Waiting) -> Result<Option<AnyValue>, BoxError> {
        let bytes = envelope::stamped(Stamp::default(), &waiting.body);
        let decoded = self.decode(&Key::from(&*waiting.key), &bytes)?;
        Ok(decoded.map(|(value, _)| value))
    }

    /// Decodes the value of this type, if there is one: bytes of another type may decode to a wrong value.
    fn decode<'b>(&self, key: &Key, bytes: &'b [u8]) -> Result<Option<Decoded<'b>>, BoxError> {
        let seed = self.namespace.key(key);
        let Some(envelope) = envelope::parse(bytes, seed, self.type_tag)? else {
            return Ok(None);
        };
        let context = self.value_context(key, &envelope.tags);
        let codec = envelope.format.codec;
        let (rules, payload, began) = (&*self.rules, envelope.payload, Instant::now());
        let decoded = (rules.codec).decode(codec, payload, &context, &rules.also_reads)?;
        let took = began.elapsed();
        if took >= time_slice::LONGEST {
            self.note_slow(took, payload.len());
        }
        if decoded.is_of_former_type {
            self.counters.former_types.bump();
        }
        Ok(Some((decoded.value, envelope)))
    }

    /// Whether two values are the same. `None` if they cannot be compared. Runs the user's code, which may panic.
    pub(crate) fn are_same(&self, one: &AnyValue, other: &AnyValue) -> Option<bool> {
        match &self.rules.same {
            Some(same) => Some(same(one, other)),
            None => self.rules.codec.have_same_bytes(one, other).ok(),
        }
    }

    fn value_context<'a>(&'a self, key: &'a str, tags: &'a [Key]) -> ValueContext<'a> {
        ValueContext {
            namespace: &self.options.namespace,
            key,
            type_tag: self.type_tag,
            tags,
            max: self.options.tuned().max_value_size,
        }
    }

    #[cold]
    fn note_slow(&self, took: Duration, bytes: usize) {
        if self.rules.logged_slow.is_first() {
            info!(
                namespace = self.options.namespace.as_str(),
                value_type = self.rules.codec.type_name(),
                ?took,
                bytes,
                "a value takes long to decode, and other tasks wait for the thread: store less in it, or a simpler type"
            );
        }
    }

    #[cold]
    fn note_second_format(&self, refused: &CodecError) {
        if self.rules.logged_second_format.is_first() {
            info!(
                namespace = self.options.namespace.as_str(),
                value_type = self.rules.codec.type_name(),
                reason = %refused.reason(),
                "values that bincode cannot hold are stored by MessagePack, which takes more bytes and more time"
            );
        }
        let error: &(dyn Error + 'static) = refused;
        debug!(
            namespace = self.options.namespace.as_str(),
            error, "a value is stored by MessagePack"
        );
    }

    fn cannot_read(&self, key: &Key, error: &(dyn Error + 'static)) {
        let namespace = self.options.namespace.as_str();
        let codec_error = error.downcast_ref::<CodecError>();
        if codec_error.is_some_and(CodecError::is_another_shape) {
            self.counters.other_shapes.bump();
            if self.options.may_log() {
                let value_type = self.rules.codec.type_name();
                warn!(
                    namespace,
                    value_type,
                    "a stored value has another shape than its type has here, as after a change of the type: it is a miss"
                );
            }
            let key = &**key;
            debug!(namespace, key, error, "a stored value has another shape");
            return;
        }
        self.counters.decode_errors.bump();
        // The sources of the error may quote the value, so they and the key go to DEBUG.
        if self.options.may_log_cause(&error) {
            warn!(namespace, reason = %error, "a stored value cannot be read");
        }
        let key = &**key;
        debug!(namespace, key, error, "a stored value cannot be read");
    }

    /// Checks a value that a caller has given, with its TTLs and its tags.
    pub(crate) fn to_store(
        &self,
        key: &str,
        loaded: Loaded<AnyValue>,
    ) -> Result<(AnyValue, Ttls, Vec<Key>), Misuse> {
        let value = loaded.value.filter(|_| loaded.may_be_stored);
        let value = value.ok_or(Misuse::NothingToInsert)?;
        let tags = || self.tags(key, &value, loaded.tags);
        let (ttls, tags) = self.stored_as(&value, &loaded.ttls, tags)?;
        Ok((value, ttls, tags))
    }

    /// The TTLs and the tags with which a value is stored now. If it cannot be stored with these, says so.
    pub(crate) fn stored_as(
        &self,
        value: &AnyValue,
        own: &OwnTtls,
        tags: impl FnOnce() -> TagNames,
    ) -> Result<(Ttls, Vec<Key>), Misuse> {
        let both = tags().and_then(|tags| Ok((self.ttls(value, own)?, tags)));
        both.inspect_err(|misuse| self.cannot_store(misuse))
    }

    /// The tags of a value that is stored now, with its own. Every value that is stored anew passes
    /// through here, whoever stores it: a value that lacked a tag would escape its invalidation.
    pub(crate) fn tags(&self, key: &str, value: &AnyValue, own: OwnTags) -> TagNames {
        let Some(tags_of) = &self.rules.tags_of else {
            return names(own);
        };
        let tags = catch_unwind(AssertUnwindSafe(|| tags_of(key, value, own)));
        tags.unwrap_or(Err(Misuse::TagsOfPanicked))
    }

    /// The TTLs of a value that is written now: its own TTLs, or the TTLs of the cache.
    fn ttls(&self, value: &AnyValue, own: &OwnTtls) -> Result<Ttls, Misuse> {
        let (options, tuned) = (&*self.options, self.options.tuned());
        // User code: a panic would unwind through the task of a load, and leave its callers without a result.
        let hard = || {
            let ttl_of = || self.rules.ttl_of.as_ref().and_then(|ttl_of| ttl_of(value));
            own.ttl.or_else(ttl_of)
        };
        let hard = catch_unwind(AssertUnwindSafe(hard)).map_err(|_| Misuse::TtlOfPanicked)?;
        let hard = match hard {
            Some(Duration::ZERO) => return Err(Misuse::ZeroTtl),
            // Shortened and never lengthened: the caller may have taken the TTL from a token that expires then.
            Some(ttl) => Some(options.shortened(ttl.min(LONGEST))),
            // Where reads extend lifetimes it is the longest that there may be.
            None if options.sliding.is_some() => tuned.l2_ttl.map(|ttl| options.shortened(ttl)),
            None => tuned.l2_ttl.map(|ttl| options.jittered(ttl)),
        };
        let soft = match own.soft_ttl {
            Some(soft) => Some(options.shortened(soft.min(LONGEST))),
            None => tuned.soft_ttl.map(|soft| options.jittered(soft)),
        };
        Ok(Ttls {
            soft,
            l1: own.l1_ttl.map(|ttl| ttl.min(LONGEST)),
            ..self.until(hard)
        })
    }

    /// The TTLs of a value with a new lifetime from now on.
    pub(crate) fn touched(&self, ttl: Duration) -> Result<Ttls, Misuse> {
        if ttl.is_zero() {
            return Err(Misuse::TouchedToZero);
        }
        Ok(self.until(Some(self.options.shortened(ttl.min(LONGEST)))))
    }

    /// The TTLs of a value that is stored so long; where reads extend its lifetime, so long at most.
    fn until(&self, ttl: Option<Duration>) -> Ttls {
        let idle = self.options.sliding.map(|idle| self.idle_ttls(idle).hard);
        let hard = ttl.into_iter().chain(idle).min().unwrap_or(DEFAULT_TTL);
        Ttls {
            // Where reads do not extend it, an instance with `sliding` does not either.
            end: ttl.or(idle.is_none().then_some(hard)),
            ..self.kept_for(hard)
        }
    }

    /// The TTLs of a value after a read that extends its lifetime.
    pub(crate) fn idle_ttls(&self, idle: Duration) -> Ttls {
        // A quarter more: so each instance extends it once in a quarter.
        self.kept_for(idle.saturating_add(idle / 4))
    }

    fn kept_for(&self, hard: Duration) -> Ttls {
        Ttls {
            kept: self.options.stale_if_error,
            ..Ttls::new(hard)
        }
    }

    /// Encodes a value for L2. If L2 has no values, nobody reads the bytes: the payload is empty.
    pub(crate) fn seal(
        &self,
        key: &str,
        value: &AnyValue,
        ttls: Ttls,
        tags: &[Key],
    ) -> Result<EncodedValue, CodecError> {
        // The codec writes behind the room for the header, so that the value is not copied once more.
        let mut body = envelope::new_body();
        let is_encoded = !self.l1.is_only_level();
        let encoded = if is_encoded {
            let context = self.value_context(key, tags);
            let written = self.rules.codec.encode(value, &context, &mut body);
            written.map(|written| {
                if let Some(refused) = &written.refused {
                    self.note_second_format(refused);
                }
                written.id
            })
        } else {
            Ok(0)
        };
        let head = ValueFormat {
            codec: encoded.inspect_err(|error| self.cannot_store(error))?,
            type_tag: self.type_tag,
        };
        // With the namespace and the key, so that a copy under another name counts as damaged.
        envelope::finish_body(&mut body, head, ttls, tags, self.namespace.key(key));
        if is_encoded {
            self.counters.l2_written_bytes.add(body.len() as u64);
        }
        Ok(EncodedValue { body, ttls })
    }

    /// Whether all values of the last minute could be stored.
    pub(crate) fn is_storing(&self) -> bool {
        self.options.clock.now() >= self.unstorable_until.load(Ordering::Relaxed)
    }

    fn cannot_store(&self, error: &(dyn Error + 'static)) {
        // Whatever the reason. `CodecError::exceeded` of the error would tell values that are too large from others.
        self.counters.unstorable_values.bump();
        // Relaxed: the time is all there is.
        let until = self.options.clock.now().saturating_add(nanos(MINUTE));
        self.unstorable_until.store(until, Ordering::Relaxed);
        let namespace = self.options.namespace.as_str();
        if self.options.may_log_cause(&error) {
            warn!(namespace, reason = %error, "a value cannot be stored");
        }
        debug!(namespace, error, "a value cannot be stored");
    }

    /// A value with a stamp, its times translated to this process's clock.
    pub(crate) fn record(
        &self,
        key: &Key,
        value: AnyValue,
        stamp: Stamp,
        lifetime: Lifetime,
        tags: Tags,
        now: Tick,
    ) -> SharedRecord {
        // The partition's time is overestimated, so a value seems older than it is, and goes early.
        let partition_now = self.l1.freshness.partition_time(now).unwrap_or(0);
        let age = partition_now.saturating_sub(stamp.written_at);
        let born_at = now.saturating_sub(nanos(Duration::from_millis(age)));
        let at = |time: u64| {
            let after = Duration::from_millis(time.saturating_sub(stamp.written_at));
            born_at.saturating_add(nanos(after))
        };
        let l2_expires_at = at(lifetime.expires_at);
        // From now on, and not from its birth: the option bounds how long this copy stays, whoever wrote the value.
        let l1_ttl = self.options.tuned().l1_ttl;
        let l1_ttl = l1_ttl.map(|ttl| self.options.shortened(ttl));
        let expires_at = match l1_ttl.into_iter().chain(lifetime.l1_ttl).min() {
            // Gone at any time, also while the clock stands still.
            Some(Duration::ZERO) => 0,
            Some(ttl) => now.saturating_add(nanos(ttl)).min(l2_expires_at),
            None => l2_expires_at,
        };
        let head = RecordHead {
            version: stamp.version(),
            born_at,
            soft_at: lifetime.stale_at.map_or(NEVER, at),
            expires_at,
            l2_expires_at,
            ends_at: None,
            slow_path_at: NEVER,
        };
        debug_assert!(
            head.expires_at <= head.l2_expires_at,
            "L1 serves no value past its TTL"
        );
        let ends_at = (self.options.sliding).map(|_| lifetime.ends_at.map_or(NEVER, at));
        let head = self.head_until(head, l2_expires_at, ends_at);
        Arc::new(Record::new(key.clone(), value, head, tags))
    }

    /// The head of a value with another end of its lifetime.
    pub(crate) fn head_until(
        &self,
        head: RecordHead,
        l2_expires_at: Tick,
        ends_at: Option<Tick>,
    ) -> RecordHead {
        let bound_in_l1 = (head.expires_at < head.l2_expires_at).then_some(head.expires_at);
        let tuned = self.options.tuned();
        let refresh_at = if tuned.verify > 0.0 || tuned.mode == Mode::Shadow {
            // Each hit is looked at, also by a call that began before the value was stored.
            0
        } else {
            (self.ahead).begins_at(head.born_at, head.soft_at.min(l2_expires_at))
        };
        let extend_at = self.extend_at(l2_expires_at, ends_at);
        RecordHead {
            expires_at: l2_expires_at.min(bound_in_l1.unwrap_or(NEVER)),
            l2_expires_at,
            ends_at,
            slow_path_at: head.soft_at.min(extend_at).min(refresh_at),
            ..head
        }
    }

    /// From when on a read extends a lifetime that ends at `l2_expires_at`: with less than the idle time
    /// left.
    pub(crate) fn extend_at(&self, l2_expires_at: Tick, ends_at: Option<Tick>) -> Tick {
        match (self.options.sliding, ends_at) {
            (Some(idle), Some(end)) if l2_expires_at < end => {
                l2_expires_at.saturating_sub(nanos(idle))
            }
            _ => NEVER,
        }
    }

    /// A value that L2 does not hold, for the callers that waited for it and for no other.
    pub(crate) fn unstored(key: &Key, value: AnyValue, now: Tick) -> SharedRecord {
        // With no version that L1 stores: it may be older than an invalidation that L2 has executed (rule 1: a fill
        // needs a lease).
        let head = RecordHead {
            version: Version::ABSENT,
            born_at: now,
            soft_at: NEVER,
            expires_at: now,
            l2_expires_at: now,
            ends_at: None,
            slow_path_at: NEVER,
        };
        Arc::new(Record::new(key.clone(), value, head, Tags::default()))
    }
}
