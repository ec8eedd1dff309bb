//! The truth behind the caches: each key has a number that grows with every commit.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use larder::key::{CacheKey, KeyFrom, KeyWriter, LookupBy};
use larder::write_behind::{Stored, Write};
use larder::{Entry, Loaded};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Mutex as WriteLock;
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::faults::Fault;
use crate::history::{At, Commit, Load};
use crate::recorder::Recorder;

/// What is cached: a key's number at some time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Versioned {
    #[serde(serialize_with = "encode")]
    pub(crate) key: u64,
    pub(crate) version: u64,
}

/// What runs while a value is encoded, after as many others.
type Meanwhile = (usize, Box<dyn FnOnce()>);

thread_local! {
    static MEANWHILE: RefCell<Option<Meanwhile>> = const { RefCell::new(None) };
}

/// Runs a closure while a value is encoded, after as many others. To encode takes time, in which other threads go on;
/// in a simulated world there are none.
pub(crate) fn while_encoding(after: usize, run: impl FnOnce() + 'static) {
    MEANWHILE.set(Some((after, Box::new(run))));
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn encode<S: Serializer>(key: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    match MEANWHILE.take() {
        Some((0, run)) => run(),
        Some((after, run)) => MEANWHILE.set(Some((after - 1, run))),
        None => {}
    }
    key.serialize(serializer)
}

/// A key of the caches: looked up by its number, and written as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Number(pub(crate) u64);

impl CacheKey for Number {
    fn write_key(&self, out: &mut KeyWriter) {
        out.text(&self.0.to_string());
    }
}

impl LookupBy<u64> for Number {}

impl KeyFrom<u64> for Number {
    fn key_from(number: &u64) -> Self {
        Self(*number)
    }
}

/// By the text, for prefixes.
impl LookupBy<str> for Number {}

/// A database, with replicas that may lag.
pub(crate) struct Source {
    rows: Vec<Row>,
    is_tagged: bool,
    recorder: Arc<Recorder>,
}

struct Row {
    /// Held over a commit and the call of the cache that follows it.
    write_lock: Arc<WriteLock<()>>,
    commits: Mutex<Vec<(Instant, u64)>>,
    behind: Mutex<Behind>,
}

/// What is or was written behind of a key.
#[derive(Default)]
struct Behind {
    /// The numbers that were given to such writes.
    given: BTreeSet<u64>,
    /// The version of the last one that the source has taken.
    version: u64,
    /// When another write has put an older value in the place of one that waited, up to which number this was, and when
    /// nothing is left of it.
    replaced: Vec<(At, u64, Option<At>)>,
    /// The writes that the store has accepted and not settled, and when it did.
    waiting: BTreeMap<u64, At>,
}

impl Source {
    pub(crate) fn new(config: &Config, recorder: Arc<Recorder>) -> Self {
        let row = |_| Row {
            write_lock: Arc::default(),
            commits: Mutex::new(vec![(Instant::now(), 1)]),
            behind: Mutex::default(),
        };
        Self {
            rows: (0..config.keys).map(row).collect(),
            is_tagged: config.tags > 0.0,
            recorder,
        }
    }

    pub(crate) fn write_lock(&self, key: u64) -> Arc<WriteLock<()>> {
        Arc::clone(&self.row(key).write_lock)
    }

    pub(crate) fn commit(&self, key: u64) -> u64 {
        let version = self.current(key) + 1;
        self.set(key, version);
        self.note_commit(key, version);
        version
    }

    fn set(&self, key: u64, version: u64) {
        let mut commits = self.row(key).commits.lock().unwrap();
        commits.push((Instant::now(), version));
    }

    fn note_commit(&self, key: u64, version: u64) {
        let at = self.recorder.now();
        self.recorder
            .write(|history| history.commits.push(Commit { key, version, at }));
    }

    /// The number of a write that reaches the source later. It leaves one for a write that overtakes it.
    pub(crate) fn next_behind(&self, key: u64) -> u64 {
        let mut behind = self.row(key).behind.lock().unwrap();
        let last = behind.given.last().copied().unwrap_or(0);
        let version = last.max(self.current(key)) + 2;
        behind.given.insert(version);
        self.note_commit(key, version);
        version
    }

    /// Commits a value that those which wait will overwrite. `None` if there is no number for it. A cache that is given
    /// the value may return it until those have reached the source.
    pub(crate) fn commit_beside(&self, key: u64, is_inserted: bool) -> Option<u64> {
        let next = self.current(key) + 1;
        let mut behind = self.row(key).behind.lock().unwrap();
        if behind.given.contains(&next) {
            return None;
        }
        if let Some(last) = behind.given.last().copied()
            && last > next
            && is_inserted
        {
            behind.replaced.push((self.recorder.now(), last, None));
        }
        drop(behind);
        Some(self.commit(key))
    }

    /// Takes a write unless it has a newer one. Whether it has another value now.
    fn take_behind(&self, key: u64, number: u64, version: u64) -> bool {
        let is_newer = {
            let mut behind = self.row(key).behind.lock().unwrap();
            let is_newer = behind.version < version;
            behind.version = behind.version.max(version);
            is_newer && number > self.current(key)
        };
        if is_newer && fastrand::u8(0..8) == 0 {
            // A trigger.
            self.set(key, number + 1);
            self.note_commit(key, number + 1);
        } else if is_newer {
            self.set(key, number);
        }
        self.current(key) != number
    }

    /// The store has accepted a write.
    pub(crate) fn waits(&self, key: u64, number: u64) {
        let at = self.recorder.now();
        let mut behind = self.row(key).behind.lock().unwrap();
        behind.waiting.insert(number, at);
    }

    /// The store has settled a write, and says so to everyone within this time. Returns since when no load was stored.
    pub(crate) fn settled(&self, key: u64, number: u64, within: Duration) -> Option<At> {
        let now = self.recorder.now();
        let mut behind = self.row(key).behind.lock().unwrap();
        for (_, last, until) in &mut behind.replaced {
            if *last <= number && until.is_none() {
                *until = Some(now + within);
            }
        }
        let waiting = behind.waiting.split_off(&(number + 1));
        let settled = std::mem::replace(&mut behind.waiting, waiting);
        settled.values().min().copied()
    }

    /// Whether a look-up may have found what another write had put in the place of one that waited.
    pub(crate) fn was_replaced(&self, key: u64, start: At, end: At) -> bool {
        let behind = self.row(key).behind.lock().unwrap();
        let mut times = behind.replaced.iter();
        times.any(|(from, _, until)| *from <= end && until.is_none_or(|until| start <= until))
    }

    pub(crate) fn current(&self, key: u64) -> u64 {
        self.as_of(key, Duration::ZERO)
    }

    /// The version on a replica that lags so far behind. Always as far: it does not go back, and so no load that
    /// reads from it may.
    fn as_of(&self, key: u64, lag: Duration) -> u64 {
        let commits = self.row(key).commits.lock().unwrap();
        let now = Instant::now();
        commits
            .iter()
            .rev()
            .find(|(at, _)| *at + lag <= now)
            .map_or(1, |(_, version)| *version)
    }

    /// The tags of a key. One of four keys has none, and some have two.
    pub(crate) fn tags(&self, key: u64) -> Vec<String> {
        let tags = [key % 4, key % 3].into_iter().filter(|tag| *tag != 3);
        let tags: BTreeSet<u64> = tags.filter(|_| self.is_tagged && key % 4 != 3).collect();
        tags.into_iter().map(|tag| format!("t:{tag}")).collect()
    }

    /// The keys with a tag.
    pub(crate) fn tagged(&self, tag: &str) -> Vec<u64> {
        let keys = 0..self.len();
        keys.filter(|key| self.tags(*key).iter().any(|one| one == tag))
            .collect()
    }

    /// What is stored of a key.
    pub(crate) fn loaded(&self, value: Versioned) -> Loaded<Versioned> {
        let tags = self.tags(value.key);
        Loaded::new(value).tags(tags)
    }

    pub(crate) fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    fn row(&self, key: u64) -> &Row {
        &self.rows[usize::try_from(key).unwrap()]
    }
}

/// Writes a batch: as it is given, or changed, or not; and what it has written may look like a failure.
pub(crate) async fn store(
    source: Arc<Source>,
    mut batch: Vec<Write<Number, Versioned>>,
) -> Result<Stored<Number>, SourceDown> {
    sleep(Duration::from_millis(fastrand::u64(0..=60))).await;
    batch.sort_by_key(|write| write.key.0);
    // A value that another client has committed is in the cache before this overwrites it.
    let mut locks = Vec::new();
    for write in &batch {
        locks.push(source.write_lock(write.key.0).lock_owned().await);
    }
    let fails = fastrand::u8(0..10) == 0;
    let mut changed = Vec::new();
    if !fails || fastrand::bool() {
        for Write {
            key,
            value,
            version,
            ..
        } in batch
        {
            if source.take_behind(key.0, value.version, version) {
                changed.push(key);
            }
        }
    }
    drop(locks);
    sleep(Duration::from_millis(fastrand::u64(0..=30))).await;
    if fails {
        return Err(SourceDown);
    }
    Ok(Stored::Changed(changed))
}

/// How a load goes, decided before it begins: whether a loader is called must not change what comes after.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    before: Duration,
    lag: Duration,
    after: Duration,
    end: End,
    /// TTLs of the value's own.
    ttl: Option<Duration>,
    soft_ttl: Option<Duration>,
    l1_ttl: Option<Duration>,
    is_stored: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    Fails,
    Panics,
    Hangs,
}

