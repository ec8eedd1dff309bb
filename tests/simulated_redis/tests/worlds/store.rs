//! The servers that all instances share, with an eye on what becomes of their keys: on the names and on what values and
//! messages begin with, and on no argument of a script.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder_store_tests::helpers::{stamp_of, times_of, values_in};
use simulated_redis::{Change, Changes, Entry, Held, Reply, SimulatedRedis, Snapshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ServerKind};
use crate::faults::Fault;
use crate::history::{At, Disturbance};
use crate::limits::promises_without;
use crate::link::{Link, Wire};
use crate::recorder::Recorder;
use crate::servers::{Clock, Servers, cut_and_grow, elect_nobody, move_slot};
use crate::source::{Source, partition_of, unseal};
use crate::truth::Truth;

/// Where the body begins in a stored value, and where its times end.
const STAMP: usize = 36;
const TIMES_END: usize = STAMP + 40;
/// What a message has in front of the sender's part.
pub(crate) const NUMBERS: usize = 43;

/// More seconds than a clock is stepped back in a world.
const FAR: u64 = 1_000_000;
/// What all keys begin with, up to the number of their partition.
const PARTITIONS: &str = "svc:{simulation:row.";
/// The prefix that an instance is told.
pub(crate) const KEY_PREFIX: &str = "svc:";

pub(crate) struct Store {
    servers: Arc<Servers>,
    /// How far their clock is ahead, in seconds.
    ahead: Arc<AtomicU64>,
    /// Of each server that is restarted, by its number.
    snapshots: Mutex<Vec<Vec<Snapshot>>>,
    observer: Arc<Observer>,
    links: Mutex<Vec<Arc<Link>>>,
    is_unnamed: bool,
}

/// Takes down what becomes of the keys.
struct Observer {
    truth: Truth,
    max_staleness: Duration,
    recovery: Duration,
    /// How long a load waits for another's, and how long before that it may ask for the last time.
    lease_wait: Duration,
    last_pause: Duration,
    /// Since when loads wait for a lease of a key, and when the last one did.
    waited_for: Mutex<BTreeMap<u64, (At, At)>>,
    /// The latest time that the server's clock has shown, in ms.
    latest: AtomicU64,
    /// Whether a slot may have two primaries, each with a majority.
    is_cut: AtomicBool,
}

impl Store {
    pub(crate) fn new(
        time: impl Fn() -> Duration + Send + Sync + 'static,
        config: &Config,
        source: &Arc<Source>,
        recorder: &Arc<Recorder>,
    ) -> Self {
        let ahead = Arc::new(AtomicU64::new(FAR));
        let by = Arc::clone(&ahead);
        let clock: Clock = Arc::new(move || time() + Duration::from_secs(by.load(SeqCst)));
        let servers = Arc::new(Servers::new(config, clock));
        let observer = Arc::new(Observer {
            truth: Truth::new(config, Arc::clone(source), Arc::clone(recorder)),
            max_staleness: config.max_staleness(),
            recovery: config.recovery(),
            lease_wait: config.lease_wait(),
            // A pause may be as long as the rest, so that there is no other attempt.
            last_pause: Duration::from_millis(150) + config.l2_timeout(),
            waited_for: Mutex::default(),
            latest: AtomicU64::default(),
            is_cut: AtomicBool::default(),
        });
        let this = Self {
            snapshots: Mutex::default(),
            servers,
            ahead,
            observer,
            links: Mutex::default(),
            is_unnamed: config.server == ServerKind::Unnamed,
        };
        this.snapshot();
        for (number, redis) in this.servers.all().iter().enumerate() {
            this.observe(number, redis);
        }
        this
    }

    pub(crate) fn join(&self, link: &Arc<Link>) {
        self.links.lock().unwrap().push(Arc::clone(link));
    }

    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    fn observe(&self, number: usize, redis: &SimulatedRedis) {
        let (told, servers) = (Arc::clone(&self.observer), Arc::downgrade(&self.servers));
        redis.observe(move |changes| {
            let servers = servers.upgrade();
            let other = servers.and_then(|servers| servers.beside(number, changes));
            let is_old = other == Some(true);
            if !is_old {
                told.note(changes);
            }
            if other.is_some() && told.is_cut.load(SeqCst) {
                told.excuse_changed(Fault::CutAndGrown, changes);
            } else if is_old {
                told.excuse_changed(Fault::SplitBrain, changes);
            }
        });
    }

