//! The store that all instances share: the real one, with an eye on what it does.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use larder::l2::MemorySnapshot;
use larder::l2::{
    self, Batch, EncodedValue, Fill, Key, L2, L2Error, Lane, LaneClock, LaneName, LaneNumber,
    Lease, MemberInfo, NewLifetime, Settled, Stamp, TagVersion, Touched, Ttls, Written,
};
use larder::{Clock, MemoryL2};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::connection::ReadOnly;
use crate::faults::Fault;
use crate::link::{Link, Wire};
use crate::recorder::Recorder;
use crate::source::{Source, Versioned, lane_of, unseal};
use crate::truth::Truth;

/// An instance that is only told what the store says.
const NOBODY: MemberInfo = MemberInfo {
    id: 1,
    max_staleness: Duration::ZERO,
};
/// How a value begins that a value of another type follows.
const FOLLOWED: &[u8] = b"LRD\x84";
/// Where the body begins in a stored value.
const STAMP: usize = 36;

/// The name of a lane, and the type tag of an instance that uses it.
#[derive(Clone)]
pub(crate) struct Name(String, LaneNumber, u64);

impl Name {
    pub(crate) fn of(name: LaneName<'_>) -> Self {
        Self(name.namespace.to_owned(), name.lane, name.type_tag)
    }

    pub(crate) fn lane(&self) -> LaneNumber {
        self.1
    }

    fn get(&self) -> LaneName<'_> {
        let Self(namespace, lane, type_tag) = self;
        LaneName {
            namespace,
            lane: *lane,
            type_tag: *type_tag,
        }
    }
}

/// What all servers hold, and how many lanes the namespace has.
#[derive(Default)]
pub(crate) struct Servers {
    memories: Mutex<Vec<MemoryL2>>,
    lanes: AtomicU16,
}

impl Servers {
    pub(crate) fn count(&self) -> usize {
        self.memories.lock().unwrap().len()
    }

    /// Has all go by the largest number of lanes that any of them knows.
    fn settle(&self, name: &Name) {
        let mut name = name.clone();
        let memories = self.memories.lock().unwrap().clone();
        while memories.iter().any(|memory| refuses(memory, &name)) {
            let of = name.lane().of + 1;
            name.1 = LaneNumber { number: 0, of };
        }
    }
}

/// Whether a server knows a larger number of lanes than that of this one, which it opens otherwise.
fn refuses(memory: &MemoryL2, name: &Name) -> bool {
    let lane = memory.lane(name.get(), Duration::MAX, Box::new(|_| ()));
    let asked = lane.get("").now_or_never();
    asked.expect("the store in memory answers at once").is_err()
}

pub(crate) struct Store {
    all: Arc<Servers>,
    /// Which of them this is.
    pub(crate) server: usize,
    /// In which incarnation it was last settled by all how many lanes there are, and for instances with which number.
    settled: Mutex<(u64, u16)>,
    /// How far its clock was stepped, in seconds.
    stepped: Arc<AtomicU64>,
    clock: Clock,
    truth: Truth,
    links: Mutex<Vec<Arc<Link>>>,
    snapshots: Mutex<Vec<MemorySnapshot>>,
    /// What the store was before it failed over, while some connections still lead there.
    replica: Mutex<Option<Replica>>,
    /// The tags of which it says that it knows nothing.
    lost_tags: Mutex<BTreeSet<String>>,
    /// Counts restarts and failovers.
    incarnation: AtomicU64,
    /// Counts messages.
    published: AtomicU64,
}

/// How a replica takes over.
#[derive(Clone, Copy)]
enum Takeover {
    /// It has everything. The old store follows it at this distance, and is read from.
    Planned(Duration),
    /// The old store does not know that there is another one. It answers heartbeats and reads as before, and takes no
    /// writes: those that it would take are lost, which no rule prevents.
    Unnoticed,
    /// The old store follows, and answers nothing. It proves that the new one has everything; or that lacks what came
    /// after the last snapshot.
    InCluster,
}

/// A read-only copy of the store, as it was some time ago.
struct Replica {
    /// `None` if it answers nothing.
    copy: Option<MemoryL2>,
    /// Whether it is a primary that does not know of the other.
    is_isolated: bool,
    /// What the store held later, and when it arrives.
    on_its_way: VecDeque<(Instant, MemorySnapshot)>,
    lag: Duration,
    /// What cuts the connections that lead here, and others.
    connections: Vec<CancellationToken>,
}

