//! The steps of a load: a script each, with its arguments and its answer. `ACQUIRE_LEASE` and FILL are for several keys:
//! loads that take such a step at about the same time share a [request](super::gathered).

use std::mem::take;
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::MultiplexedConnection;
use futures::TryFutureExt;
use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::gathered::Gathered;
use crate::clock::millis;
use crate::key::Key;
use crate::l2::redis::connections::connection::ConnectionSlot;
use crate::l2::redis::names::{CLOCK, HOLD, LEASE, LOG, Names, TAG_VERSION, VALUE, WRITES};
use crate::l2::redis::script_call::{
    ScriptCall, in_store_ms, is_staged, malformed_answer, write_ack,
};
use crate::l2::redis::scripts;
use crate::l2::{
    AcceptedValue, EncodedValue, Fill, L2Error, Lease, LeaseReply, LeaseRequest, Ttls, random,
};
use crate::util::lock::lock;
use crate::wire::envelope::{self, BODY_AT};

pub(crate) struct LoadSteps {
    steps: Arc<Steps>,
    acquisitions: Gathered<(Key, LeaseRequest), LeaseReply>,
    fills: Gathered<OwnedFill, Fill>,
}

/// What the requests are made of, and where they go.
struct Steps {
    names: Arc<Names>,
    connections: Arc<ConnectionSlot>,
    /// The type tag of the values that are filled, in the bytes that a value has.
    type_tag: [u8; 8],
    /// The type tag in the digits that a lease has.
    type_tag_in_hex: String,
}

/// A load that asks for a lease.
type Ask<'a> = (&'a str, LeaseRequest);

/// A load that fills a key.
#[derive(Clone, Copy)]
struct FillRequest<'a> {
    key: &'a str,
    lease: Lease,
    value: &'a EncodedValue,
    /// What is published.
    payload: Option<&'a [u8]>,
}

/// The same, while it waits: key, lease, value and payload.
type OwnedFill = (Key, Lease, EncodedValue, Option<Vec<u8>>);

/// The answer of `ACQUIRE_LEASE` to one load.
type LeaseAnswer = (String, Option<Bytes>, u64);
/// The answer of FILL or REVALIDATE: the outcome, the value that is stored instead, and the new stamp.
type FillAnswer = (String, Option<Bytes>, Option<Vec<u8>>);

impl LoadSteps {
    pub(crate) fn new(names: Arc<Names>, connections: Arc<ConnectionSlot>, type_tag: u64) -> Self {
        let limit = connections.limit();
        let steps = Arc::new(Steps {
            names,
            connections,
            type_tag: type_tag.to_be_bytes(),
            type_tag_in_hex: format!("{type_tag:016x}"),
        });
        let (acquiring, filling) = (Arc::clone(&steps), Arc::clone(&steps));
        let acquire = move |asks, until| {
            let steps = Arc::clone(&acquiring);
            async move { steps.acquire_each(asks, until).await }
        };
        let fill = move |fills, until| {
            let steps = Arc::clone(&filling);
            async move { steps.fill_each(fills, until).await }
        };
        Self {
            steps,
            acquisitions: Gathered::new(limit, acquire),
            fills: Gathered::new(limit, fill),
        }
    }

    pub(super) async fn acquire(
        &self,
        key: &str,
        ask: LeaseRequest,
    ) -> Result<LeaseReply, L2Error> {
        self.acquisitions.call((key.into(), ask)).await
    }

    pub(super) async fn fill(
        &self,
        key: &str,
        lease: Lease,
        value: &EncodedValue,
        payload: Option<&[u8]>,
    ) -> Result<Fill, L2Error> {
        if !is_staged(value) {
            let payload = payload.map(Vec::from);
            let fill = (key.into(), lease, value.clone(), payload);
            return self.fills.call(fill).await;
        }
        let fill = FillRequest {
            key,
            lease,
            value,
            payload,
        };
        let until = Instant::now() + self.steps.connections.limit();
        single(self.steps.fill(slice::from_ref(&fill), until).await?)
    }

