//! The crate's view of the store: a lane over connections that fail, with time limits as on Redis.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use larder::l2::{
    Batch, Bytes, EncodedValue, Fill, Key, L2, L2Error, Lane, LaneClock, LaneName, LaneNumber,
    Lease, LeaseReply, LeaseRequest, Member, MemberInfo, Members, Message, NewLifetime, OnConnect,
    Pending, ReadResult, Reply, Settled, Stamp, Step, Subscription, TagVersion, Touched, Ttls,
    Waiting, Want, WriteStream, Written,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::belief::Belief;
use crate::connection::{Connection, NoReplicas, ReadOnly, is_read_only};
use crate::faults::Fault;
use crate::link::{Link, Wire};
use crate::store::{Name, Store, server_of};
use crate::subscription;

/// A connection that lets so many requests in a row time out is discarded, as on Redis.
const HALF_OPEN_AFTER: u32 = 3;

/// One instance's way to the servers.
struct Network {
    link: Arc<Link>,
    stores: Vec<Arc<Store>>,
}

/// The store as an instance has it.
pub(crate) fn l2(link: &Arc<Link>, stores: &[Arc<Store>]) -> impl L2 {
    for store in stores {
        store.join(Arc::clone(link));
    }
    Network {
        link: Arc::clone(link),
        stores: stores.to_vec(),
    }
}

impl L2 for Network {
    fn lane(&self, name: LaneName<'_>, timeout: Duration, on_connect: OnConnect) -> Box<dyn Lane> {
        Box::new(FarLane {
            link: Arc::clone(&self.link),
            store: Arc::clone(&self.stores[server_of(name.lane, self.stores.len())]),
            name: Name::of(name),
            timeout,
            on_connect,
            lines: Default::default(),
            belief: Arc::new(Belief::new(&self.link)),
            waits: StdMutex::default(),
        })
    }
}

struct FarLane {
    link: Arc<Link>,
    store: Arc<Store>,
    name: Name,
    timeout: Duration,
    on_connect: OnConnect,
    /// The first is everybody's. Values are read over either, as on Redis, and so in any order.
    lines: [Line; 2],
    belief: Arc<Belief>,
    /// Loads that wait for another's, by key.
    waits: StdMutex<HashMap<String, VecDeque<Instant>>>,
}

#[derive(Default)]
struct Line {
    current: StdMutex<Option<Live>>,
    /// Held while a connection is made.
    making: Mutex<()>,
    silent: AtomicU32,
    /// The incarnation that the subscriber has joined.
    joined: AtomicU64,
}

/// A connection, and the incarnation that it has found.
#[derive(Clone)]
struct Live {
    connection: Arc<Connection>,
    incarnation: u64,
}

impl Line {
    fn live(&self, belief: &Belief) -> Option<Arc<Connection>> {
        let live = self.current.lock().unwrap().clone()?.connection;
        (!live.cut.is_cancelled() && belief.holds(&live)).then_some(live)
    }

    fn discard(&self, connection: &Arc<Connection>) {
        let same = |live: &mut Live| Arc::ptr_eq(&live.connection, connection);
        self.current.lock().unwrap().take_if(same);
    }

    fn keep_only(&self, incarnation: u64) -> bool {
        self.joined.store(incarnation, SeqCst);
        let other = |live: &mut Live| live.incarnation != incarnation;
        self.current.lock().unwrap().take_if(other).is_none()
    }
}

impl fmt::Debug for FarLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FarLane")
    }
}

/// What a request is for: a replica answers those that only read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Reads,
    Changes,
    /// Changes that are noted when they arrive too late.
    Writes,
}

type Served<T> = BoxFuture<'static, Result<T, L2Error>>;

