//! A store with a network in front of it that the test controls: answers held back, requests and
//! replies lost, messages dropped, connections cut. What is behind it is the real thing.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use larder::l2::{
    self, Applied, Batch, Bytes, EncodedValue, Event, Fill, FleetBypass, Key, KnownHistory, L2,
    L2Error, Lease, LeaseReply, LeaseRequest, Member, MemberInfo, Members, Message, NewLifetime,
    OnConnect, Partition, PartitionClock, PartitionName, ReadResult, Reply, Stamp, StoredCounts,
    Subscription, TagVersion, Touched, Ttls, Written,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::unlocked::check;

const LIMIT: Duration = Duration::from_secs(10);
/// A member that only reads the partition's clock.
const OBSERVER: MemberInfo = MemberInfo {
    id: 1,
    max_staleness: Duration::from_millis(1),
};

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Get,
    AcquireLease,
    Fill,
    Renew,
    Insert,
    InsertIf,
    Invalidate,
    Expire,
    Touch,
    Clear,
    EndLeases,
    RemovePrefix,
    InvalidateTags,
    TagVersions,
    Replay,
    Members,
    /// By the sweeper.
    Sweep,
    Count,
    Subscribe,
    Heartbeat,
}

/// On the way to the store, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Request,
    Reply,
}

/// One instance's way to the store. Clones are the same way.
#[derive(Clone)]
pub(crate) struct Network {
    store: Arc<dyn L2>,
    wires: Arc<Wires>,
}

struct Wires {
    gates: Mutex<HashMap<(Step, Way), Gate>>,
    lost: Mutex<HashMap<(Step, Way), Loss>>,
    asked: Mutex<HashMap<Step, usize>>,
    events: watch::Sender<Events>,
    refuse_heartbeats: AtomicBool,
    delay_heartbeats: AtomicBool,
    delayed: AtomicUsize,
    drop_messages: AtomicBool,
    dropped: AtomicUsize,
    /// The highest number of a message that a heartbeat has named.
    applied: AtomicU64,
    /// How many entries of members it has read.
    members_read: AtomicUsize,
    /// How much still comes through while the connection is silent.
    let_through: AtomicUsize,
    /// Where inserts get stuck, while their callers get a timeout.
    stuck: Mutex<Option<Gate>>,
    /// Whether the next `get` finds its connection gone.
    reconnect: AtomicBool,
    /// Whether the next `get` finds a version that the partition has not issued.
    forge: AtomicBool,
    /// How long each request takes.
    latency_ms: AtomicU64,
    /// Whether the next subscription finds the highest number of a message that there is.
    exhaust: AtomicBool,
    /// Whether requests turn out to have gone to another server than the subscription, once.
    mislead: AtomicBool,
    subscribed: watch::Sender<usize>,
    /// Whether an answer to a heartbeat has come.
    answered: watch::Sender<bool>,
}

/// How many are lost, and which error their callers get.
type Loss = (usize, fn() -> L2Error);

/// What happens on the subscriber's connection.
#[derive(Clone, Copy, Default)]
struct Events {
    /// Nothing comes through, and no error.
    silent: bool,
    cuts: usize,
}

/// Where requests or replies of one kind wait until it is opened.
#[derive(Clone)]
pub(crate) struct Gate {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
    landed: watch::Sender<bool>,
}

impl Network {
    pub(crate) fn new(store: impl L2) -> Self {
        let wires = Wires {
            gates: Mutex::default(),
            lost: Mutex::default(),
            asked: Mutex::default(),
            events: watch::Sender::default(),
            refuse_heartbeats: AtomicBool::new(false),
            delay_heartbeats: AtomicBool::new(false),
            delayed: AtomicUsize::new(0),
            drop_messages: AtomicBool::new(false),
            dropped: AtomicUsize::new(0),
            applied: AtomicU64::new(0),
            members_read: AtomicUsize::new(0),
            let_through: AtomicUsize::new(0),
            stuck: Mutex::default(),
            reconnect: AtomicBool::new(false),
            forge: AtomicBool::new(false),
            exhaust: AtomicBool::new(false),
            latency_ms: AtomicU64::new(0),
            mislead: AtomicBool::new(false),
            subscribed: watch::Sender::default(),
            answered: watch::Sender::default(),
        };
        Self {
            store: Arc::new(store),
            wires: Arc::new(wires),
        }
    }