impl Replica {
    /// Takes in what has arrived by now.
    fn follow(&mut self) {
        let now = Instant::now();
        let arrived = self.on_its_way.partition_point(|(at, _)| *at <= now);
        let last = self.on_its_way.drain(..arrived).next_back();
        if let (Some((_, last)), Some(copy)) = (last, &self.copy) {
            copy.restore(&last);
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        for cut in &self.connections {
            cut.cancel();
        }
    }
}

/// The time of a server.
type Time = Arc<dyn Fn() -> Duration + Send + Sync>;

impl Store {
    /// Those of a world, one for each server.
    pub(crate) fn all(
        mut time: impl FnMut() -> Time,
        config: &Config,
        source: &Arc<Source>,
        recorder: &Arc<Recorder>,
    ) -> Vec<Arc<Self>> {
        let all = Arc::default();
        let each = (0..config.servers).map(|_| {
            let (time, source, recorder) = (time(), Arc::clone(source), Arc::clone(recorder));
            Arc::new(Self::new(&all, move || time(), config, source, recorder))
        });
        each.collect()
    }

    /// One server more.
    pub(crate) fn new(
        all: &Arc<Servers>,
        time: impl Fn() -> Duration + Send + Sync + 'static,
        config: &Config,
        source: Arc<Source>,
        recorder: Arc<Recorder>,
    ) -> Self {
        let stepped = Arc::<AtomicU64>::default();
        let by = Arc::clone(&stepped);
        let clock = Clock::from_fn(move || time() + Duration::from_secs(by.load(SeqCst)));
        let memory = MemoryL2::with_clock(clock.clone());
        let snapshots = Mutex::new(vec![memory.snapshot()]);
        let mut memories = all.memories.lock().unwrap();
        memories.push(memory);
        Self {
            all: Arc::clone(all),
            server: memories.len() - 1,
            settled: Mutex::default(),
            stepped,
            clock,
            snapshots,
            truth: Truth::new(config, source, recorder),
            links: Mutex::default(),
            replica: Mutex::default(),
            lost_tags: Mutex::default(),
            incarnation: AtomicU64::new(0),
            published: AtomicU64::new(0),
        }
    }

    fn memory(&self) -> MemoryL2 {
        self.all.memories.lock().unwrap()[self.server].clone()
    }

    pub(crate) fn join(&self, link: Arc<Link>) {
        self.links.lock().unwrap().push(link);
    }

    /// Opens a lane, and reads its clock, as every new connection does. Whether it is the first one of so many lanes.
    pub(crate) fn open(&self, name: &Name) -> Result<(Arc<dyn Lane>, LaneClock, bool), L2Error> {
        let of = name.lane().of;
        self.settle_lanes(name);
        let clock = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&clock);
        let lane = self.memory().lane(
            name.get(),
            Duration::MAX,
            Box::new(move |clock| *seen.lock().unwrap() = Some(*clock)),
        );
        let Some(clock) = *clock.lock().unwrap() else {
            let refused = lane.subscribe(NOBODY).now_or_never();
            let refused = refused.expect("the store in memory answers at once");
            return Err(refused
                .map(drop)
                .expect_err("a lane that is used says its clock"));
        };
        let former = self.all.lanes.fetch_max(of, SeqCst);
        let has_changed = former != 0 && former < of;
        if has_changed {
            // No value and no lease of the former ones counts any more.
            self.changed_where(|_| true);
        }
        Ok((lane.into(), clock, has_changed))
    }

    /// Where there are several servers, it is settled by all of them how many lanes there are, before a lane is opened:
    /// for the first time, and when this server may have lost what it knew of that (rule 27).
    fn settle_lanes(&self, name: &Name) {
        let (incarnation, of) = (self.incarnation(), name.lane().of);
        let mut settled = self.settled.lock().unwrap();
        let is_new = of > settled.1 || incarnation != settled.0 && !is_trusted();
        if is_new && self.all.count() > 1 {
            self.all.settle(name);
            *settled = (incarnation, of);
        }
    }