impl FarLane {
    /// Has the store do something within the time limit; once more, over another connection, if the first
    /// is cut meanwhile.
    async fn ask<T: Send + 'static>(
        &self,
        serve: impl Fn(Arc<Store>, Arc<dyn Lane>) -> Served<T> + Clone + Send + 'static,
        loss: fn(&Result<T, L2Error>) -> Option<Fault>,
        writes: bool,
    ) -> Result<T, L2Error> {
        let [first, _] = &self.lines;
        let way = if writes { Use::Writes } else { Use::Changes };
        self.ask_over(first, serve, loss, way).await
    }

    /// Reads values.
    async fn read<T: Send + 'static>(
        &self,
        serve: impl Fn(Arc<Store>, Arc<dyn Lane>) -> Served<T> + Clone + Send + 'static,
    ) -> Result<T, L2Error> {
        let line = &self.lines[usize::from(self.link.chance(0.5))];
        self.ask_over(line, serve, no_loss, Use::Reads).await
    }

    async fn ask_over<T: Send + 'static>(
        &self,
        line: &Line,
        serve: impl Fn(Arc<Store>, Arc<dyn Lane>) -> Served<T> + Clone + Send + 'static,
        loss: fn(&Result<T, L2Error>) -> Option<Fault>,
        way: Use,
    ) -> Result<T, L2Error> {
        let both = async {
            match self.ask_once(line, serve.clone(), loss, way).await {
                Err(error) if error.is_unreachable() || is_read_only(&error) => {
                    self.ask_once(line, serve, loss, way).await
                }
                answer => answer,
            }
        };
        if let Ok(answer) = timeout(self.timeout, both).await {
            line.silent.store(0, SeqCst);
            return answer;
        }
        if line.silent.fetch_add(1, SeqCst) + 1 >= HALF_OPEN_AFTER && line.making.try_lock().is_ok()
        {
            *line.current.lock().unwrap() = None;
            line.silent.store(0, SeqCst);
        }
        Err(L2Error::timed_out(self.timeout))
    }

    async fn ask_once<T: Send + 'static>(
        &self,
        line: &Line,
        serve: impl Fn(Arc<Store>, Arc<dyn Lane>) -> Served<T> + Send + 'static,
        loss: fn(&Result<T, L2Error>) -> Option<Fault>,
        way: Use,
    ) -> Result<T, L2Error> {
        let connection = self.connection(line).await?;
        let (there, name) = (Arc::clone(&connection), self.name.clone());
        let serve = move |gave_up: bool| {
            if gave_up && way == Use::Writes {
                there.link.recorder.count(Fault::LateWrite);
            }
            async move {
                let lane = if !there.is_stranded() {
                    there.lane()?
                } else if there.store.has_isolated() {
                    if way != Use::Reads {
                        return Err(L2Error::refused(NoReplicas));
                    }
                    there.link.recorder.count(Fault::IsolatedRead);
                    there.lane()?
                } else if way == Use::Reads {
                    let lane = there.store.open_replica(&name)?;
                    there.link.recorder.count(Fault::ReplicaRead);
                    lane
                } else {
                    return Err(L2Error::refused(ReadOnly));
                };
                serve(Arc::clone(&there.store), lane).await
            }
            .boxed()
        };
        let answer = connection.ask(serve, loss).await?;
        if answer.as_ref().is_err_and(is_read_only) {
            line.discard(&connection);
        }
        answer
    }

    async fn connection(&self, line: &Line) -> Result<Arc<Connection>, L2Error> {
        if let Some(live) = line.live(&self.belief) {
            return Ok(live);
        }
        let _making = line.making.lock().await;
        if let Some(live) = line.live(&self.belief) {
            return Ok(live);
        }
        let joined = line.joined.load(SeqCst);
        let connection = Connection::new(&self.link, &self.store, Wire::Data);
        self.belief.confirm(&connection);
        let clock = connect(&connection, &self.name).await?;
        (self.on_connect)(&clock);
        let now = line.joined.load(SeqCst);
        if now != joined && now != clock.incarnation || !self.belief.holds(&connection) {
            return Err(L2Error::closed());
        }
        *line.current.lock().unwrap() = Some(Live {
            connection: Arc::clone(&connection),
            incarnation: clock.incarnation,
        });
        Ok(connection)
    }

    /// Takes down when a load may have waited for another's for as long as it may. Several loads of one key may wait in
    /// one instance, if a write has detached the first: any of them can be the one that asks now.
    fn note_wait(&self, key: &str, answer: &Result<LeaseReply, L2Error>) {
        if !matches!(answer, Ok(LeaseReply::Wait(_))) {
            return;
        }
        // A pause may be as long as the rest, so that there is no other attempt.
        let (now, longest_pause) = (Instant::now(), Duration::from_millis(150) + self.timeout);
        let limit = self.link.config.lease_wait();
        let mut waits = self.waits.lock().unwrap();
        let waits = waits.entry(key.to_owned()).or_default();
        waits.retain(|began| now <= *began + limit + self.timeout);
        waits.push_back(now);
        if waits[0] + limit <= now + longest_pause {
            let recorder = &self.link.recorder;
            recorder.count(Fault::WaitedTooLong);
            recorder.disturbed(
                longest_pause + self.timeout,
                Some(self.link.instance),
                key.parse().ok(),
            );
        }
    }
}

