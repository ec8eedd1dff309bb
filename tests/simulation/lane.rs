//! The crate's view of the store: a lane over connections that fail, with time limits as on Redis.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use larder::l2::{
    Bytes, EncodedValue, Fill, L2, L2Error, Lane, LaneClock, Lease, LeaseReply, LeaseRequest,
    Member, MemberInfo, Members, Message, OnConnect, ReadResult, Reply, Stamp, Subscription,
    WriteAck,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::connection::Connection;
use crate::faults::Fault;
use crate::link::{Link, Wire};
use crate::store::Store;
use crate::subscription;

/// A connection that lets so many requests in a row time out is given up, as on Redis.
const SILENT_AFTER: u32 = 3;

/// One instance's way to the store.
pub(crate) struct Network {
    pub(crate) link: Arc<Link>,
    pub(crate) store: Arc<Store>,
}

impl L2 for Network {
    fn lane(&self, namespace: &str, timeout: Duration, on_connect: OnConnect) -> Box<dyn Lane> {
        Box::new(FarLane {
            link: Arc::clone(&self.link),
            store: Arc::clone(&self.store),
            namespace: namespace.to_owned(),
            timeout,
            on_connect,
            lines: Default::default(),
            waiting: StdMutex::default(),
        })
    }
}

struct FarLane {
    link: Arc<Link>,
    store: Arc<Store>,
    namespace: String,
    timeout: Duration,
    on_connect: OnConnect,
    /// The first is everybody's. Values are read over either, as on Redis, and so in any order.
    lines: [Line; 2],
    /// Since when each load waits for another's, by the token of the lease that it wants.
    waiting: StdMutex<HashMap<u64, Option<Instant>>>,
}

#[derive(Default)]
struct Line {
    current: Mutex<Option<Arc<Connection>>>,
    silent: AtomicU32,
}

