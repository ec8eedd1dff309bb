//! The steps of a lane: one script or command each. Here is what they send and how an answer is read; over which
//! connection they go is left to [`connection`](super::connection).

use std::fmt;
use std::iter;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, FromRedisValue, RedisResult, cmd};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};

use super::call::{Call, numbers};
use super::connection::{Connections, Failure};
use super::members;
use super::names::Names;
use super::pubsub;
use super::read_batcher::ReadBatcher;
use super::read_request::ReadRequests;
use super::scripts::Scripts;
use super::server::Connector;
use crate::clock::millis;
use crate::key::Key;
use crate::l2::{
    EncodedValue, Fill, L2Error, Lane, LaneClock, Lease, LeaseReply, LeaseRequest, Member,
    MemberInfo, Members, Message, NewLife, ReadResult, Reply, Stamp, Subscription, TagVersion,
    Touched, Ttls, Version, Want, WriteAck, random,
};
use crate::lock::lock;
use crate::prefixes::Prefixes;
use crate::wire::{envelope, message};

/// Messages read from the log at a time.
const REPLAY: usize = 1024;
/// Keys that a step of a SCAN looks at, or about as many.
const SCANNED: usize = 1000;
/// For how many timeouts a caller waits for a write whose first copy may still arrive; after that it is an error.
const LONGEST_DOUBT: u32 = 2;
/// How often a script is sent that has to be told the tags of the value that is stored, if these change each time.
const TAGS_CHANGE: usize = 4;
/// From how many bytes on a body reaches its key without passing through Lua. Of shorter ones that takes longer.
const STAGED_FROM: usize = 1024;
/// Markers of tags that a request reads at most.
const MARKERS: usize = 1024;

/// One namespace on a Redis server.
pub(super) struct RedisLane {
    pub(super) names: Names,
    pub(super) scripts: Arc<Scripts>,
    /// For all but plain reads of values.
    pub(super) connections: Arc<Connections>,
    /// Reads values over these connections, and over a second one.
    pub(super) requests: Arc<ReadRequests>,
    /// Reads of single values, put together.
    pub(super) batches: ReadBatcher,
    /// Makes the connections that subscribe.
    pub(super) connector: Arc<Connector>,
    /// How long each step may take.
    pub(super) timeout: Duration,
}

impl fmt::Debug for RedisLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLane")
            .field("tag", &self.names.tag)
            .finish_non_exhaustive()
    }
}