    /// What the servers know of some tag is lost, until a value with it is stored.
    pub(crate) fn lose_tag(&self, rng: &mut Rng) {
        let tag = format!("!tag:t:{}", rng.u8(0..3));
        for redis in self.servers.all() {
            for key in redis.keys() {
                if key.ends_with(tag.as_bytes()) {
                    request(&redis, &[b"DEL", &key]);
                }
            }
        }
    }

    /// Steps the clock forward, as an administrator or NTP does.
    pub(crate) fn step_clock(&self, by: Duration) {
        self.ahead.fetch_add(by.as_secs(), SeqCst);
    }

    /// Whether all instances are switched off. For a world of one server and one partition.
    pub(crate) fn is_off(&self) -> bool {
        let (redis, clock) = (&self.servers.all()[0], format!("{PARTITIONS}0}}!clock"));
        ask(redis, &[b"HGET", clock.as_bytes(), b"off"]) == Reply::Bulk(b"1".to_vec())
    }

    /// For how long a key has a value of any type still: a millisecond less, as a server's times are whole ones. For a
    /// world of one server and one partition.
    pub(crate) fn lasts(&self, key: u64) -> Duration {
        let (redis, key) = (&self.servers.all()[0], format!("{PARTITIONS}0}}:{key}"));
        let Reply::Bulk(text) = ask(redis, &[b"GET", key.as_bytes()]) else {
            return Duration::ZERO;
        };
        let values = values_in(&text).into_iter();
        let ends = values.map(|value| times_of(value).1.expires_at).max();
        let Reply::Array(time) = ask(redis, &[b"TIME"]) else {
            panic!("a server has a clock");
        };
        let number = |part: &Reply| match part {
            Reply::Bulk(text) => str::from_utf8(text).unwrap().parse::<u64>().unwrap(),
            other => panic!("{other:?}"),
        };
        let now = number(&time[0]) * 1000 + number(&time[1]) / 1000;
        Duration::from_millis(ends.unwrap_or(0).saturating_sub(now + 1))
    }

    /// Keeps a copy of what is stored, to go back to.
    pub(crate) fn snapshot(&self) {
        let now = self.servers.snapshots();
        let mut snapshots = self.snapshots.lock().unwrap();
        snapshots.resize(now.len(), vec![Snapshot::default()]);
        for (each, now) in snapshots.iter_mut().zip(now) {
            each.push(now);
        }
    }

    /// One of the last copies of what a server held.
    fn former(&self, number: usize, rng: &mut Rng) -> Snapshot {
        let snapshots = self.snapshots.lock().unwrap();
        let last = snapshots.len() - 1;
        let of = &snapshots[number.min(last)];
        // Each of several servers is restarted less often.
        let many = if snapshots.len() > 1 { 9 } else { 3 };
        let recent = of.len().saturating_sub(many)..of.len();
        of[rng.usize(recent)].clone()
    }

    /// Restarts a server from one of the last copies, or from nothing.
    pub(crate) fn restart(&self, emptied: bool, rng: &mut Rng) {
        let (number, redis) = self.servers.primary(rng);
        let former = self.former(number, rng);
        let empty = Snapshot::default();
        redis.start(if emptied { &empty } else { &former });
        if self.is_unnamed {
            self.observer.excuse_all(Fault::StoreRolledBack);
        }
    }

