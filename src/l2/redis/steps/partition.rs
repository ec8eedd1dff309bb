//! The steps of a partition: one script or command each, with its arguments and its answer. The connection of a request is
//! left to [`connection`](super::super::connections::connection).

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::cmd;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::counts::{fleet_bypass, stored_counts};
use super::load_steps::LoadSteps;
use super::read_batcher::SingleReads;
use super::read_request::ReadRequests;
use crate::clock::millis;
use crate::key::Key;
use crate::l2::redis::connections::connect::ConnectionFactory;
use crate::l2::redis::connections::connection::ConnectionSlot;
use crate::l2::redis::members;
use crate::l2::redis::names::{
    BYPASS, CLOCK, DONE, HOLD, LEASE, LOG, MEMBERS, Names, STATS, SWEEPER, TAG_VERSION, VALUE,
};
use crate::l2::redis::script_call::{
    LuaScript, ScriptCall, in_store_ms, is_staged, malformed_answer, unpack_numbers, write_ack,
};
use crate::l2::redis::scripts;
use crate::l2::redis::servers::Servers;
use crate::l2::redis::subscription::Subscriptions;
use crate::l2::{
    Batch, EncodedValue, Fill, FleetBypass, KnownHistory, L2Error, Lease, LeaseReply, LeaseRequest,
    Member, MemberInfo, Members, Message, NewLifetime, OnConnect, Partition, PartitionClock,
    PartitionName, ReadResult, Reply, Stamp, Step, StoredCounts, Subscription, TagVersion, Touched,
    Ttls, Version, WriteAck, Written, random,
};
use crate::prefixes::Prefixes;
use crate::util::partial_debug::partial_debug;
use crate::wire::envelope;
use crate::wire::message;

/// Messages read from the log at a time.
const LOG_ENTRIES_PER_READ: usize = 1024;
/// Keys that a step of a SCAN looks at, or about as many.
const SCAN_COUNT: usize = 1000;
/// Tag versions that a request reads at most.
const TAG_VERSIONS: usize = 1024;

/// One partition of a namespace, on a Redis server.
pub(crate) struct RedisPartition {
    pub(super) names: Arc<Names>,
    /// The type tag of the values that this partition reads, in the bytes that a value has.
    type_tag: [u8; 8],
    /// The connection for all requests but plain reads of values.
    pub(super) connections: Arc<ConnectionSlot>,
    /// Reads values over these connections, and over a second connection. Single reads go together with the single
    /// reads of other partitions.
    reads: SingleReads,
    loads: LoadSteps,
    subscriptions: Subscriptions,
    /// Held, so that caches with the same URL find them.
    _servers: Arc<Servers>,
}

partial_debug!([] RedisPartition, "RedisPartition");

impl RedisPartition {
    pub(crate) fn new(
        servers: &Arc<Servers>,
        name: PartitionName<'_>,
        timeout: Duration,
        on_connect: OnConnect,
    ) -> Self {
        let topology = Arc::clone(&servers.topology);
        let mut names = Names::new(name, servers.key_space());
        names.missing_features = Arc::clone(&servers.missing_features);
        names.partition_checks = Arc::clone(&servers.partition_checks);
        let names = Arc::new(names);
        let factory = ConnectionFactory::new(
            Arc::clone(&topology),
            Arc::clone(&names),
            timeout,
            on_connect,
        );
        let factory = Arc::new(factory);
        let connections = Arc::new(ConnectionSlot::new(Arc::clone(&factory), None));
        // The second connection gives way to the first one in a pool that has no more to give.
        let spare = Arc::new(ConnectionSlot::new(factory, Some(Arc::clone(&connections))));
        let both = [Arc::clone(&connections), spare];
        let requests = ReadRequests::new(Arc::clone(&names), both);
        let batchers = Arc::clone(&servers.batchers);
        let heartbeat_schedule = Arc::clone(&servers.heartbeat_schedule);
        Self {
            subscriptions: Subscriptions::new(topology, Arc::clone(&names), heartbeat_schedule),
            loads: LoadSteps::new(Arc::clone(&names), Arc::clone(&connections), name.type_tag),
            names,
            type_tag: name.type_tag.to_be_bytes(),
            reads: SingleReads::new(Arc::new(requests), batchers),
            connections,
            _servers: Arc::clone(servers),
        }
    }