    /// Holds back all such requests or replies from now on.
    pub(crate) fn close(&self, step: Step, way: Way) -> Gate {
        let gate = Gate::new();
        self.wires
            .gates
            .lock()
            .unwrap()
            .insert((step, way), gate.clone());
        gate
    }

    /// Loses the next `n` such requests or replies: the caller gets a timeout.
    pub(crate) fn lose(&self, step: Step, way: Way, n: usize) {
        let silence = || L2Error::timed_out(Duration::from_millis(1));
        let mut lost = self.wires.lost.lock().unwrap();
        lost.insert((step, way), (n, silence));
    }

    /// The next `n` such requests are answered with an error.
    pub(crate) fn refuse(&self, step: Step, n: usize) {
        let refused = || L2Error::refused(std::io::Error::other("refused"));
        let mut lost = self.wires.lost.lock().unwrap();
        lost.insert((step, Way::Request), (n, refused));
    }

    /// Each request takes so long from now on.
    pub(crate) fn set_latency(&self, latency: Duration) {
        let ms = u64::try_from(latency.as_millis()).unwrap();
        self.wires.latency_ms.store(ms, SeqCst);
    }

    /// The next `n` such requests find no connection.
    pub(crate) fn disconnect(&self, step: Step, n: usize) {
        let mut lost = self.wires.lost.lock().unwrap();
        lost.insert((step, Way::Request), (n, L2Error::closed));
    }

    /// How many such requests reached the store.
    pub(crate) fn asked(&self, step: Step) -> usize {
        self.wires
            .asked
            .lock()
            .unwrap()
            .get(&step)
            .copied()
            .unwrap_or(0)
    }

    /// Drops messages, while heartbeats come through.
    pub(crate) fn drop_messages(&self, drop: bool) {
        self.wires.drop_messages.store(drop, SeqCst);
    }

    /// Answers heartbeats with an error.
    pub(crate) fn refuse_heartbeats(&self) {
        self.wires.refuse_heartbeats.store(true, SeqCst);
    }

    /// Lets each heartbeat be overtaken by the message that comes after it.
    pub(crate) fn delay_heartbeats(&self, delay: bool) {
        self.wires.delay_heartbeats.store(delay, SeqCst);
    }

    /// How many heartbeats were held back.
    pub(crate) fn delayed(&self) -> usize {
        self.wires.delayed.load(SeqCst)
    }

    /// How many messages were dropped.
    pub(crate) fn dropped(&self) -> usize {
        self.wires.dropped.load(SeqCst)
    }

    /// The highest number of a message that the instance says it has applied.
    pub(crate) fn applied(&self) -> u64 {
        self.wires.applied.load(SeqCst)
    }

    /// How many entries of members the instance has read.
    pub(crate) fn members_read(&self) -> usize {
        self.wires.members_read.load(SeqCst)
    }

    /// Makes the subscriber's connection half-open, or whole again.
    pub(crate) fn silence(&self, silent: bool) {
        self.wires
            .events
            .send_modify(|events| events.silent = silent);
    }

    /// Lets the next `n` messages or heartbeats through a connection that is silent.
    pub(crate) fn let_through(&self, n: usize) {
        self.wires.let_through.store(n, SeqCst);
        self.wires.events.send_modify(|_| {});
    }

    /// Times the next insert out for its caller, while it reaches the store once the gate is opened.
    pub(crate) fn stick_insert(&self) -> Gate {
        let gate = Gate::new();
        *self.wires.stuck.lock().unwrap() = Some(gate.clone());
        gate
    }

    /// Makes the next `get` connect anew.
    pub(crate) fn reconnect(&self) {
        self.wires.reconnect.store(true, SeqCst);
    }