    /// A lane of the replica, to read from.
    pub(crate) fn open_replica(&self, name: &Name) -> Result<Arc<dyn Lane>, L2Error> {
        let mut replica = self.replica.lock().unwrap();
        let replica = replica.as_mut().ok_or_else(L2Error::closed)?;
        replica.follow();
        let copy = replica.copy.as_ref();
        let copy = copy.ok_or_else(|| L2Error::refused(ReadOnly))?;
        let lane = copy.lane(name.get(), Duration::MAX, Box::new(|_| ()));
        Ok(lane.into())
    }

    /// The store in memory has none of these faults.
    pub(crate) fn strike(self: Arc<Self>, fault: Fault, _: Duration, _: &mut Rng) {
        panic!("{fault:?} of the store {}", self.server);
    }

    /// A replica takes over, and the old store is there for so long.
    pub(crate) fn take_over(
        self: Arc<Self>,
        fault: Fault,
        lag: Duration,
        lasts: Duration,
        rng: &mut Rng,
    ) {
        let takeover = match fault {
            Fault::FailedOver => Takeover::Planned(lag),
            Fault::HandedOver => Takeover::InCluster,
            _ => Takeover::Unnoticed,
        };
        let incarnation = self.fail_over(takeover, rng);
        tokio::spawn(async move {
            sleep(lasts).await;
            self.end_replica(incarnation);
        });
    }

    /// A replica takes over. The old store keeps the connections of some instances. Returns the number of the failover.
    fn fail_over(&self, how: Takeover, rng: &mut Rng) -> u64 {
        let (old, other) = (self.memory(), MemoryL2::with_clock(self.clock.clone()));
        let data = old.snapshot();
        other.restore(&data);
        let is_proven = matches!(how, Takeover::InCluster) && rng.bool();
        let copy = match how {
            Takeover::Planned(_) => {
                old.restore(&data);
                Some(other)
            }
            Takeover::Unnoticed => {
                self.all.memories.lock().unwrap()[self.server] = other;
                Some(old)
            }
            Takeover::InCluster => {
                let snapshots = self.snapshots.lock().unwrap();
                let behind = snapshots.last().filter(|_| !is_proven);
                old.hand_over(behind.unwrap_or(&data), is_proven);
                None
            }
        };
        let incarnation = self.incarnation.fetch_add(1, SeqCst) + 1;
        let mut connections = Vec::new();
        for link in &*self.links.lock().unwrap() {
            for wire in [Wire::Data, Wire::Subscription] {
                let here = link.connections(wire, self.server);
                if rng.bool() {
                    here.iter().for_each(CancellationToken::cancel);
                }
                connections.extend(here);
            }
        }
        // One that was there before goes, and what leads to it is cut.
        *self.replica.lock().unwrap() = Some(Replica {
            copy,
            is_isolated: matches!(how, Takeover::Unnoticed),
            on_its_way: VecDeque::new(),
            lag: match how {
                Takeover::Planned(lag) => lag,
                _ => Duration::ZERO,
            },
            connections,
        });
        if !is_proven {
            self.changed_all(|_| true);
        }
        incarnation
    }

    /// Whether connections that were left behind lead to a store that takes itself for the primary.
    pub(crate) fn has_isolated(&self) -> bool {
        let replica = self.replica.lock().unwrap();
        replica.as_ref().is_some_and(|replica| replica.is_isolated)
    }

    /// The replica of this failover goes.
    fn end_replica(&self, incarnation: u64) {
        if self.incarnation() == incarnation {
            *self.replica.lock().unwrap() = None;
        }
    }

    /// Sends the replica, if there is one, what the store holds now.
    fn replicate(&self) {
        let mut replica = self.replica.lock().unwrap();
        if let Some(replica) = replica.as_mut().filter(|replica| !replica.is_isolated) {
            let arrives = Instant::now() + replica.lag;
            let data = self.memory().snapshot();
            replica.on_its_way.push_back((arrives, data));
        }
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(SeqCst)
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(SeqCst)
    }

    pub(crate) async fn fill(
        &self,
        lane: &dyn Lane,
        key: &str,
        lease: Lease,
        value: &EncodedValue,
        payload: Option<&[u8]>,
    ) -> Result<Fill, L2Error> {
        let fill = lane.fill(key, lease, value, payload).await?;
        if matches!(fill, Fill::Stored(_)) {
            self.stored(&value.body);
            let stored = lane.get(key).await?.unwrap_or_default();
            if stored.starts_with(FOLLOWED) {
                self.truth.recorder.count(Fault::Beside);
            }
        }
        Ok(fill)
    }