    /// A fault begins. One that does not pass at once ends after so long.
    pub(crate) fn strike(self: Arc<Self>, fault: Fault, lasts: Duration, rng: &mut Rng) {
        let (number, redis) = self.servers.primary(rng);
        let mut data = None;
        match fault {
            Fault::StorePaused => redis.pause(),
            Fault::StoreAway => {
                data = Some(redis.snapshot());
                redis.kill();
            }
            Fault::StoreFull => redis.set(|settings| settings.maxmemory = Some(1)),
            Fault::KeyEvicted => {
                let mut keys = redis.keys();
                // Without these there is no promise: a hold, and that a write which arrives twice is one.
                keys.retain(|key| {
                    let name = String::from_utf8_lossy(key);
                    !name.contains("}!hold:") && !name.contains("}!done:")
                });
                if let Some(key) = rng.choice(&keys) {
                    request(&redis, &[b"DEL", key]);
                }
            }
            Fault::Flushed => request(&redis, &[b"FLUSHALL"]),
            Fault::ScriptsForgotten => request(&redis, &[b"SCRIPT", b"FLUSH"]),
            Fault::PutBack => {
                redis.put_back(&self.former(number, rng));
                self.observer.excuse_all(fault);
            }
            Fault::HoldEvicted => {
                let keys = redis.keys();
                let holds = keys.iter().filter_map(|key| match name(key) {
                    Some((_, Name::Own(own))) => Some((key, own.strip_prefix("hold:")?)),
                    _ => None,
                });
                if let Some((key, of)) = rng.choice(holds.collect::<Vec<_>>()) {
                    self.observer.excuse(fault, of.parse().unwrap());
                    request(&redis, &[b"DEL", key]);
                }
            }
            Fault::ClockSteppedBack => {
                let by = rng.i64(1..=60).unsigned_abs();
                self.ahead.fetch_sub(by, SeqCst);
            }
            Fault::CutAndGrown => self.cut_and_grow(lasts, rng),
            Fault::SlotMoved => move_slot(self.servers.cluster(), rng),
            Fault::NobodyElected => elect_nobody(self.servers.cluster(), lasts, rng),
            fault => panic!("{fault:?} of the store"),
        }
        tokio::spawn(async move {
            sleep(lasts).await;
            match fault {
                Fault::StorePaused => redis.resume(),
                Fault::StoreFull => redis.set(|settings| settings.maxmemory = None),
                Fault::StoreAway => redis.start(&data.unwrap()),
                Fault::CutAndGrown => self.observer.is_cut.store(false, SeqCst),
                _ => {}
            }
        });
    }

    /// Each instance reaches one side of the cut, unless it starts later.
    fn cut_and_grow(&self, lasts: Duration, rng: &mut Rng) {
        let cluster = self.servers.cluster();
        let Some(there) = cut_and_grow(cluster, lasts, rng) else {
            return;
        };
        self.observer.is_cut.store(true, SeqCst);
        for link in &*self.links.lock().unwrap() {
            let is_there = rng.bool();
            let nodes = 0..cluster.nodes().len();
            let beyond = nodes.filter(|node| there.contains(node) != is_there);
            beyond.for_each(|node| link.part_from(node, lasts));
        }
    }

    /// A replica takes over, and the old primary is there for so long.
    pub(crate) fn take_over(
        self: Arc<Self>,
        fault: Fault,
        lag: Duration,
        lasts: Duration,
        rng: &mut Rng,
    ) {
        let Some(old) = self.servers.replace(fault, lag, lasts, rng) else {
            return;
        };
        if let Some(new) = &old.new {
            self.observe(old.number + 1, new);
        }
        for link in &*self.links.lock().unwrap() {
            for wire in [Wire::Data, Wire::Subscription] {
                // A service leads all connections to the new primary.
                if self.is_unnamed || rng.bool() {
                    let here = link.connections(wire, old.number);
                    here.iter().for_each(CancellationToken::cancel);
                }
            }
        }
        let reads = |redis: &SimulatedRedis| redis.calls("get") + redis.calls("mget");
        let before = reads(&old.redis);
        let seen = match fault {
            Fault::Isolated | Fault::SplitBrain => Fault::IsolatedRead,
            _ => Fault::ReplicaRead,
        };
        tokio::spawn(async move {
            sleep(lasts).await;
            for _ in before..reads(&old.redis) {
                self.observer.truth.recorder.count(seen);
            }
            // A node of a cluster follows the new one.
            if old.new.is_some() {
                old.redis.kill();
            }
        });
    }
}