/// Makes a connection: the store says its clock before anything else.
async fn connect(connection: &Arc<Connection>, name: &Name) -> Result<LaneClock, L2Error> {
    let (there, name) = (Arc::clone(connection), name.clone());
    let accept = move |_| async move { there.accept(&name) }.boxed();
    connection.ask(accept, |_| None).await?
}

/// The stream of a lane, at the store's end.
fn stream(lane: &dyn Lane) -> &dyn WriteStream {
    lane.write_stream().expect("it is in memory")
}

impl WriteStream for FarLane {
    fn take(&self, fence: u64, ttl: Duration, most: usize) -> Reply<'_, Option<Vec<Waiting>>> {
        let serve = move |_, lane: Arc<dyn Lane>| {
            async move { stream(&*lane).take(fence, ttl, most).await }.boxed()
        };
        self.ask(serve, no_loss, false).boxed()
    }

    fn settle<'a>(&'a self, fence: u64, settled: Settled<'a>) -> Reply<'a, bool> {
        let writes: Vec<Waiting> = settled.writes.iter().map(|one| (*one).clone()).collect();
        let owned = |keys: &BTreeSet<&str>| keys.iter().map(|key| (*key).to_owned()).collect();
        let outcome: Result<BTreeSet<String>, String> =
            settled.outcome.map(owned).map_err(str::to_owned);
        let (origin, within) = (settled.origin, self.link.config.max_staleness());
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (writes, outcome) = (writes.clone(), outcome.clone());
            async move {
                let stored: Result<BTreeSet<&str>, &str> = match &outcome {
                    Ok(keys) => Ok(keys.iter().map(String::as_str).collect()),
                    Err(reason) => Err(reason),
                };
                let settled = Settled {
                    writes: &writes.iter().collect::<Vec<_>>(),
                    outcome: stored.as_ref().map_err(|reason| *reason),
                    origin,
                };
                store.settle(&*lane, fence, settled, within).await
            }
            .boxed()
        };
        self.ask(serve, no_loss, false).boxed()
    }

    fn dead_letters(&self, most: usize) -> Reply<'_, Vec<Waiting>> {
        let serve = move |_, lane: Arc<dyn Lane>| {
            async move { stream(&*lane).dead_letters(most).await }.boxed()
        };
        self.ask(serve, no_loss, false).boxed()
    }

    fn requeue<'a>(&'a self, letter: &'a Waiting, payload: &'a [u8]) -> Reply<'a, bool> {
        let (letter, payload) = (letter.clone(), payload.to_owned());
        let serve = move |_, lane: Arc<dyn Lane>| {
            let (letter, payload) = (letter.clone(), payload.clone());
            async move { stream(&*lane).requeue(&letter, &payload).await }.boxed()
        };
        self.ask(serve, no_loss, false).boxed()
    }

    fn pending(&self) -> Reply<'_, Pending> {
        let serve = |_, lane: Arc<dyn Lane>| async move { stream(&*lane).pending().await }.boxed();
        self.ask(serve, no_loss, false).boxed()
    }
}