    /// Runs a script that stores one value, and may change nothing: only this `version` of the value is replaced, if it
    /// is given. `kinds` are the kinds of the script's keys that belong to the value's key, and of the keys that the
    /// partition has once. `more` adds arguments of the script's own.
    pub(super) async fn store_one(
        &self,
        lua: &'static LuaScript,
        batch: Batch<'_>,
        kinds: [&[&str]; 2],
        more: impl Fn(&mut ScriptCall<'_>, &str) + Sync,
        version: Option<Version>,
    ) -> Result<Written, L2Error> {
        let ([key], [value]) = (batch.keys, batch.values) else {
            return Err(L2Error::unexpected("the step is for one value"));
        };
        // The same in each copy: by it the second finds the answer of the first, which has stored the value.
        let this = random().to_string();
        let own = &envelope::tags_of(&value.body);
        let [of_key, of_partition] = kinds;
        let call = |stored: &[u8], tags: &[Key]| {
            let keys = of_key.len() + of_partition.len() + 1 + own.len() + tags.len();
            let mut call = ScriptCall::new(lua, &self.names, keys);
            call.keys(of_key, &[*key]).partition_keys(of_partition);
            call.keys(&[DONE], &[&*this]);
            call.keys(&[TAG_VERSION], own).keys(&[TAG_VERSION], tags);
            call.message(batch.payload).deadline(batch.deadline);
            call.arg(&value.body).arg(in_store_ms(value.ttls));
            more(&mut call, key);
            // A script that can do without compares no version where these three are missing.
            if let Some(version) = version {
                call.arg(version.epoch).arg(version.ver).arg(stored);
            }
            call
        };
        let read = |answer: &[u8]| {
            // Any other answer begins with a time or an epoch, which is not that large.
            if let Some((b'F', at)) = answer.split_first() {
                let [at] = unpack_numbers(at)?;
                return Ok((Written::Full, at));
            }
            match unpack_numbers(answer) {
                Ok([at]) => Ok((Written::OtherVersion, at)),
                Err(_) => read_ack_and_time(answer),
            }
        };
        self.send_with_tags(batch.deadline, call, read).await
    }

    /// Changes what the partition has under the keys of a batch, of these kinds, and publishes that.
    fn change<'a>(
        &'a self,
        lua: &'static LuaScript,
        kinds: &'static [&'static str],
        batch: Batch<'a>,
    ) -> Reply<'a, Written> {
        let keys = 2 + kinds.len() * batch.keys.len();
        let read = |answer: Vec<u8>| read_ack(&answer);
        self.step(lua, keys, read, move |call| {
            call.partition_keys(&[CLOCK, LOG]).keys(kinds, batch.keys);
            call.message(batch.payload);
        })
    }

    fn invalidate<'a>(&'a self, batch: Batch<'a>, hold: Duration) -> Reply<'a, Written> {
        let keys = batch.keys;
        let held = if hold.is_zero() { &[] } else { keys };
        let read = |answer: Vec<u8>| read_ack(&answer);
        let parts = 3 + 2 * keys.len() + held.len();
        self.step(&scripts::INVALIDATE, parts, read, move |call| {
            call.partition_keys(&[CLOCK, LOG, MEMBERS]);
            call.keys(&[VALUE, LEASE], keys).keys(&[HOLD], held);
            call.message(batch.payload).arg(millis(hold));
        })
    }

    /// INSERT, for one copy of the request.
    fn insertion(&self, batch: Batch<'_>) -> ScriptCall<'_> {
        let values = || batch.values.iter().copied();
        let tags = values().flat_map(|value| envelope::tags_of(&value.body));
        let tags: Vec<_> = tags.collect();
        let staged = values().filter(|value| is_staged(value)).count();
        let keys = 2 + 2 * values().len() + tags.len() + staged;
        let mut call = ScriptCall::new(&scripts::INSERT, &self.names, keys);
        call.partition_keys(&[CLOCK, LOG]);
        call.keys(&[VALUE], batch.keys).keys(&[LEASE], batch.keys);
        // The script finds the tag versions of each value by the number of its tags: the tag versions of the first
        // value come first.
        call.keys(&[TAG_VERSION], &tags);
        for value in values() {
            call.stage(value);
        }
        call.message(batch.payload).deadline(batch.deadline);
        for value in values() {
            call.value(value);
        }
        call
    }
}