    pub(super) async fn revalidate(
        &self,
        key: &str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &[Key],
    ) -> Result<Option<Fill>, L2Error> {
        let Steps {
            names,
            connections,
            type_tag,
            ..
        } = &*self.steps;
        let send = |connection| {
            let mut call = ScriptCall::new(&scripts::REVALIDATE, names, 3 + tags.len());
            call.keys(&[VALUE, LEASE], &[key]).partition_keys(&[CLOCK]);
            call.keys(&[TAG_VERSION], tags);
            call.arg(lease.token).arg(lease.epoch).arg(seen);
            call.arg(&ttls.packed()).arg(in_store_ms(ttls));
            call.arg(random()).channel().arg(key).arg(&type_tag[..]);
            call.run(connection)
        };
        fill_reply(connections.send(send).await?)
    }

    pub(super) async fn renew(
        &self,
        key: &str,
        token: u64,
        ttl: Duration,
    ) -> Result<bool, L2Error> {
        let send = |connection| renewal(&self.steps.names, key, token, ttl).run(connection);
        self.steps.connections.send(send).await
    }
}

impl Steps {
    async fn acquire_each(
        &self,
        asks: Vec<(Key, LeaseRequest)>,
        until: Instant,
    ) -> Vec<Result<LeaseReply, L2Error>> {
        let asks: Vec<_> = asks.iter().map(|(key, ask)| (&**key, *ask)).collect();
        match self.acquire(&asks, vec![0; asks.len()], until).await {
            Ok(replies) => replies.into_iter().map(Ok).collect(),
            Err((error, tokens)) if may_be_of_one_key(&error, asks.len()) => {
                let alone = asks.iter().zip(&tokens).map(async |(ask, lost)| {
                    let reply = self.acquire(slice::from_ref(ask), vec![*lost], until).await;
                    single(reply.map_err(|(error, _)| error)?)
                });
                join_all(alone).await
            }
            Err((error, _)) => asks.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Asks for leases in one request. `lost` are the tokens of a request of these keys that has ended in an error, or
    /// zeros. Another error is returned with the tokens of the last copy, or with these if no copy was sent.
    async fn acquire(
        &self,
        asks: &[Ask<'_>],
        lost: Vec<u64>,
        until: Instant,
    ) -> Result<Vec<LeaseReply>, (L2Error, Vec<u64>)> {
        // The connection and the tokens of the last copy that was sent.
        let sent = Mutex::new((None, lost));
        let send = |connection: MultiplexedConnection| {
            // Drawn for each copy: with one token, a copy that arrives late could bring a lease back that an
            // invalidation has ended (rule 1: a fill needs a lease).
            let tokens: Vec<_> = asks.iter().map(|_| random()).collect();
            let call = self.acquisition(asks, &tokens);
            let copy = (Some(connection.clone()), tokens.clone());
            let (_, lost) = std::mem::replace(&mut *lock(&sent), copy);
            let answers = call.run::<Vec<LeaseAnswer>>(connection);
            answers.map_ok(move |answers| (tokens, lost, answers))
        };
        match self.connections.send_until(until, send).await {
            Ok((tokens, lost, answers)) => {
                let tokens_of_each = tokens.iter().zip(lost);
                let replies = answers.into_iter().zip(tokens_of_each);
                let replies =
                    replies.map(|(answer, (token, lost))| lease_reply(answer, *token, lost));
                let replies = replies.collect::<Result<_, _>>();
                let replies = replies.and_then(|replies| expect_count(replies, asks.len()));
                replies.map_err(|error| (error, tokens))
            }
            Err(error) => {
                let (connection, tokens) = take(&mut *lock(&sent));
                if let Some(connection) = connection.filter(|_| error.is_timeout()) {
                    self.give_back(connection, asks, &tokens);
                }
                Err((error, tokens))
            }
        }
    }

    /// `ACQUIRE_LEASE`, for one copy of the request: no two may have the same token.
    fn acquisition(&self, asks: &[Ask<'_>], tokens: &[u64]) -> ScriptCall<'_> {
        let mut call = ScriptCall::new(&scripts::ACQUIRE_LEASE, &self.names, 2 + 3 * asks.len());
        call.partition_keys(&[CLOCK, WRITES]);
        call.keys(&[VALUE, LEASE, HOLD], asks.iter().map(|(key, _)| key));
        // The earliest: when the first load of a batch has waited long enough, all of them get an error.
        let deadline = asks.iter().filter_map(|(_, ask)| ask.deadline).min();
        call.arg(random()).deadline(deadline);
        call.arg(&self.type_tag[..]).arg(&self.type_tag_in_hex);
        for ((_, ask), token) in asks.iter().zip(tokens) {
            call.arg(token).arg(millis(ask.ttl));
            match ask.want {
                // None of these signs is a number, which a version is.
                AcceptedValue::Any => call.arg(""),
                AcceptedValue::OtherThan(seen) => call.arg(seen),
                AcceptedValue::NoValue => call.arg("*"),
                AcceptedValue::NewLoad => call.arg("!"),
                AcceptedValue::EvenExpired => call.arg("~"),
            };
        }
        call
    }

    /// Gives back the leases that a request without an answer gets if the server executes it later: all instances would
    /// wait for their ends. Over the same connection, so the server executes this after that request.
    fn give_back(&self, connection: MultiplexedConnection, asks: &[Ask<'_>], tokens: &[u64]) {
        // Without a `ttl` no lease is granted.
        let granted = asks
            .iter()
            .zip(tokens)
            .filter(|((_, ask), _)| !ask.ttl.is_zero());
        let granted = granted.map(|((key, _), token)| (Key::from(*key), *token));
        let granted: Vec<_> = granted.collect();
        // A task, as the callers have waited long enough; on its own, so it holds no part of the partition but the names.
        let (names, limit) = (Arc::clone(&self.names), self.connections.limit());
        tokio::spawn(async move {
            let each = granted.iter().map(|(key, token)| {
                let call = renewal(&names, key, *token, Duration::ZERO);
                call.run::<bool>(connection.clone())
            });
            // Whatever comes of it, the leases end by themselves.
            let _ = timeout(limit, join_all(each)).await;
        });
    }

    async fn fill_each(&self, fills: Vec<OwnedFill>, until: Instant) -> Vec<Result<Fill, L2Error>> {
        let fills = fills
            .iter()
            .map(|(key, lease, value, payload)| FillRequest {
                key,
                lease: *lease,
                value,
                payload: payload.as_deref(),
            });
        let fills: Vec<_> = fills.collect();
        match self.fill(&fills, until).await {
            Ok(replies) => replies.into_iter().map(Ok).collect(),
            Err(error) if may_be_of_one_key(&error, fills.len()) => {
                let alone = fills
                    .iter()
                    .map(async |fill| single(self.fill(slice::from_ref(fill), until).await?));
                join_all(alone).await
            }
            Err(error) => fills.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Fills keys in one request. A value whose body is staged comes alone.
    async fn fill(&self, fills: &[FillRequest<'_>], until: Instant) -> Result<Vec<Fill>, L2Error> {
        let tags = fills
            .iter()
            .flat_map(|fill| envelope::tags_of(&fill.value.body));
        let tags: Vec<_> = tags.collect();
        let staged = fills.iter().filter(|fill| is_staged(fill.value)).count();
        let send = |connection: MultiplexedConnection| {
            let keys = 2 + 2 * fills.len() + tags.len() + staged;
            let mut call = ScriptCall::new(&scripts::FILL, &self.names, keys);
            call.partition_keys(&[CLOCK, LOG]);
            for kind in [LEASE, VALUE] {
                call.keys(&[kind], fills.iter().map(|fill| &fill.key));
            }
            call.keys(&[TAG_VERSION], &tags);
            for fill in fills {
                call.stage(fill.value);
            }
            call.channel().arg(random()).arg(&self.type_tag[..]);
            for fill in fills {
                call.arg(fill.lease.token)
                    .arg(fill.lease.epoch)
                    .value(fill.value);
                call.arg(fill.key).arg(fill.payload.unwrap_or_default());
                call.arg(BODY_AT + fill.value.body.len());
            }
            call.run::<Vec<FillAnswer>>(connection)
        };
        let answers = self.connections.send_until(until, send).await?;
        let replies = answers
            .into_iter()
            .map(|answer| fill_reply(answer)?.ok_or_else(malformed_answer));
        expect_count(replies.collect::<Result<_, _>>()?, fills.len())
    }
}

/// Whether an error of a request of several keys may be about one of them: then each goes by itself.
fn may_be_of_one_key(error: &L2Error, keys: usize) -> bool {
    keys > 1 && error.is_refused()
}

/// The answers to this number of loads.
fn expect_count<T>(answers: Vec<T>, count: usize) -> Result<Vec<T>, L2Error> {
    if answers.len() == count {
        Ok(answers)
    } else {
        Err(malformed_answer())
    }
}

/// The answer to one load.
fn single<T>(mut answers: Vec<T>) -> Result<T, L2Error> {
    answers.pop().ok_or_else(malformed_answer)
}

/// `RENEW_LEASE`. Without a `ttl` it gives the lease back.
fn renewal<'a>(names: &'a Names, key: &str, token: u64, ttl: Duration) -> ScriptCall<'a> {
    let mut call = ScriptCall::new(&scripts::RENEW_LEASE, names, 1);
    call.keys(&[LEASE], &[key]).arg(token).arg(millis(ttl));
    call.channel().arg(key);
    call
}

/// Reads the answer to a load whose request has this token. A copy of it with the token `lost` may have been executed
/// before.
fn lease_reply(
    (answer, value, number): LeaseAnswer,
    token: u64,
    lost: u64,
) -> Result<LeaseReply, L2Error> {
    let lease = |epoch| Lease { token, epoch };
    Ok(match (answer.as_str(), value) {
        ("HIT", Some(bytes)) => LeaseReply::Hit(bytes),
        ("GRANTED", None) => LeaseReply::Granted(lease(number)),
        ("GRANTED", Some(kept)) => LeaseReply::Replace(lease(number), kept),
        ("WAIT", Some(held)) => match read_lease(&held) {
            // The lost answer was a grant. That copy has arrived, so it cannot arrive later.
            Some(held) if held.token == lost => LeaseReply::Granted(held),
            _ => LeaseReply::Wait(Duration::from_millis(number)),
        },
        ("HOLD", _) => LeaseReply::Hold,
        ("MISS", _) => LeaseReply::Miss,
        _ => return Err(malformed_answer()),
    })
}

/// Reads a lease that another load has: `epoch:token`.
fn read_lease(held: &[u8]) -> Option<Lease> {
    let (epoch, token) = str::from_utf8(held).ok()?.split_once(':')?;
    let (epoch, token) = (epoch.parse().ok()?, token.parse().ok()?);
    Some(Lease { token, epoch })
}

/// Reads an answer. `None` if the value to revalidate is absent.
fn fill_reply((answer, bytes, clock): FillAnswer) -> Result<Option<Fill>, L2Error> {
    match (answer.as_str(), clock) {
        ("OK", Some(clock)) => Ok(Some(Fill::Stored(write_ack(&clock)?.0))),
        ("REJECTED", _) => Ok(Some(Fill::Rejected(bytes))),
        ("ABSENT", _) => Ok(None),
        _ => Err(malformed_answer()),
    }
}