    pub(crate) async fn revalidate(
        &self,
        lane: &dyn Lane,
        key: &str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &[Key],
    ) -> Result<Option<Fill>, L2Error> {
        // Nothing comes in between: the store in memory answers at once.
        let stored = lane.get(key).await?;
        let fill = lane.revalidate(key, lease, seen, ttls, tags).await?;
        if let (Some(Fill::Stored(_)), Some(stored)) = (&fill, stored) {
            self.truth.recorder.count(Fault::Revalidated);
            self.stored(&stored[STAMP..]);
        }
        Ok(fill)
    }

    pub(crate) async fn write(
        &self,
        to: LaneNumber,
        lane: &dyn Lane,
        step: &l2::Step,
        batch: Batch<'_>,
    ) -> Result<Written, L2Error> {
        let written = lane.write(step, batch).await?;
        if !matches!(written, Written::Done(_)) {
            return Ok(written);
        }
        for value in batch.values {
            // Before the source has it.
            if let (l2::Step::Append(_), Some(Versioned { key, version })) =
                (step, unseal(&value.body))
            {
                self.truth.source.waits(key, version);
            }
            self.stored(&value.body);
        }
        let keys = batch.keys;
        let disturbed = |within| {
            for key in keys.iter().filter_map(|key| key.parse().ok()) {
                self.truth.recorder.disturbed(within, None, Some(key));
            }
        };
        match step {
            l2::Step::Insert | l2::Step::InsertIf(_) | l2::Step::Append(_) => self.changed(keys),
            l2::Step::Invalidate { hold, .. } => {
                self.changed(keys);
                if !hold.is_zero() {
                    // Everyone loads for himself meanwhile.
                    disturbed(*hold + self.truth.late);
                }
            }
            l2::Step::Expire => {
                self.truth.recorder.count(Fault::Expired);
                self.replicate();
                self.published.fetch_add(1, SeqCst);
                // A load whose lease has ended may run on beside the next one.
                disturbed(self.truth.late);
            }
            l2::Step::InvalidateTags => {
                self.replicate();
                self.published.fetch_add(1, SeqCst);
                self.truth
                    .tags_ended(keys.iter().copied(), |key| is_in(to, key));
            }
            l2::Step::Clear => self.changed_all(|key| is_in(to, key)),
            // Every lease from before has ended, of whatever key. A load whose lease is granted later also reads the
            // source later (rule 23).
            l2::Step::EndLeases => {
                self.replicate();
                self.truth.all_ended(|key| is_in(to, key));
            }
        }
        Ok(written)
    }

    pub(crate) async fn settle(
        &self,
        lane: &dyn Lane,
        fence: u64,
        settled: Settled<'_>,
        within: Duration,
    ) -> Result<bool, L2Error> {
        let stream = lane.write_stream().expect("it is in memory");
        let is_settled = stream.settle(fence, settled).await?;
        self.replicate();
        let ended = settled.writes.iter().filter(|_| is_settled);
        for write in ended.filter_map(|write| unseal(&write.body)) {
            self.truth.settled(write, within);
        }
        Ok(is_settled)
    }

    pub(crate) async fn touch(
        &self,
        lane: &dyn Lane,
        key: &str,
        lifetime: NewLifetime,
        payload: &[u8],
        deadline: Option<u64>,
    ) -> Result<Option<Touched>, L2Error> {
        let touched = lane.touch(key, lifetime, payload, deadline).await?;
        if let Some(touched) = touched {
            let what = match lifetime {
                NewLifetime::Renewed(_) => Fault::Touched,
                NewLifetime::Extended(..) => Fault::Extended,
            };
            self.truth.recorder.count(what);
            self.replicate();
            if touched.change.is_some() {
                self.published.fetch_add(1, SeqCst);
            }
        }
        Ok(touched)
    }

    pub(crate) async fn remove_prefixes(
        &self,
        lane: &dyn Lane,
        prefixes: &[(String, Stamp)],
    ) -> Result<Vec<u64>, L2Error> {
        let prefixes = prefixes.iter();
        let prefixes: Vec<(&str, Stamp)> = prefixes
            .map(|(prefix, before)| (prefix.as_str(), *before))
            .collect();
        let removed = lane.remove_prefixes(&prefixes).await?;
        self.replicate();
        // Those that have found a value until now load.
        let all = 0..self.truth.source.len();
        let has_one = |key: &String| prefixes.iter().any(|(prefix, _)| key.starts_with(prefix));
        for key in all.filter(|key| has_one(&key.to_string())) {
            self.truth
                .recorder
                .disturbed(self.truth.late, None, Some(key));
        }
        Ok(removed)
    }