/// Sends a request as another program does.
fn request(redis: &SimulatedRedis, words: &[&[u8]]) {
    _ = ask(redis, words);
}

fn ask(redis: &SimulatedRedis, words: &[&[u8]]) -> Reply {
    let words: Vec<_> = words.iter().map(|word| word.to_vec()).collect();
    redis.direct().request(&words)
}

thread_local! {
    static DIGEST: Cell<u64> = const { Cell::new(0) };
}

/// A hash of all requests that the servers of the last world of this thread were sent, each in their order.
pub(crate) fn last_digest() -> u64 {
    DIGEST.get()
}

impl Drop for Store {
    fn drop(&mut self) {
        let mut digest = DefaultHasher::new();
        for redis in self.servers.all() {
            redis.digest().hash(&mut digest);
            redis.observe(|_| ());
            let errors = redis.lua_errors();
            assert!(errors.is_empty() || thread::panicking(), "{errors:?}");
        }
        DIGEST.set(digest.finish());
    }
}

/// A key of a partition: one of a user's, or one of the partition's own.
enum Name<'a> {
    Key(u64),
    Own(&'a str),
}

/// The name of a key in Redis: the number of its partition, and the rest.
fn name(key: &[u8]) -> Option<(&str, Name<'_>)> {
    let text = str::from_utf8(key).ok()?;
    let (partition, rest) = text.strip_prefix(PARTITIONS)?.split_once('}')?;
    let name = match rest.split_at_checked(1)? {
        (":", key) => Name::Key(key.parse().ok()?),
        ("!", own) => Name::Own(own),
        _ => return None,
    };
    Some((partition, name))
}

/// Whether a key belongs to a partition with this name: `3of8.` and a number that chooses the slot; or `0`, the only one.
fn is_in(partition: &str, key: u64) -> bool {
    let (number, of) = partition.split_once("of").unwrap_or((partition, "1"));
    let of = of.split('.').next().unwrap().parse().unwrap();
    partition_of(key, of).to_string() == number
}

/// The values in what a key holds.
fn values(held: Option<&Held>) -> Vec<&[u8]> {
    match held {
        Some(Held::Text(text)) => values_in(text),
        _ => Vec::new(),
    }
}

/// A message: its kind, and the keys that it names.
fn read_message(message: &[u8]) -> (u8, Vec<String>) {
    let mut keys = Vec::new();
    let (kind, mut rest) = (message[NUMBERS], &message[NUMBERS + 1 + 8 + 2..]);
    while let Some((length, text)) = rest.split_first_chunk::<2>() {
        let (key, others) = text.split_at(usize::from(u16::from_be_bytes(*length)));
        keys.push(String::from_utf8_lossy(key).into_owned());
        rest = others;
    }
    (kind, keys)
}

/// A field of an entry.
fn field<'a>(entry: &'a Entry, name: &str) -> Option<&'a [u8]> {
    let mut pairs = entry.fields.chunks(2);
    let pair = pairs.find(|pair| pair[0] == name.as_bytes())?;
    Some(&pair[1])
}

/// A field of a hash.
fn field_of(held: Option<&Held>, field: &str) -> Option<Vec<u8>> {
    match held {
        Some(Held::Hash(fields)) => fields.get(field.as_bytes()).cloned(),
        _ => None,
    }
}

/// The epoch of a clock; none if its partition is closed.
fn epoch_of(clock: Option<&Held>) -> Option<Vec<u8>> {
    let at = field_of(clock, "at").filter(|at| at.len() == 32)?;
    Some(at[..8].to_vec())
}

const TAGS: u8 = 4;
const PREFIX: u8 = 5;

impl Observer {
    /// It has shown that a limit is one, for this key.
    fn excuse(&self, limit: Fault, key: u64) {
        let recorder = &self.truth.recorder;
        let lasts = match limit {
            // Instances find out, and have an epoch begin.
            Fault::PutBack | Fault::StoreRolledBack => self.recovery,
            _ => Duration::MAX,
        };
        recorder.excuse(promises_without(limit), key, recorder.now(), lasts);
    }