/// An entry of a stream: its id, then names and values in turn.
pub(crate) type Entry = (String, Vec<(String, Bytes)>);

/// Reads the list of members: its generation, and entries with their ids.
fn read_members((generation, entries): (u64, Vec<(u64, String)>)) -> Result<Members, L2Error> {
    let list = entries.iter().map(|(id, entry)| members::parse(*id, entry));
    let list = list.collect::<Option<_>>().ok_or_else(malformed_answer)?;
    Ok(Members { generation, list })
}

/// Reads the answer of TOUCH, and when it was given.
fn touched(answer: &[u8]) -> Result<(Option<Touched>, u64), L2Error> {
    if let Ok([at]) = unpack_numbers(answer) {
        return Ok((None, at));
    }
    let (head, stamped) = answer.split_at_checked(16).ok_or_else(malformed_answer)?;
    let [at, change] = unpack_numbers(head)?;
    let (stamp, lifetime) = envelope::read_stamp(stamped).ok_or_else(malformed_answer)?;
    let touched = Touched {
        change: (change != 0).then_some(change),
        stamp,
        lifetime,
    };
    Ok((Some(touched), at))
}

/// Reads the answer of a change. Only INVALIDATE answers more than the clock.
fn read_ack(packed: &[u8]) -> Result<Written, L2Error> {
    let (ack, mut more) = write_ack(packed)?;
    let mut next = || more.next().unwrap_or_default();
    Ok(Written::Done(WriteAck {
        longest_staleness: Duration::from_millis(next()),
        generation: next(),
        members_age: Duration::from_millis(next()),
        ..ack
    }))
}

/// Reads the answer of a change, and when it was made.
fn read_ack_and_time(packed: &[u8]) -> Result<(Written, u64), L2Error> {
    let (ack, _) = write_ack(packed)?;
    Ok((Written::Done(ack), ack.stamp.written_at))
}

impl Partition for RedisPartition {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        self.reads.get(key)
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>> {
        self.reads.requests.fetch_all(keys).boxed()
    }

    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply> {
        self.loads.acquire(key, ask).boxed()
    }