impl Plan {
    pub(crate) fn draw(config: &Config, rng: &mut Rng) -> Self {
        let slow = rng.f64() < config.slow_loads;
        let takes = if slow {
            config.slow_load_ms.clone()
        } else {
            config.load_ms.clone()
        };
        let takes = rng.u64(takes);
        let before = rng.u64(0..=takes);
        let end = match rng.f64() / config.bad_loads.max(1e-9) {
            share if share < 0.5 => End::Fails,
            share if share < 0.85 => End::Panics,
            share if share < 1.0 => End::Hangs,
            _ => End::Well,
        };
        let mut own = |share, ms| {
            let ms = rng.u64(ms);
            (rng.f64() < share).then(|| Duration::from_millis(ms))
        };
        Self {
            ttl: own(0.1, 20..=3000),
            soft_ttl: own(0.1, 1..=1000),
            l1_ttl: own(0.1, 0..=50),
            // A refresh that must not be stored removes the value without a hold: where replicas lag, what is loaded
            // after that may be older than the commit, whose own invalidation is still to come.
            is_stored: own(0.03, 0..=0).is_none() || config.lag_ms != 0,
            before: Duration::from_millis(before),
            lag: Duration::from_millis(config.lag_ms),
            after: Duration::from_millis(takes - before),
            end,
        }
    }