    fn excuse_all(&self, limit: Fault) {
        for key in 0..self.truth.source.len() {
            self.excuse(limit, key);
        }
    }

    /// What one primary is told beside another one.
    fn excuse_changed(&self, fault: Fault, changes: &Changes) {
        for entry in &changes.entries {
            match name(&entry.stream) {
                Some((_, Name::Own("log"))) if entry.is_added => {
                    let (kind, names) = read_message(field(entry, "m").unwrap());
                    match kind {
                        TAGS | PREFIX => self.excuse_all(fault),
                        _ => {
                            let keys = names.iter().filter_map(|key| key.parse().ok());
                            keys.for_each(|key| self.excuse(fault, key));
                        }
                    }
                }
                Some((_, Name::Own("writes"))) => self.excuse_all(fault),
                _ => {}
            }
        }
        // All leases are ended, or all values.
        let is_clock = |change: &Change| matches!(name(&change.key), Some((_, Name::Own("clock"))));
        let ended = |change: &&Change| {
            let of = |held: Option<&Held>| [field_of(held, "leases"), epoch_of(held)];
            is_clock(change) && of(change.before.as_ref()) != of(change.after.as_ref())
        };
        if changes.keys.iter().any(|change| ended(&change)) {
            self.excuse_all(fault);
        }
    }

    fn note(&self, changes: &Changes) {
        let recorder = &self.truth.recorder;
        let began = recorder.now();
        // The values that stay what they were, but for their times.
        let mut kept = BTreeSet::new();
        for change in &changes.keys {
            let Change {
                key, before, after, ..
            } = change;
            match name(key) {
                Some((_, Name::Key(key))) => {
                    self.value(key, before.as_ref(), after.as_ref(), &mut kept);
                }
                Some((partition, Name::Own("clock"))) => {
                    self.clock(partition, before.as_ref(), after.as_ref());
                }
                Some((_, Name::Own(own))) => match own.split_once(':') {
                    // Everyone loads for himself meanwhile.
                    Some(("hold", key)) => {
                        let lasts = change.ttl.unwrap_or_default() + self.truth.late;
                        recorder.disturbed(lasts, None, key.parse().ok());
                    }
                    Some(("lease", key)) => {
                        self.lease(key.parse().unwrap(), change);
                    }
                    _ => {}
                },
                None => {}
            }
        }
        for entry in &changes.entries {
            match name(&entry.stream) {
                Some((partition, Name::Own("log"))) if entry.is_added => {
                    self.message(partition, entry, &kept);
                    self.late(entry, began);
                }
                Some((_, Name::Own("writes"))) => self.write(entry),
                _ => {}
            }
        }
    }

    fn value(
        &self,
        key: u64,
        before: Option<&Held>,
        after: Option<&Held>,
        kept: &mut BTreeSet<u64>,
    ) {
        let recorder = &self.truth.recorder;
        let (before, after) = (values(before), values(after));
        let former: BTreeMap<_, _> = before
            .iter()
            .map(|value| (stamp_of(value).ver, *value))
            .collect();
        for value in &after {
            match former.get(&stamp_of(value).ver) {
                None => {
                    let is_revalidated = before
                        .iter()
                        .any(|old| old[TIMES_END..] == value[TIMES_END..]);
                    if is_revalidated {
                        recorder.count(Fault::Revalidated);
                    }
                    self.truth.stored(&value[STAMP..]);
                }
                Some(old) => {
                    kept.insert(key);
                    let (was, is) = (times_of(old).1, times_of(value).1);
                    if was.ends_at != is.ends_at {
                        recorder.count(Fault::Touched);
                    } else if was.expires_at != is.expires_at {
                        recorder.count(Fault::Extended);
                    }
                }
            }
        }
        if after.len() > 1 && after.len() > former.len() {
            recorder.count(Fault::Beside);
        }
        if after.is_empty() {
            // Those that have found it until now load.
            recorder.disturbed(self.truth.late, None, Some(key));
        }
    }