    fn fill<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        value: &'a EncodedValue,
        payload: Option<&'a [u8]>,
    ) -> Reply<'a, Fill> {
        self.loads.fill(key, lease, value, payload).boxed()
    }

    fn revalidate<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &'a [Key],
    ) -> Reply<'a, Option<Fill>> {
        self.loads.revalidate(key, lease, seen, ttls, tags).boxed()
    }

    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        self.loads.renew(key, token, ttl).boxed()
    }

    fn write<'a>(&'a self, step: &'a Step, batch: Batch<'a>) -> Reply<'a, Written> {
        match step {
            Step::Insert => {
                let call = move || self.insertion(batch);
                self.send_before_deadline(batch.deadline, call, read_ack_and_time)
                    .boxed()
            }
            Step::InsertIf(version) => {
                let kinds: [&[&str]; 2] = [&[VALUE, LEASE], &[CLOCK, LOG]];
                let none = |_: &mut ScriptCall<'_>, _: &str| {};
                self.store_one(&scripts::INSERT_IF, batch, kinds, none, Some(*version))
                    .boxed()
            }
            #[cfg(feature = "write-behind")]
            Step::Append(append) => self.append(batch, append).boxed(),
            Step::Invalidate { hold, .. } => self.invalidate(batch, *hold),
            Step::Expire => self.change(&scripts::EXPIRE, &[VALUE, LEASE], batch),
            Step::InvalidateTags => self.change(&scripts::INVALIDATE_TAGS, &[TAG_VERSION], batch),
            Step::Clear => self.change(&scripts::CLEAR, &[], batch),
            Step::EndLeases => {
                let read = |answer: Vec<u8>| read_ack(&answer);
                let step = self.step(&scripts::END_LEASES, 1, read, |call| {
                    call.partition_keys(&[CLOCK]).arg(random());
                });
                step.boxed()
            }
        }
    }

    fn touch<'a>(
        &'a self,
        key: &'a str,
        lifetime: NewLifetime,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Touched>> {
        let (NewLifetime::Renewed(ttls) | NewLifetime::Extended(ttls)) = lifetime;
        let call = move |stored: &[u8], tags: &[Key]| {
            let mut call = ScriptCall::new(&scripts::TOUCH, &self.names, 3 + tags.len());
            call.keys(&[VALUE], &[key]).partition_keys(&[CLOCK, LOG]);
            call.keys(&[TAG_VERSION], tags).message(payload);
            call.arg(&ttls.packed()).arg(millis(ttls.kept));
            call.arg(matches!(lifetime, NewLifetime::Extended(_)));
            call.deadline(deadline).arg(stored);
            call.arg(&self.type_tag[..]);
            call
        };
        self.send_with_tags(deadline, call, touched).boxed()
    }

    fn tag_versions<'a>(&'a self, tags: &'a [&'a str]) -> Reply<'a, Vec<Option<TagVersion>>> {
        async move {
            let mut versions = Vec::with_capacity(tags.len());
            // The server does nothing else while it executes a script, however long that is.
            for tags in tags.chunks(TAG_VERSIONS) {
                let answer = self.step(&scripts::TAG_VERSIONS, 1 + tags.len(), Ok, |call| {
                    call.partition_keys(&[CLOCK]).keys(&[TAG_VERSION], tags);
                });
                let answer: Option<(u64, Vec<Option<u64>>)> = answer.await?;
                // Without a clock no tag version is known.
                let (epoch, vers) = answer.unwrap_or_default();
                let known = vers
                    .into_iter()
                    .map(|ver| Some(TagVersion { epoch, ver: ver? }));
                versions.extend(known.chain(iter::repeat(None)).take(tags.len()));
            }
            Ok(versions)
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
            let before_key = self.names.name(VALUE, "").len();
            let (mut cursor, mut removed) = (0_u64, vec![0; prefixes.len()]);
            // SCAN finds each key that is there from the beginning to the end, but may return one twice. A value that
            // is removed is not found again, so it is counted once.
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern);
                scan.arg("COUNT").arg(SCAN_COUNT);
                let (next, names): (u64, Vec<Vec<u8>>) = self.ask(&scan).await?;
                let found = names.iter().flat_map(|name| {
                    let indexes = which.matching(name.get(before_key..).unwrap_or_default());
                    indexes.filter_map(move |index| Some((name, index, prefixes.get(index)?.1)))
                });
                let found: Vec<_> = found.collect();
                // With several prefixes, or with a dense table, a step of SCAN may find far more than it was asked for.
                for found in found.chunks(SCAN_COUNT) {
                    let gone = self.step(&scripts::REMOVE, 1 + found.len(), Ok, |call| {
                        call.partition_keys(&[CLOCK]);
                        for (name, ..) in found {
                            call.key_by_name(name);
                        }
                        for (.., before) in found {
                            call.arg(before.epoch).arg(before.ver);
                        }
                    });
                    let gone: Vec<u8> = gone.await?;
                    for ((_, index, _), gone) in found.iter().zip(gone) {
                        if let Some(removed) = removed.get_mut(*index) {
                            *removed += u64::from(gone == b'1');
                        }
                    }
                }
                // The server ends a pass with the cursor that begins one. An empty step in between means nothing.
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
            range.arg(self.names.name(LOG, "")).arg(first).arg("+");
            range.arg("COUNT").arg(LOG_ENTRIES_PER_READ);
            let entries: Vec<Entry> = self.ask(&range).await?;
            let payloads = entries.into_iter().flat_map(|(_, fields)| fields);
            // A message that is damaged, or of another format, is skipped, which leaves a hole in the numbers. So are
            // fields for tools, which are no messages.
            let messages = payloads.filter_map(|(_, payload)| message::parse(&payload));
            Ok(messages.collect())
        }
        .boxed()
    }

    fn members<'a>(&'a self, ids: &'a [u64]) -> Reply<'a, Members> {
        self.step(&scripts::MEMBERS, 1, read_members, move |call| {
            call.partition_keys(&[MEMBERS]).arg(random()).arg(ids);
        })
    }

    fn sweep(&self, id: u64, ttl: Duration) -> Reply<'_, Option<Members>> {
        let read = |found: Option<_>| found.map(read_members).transpose();
        self.step(&scripts::SWEEP, 2, read, move |call| {
            call.partition_keys(&[MEMBERS, SWEEPER])
                .arg(random())
                .arg(id);
            call.arg(millis(ttl));
        })
    }

    fn forget(&self, member: Member) -> Reply<'_, ()> {
        self.step(&scripts::FORGET, 1, Ok, move |call| {
            let entry = members::entry(&member);
            call.partition_keys(&[MEMBERS])
                .arg(member.info.id)
                .arg(entry);
        })
    }

    fn leave(&self, id: u64) -> Reply<'_, ()> {
        let live = self.names.name(MEMBERS, "");
        async move { self.ask(cmd("HDEL").arg(live).arg(id)).await }.boxed()
    }

    fn publish<'a>(&'a self, channel: &'a str, payload: &'a [u8]) -> Reply<'a, ()> {
        async move { self.ask(cmd("PUBLISH").arg(channel).arg(payload)).await }.boxed()
    }

    fn switch(&self, is_off: bool, deadline: Option<u64>) -> Reply<'_, ()> {
        let call = move || {
            let mut call = ScriptCall::new(&scripts::SWITCH, &self.names, 1);
            call.partition_keys(&[CLOCK])
                .arg(random())
                .arg(is_off)
                .deadline(deadline);
            call
        };
        let at = |answer: &[u8]| unpack_numbers(answer).map(|[at]| ((), at));
        async move { self.send_before_deadline(deadline, call, at).await }.boxed()
    }

    fn system(&self) -> &'static str {
        "redis"
    }

    fn store_counts<'a>(&'a self, counts: StoredCounts<'a>) -> Reply<'a, FleetBypass> {
        let read = |answer: Vec<Vec<u8>>| Ok(fleet_bypass(&answer));
        self.step(&scripts::STORE_COUNTS, 2, read, move |call| {
            call.partition_keys(&[STATS, BYPASS])
                .arg(counts.instance)
                .arg(counts.at);
            call.arg(counts.text).arg(counts.folds);
        })
    }

    fn counts(&self) -> Reply<'_, Vec<(u64, String)>> {
        let ask = |connection| stored_counts(&self.names, connection);
        self.connections.send(ask).boxed()
    }

    fn connected(&self) -> Reply<'_, ()> {
        self.connections.connected().boxed()
    }

    fn keep_only(&self, incarnation: u64) -> bool {
        self.reads.requests.keep_only(incarnation)
    }

    #[cfg(feature = "write-behind")]
    fn write_stream(&self) -> Option<&dyn crate::l2::WriteStream> {
        Some(self)
    }

    fn subscribe(
        &self,
        me: MemberInfo,
        history: KnownHistory,
    ) -> Reply<'_, (PartitionClock, Box<dyn Subscription>)> {
        self.connections.rely(me.max_staleness);
        self.subscriptions.subscribe(me, history).boxed()
    }
}