    pub(crate) async fn tag_versions(
        &self,
        lane: &dyn Lane,
        tags: &[&str],
    ) -> Result<Vec<Option<TagVersion>>, L2Error> {
        let versions = lane.tag_versions(tags).await?;
        let lost = self.lost_tags.lock().unwrap();
        let known = versions.into_iter().zip(tags);
        Ok(known
            .map(|(version, tag)| version.filter(|_| !lost.contains(*tag)))
            .collect())
    }

    /// What the store knows of some tag is lost, until a value with it is stored.
    pub(crate) fn lose_tag(&self, rng: &mut Rng) {
        let tag = format!("t:{}", rng.u8(0..3));
        self.lost_tags.lock().unwrap().insert(tag);
    }

    /// Steps the store's clock forward, as an administrator or NTP does.
    pub(crate) fn step_clock(&self, by: Duration) {
        self.stepped.fetch_add(by.as_secs(), SeqCst);
    }

    /// Keeps a copy of what is stored, to go back to.
    pub(crate) fn snapshot(&self) {
        let mut snapshots = self.snapshots.lock().unwrap();
        snapshots.push(self.memory().snapshot());
    }

    /// Restarts from the last copy, or from nothing.
    pub(crate) fn restart(&self, emptied: bool, rng: &mut Rng) {
        {
            let snapshots = self.snapshots.lock().unwrap();
            let recent = snapshots.len().saturating_sub(3)..snapshots.len();
            let which = if emptied { 0 } else { rng.usize(recent) };
            self.memory().restore(&snapshots[which]);
            if self.all.count() == 1 {
                // It may have been from before they changed.
                self.all.lanes.store(0, SeqCst);
            }
        }
        self.incarnation.fetch_add(1, SeqCst);
        *self.replica.lock().unwrap() = None;
        for link in &*self.links.lock().unwrap() {
            for wire in [Wire::Data, Wire::Subscription] {
                let here = link.connections(wire, self.server);
                here.iter().for_each(CancellationToken::cancel);
            }
        }
        self.changed_all(|_| true);
    }

    fn stored(&self, body: &[u8]) {
        self.replicate();
        for tag in self
            .truth
            .stored(body)
            .map_or(Vec::new(), |key| self.truth.source.tags(key))
        {
            self.lost_tags.lock().unwrap().remove(&tag);
        }
    }

    /// After a change, whatever has its lease from before it is refused; and what has it from after it
    /// was loaded after it. So the source's number of now is what fills are held to.
    fn changed(&self, keys: &[&str]) {
        self.replicate();
        self.published.fetch_add(1, SeqCst);
        for key in keys.iter().filter_map(|key| key.parse().ok()) {
            self.truth.ended(key);
        }
    }

    fn changed_all(&self, which: impl Fn(u64) -> bool) {
        let lanes = self.all.lanes.load(SeqCst).max(1);
        let lane = |key| LaneNumber {
            number: lane_of(key, lanes),
            of: lanes,
        };
        let has = |key| server_of(lane(key), self.all.count()) == self.server;
        self.changed_where(|key| has(key) && which(key));
    }

    fn changed_where(&self, which: impl Fn(u64) -> bool) {
        let keys = (0..self.truth.source.len()).filter(|key| which(*key));
        let keys: Vec<_> = keys.map(|key| key.to_string()).collect();
        self.changed(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[cfg(larder_ablation)]
fn is_trusted() -> bool {
    larder::ablation::without(larder::ablation::Rule::LostTombstones)
}

#[cfg(not(larder_ablation))]
fn is_trusted() -> bool {
    false
}

/// Which server a lane is on. One that has a former lane need not have one of those that take its place.
pub(crate) fn server_of(lane: LaneNumber, servers: usize) -> usize {
    usize::from(lane.number + lane.of - 1) % servers
}

fn is_in(lane: LaneNumber, key: u64) -> bool {
    lane_of(key, lane.of) == lane.number
}

/// A hash of all requests of the last world of this thread: a store in memory gets none.
pub(crate) fn last_digest() -> u64 {
    0
}