impl RedisLane {
    /// Runs a script. Each copy that is sent is written anew, with random numbers of its own.
    pub(super) async fn run<'a, T: FromRedisValue>(
        &self,
        call: impl Fn() -> Call<'a> + Sync,
    ) -> Result<T, L2Error> {
        self.connections
            .with(self.timeout, |mut connection| {
                let call = call();
                async move { call.run(&mut connection).await }
            })
            .await
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, L2Error> {
        self.connections
            .with(self.timeout, |mut connection| async move {
                command.query_async(&mut connection).await
            })
            .await
    }

    /// Sends what must not arrive late: the script refuses it after the deadline, and until then this does not return while
    /// a copy may be on its way. `read` reads the answer, and when the store has given it.
    pub(super) async fn before<T, Sent>(
        &self,
        deadline: Option<u64>,
        send: impl Fn(MultiplexedConnection) -> Sent + Sync,
        read: impl Fn(&[u8]) -> Result<(T, u64), L2Error> + Sync,
    ) -> Result<T, L2Error>
    where
        Sent: Future<Output = RedisResult<Option<Vec<u8>>>> + Send,
        T: Send,
    {
        let late = || L2Error::unexpected("the write came after its deadline");
        let once = || async {
            let answer = self.connections.once(self.timeout, &send).await?;
            let answer = answer.ok_or_else(late).and_then(|answer| read(&answer));
            answer.map_err(Failure::Final)
        };
        let answer = match (once().await, deadline) {
            (Err(Failure::NotExecuted(_)), _) => once().await,
            (Err(Failure::InDoubt(error)), Some(deadline)) => {
                // Whatever becomes of the second copy, the first may have been executed or not.
                let Ok((answer, at)) = once().await else {
                    return Err(error);
                };
                // The first copy may still be on its way. It must not arrive after the caller was answered: it could
                // undo an invalidation that follows (rule 14).
                let in_doubt = deadline.saturating_sub(at).saturating_add(1);
                let in_doubt = Duration::from_millis(in_doubt);
                if in_doubt > self.timeout * LONGEST_DOUBT {
                    return Err(error);
                }
                sleep(in_doubt).await;
                return Ok(answer);
            }
            (answer, _) => answer,
        };
        answer
            .map(|(answer, _)| answer)
            .map_err(Failure::into_error)
    }

    /// The same for a script that has to be told the tags of the value that is stored: it is sent again with those that it
    /// answers. `send` is given them as they are stored, and their names.
    pub(super) async fn before_with_tags<T, Sent>(
        &self,
        deadline: Option<u64>,
        send: impl Fn(MultiplexedConnection, &[u8], &[Key]) -> Sent + Sync,
        read: impl Fn(&[u8]) -> Result<(T, u64), L2Error> + Sync,
    ) -> Result<T, L2Error>
    where
        Sent: Future<Output = RedisResult<Option<Vec<u8>>>> + Send,
        T: Send,
    {
        let read = |answer: &[u8]| match answer.split_first() {
            // Any other answer begins with a time, which is not that late.
            Some((b'T', tags)) => {
                let at = tags.get(..8).ok_or_else(senseless)?;
                let [at] = numbers(at)?;
                Ok((Told::Tags(tags.get(8..).unwrap_or_default().to_vec()), at))
            }
            _ => read(answer).map(|(answer, at)| (Told::Answer(answer), at)),
        };
        let mut stored = Vec::new();
        for _ in 0..TAGS_CHANGE {
            // Of a damaged value the tags cannot be read.
            let tags = envelope::open_tags(&stored).ok_or_else(senseless)?;
            let send = |connection| send(connection, &stored, &tags);
            match self.before(deadline, send, read).await? {
                Told::Answer(answer) => return Ok(answer),
                Told::Tags(tags) => stored = tags,
            }
        }
        Err(L2Error::unexpected("the tags of a value changed each time"))
    }

    /// Declares the markers of tags.
    pub(super) fn markers(&self, call: &mut Call<'_>, tags: &[impl Deref<Target = str>]) {
        let name = &mut String::new();
        for tag in tags {
            call.arg(self.names.marker(name, tag));
        }
    }

    /// Has a body stored ahead of the script, under a name that no other copy of the request has, and declares that.
    fn stage(&self, call: &mut Call<'_>, value: &EncodedValue) {
        let name = &mut String::new();
        let name = self.names.staged(name, random());
        call.stage(name, &value.body, kept(value.ttls));
        call.arg(name);
    }

    /// LEAD, for one copy of the request: no two may have the same token.
    fn lead(&self, key: &str, ask: LeaseRequest, token: u64) -> Call<'_> {
        let mut call = Call::new(&self.scripts.lead, 5);
        let name = &mut String::new();
        call.arg(self.names.value(name, key))
            .arg(self.names.lease(name, key))
            .arg(self.names.hold(name, key))
            .arg(&self.names.clock)
            .arg(&self.names.writes);
        call.arg(token).arg(millis(ask.ttl));
        match ask.want {
            Want::Any => call.arg(""),
            Want::NewerThan(seen) => call.arg(seen),
            Want::Nothing => call.arg("*"),
            Want::Anew => call.arg("!"),
            Want::Kept => call.arg("~"),
        };
        call.arg(random()).arg(written(ask.deadline));
        call
    }

    /// Gives back the lease that a request without an answer gets if the server executes it later: all instances would
    /// wait for its end. Over the same connection, so the server executes this after that request.
    fn give_back(&self, mut connection: MultiplexedConnection, key: &str, token: u64) {
        let (scripts, names) = (Arc::clone(&self.scripts), self.names.clone());
        let (key, limit) = (Key::from(key), self.timeout);
        tokio::spawn(async move {
            let call = renewal(&scripts, &names, &key, token, Duration::ZERO);
            // Whatever comes of it, the lease ends by itself.
            let _ = timeout(limit, call.run::<bool>(&mut connection)).await;
        });
    }

    /// INSERT, for one copy of the request.
    fn insertion(
        &self,
        values: &[(&str, &EncodedValue)],
        payload: &[u8],
        deadline: Option<u64>,
    ) -> Call<'_> {
        let sizes = values.iter().map(|(_, value)| sent_to_script(value));
        let tags: Vec<_> = (values.iter())
            .flat_map(|(_, value)| envelope::tags_of(&value.body))
            .collect();
        let staged = (values.iter()).filter(|(_, value)| is_staged(value));
        let keys = 2 + 2 * values.len() + tags.len() + staged.clone().count();
        let mut call = Call::with_values(&self.scripts.insert, keys, sizes);
        let name = &mut String::new();
        call.arg(&self.names.clock).arg(&self.names.log);
        for (key, _) in values {
            call.arg(self.names.value(name, key));
        }
        for (key, _) in values {
            call.arg(self.names.lease(name, key));
        }
        self.markers(&mut call, &tags);
        for (_, value) in staged {
            self.stage(&mut call, value);
        }
        call.arg(&self.names.events).arg(random()).arg(payload);
        call.arg(written(deadline));
        for (_, value) in values {
            add_value(&mut call, value);
        }
        call
    }
}