/// A batch on its way to a lane.
#[derive(Clone)]
struct OwnedBatch {
    to: LaneNumber,
    keys: Vec<String>,
    values: Vec<EncodedValue>,
    payload: Vec<u8>,
    deadline: Option<u64>,
}

impl OwnedBatch {
    fn new(to: LaneNumber, batch: Batch<'_>) -> Self {
        Self {
            to,
            keys: batch.keys.iter().map(|key| (*key).to_owned()).collect(),
            values: batch.values.iter().map(|value| (*value).clone()).collect(),
            payload: batch.payload.to_owned(),
            deadline: batch.deadline,
        }
    }

    async fn write(&self, store: &Store, lane: &dyn Lane, step: &Step) -> Result<Written, L2Error> {
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        let batch = Batch {
            keys: &keys,
            values: &self.values.iter().collect::<Vec<_>>(),
            payload: &self.payload,
            deadline: self.deadline,
        };
        store.write(self.to, lane, step, batch).await
    }
}

fn no_loss<T>(_: &T) -> Option<Fault> {
    None
}

fn grant(answer: &Result<LeaseReply, L2Error>) -> Option<Fault> {
    matches!(answer, Ok(LeaseReply::Granted(_))).then_some(Fault::GrantLost)
}

impl Lane for FarLane {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        let key = key.to_owned();
        let serve = move |_, lane: Arc<dyn Lane>| {
            let key = key.clone();
            async move { lane.get(&key).await }.boxed()
        };
        self.read(serve).boxed()
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>> {
        async move {
            let wanted: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let serve = move |_, lane: Arc<dyn Lane>| {
                let keys = wanted.clone();
                async move {
                    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    Ok(lane.get_many(&keys).await)
                }
                .boxed()
            };
            let answers = self.read(serve).await;
            answers.unwrap_or_else(|error| keys.iter().map(|_| Err(error.clone())).collect())
        }
        .boxed()
    }

    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply> {
        async move {
            let wanted = key.to_owned();
            let serve = move |_, lane: Arc<dyn Lane>| {
                let key = wanted.clone();
                async move { lane.acquire_lease(&key, ask).await }.boxed()
            };
            let answer = self.ask(serve, grant, false).await;
            // Not of a refresh, which asks with the version that it has, nor of a read: a load may wait beside them.
            // Where there are tags, a load asks like this, too, if the tag of what is there was invalidated.
            let is_refresh = matches!(ask.want, Want::OtherThan(_)) && self.link.config.tags == 0.0;
            if !ask.ttl.is_zero() && !is_refresh {
                self.note_wait(key, &answer);
            }
            answer
        }
        .boxed()
    }