impl fmt::Debug for FarLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FarLane")
    }
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
        self.ask_over(first, serve, loss, writes).await
    }

    /// Reads values.
    async fn read<T: Send + 'static>(
        &self,
        serve: impl Fn(Arc<Store>, Arc<dyn Lane>) -> Served<T> + Clone + Send + 'static,
    ) -> Result<T, L2Error> {
        let line = &self.lines[usize::from(self.link.chance(0.5))];
        self.ask_over(line, serve, no_loss, false).await
    }

    async fn ask_over<T: Send + 'static>(
        &self,
        line: &Line,
        serve: impl Fn(Arc<Store>, Arc<dyn Lane>) -> Served<T> + Clone + Send + 'static,
        loss: fn(&Result<T, L2Error>) -> Option<Fault>,
        writes: bool,
    ) -> Result<T, L2Error> {
        let both = async {
            match self.ask_once(line, serve.clone(), loss, writes).await {
                Err(error) if error.is_unreachable() => {
                    self.ask_once(line, serve, loss, writes).await
                }
                answer => answer,
            }
        };
        if let Ok(answer) = timeout(self.timeout, both).await {
            line.silent.store(0, SeqCst);
            return answer;
        }
        if line.silent.fetch_add(1, SeqCst) + 1 >= SILENT_AFTER
            && let Ok(mut current) = line.current.try_lock()
        {
            *current = None;
            line.silent.store(0, SeqCst);
        }
        Err(L2Error::timed_out(self.timeout))
    }

    async fn ask_once<T: Send + 'static>(
        &self,
        line: &Line,
        serve: impl Fn(Arc<Store>, Arc<dyn Lane>) -> Served<T> + Send + 'static,
        loss: fn(&Result<T, L2Error>) -> Option<Fault>,
        writes: bool,
    ) -> Result<T, L2Error> {
        let connection = self.connection(line).await?;
        let there = Arc::clone(&connection);
        let serve = move |gave_up: bool| {
            if gave_up && writes {
                there.link.recorder.count(Fault::LateWrite);
            }
            async move { serve(Arc::clone(&there.store), there.lane()?).await }.boxed()
        };
        connection.ask(serve, loss).await?
    }

    async fn connection(&self, line: &Line) -> Result<Arc<Connection>, L2Error> {
        let mut current = line.current.lock().await;
        if let Some(connection) = &*current
            && !connection.cut.is_cancelled()
        {
            return Ok(Arc::clone(connection));
        }
        let connection = Connection::new(&self.link, &self.store, Wire::Data);
        let clock = connect(&connection, &self.namespace).await?;
        (self.on_connect)(&clock);
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Takes down when a load has waited for another's for as long as it may.
    fn note_wait(&self, key: &str, token: u64, answer: &Result<LeaseReply, L2Error>) {
        let mut waiting = self.waiting.lock().unwrap();
        if !matches!(answer, Ok(LeaseReply::Wait(_))) {
            waiting.remove(&token);
            return;
        }
        let since = waiting.entry(token).or_insert_with(|| Some(Instant::now()));
        // A pause may be as long as the rest, so that there is no other attempt.
        let longest_pause = Duration::from_millis(150) + self.timeout;
        if since
            .is_some_and(|since| since.elapsed() + longest_pause >= self.link.config.lease_wait())
        {
            *since = None;
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
async fn connect(connection: &Arc<Connection>, namespace: &str) -> Result<LaneClock, L2Error> {
    let (there, namespace) = (Arc::clone(connection), namespace.to_owned());
    let accept = move |_| async move { there.accept(&namespace) }.boxed();
    connection.ask(accept, |_| None).await
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
            self.note_wait(key, ask.token, &answer);
            answer
        }
        .boxed()
    }

    fn fill<'a>(&'a self, key: &'a str, lease: Lease, value: &'a EncodedValue) -> Reply<'a, Fill> {
        let (key, value) = (key.to_owned(), value.clone());
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (key, value) = (key.clone(), value.clone());
            async move { store.fill(&*lane, &key, lease, &value).await }.boxed()
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

    fn insert<'a>(
        &'a self,
        values: &'a [(&'a str, &'a EncodedValue)],
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        let values = values.iter();
        let values: Vec<(String, EncodedValue)> = values
            .map(|(key, value)| ((*key).to_owned(), (*value).clone()))
            .collect();
        let payload = payload.to_owned();
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (values, payload) = (values.clone(), payload.clone());
            async move {
                let values: Vec<(&str, &EncodedValue)> =
                    values.iter().map(|(key, value)| (&**key, value)).collect();
                store.insert(&*lane, &values, &payload, deadline).await
            }
            .boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn invalidate<'a>(
        &'a self,
        keys: &'a [&'a str],
        payload: &'a [u8],
        hold: Duration,
    ) -> Reply<'a, WriteAck> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let payload = payload.to_owned();
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let (keys, payload) = (keys.clone(), payload.clone());
            async move {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                store.invalidate(&*lane, &keys, &payload, hold).await
            }
            .boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn clear<'a>(&'a self, payload: &'a [u8]) -> Reply<'a, Stamp> {
        let payload = payload.to_owned();
        let serve = move |store: Arc<Store>, lane: Arc<dyn Lane>| {
            let payload = payload.clone();
            async move { store.clear(&*lane, &payload).await }.boxed()
        };
        self.ask(serve, no_loss, true).boxed()
    }

    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>> {
        let serve = move |_, lane: Arc<dyn Lane>| async move { lane.replay(first).await }.boxed();
        self.ask(serve, no_loss, false).boxed()
    }

    fn members(&self) -> Reply<'_, Members> {
        let serve = |_, lane: Arc<dyn Lane>| async move { lane.members().await }.boxed();
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

    fn subscribe(&self, me: MemberInfo) -> Reply<'_, (LaneClock, Box<dyn Subscription>)> {
        async move {
            let connection = Connection::new(&self.link, &self.store, Wire::Subscription);
            let listening = subscription::subscribe(&connection, &self.namespace, me);
            timeout(self.timeout, listening)
                .await
                .unwrap_or_else(|_| Err(L2Error::timed_out(self.timeout)))
        }
        .boxed()
    }
}