    /// A load that has waited for too long loads without a lease.
    fn lease(&self, key: u64, change: &Change) {
        let Change {
            before, after, ttl, ..
        } = change;
        let is_waited_for = matches!(after, Some(Held::Text(lease)) if lease.contains(&b'+'));
        let now = self.truth.recorder.now();
        let mut waited_for = self.waited_for.lock().unwrap();
        // A load may wait for one lease after the other.
        let (since, last) = waited_for.entry(key).or_insert((now, now));
        let was_waited_for = matches!(before, Some(Held::Text(lease)) if lease.contains(&b'+'));
        if !was_waited_for && *last + self.last_pause < now {
            *since = now;
        }
        if is_waited_for || was_waited_for {
            *last = now;
        }
        // Nobody says when a lease ends with its TTL.
        let (since, ends) = (
            *since,
            now + ttl.filter(|_| is_waited_for).unwrap_or_default(),
        );
        if since + self.lease_wait <= ends + self.last_pause {
            self.truth.recorder.count(Fault::WaitedTooLong);
            self.truth.recorder.write(|history| {
                history.disturbances.push(Disturbance {
                    from: (since + self.lease_wait).saturating_sub(self.last_pause),
                    to: ends + 2 * self.last_pause,
                    instance: None,
                    key: Some(key),
                });
            });
        }
    }

    fn clock(&self, partition: &str, before: Option<&Held>, after: Option<&Held>) {
        let has = |key| is_in(partition, key);
        // The partition is closed: all instances make connections anew, and find nothing.
        if field_of(after, "at").is_some_and(|at| at.starts_with(b"PARTITIONS ")) {
            self.truth.recorder.count(Fault::PartitionsChanged);
            self.truth.recorder.disturbed(self.recovery, None, None);
        }
        // No value and no lease of another epoch, or of another number of partitions, counts.
        if epoch_of(after).is_some() && epoch_of(before) != epoch_of(after) {
            self.truth.all_ended(has);
        }
        // Every lease from before has ended, of whatever key. A load whose lease is granted later also reads the source
        // later (rule 23).
        if field_of(before, "leases") != field_of(after, "leases") {
            self.truth.all_ended(has);
        }
    }

    fn message(&self, partition: &str, entry: &Entry, kept: &BTreeSet<u64>) {
        let message = field(entry, "m").expect("the log has messages");
        let (kind, names) = read_message(message);
        match kind {
            TAGS => {
                let tags = names.iter().map(String::as_str);
                self.truth.tags_ended(tags, |key| is_in(partition, key));
            }
            PREFIX => {}
            _ => {
                let is_expire = field(entry, "by").is_some();
                for key in names.iter().filter_map(|key| key.parse().ok()) {
                    if is_expire {
                        self.truth.recorder.count(Fault::Expired);
                        // A load whose lease has ended may run on beside the next one.
                        self.truth
                            .recorder
                            .disturbed(self.truth.late, None, Some(key));
                    } else if !kept.contains(&key) {
                        // Where the value stays it was given another lifetime.
                        self.truth.ended(key);
                    }
                }
            }
        }
    }

    /// While the clock shows a time for the second time, an insert may come late.
    fn late(&self, entry: &Entry, began: At) {
        let at = field(entry, "at").and_then(|at| str::from_utf8(at).ok()?.parse().ok());
        let at: u64 = at.expect("the log has times");
        if self.latest.fetch_max(at, SeqCst) > at {
            let (_, names) = read_message(field(entry, "m").unwrap());
            for key in names.iter().filter_map(|key| key.parse().ok()) {
                let promises = promises_without(Fault::ClockSteppedBack);
                let recorder = &self.truth.recorder;
                recorder.excuse(promises, key, began, Duration::MAX);
            }
        }
    }

    /// A write waits for the source, or does so no more.
    fn write(&self, entry: &Entry) {
        let body = field(entry, "b").unwrap_or_default();
        let Some(write) = unseal(body) else {
            return;
        };
        if entry.is_added {
            self.truth.source.waits(write.key, write.version);
        } else {
            self.truth.settled(write, self.max_staleness);
        }
    }
}