/// What a script answers that has to be told the tags of the value that is stored.
enum Told<T> {
    /// It was told them.
    Answer(T),
    /// These are the tags, as they are stored.
    Tags(Vec<u8>),
}

/// An entry's id, then names and values in turn: there is one of each.
type LogEntry = (String, Vec<(String, Vec<u8>)>);

/// What happened, the value that is stored instead, and the new stamp.
type FillAnswer = (String, Option<Bytes>, Option<Bytes>);

pub(super) fn senseless() -> L2Error {
    L2Error::unexpected("a script's answer makes no sense")
}

/// Reads the answer of FILL or REVALIDATE. `None` if the value to revalidate is absent.
fn fill_answer((answer, bytes, stamped): FillAnswer) -> Result<Option<Fill>, L2Error> {
    match (answer.as_str(), stamped) {
        ("OK", Some(stamped)) => Ok(Some(Fill::Stored(stamp(&stamped)?))),
        ("REJECTED", _) => Ok(Some(Fill::Rejected(bytes))),
        ("ABSENT", _) => Ok(None),
        _ => Err(senseless()),
    }
}

fn is_staged(value: &EncodedValue) -> bool {
    value.body.len() >= STAGED_FROM
}

/// How much of a body the script is sent.
fn sent_to_script(value: &EncodedValue) -> usize {
    if is_staged(value) {
        0
    } else {
        value.body.len()
    }
}

/// The body, or of one that is staged the number of its tags; and for how long it is kept.
fn add_value(call: &mut Call<'_>, value: &EncodedValue) {
    if is_staged(value) {
        call.arg(envelope::tags_of(&value.body).len());
    } else {
        call.arg(&value.body);
    }
    call.arg(kept(value.ttls));
}

/// For how many ms the store keeps a value.
pub(super) fn kept(ttls: Ttls) -> u64 {
    millis(ttls.in_store())
}

/// Reads a lease as the store keeps it: `epoch:began:token`.
fn read_lease(held: &[u8]) -> Option<Lease> {
    let (epoch, token) = str::from_utf8(held).ok()?.split_once(':')?;
    let (_began, token) = token.split_once(':')?;
    Some(Lease {
        token: token.parse().ok()?,
        epoch: epoch.parse().ok()?,
    })
}