    fn fill<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        value: &'a EncodedValue,
        payload: Option<&'a [u8]>,
    ) -> Reply<'a, Fill> {
        let payload = payload.map(<[u8]>::to_owned);
        let (key, value) = (key.to_owned(), value.clone());
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (key, value, payload) = (key.clone(), value.clone(), payload.clone());
            async move {
                let payload = payload.as_deref();
                store.fill(&*lane, &key, lease, &value, payload).await
            }
            .boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn revalidate<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &'a [Key],
    ) -> Reply<'a, Option<Fill>> {
        let (key, held, tags) = (key.to_owned(), lease, tags.to_owned());
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (key, tags) = (key.clone(), tags.clone());
            async move {
                let sent = store.revalidate(&*lane, &key, held, seen, ttls, &tags);
                sent.await
            }
            .boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        let key = key.to_owned();
        let serve = move |_, lane: Arc<dyn Lane>| {
            let key = key.clone();
            async move { lane.renew_lease(&key, token, ttl).await }.boxed()
        };
        self.ask(serve, no_loss, false).boxed()
    }

    fn write<'a>(&'a self, step: &'a Step, batch: Batch<'a>) -> Reply<'a, Written> {
        let (step, batch) = (step.clone(), OwnedBatch::new(self.name.lane(), batch));
        // The first copy of a conditional step, as on Redis: the second one has the same answer.
        let done = Arc::new(StdMutex::new(None));
        let is_conditional = matches!(step, Step::InsertIf(_) | Step::Append(_));
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (step, batch, done) = (step.clone(), batch.clone(), Arc::clone(&done));
            async move {
                if let Some(done) = *done.lock().unwrap() {
                    return Ok(done);
                }
                let written = batch.write(&store, &*lane, &step).await?;
                if is_conditional && matches!(written, Written::Done(_)) {
                    *done.lock().unwrap() = Some(written);
                }
                Ok(written)
            }
            .boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn touch<'a>(
        &'a self,
        key: &'a str,
        lifetime: NewLifetime,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Touched>> {
        let (key, payload) = (key.to_owned(), payload.to_owned());
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (key, payload) = (key.clone(), payload.clone());
            async move {
                store
                    .touch(&*lane, &key, lifetime, &payload, deadline)
                    .await
            }
            .boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn tag_versions<'a>(&'a self, tags: &'a [&'a str]) -> Reply<'a, Vec<Option<TagVersion>>> {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let tags = tags.clone();
            async move {
                let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
                store.tag_versions(&*lane, &tags).await
            }
            .boxed()
        };
        // The tag versions are read over the connection of all that is no plain read.
        self.ask(serve, no_loss, false).boxed()
    }

    fn remove_prefixes<'a>(&'a self, prefixes: &'a [(&'a str, Stamp)]) -> Reply<'a, Vec<u64>> {
        let prefixes = prefixes.iter();
        let prefixes: Vec<(String, Stamp)> = prefixes
            .map(|(prefix, before)| ((*prefix).to_owned(), *before))
            .collect();
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let prefixes = prefixes.clone();
            async move { store.remove_prefixes(&*lane, &prefixes).await }.boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn write_stream(&self) -> Option<&dyn WriteStream> {
        Some(self)
    }

    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>> {
        let serve = move |_, lane: Arc<dyn Lane>| async move { lane.replay(first).await }.boxed();
        self.ask(serve, no_loss, false).boxed()
    }

    fn members<'a>(&'a self, ids: &'a [u64]) -> Reply<'a, Members> {
        let ids = ids.to_owned();
        let serve = move |_, lane: Arc<dyn Lane>| {
            let ids = ids.clone();
            async move { lane.members(&ids).await }.boxed()
        };
        self.ask(serve, no_loss, false).boxed()
    }

    fn sweep(&self, id: u64, ttl: Duration) -> Reply<'_, Option<Members>> {
        let serve = move |_, lane: Arc<dyn Lane>| async move { lane.sweep(id, ttl).await }.boxed();
        self.ask(serve, no_loss, false).boxed()
    }

    fn forget(&self, member: Member) -> Reply<'_, ()> {
        let serve = move |_, lane: Arc<dyn Lane>| async move { lane.forget(member).await }.boxed();
        self.ask(serve, no_loss, false).boxed()
    }

    fn leave(&self, id: u64) -> Reply<'_, ()> {
        let serve = move |_, lane: Arc<dyn Lane>| async move { lane.leave(id).await }.boxed();
        self.ask(serve, no_loss, false).boxed()
    }

    fn keep_only(&self, incarnation: u64) -> bool {
        let [first, second] = &self.lines;
        first.keep_only(incarnation) & second.keep_only(incarnation)
    }

    fn subscribe(&self, me: MemberInfo) -> Reply<'_, (LaneClock, Box<dyn Subscription>)> {
        async move {
            let connection = Connection::new(&self.link, &self.store, Wire::Subscription);
            self.belief.confirm(&connection);
            let subscribing = subscription::subscribe(&connection, &self.name, me, &self.belief);
            timeout(self.timeout, subscribing)
                .await
                .unwrap_or_else(|_| Err(L2Error::timed_out(self.timeout)))
        }
        .boxed()
    }
}