    /// Gives the value that the next `get` finds the highest version there is, as if another program had written it to
    /// the store.
    pub(crate) fn forge(&self) {
        self.wires.forge.store(true, SeqCst);
    }

    /// The partition's clock, as the next subscription finds it, says that the highest number of a message has been used.
    pub(crate) fn exhaust_clock(&self) {
        self.wires.exhaust.store(true, SeqCst);
    }

    /// The next time that the instance compares them, its requests have gone to another server than the one that it
    /// is subscribed to.
    pub(crate) fn mislead(&self) {
        self.wires.mislead.store(true, SeqCst);
    }

    /// Cuts the subscriber's connection.
    pub(crate) fn cut(&self) {
        self.wires.events.send_modify(|events| events.cuts += 1);
    }

    /// Cuts the subscriber's connection, and lets it subscribe again once the gate is opened.
    pub(crate) async fn cut_off(&self) -> Gate {
        let gate = self.close(Step::Subscribe, Way::Request);
        self.cut();
        self.subscribers(0).await;
        gate
    }

    /// Waits until so many subscribers are connected.
    pub(crate) async fn subscribers(&self, n: usize) {
        let mut subscribed = self.wires.subscribed.subscribe();
        let reached = timeout(LIMIT, subscribed.wait_for(|now| *now == n))
            .await
            .map(|_| ());
        reached.unwrap_or_else(|_| panic!("there are not {n} subscribers within {LIMIT:?}"));
    }

    /// Waits until the instance has an answer to a heartbeat. An instance sends one whenever it has subscribed,
    /// whatever its settings: a late answer shows messages that the test has dropped meanwhile, or proves that they are
    /// applied.
    pub(crate) async fn heartbeat_answered(&self) {
        let mut answered = self.wires.answered.subscribe();
        let waiting = timeout(LIMIT, answered.wait_for(|answered| *answered));
        let answered = waiting.await.map(|_| ());
        answered.unwrap_or_else(|_| panic!("no heartbeat is answered within {LIMIT:?}"));
    }

    async fn carry<T>(
        &self,
        step: Step,
        request: impl Future<Output = Result<T, L2Error>>,
    ) -> Result<T, L2Error> {
        check("a store");
        self.pass(step, Way::Request).await?;
        self.count(step);
        match self.wires.latency_ms.load(SeqCst) {
            0 => {}
            ms => sleep(Duration::from_millis(ms)).await,
        }
        let reply = request.await;
        self.pass(step, Way::Reply).await?;
        reply
    }

    fn count(&self, step: Step) {
        *self.wires.asked.lock().unwrap().entry(step).or_default() += 1;
    }

    async fn pass(&self, step: Step, way: Way) -> Result<(), L2Error> {
        let gate = self.wires.gates.lock().unwrap().get(&(step, way)).cloned();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        match self.wires.lost.lock().unwrap().get_mut(&(step, way)) {
            Some((n, error)) if *n > 0 => {
                *n -= 1;
                Err(error())
            }
            _ => Ok(()),
        }
    }
}

impl Gate {
    /// A closed one.
    pub(crate) fn new() -> Self {
        Self {
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(false),
            landed: watch::Sender::new(false),
        }
    }

    /// Waits here until it is opened.
    pub(crate) async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open)
            .await
            .expect("the gate is alive");
    }

    /// Waits until so many have come to the gate.
    pub(crate) async fn arrived(&self, n: usize) {
        let mut arrived = self.arrived.subscribe();
        let reached = timeout(LIMIT, arrived.wait_for(|now| *now >= n))
            .await
            .map(|_| ());
        reached.unwrap_or_else(|_| panic!("{n} did not come to the gate within {LIMIT:?}"));
    }

    /// Lets an insert through that was stuck, and waits until the store has answered it.
    pub(crate) async fn land(&self) {
        self.open();
        let mut landed = self.landed.subscribe();
        let landed = timeout(LIMIT, landed.wait_for(|landed| *landed))
            .await
            .map(|_| ());
        landed.expect("it lands in time");
    }

    /// Lets all through that wait, and all that come.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl L2 for Network {
    fn partition(
        &self,
        name: PartitionName<'_>,
        timeout: Duration,
        on_connect: OnConnect,
    ) -> Box<dyn Partition> {
        check("a store");
        let on_connect: Arc<OnConnect> = Arc::new(on_connect);
        let connected = Arc::clone(&on_connect);
        let met: OnConnect = Box::new(move |clock| connected(clock));
        Box::new(Wired {
            partition: self.store.partition(name, timeout, met).into(),
            on_connect,
            network: self.clone(),
        })
    }
}