/// RENEW, for one copy of the request. Without a `ttl` it gives the lease back.
fn renewal<'s>(
    scripts: &'s Scripts,
    names: &Names,
    key: &str,
    token: u64,
    ttl: Duration,
) -> Call<'s> {
    let mut call = Call::new(&scripts.renew, 1);
    let name = &mut String::new();
    call.arg(names.lease(name, key))
        .arg(token)
        .arg(millis(ttl))
        .arg(&names.events)
        .arg(key);
    call
}

/// A deadline as an argument.
pub(super) fn written(deadline: Option<u64>) -> String {
    deadline.map_or_else(String::new, |at| at.to_string())
}

/// Reads the answer of TOUCH, and when it was given.
fn touched(answer: &[u8]) -> Result<(Option<Touched>, u64), L2Error> {
    if let Ok([at]) = numbers(answer) {
        return Ok((None, at));
    }
    let touched = || {
        let (&[at, change], stamp) = (answer.get(..16)?.as_chunks().0, answer.get(16..)?) else {
            return None;
        };
        let (stamp, life) = envelope::read_stamp(stamp)?;
        let change = u64::from_be_bytes(change);
        let touched = Touched {
            change: (change != 0).then_some(change),
            stamp,
            life,
        };
        Some((Some(touched), u64::from_be_bytes(at)))
    };
    touched().ok_or_else(|| L2Error::unexpected("its answer to TOUCH makes no sense"))
}

pub(super) fn stamp(packed: &[u8]) -> Result<Stamp, L2Error> {
    let [epoch, ver, written_at] = numbers(packed)?;
    Ok(Stamp {
        epoch,
        ver,
        written_at,
    })
}