    /// One that does what it should.
    pub(crate) const PLAIN: Self = Self {
        before: Duration::from_millis(1),
        lag: Duration::ZERO,
        after: Duration::from_millis(1),
        end: End::Well,
        ttl: None,
        soft_ttl: None,
        l1_ttl: None,
        is_stored: true,
    };

    /// What a loader returns that has found this version.
    fn loaded(
        &self,
        source: &Source,
        value: Versioned,
        previous: Option<&Versioned>,
    ) -> Loaded<Versioned> {
        let mut loaded = if previous.is_some_and(|previous| previous.version == value.version) {
            Loaded::unchanged()
        } else {
            source.loaded(value)
        };
        if let Some(ttl) = self.ttl {
            loaded = loaded.ttl(ttl);
        }
        if let Some(ttl) = self.soft_ttl {
            loaded = loaded.soft_ttl(ttl);
        }
        if let Some(ttl) = self.l1_ttl {
            loaded = loaded.l1_ttl(ttl);
        }
        if self.is_stored {
            loaded
        } else {
            loaded.no_store()
        }
    }
}

/// Why a loader failed: because it was meant to.
#[derive(Debug)]
pub(crate) struct SourceDown;

impl fmt::Display for SourceDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the source is down")
    }
}

impl std::error::Error for SourceDown {}

/// What panicking loaders say, so that nothing else is kept quiet.
pub(crate) const PANIC: &str = "a loader panics, as planned";

/// Reads a key's number, and says how it is to be stored.
pub(crate) async fn load(
    source: Arc<Source>,
    config: Arc<Config>,
    instance: usize,
    key: u64,
    previous: Option<Entry<Versioned>>,
    plan: Plan,
) -> Result<Loaded<Versioned>, SourceDown> {
    let recorder = Arc::clone(&source.recorder);
    let value = read(Arc::clone(&source), config, instance, key, plan).await?;
    if !plan.is_stored {
        recorder.count(Fault::NotStored);
    }
    Ok(plan.loaded(&source, value, previous.as_deref()))
}

/// Reads a key's number, at some time during the load.
pub(crate) async fn read(
    source: Arc<Source>,
    config: Arc<Config>,
    instance: usize,
    key: u64,
    plan: Plan,
) -> Result<Versioned, SourceDown> {
    let recorder = Arc::clone(&source.recorder);
    if plan.before + plan.after > config.max_staleness() {
        recorder.count(Fault::SlowLoad);
    }
    let _under_way = UnderWay {
        load: Load {
            instance,
            key,
            start: recorder.now(),
            end: Duration::ZERO,
        },
        recorder: Arc::clone(&recorder),
    };
    sleep(plan.before).await;
    let version = source.as_of(key, plan.lag);
    sleep(plan.after).await;
    match plan.end {
        End::Well => return Ok(Versioned { key, version }),
        End::Fails => recorder.count(Fault::FailedLoad),
        End::Panics => {
            recorder.count(Fault::PanickedLoad);
            std::panic::panic_any(PANIC);
        }
        End::Hangs => {
            recorder.count(Fault::HungLoad);
            std::future::pending::<()>().await;
        }
    }
    Err(SourceDown)
}

/// Takes down a load when it ends, however it does.
struct UnderWay {
    load: Load,
    recorder: Arc<Recorder>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut load = self.load.clone();
        load.end = self.recorder.now();
        self.recorder.write(|history| history.loads.push(load));
    }
}

/// The number of the partition that a key belongs to: by the CRC16 of its text, bit by bit.
pub(crate) fn partition_of(key: u64, partitions: u16) -> u16 {
    let mut crc = 0_u16;
    for byte in key.to_string().bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc % partitions
}

/// Where a value begins in a sealed body: at the payload, after the shape.
const VALUE: usize = 64 + 8;

pub(crate) fn unseal(body: &[u8]) -> Option<Versioned> {
    let value = body.get(VALUE..)?;
    let decoded = bincode::serde::decode_from_slice(value, bincode::config::standard());
    decoded.ok().map(|(value, _)| value)
}