/// A batch that outlives the caller of its step.
#[derive(Clone)]
pub(crate) struct OwnedBatch {
    keys: Vec<String>,
    values: Vec<EncodedValue>,
    payload: Vec<u8>,
    deadline: Option<u64>,
}

impl OwnedBatch {
    pub(crate) fn new(batch: Batch<'_>) -> Self {
        Self {
            keys: batch.keys.iter().map(|key| (*key).to_owned()).collect(),
            values: batch.values.iter().map(|value| (*value).clone()).collect(),
            payload: batch.payload.to_owned(),
            deadline: batch.deadline,
        }
    }

    pub(crate) async fn write(
        &self,
        partition: &dyn Partition,
        step: &l2::Step,
    ) -> Result<Written, L2Error> {
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        let batch = Batch {
            keys: &keys,
            values: &self.values.iter().collect::<Vec<_>>(),
            payload: &self.payload,
            deadline: self.deadline,
        };
        partition.write(step, batch).await
    }
}

struct Wired {
    partition: Arc<dyn Partition>,
    on_connect: Arc<OnConnect>,
    network: Network,
}

impl Wired {
    /// What a partition does before it uses a new connection.
    async fn connect(&self) -> Result<(), L2Error> {
        if self.network.wires.reconnect.swap(false, SeqCst) {
            let (clock, _) = self
                .partition
                .subscribe(OBSERVER, KnownHistory::Fits)
                .await?;
            (self.on_connect)(&clock);
        }
        Ok(())
    }
}

impl fmt::Debug for Wired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wired")
    }
}

impl Partition for Wired {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        self.network
            .carry(Step::Get, async move {
                self.connect().await?;
                let found = self.partition.get(key).await?;
                let is_forged = self.network.wires.forge.swap(false, SeqCst);
                Ok(found.map(|bytes| if is_forged { forged(&bytes) } else { bytes }))
            })
            .boxed()
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>> {
        let carried = self.network.carry(Step::Get, async move {
            self.connect().await?;
            Ok(self.partition.get_many(keys).await)
        });
        carried
            .map(move |answers| {
                answers.unwrap_or_else(|error| keys.iter().map(|_| Err(error.clone())).collect())
            })
            .boxed()
    }

    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply> {
        self.network
            .carry(Step::AcquireLease, async move {
                self.partition.acquire_lease(key, ask).await
            })
            .boxed()
    }