impl Lane for RedisLane {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        self.batches.get(key)
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>> {
        self.requests.fetch_all(keys).boxed()
    }

    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply> {
        async move {
            // The connection and the token of the last copy that was sent.
            let sent = Mutex::new(None);
            let send = |mut connection: MultiplexedConnection| {
                let token = random();
                let before = lock(&sent).replace((connection.clone(), token));
                let lost = before.map_or(0, |(_, token)| token);
                let call = self.lead(key, ask, token);
                async move {
                    let answer = call.run(&mut connection).await?;
                    Ok((token, lost, answer))
                }
            };
            let answer = self.connections.with(self.timeout, send).await;
            if answer.as_ref().is_err_and(L2Error::is_timeout)
                && !ask.ttl.is_zero()
                && let Some((connection, token)) = lock(&sent).take()
            {
                self.give_back(connection, key, token);
            }
            let (token, lost, answer) = answer?;
            let (answer, value, number): (String, Option<Bytes>, u64) = answer;
            let granted = |token, epoch| Ok(LeaseReply::Granted(Lease { token, epoch }));
            match (answer.as_str(), value) {
                ("HIT", Some(bytes)) => Ok(LeaseReply::Hit(bytes)),
                ("LEAD", None) => granted(token, number),
                ("LEAD", Some(kept)) => {
                    let epoch = number;
                    Ok(LeaseReply::Replace(Lease { token, epoch }, kept))
                }
                ("WAIT", Some(held)) => match read_lease(&held) {
                    // The lost answer was a grant. That copy has arrived, so it cannot arrive later.
                    Some(lease) if lease.token == lost => granted(lost, lease.epoch),
                    _ => Ok(LeaseReply::Wait(Duration::from_millis(number))),
                },
                ("HOLD", _) => Ok(LeaseReply::Hold),
                ("MISS", _) => Ok(LeaseReply::Miss),
                _ => Err(L2Error::unexpected("its answer to LEAD makes no sense")),
            }
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
        async move {
            let tags = &envelope::tags_of(&value.body);
            let call = || {
                let size = iter::once(sent_to_script(value));
                let keys = 4 + tags.len() + usize::from(is_staged(value));
                let mut call = Call::with_values(&self.scripts.fill, keys, size);
                let name = &mut String::new();
                call.arg(self.names.value(name, key))
                    .arg(self.names.lease(name, key))
                    .arg(&self.names.clock)
                    .arg(&self.names.log);
                self.markers(&mut call, tags);
                if is_staged(value) {
                    self.stage(&mut call, value);
                }
                call.arg(lease.token).arg(lease.epoch);
                add_value(&mut call, value);
                call.arg(random()).arg(&self.names.events).arg(key);
                call.arg(payload.unwrap_or_default());
                call
            };
            let answer = self.run(call).await?;
            fill_answer(answer)?.ok_or_else(senseless)
        }
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
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.revalidate, 3 + tags.len());
                let name = &mut String::new();
                call.arg(self.names.value(name, key))
                    .arg(self.names.lease(name, key))
                    .arg(&self.names.clock);
                self.markers(&mut call, tags);
                call.arg(lease.token).arg(lease.epoch).arg(seen);
                call.arg(&ttls.packed()).arg(kept(ttls));
                call.arg(random()).arg(&self.names.events).arg(key);
                call
            };
            let answer = self.run(call).await?;
            fill_answer(answer)
        }
        .boxed()
    }

    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        async move {
            let call = || renewal(&self.scripts, &self.names, key, token, ttl);
            self.run(call).await
        }
        .boxed()
    }

    fn insert<'a>(
        &'a self,
        values: &'a [(&'a str, &'a EncodedValue)],
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        async move {
            let send = |mut connection: MultiplexedConnection| {
                let call = self.insertion(values, payload, deadline);
                async move { call.run(&mut connection).await }
            };
            let read = |answer: &[u8]| {
                let stamp = stamp(answer)?;
                Ok((stamp, stamp.written_at))
            };
            self.before(deadline, send, read).await
        }
        .boxed()
    }

    fn insert_if<'a>(
        &'a self,
        key: &'a str,
        value: &'a EncodedValue,
        version: Version,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Stamp>> {
        async move {
            // The same in each copy: by it the second knows that the first has stored the value.
            let this = random();
            let own = &envelope::tags_of(&value.body);
            let send = |mut connection: MultiplexedConnection, stored: &[u8], tags: &[Key]| {
                let size = iter::once(value.body.len());
                let keys = 5 + own.len() + tags.len();
                let mut call = Call::with_values(&self.scripts.insert_if, keys, size);
                let name = &mut String::new();
                call.arg(self.names.value(name, key))
                    .arg(self.names.lease(name, key))
                    .arg(&self.names.clock)
                    .arg(&self.names.log)
                    .arg(self.names.done(name, this));
                self.markers(&mut call, own);
                self.markers(&mut call, tags);
                call.arg(&self.names.events).arg(random()).arg(payload);
                call.arg(written(deadline));
                call.arg(&value.body).arg(kept(value.ttls));
                call.arg(version.epoch).arg(version.ver).arg(stored);
                async move { call.run(&mut connection).await }
            };
            let read = |answer: &[u8]| {
                if let Ok([at]) = numbers(answer) {
                    return Ok((None, at));
                }
                let stamp = stamp(answer)?;
                Ok((Some(stamp), stamp.written_at))
            };
            self.before_with_tags(deadline, send, read).await
        }
        .boxed()
    }

    fn expire<'a>(&'a self, keys: &'a [&'a str], payload: &'a [u8]) -> Reply<'a, Stamp> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.expire, 2 + 2 * keys.len());
                let name = &mut String::new();
                call.arg(&self.names.clock).arg(&self.names.log);
                for key in keys {
                    call.arg(self.names.value(name, key))
                        .arg(self.names.lease(name, key));
                }
                call.arg(&self.names.events).arg(random()).arg(payload);
                call
            };
            stamp(&self.run::<Vec<u8>>(call).await?)
        }
        .boxed()
    }

    fn touch<'a>(
        &'a self,
        key: &'a str,
        life: NewLife,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Touched>> {
        async move {
            let send = |mut connection: MultiplexedConnection, stored: &[u8], tags: &[Key]| {
                let mut call = Call::new(&self.scripts.touch, 3 + tags.len());
                let name = &mut String::new();
                call.arg(self.names.value(name, key))
                    .arg(&self.names.clock)
                    .arg(&self.names.log);
                self.markers(&mut call, tags);
                call.arg(&self.names.events).arg(random()).arg(payload);
                let (ttls, extends) = match life {
                    NewLife::Renewed(ttls) => (ttls, 0),
                    NewLife::Extended(ttls) => (ttls, 1),
                };
                call.arg(&ttls.packed()).arg(millis(ttls.kept)).arg(extends);
                call.arg(written(deadline)).arg(stored);
                async move { call.run(&mut connection).await }
            };
            self.before_with_tags(deadline, send, touched).await
        }
        .boxed()
    }

    fn invalidate<'a>(
        &'a self,
        keys: &'a [&'a str],
        payload: &'a [u8],
        hold: Duration,
    ) -> Reply<'a, WriteAck> {
        async move {
            let held = if hold.is_zero() { &[] } else { keys };
            let call = || {
                let parts = 3 + 2 * keys.len() + held.len();
                let mut call = Call::new(&self.scripts.invalidate, parts);
                let name = &mut String::new();
                call.arg(&self.names.clock).arg(&self.names.log);
                call.arg(&self.names.live);
                for key in keys {
                    call.arg(self.names.value(name, key))
                        .arg(self.names.lease(name, key));
                }
                for key in held {
                    call.arg(self.names.hold(name, key));
                }
                call.arg(&self.names.events).arg(random()).arg(payload);
                call.arg(millis(hold));
                call
            };
            let answer: Vec<u8> = self.run(call).await?;
            let [epoch, ver, written_at, seq, longest, generation, age] = numbers(&answer)?;
            Ok(WriteAck {
                stamp: Stamp {
                    epoch,
                    ver,
                    written_at,
                },
                seq,
                longest_staleness: Duration::from_millis(longest),
                generation,
                members_age: Duration::from_millis(age),
            })
        }
        .boxed()
    }

    fn invalidate_tags<'a>(&'a self, tags: &'a [&'a str], payload: &'a [u8]) -> Reply<'a, Stamp> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.invalidate_tags, 2 + tags.len());
                call.arg(&self.names.clock).arg(&self.names.log);
                self.markers(&mut call, tags);
                call.arg(&self.names.events).arg(random()).arg(payload);
                call
            };
            stamp(&self.run::<Vec<u8>>(call).await?)
        }
        .boxed()
    }

    fn tag_versions<'a>(&'a self, tags: &'a [&'a str]) -> Reply<'a, Vec<Option<TagVersion>>> {
        async move {
            let mut versions = Vec::with_capacity(tags.len());
            for tags in tags.chunks(MARKERS) {
                let mut markers = cmd("MGET");
                let name = &mut String::new();
                for tag in tags {
                    markers.arg(self.names.marker(name, tag));
                }
                let markers: Vec<Option<Vec<u8>>> = self.ask(&markers).await?;
                versions.extend(markers.into_iter().map(|marker| {
                    let [epoch, ver] = numbers(&marker?).ok()?;
                    Some(TagVersion { epoch, ver })
                }));
            }
            Ok(versions)
        }
        .boxed()
    }

    fn clear<'a>(&'a self, payload: &'a [u8]) -> Reply<'a, (Stamp, u64)> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.clear, 2);
                call.arg(&self.names.clock).arg(&self.names.log);
                call.arg(&self.names.events).arg(random()).arg(payload);
                call
            };
            let [epoch, ver, written_at, seq] = numbers(&self.run::<Vec<u8>>(call).await?)?;
            let stamp = Stamp {
                epoch,
                ver,
                written_at,
            };
            Ok((stamp, seq))
        }
        .boxed()
    }

    fn end_leases<'a>(&'a self, payload: &'a [u8]) -> Reply<'a, Stamp> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.end_leases, 2);
                call.arg(&self.names.clock).arg(&self.names.log);
                call.arg(&self.names.events).arg(random()).arg(payload);
                call
            };
            stamp(&self.run::<Vec<u8>>(call).await?)
        }
        .boxed()
    }

    fn remove_prefixes<'a>(&'a self, prefixes: &'a [(&'a str, Stamp)]) -> Reply<'a, Vec<u64>> {
        async move {
            if prefixes.is_empty() {
                return Ok(Vec::new());
            }
            let which = Prefixes::new(prefixes.iter().map(|(prefix, _)| *prefix));
            let pattern = self.names.values_under(which.common());
            let before_key = self.names.value(&mut String::new(), "").len();
            let (mut cursor, mut removed) = (0_u64, vec![0; prefixes.len()]);
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern);
                scan.arg("COUNT").arg(SCANNED);
                let (next, names): (u64, Vec<Vec<u8>>) = self.ask(&scan).await?;
                let found = names.iter().flat_map(|name| {
                    let places = which.of(name.get(before_key..).unwrap_or_default());
                    places.map(move |place| (name, place))
                });
                let found: Vec<_> = found.collect();
                for found in found.chunks(SCANNED) {
                    let call = || {
                        let mut call = Call::new(&self.scripts.remove, 1 + found.len());
                        call.arg(&self.names.clock);
                        for (name, _) in found {
                            call.arg(name);
                        }
                        let stamps = found.iter().filter_map(|(_, place)| prefixes.get(*place));
                        for (_, before) in stamps {
                            call.arg(before.epoch).arg(before.ver);
                        }
                        call
                    };
                    let gone: Vec<u8> = self.run(call).await?;
                    for ((_, place), gone) in found.iter().zip(gone) {
                        if let Some(removed) = removed.get_mut(*place) {
                            *removed += u64::from(gone == b'1');
                        }
                    }
                }
                if next == 0 {
                    return Ok(removed);
                }
                cursor = next;
            }
        }
        .boxed()
    }

    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>> {
        async move {
            let mut range = cmd("XRANGE");
            range.arg(&self.names.log).arg(first).arg("+");
            range.arg("COUNT").arg(REPLAY);
            let entries: Vec<LogEntry> = self.ask(&range).await?;
            let payloads = entries.into_iter().flat_map(|(_, fields)| fields);
            // A message that is damaged, or of another format, is skipped, which leaves a hole in the numbers.
            Ok(payloads
                .filter_map(|(_, payload)| message::open(&payload))
                .collect())
        }
        .boxed()
    }

    fn members(&self) -> Reply<'_, Members> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.members, 1);
                call.arg(&self.names.live).arg(random());
                call
            };
            let (generation, entries): (u64, Vec<(u64, String)>) = self.run(call).await?;
            let list = entries.iter().map(|(id, entry)| members::parse(*id, entry));
            let list = list
                .collect::<Option<_>>()
                .ok_or_else(|| L2Error::unexpected("its answer to MEMBERS makes no sense"))?;
            Ok(Members { generation, list })
        }
        .boxed()
    }

    fn forget(&self, member: Member) -> Reply<'_, ()> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.forget, 1);
                call.arg(&self.names.live).arg(member.info.id);
                call.arg(members::entry(&member));
                call
            };
            self.run(call).await
        }
        .boxed()
    }

    fn leave(&self, id: u64) -> Reply<'_, ()> {
        async move { self.ask(cmd("HDEL").arg(&self.names.live).arg(id)).await }.boxed()
    }

    fn publish<'a>(&'a self, channel: &'a str, payload: &'a [u8]) -> Reply<'a, ()> {
        async move { self.ask(cmd("PUBLISH").arg(channel).arg(payload)).await }.boxed()
    }

    fn system(&self) -> &'static str {
        "redis"
    }

    fn fleet_counts(&self) -> Option<&dyn crate::l2::FleetCounts> {
        Some(self)
    }

    fn keep_only(&self, life: u64) -> bool {
        self.requests.keep_only(life)
    }

    #[cfg(feature = "write-behind")]
    fn write_stream(&self) -> Option<&dyn crate::l2::WriteStream> {
        Some(self)
    }

    fn subscribe(&self, me: MemberInfo) -> Reply<'_, (LaneClock, Box<dyn Subscription>)> {
        pubsub::subscribe(&self.connector, &self.names, &self.scripts, me).boxed()
    }
}