    fn fill<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        value: &'a EncodedValue,
        payload: Option<&'a [u8]>,
    ) -> Reply<'a, Fill> {
        self.network
            .carry(Step::Fill, async move {
                self.partition.fill(key, lease, value, payload).await
            })
            .boxed()
    }

    fn revalidate<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &'a [Key],
    ) -> Reply<'a, Option<Fill>> {
        self.network
            .carry(Step::Fill, async move {
                self.partition
                    .revalidate(key, lease, seen, ttls, tags)
                    .await
            })
            .boxed()
    }

    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        self.network
            .carry(Step::Renew, async move {
                self.partition.renew_lease(key, token, ttl).await
            })
            .boxed()
    }

    fn write<'a>(&'a self, step: &'a l2::Step, batch: Batch<'a>) -> Reply<'a, Written> {
        let kind = match step {
            l2::Step::Insert => Step::Insert,
            l2::Step::InsertIf(_) => Step::InsertIf,
            #[cfg(feature = "write-behind")]
            l2::Step::Append(_) => Step::InsertIf,
            l2::Step::Invalidate { .. } => Step::Invalidate,
            l2::Step::Expire => Step::Expire,
            l2::Step::InvalidateTags => Step::InvalidateTags,
            l2::Step::Clear => Step::Clear,
            l2::Step::EndLeases => Step::EndLeases,
        };
        self.network
            .carry(kind, async move {
                let wires = &self.network.wires;
                let stuck = (kind == Step::Insert).then(|| wires.stuck.lock().unwrap().take());
                let Some(gate) = stuck.flatten() else {
                    return self.partition.write(step, batch).await;
                };
                let (partition, batch) = (Arc::clone(&self.partition), OwnedBatch::new(batch));
                tokio::spawn(async move {
                    gate.pass().await;
                    let _ = batch.write(&*partition, &l2::Step::Insert).await;
                    gate.landed.send_replace(true);
                });
                Err(L2Error::timed_out(Duration::from_millis(1)))
            })
            .boxed()
    }

    fn touch<'a>(
        &'a self,
        key: &'a str,
        lifetime: NewLifetime,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Touched>> {
        self.network
            .carry(Step::Touch, async move {
                self.partition.touch(key, lifetime, payload, deadline).await
            })
            .boxed()
    }

    fn tag_versions<'a>(&'a self, tags: &'a [&'a str]) -> Reply<'a, Vec<Option<TagVersion>>> {
        self.network
            .carry(Step::TagVersions, async move {
                self.partition.tag_versions(tags).await
            })
            .boxed()
    }

    fn remove_prefixes<'a>(&'a self, prefixes: &'a [(&'a str, Stamp)]) -> Reply<'a, Vec<u64>> {
        self.network
            .carry(Step::RemovePrefix, async move {
                self.partition.remove_prefixes(prefixes).await
            })
            .boxed()
    }

    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>> {
        self.network
            .carry(
                Step::Replay,
                async move { self.partition.replay(first).await },
            )
            .boxed()
    }

    fn members<'a>(&'a self, ids: &'a [u64]) -> Reply<'a, Members> {
        let reading = async move {
            let members = self.partition.members(ids).await?;
            let read = &self.network.wires.members_read;
            read.fetch_add(members.list.len(), SeqCst);
            Ok(members)
        };
        self.network.carry(Step::Members, reading).boxed()
    }

    fn sweep(&self, id: u64, ttl: Duration) -> Reply<'_, Option<Members>> {
        async move {
            let found = self.partition.sweep(id, ttl).await?;
            if found.is_some() {
                self.network.count(Step::Sweep);
            }
            Ok(found)
        }
        .boxed()
    }

    fn forget(&self, member: Member) -> Reply<'_, ()> {
        self.partition.forget(member)
    }

    fn system(&self) -> &'static str {
        self.partition.system()
    }

    fn store_counts<'a>(&'a self, counts: StoredCounts<'a>) -> Reply<'a, FleetBypass> {
        let storing = self.partition.store_counts(counts);
        self.network.carry(Step::Count, storing).boxed()
    }

    fn counts(&self) -> Reply<'_, Vec<(u64, String)>> {
        self.partition.counts()
    }

    fn switch(&self, is_off: bool, deadline: Option<u64>) -> Reply<'_, ()> {
        self.partition.switch(is_off, deadline)
    }

    #[cfg(feature = "write-behind")]
    fn write_stream(&self) -> Option<&dyn larder::l2::WriteStream> {
        self.partition.write_stream()
    }

    fn leave(&self, id: u64) -> Reply<'_, ()> {
        self.partition.leave(id)
    }

    fn keep_only(&self, incarnation: u64) -> bool {
        let is_misled = self.network.wires.mislead.swap(false, SeqCst);
        self.partition.keep_only(incarnation) && !is_misled
    }

    fn subscribe(
        &self,
        me: MemberInfo,
        history: KnownHistory,
    ) -> Reply<'_, (PartitionClock, Box<dyn Subscription>)> {
        async move {
            let (mut clock, inner) = self
                .network
                .carry(Step::Subscribe, async move {
                    self.partition.subscribe(me, history).await
                })
                .await?;
            if self.network.wires.exhaust.swap(false, SeqCst) {
                clock.seq = u64::MAX;
            }
            let events = self.network.wires.events.subscribe();
            let cuts = events.borrow().cuts;
            self.network
                .wires
                .subscribed
                .send_modify(|subscribed| *subscribed += 1);
            let network = self.network.clone();
            let subscription: Box<dyn Subscription> = Box::new(WiredSubscription {
                inner,
                network,
                cuts,
                heartbeat: None,
                event: changed(events),
            });
            Ok((clock, subscription))
        }
        .boxed()
    }
}

struct WiredSubscription {
    inner: Box<dyn Subscription>,
    network: Network,
    cuts: usize,
    heartbeat: Option<PartitionClock>,
    event: BoxFuture<'static, watch::Receiver<Events>>,
}

fn changed(mut events: watch::Receiver<Events>) -> BoxFuture<'static, watch::Receiver<Events>> {
    async move {
        let _ = events.changed().await;
        events
    }
    .boxed()
}

impl Subscription for WiredSubscription {
    fn heartbeat(&mut self, applied: Applied) {
        self.network.count(Step::Heartbeat);
        self.network.wires.applied.fetch_max(applied.seq, SeqCst);
        self.inner.heartbeat(applied);
    }

    fn next_heartbeat(&self, by: Instant, interval: Duration) -> Instant {
        self.inner.next_heartbeat(by, interval)
    }
}

impl Stream for WiredSubscription {
    type Item = Result<Event, L2Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Poll::Ready(events) = self.event.poll_unpin(cx) {
            self.event = changed(events);
        }
        let events = *self.network.wires.events.borrow();
        if events.cuts != self.cuts {
            return Poll::Ready(Some(Err(L2Error::closed())));
        }
        loop {
            let let_through = self.network.wires.let_through.load(SeqCst);
            if events.silent && let_through == 0 {
                return Poll::Pending;
            }
            let event = self.inner.poll_next_unpin(cx);
            let wires = &self.network.wires;
            match event {
                Poll::Ready(Some(Ok(Event::Message(_)))) if wires.drop_messages.load(SeqCst) => {
                    wires.dropped.fetch_add(1, SeqCst);
                }
                Poll::Ready(Some(Ok(Event::Heartbeat(_))))
                    if wires.refuse_heartbeats.load(SeqCst) =>
                {
                    return Poll::Ready(Some(Err(L2Error::unexpected("no heartbeats here"))));
                }
                Poll::Ready(Some(Ok(Event::Heartbeat(clock))))
                    if wires.delay_heartbeats.load(SeqCst) =>
                {
                    wires.delayed.fetch_add(1, SeqCst);
                    self.heartbeat = Some(clock);
                }
                Poll::Ready(event) => {
                    if let Some(Ok(Event::Heartbeat(_))) = &event {
                        // A caller that waits for it runs once the instance has looked at the answer.
                        wires.answered.send_replace(true);
                    }
                    wires
                        .let_through
                        .store(let_through.saturating_sub(1), SeqCst);
                    return Poll::Ready(event);
                }
                Poll::Pending
                    if !wires.delay_heartbeats.load(SeqCst) && self.heartbeat.is_some() =>
                {
                    return Poll::Ready(
                        self.heartbeat
                            .take()
                            .map(|clock| Ok(Event::Heartbeat(clock))),
                    );
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for WiredSubscription {
    fn drop(&mut self) {
        self.network
            .wires
            .subscribed
            .send_modify(|subscribed| *subscribed -= 1);
    }
}

/// A stored value with the highest version there is: its stamp is epoch, version, a time and their sum.
fn forged(bytes: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    let number =
        |at: usize, bytes: &[u8]| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let sum = [number(4, &bytes), u64::MAX, number(20, &bytes)];
    let sum = sum.into_iter().fold(0, u64::wrapping_add);
    bytes[12..20].copy_from_slice(&u64::MAX.to_be_bytes());
    bytes[28..36].copy_from_slice(&sum.to_be_bytes());
    bytes.into()
}
