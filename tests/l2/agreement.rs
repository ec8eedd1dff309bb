//! The two stores do alike, whatever steps come in whatever order: simulated worlds show that the steps of Redis keep the
//! promises, and this that those of the store in memory are the same steps.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures::future::join_all;
use larder::l2::{
    AcceptedValue, Bytes, EncodedValue, Event, Fill, Key, Kind, L2, L2Error, Lease, LeaseReply,
    LeaseRequest, MemberInfo, MemorySnapshot, NewLifetime, Partition, PartitionName,
    PartitionNumber, Stamp, Subscription, Ttls, Version,
};
use larder_store_tests::steps::Steps;
use tokio::join;
use tokio::time::sleep;

use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::seeds::seeds;

const TYPES: u64 = 3;
/// No values.
const NONE: &str = "[]";
const KEYS: [&str; 3] = ["eu:a", "eu:b", "us:c"];
const TAGS: [&str; 2] = ["t", "u"];
/// What lasts so long is over at the next step.
const SHORT: Duration = Duration::from_millis(3);
/// As a step that is past its deadline is: stores have no other error for it.
const REFUSED: &str = "refused";
/// The second member.
const OTHER: MemberInfo = MemberInfo { id: 9, ..PATIENT };

/// A server that can restart.
pub(crate) trait Server {
    fn l2(&self) -> &dyn L2;
    /// Keeps a copy of the data.
    async fn save(&mut self);
    /// Restarts from the last copy, or with nothing.
    async fn restart(&mut self, from_copy: bool);
    /// Writes as another program does.
    async fn write_by_hand(&mut self, key: &str, bytes: &[u8]);
}

struct InMemory {
    store: Memory,
    copy: MemorySnapshot,
}

impl Server for InMemory {
    fn l2(&self) -> &dyn L2 {
        self.store.l2()
    }

    async fn save(&mut self) {
        self.copy = self.store.0.snapshot();
    }

    async fn restart(&mut self, from_copy: bool) {
        if !from_copy {
            self.copy = MemorySnapshot::default();
        }
        self.store.0.restore(&self.copy);
    }

    async fn write_by_hand(&mut self, key: &str, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.store.0.write_by_hand(NAMESPACE, key, bytes);
    }
}

/// What a step is about.
struct One {
    /// The number of its type.
    place: usize,
    partition: Arc<dyn Partition>,
    key: &'static str,
    value: EncodedValue,
    tags: Vec<&'static str>,
    /// A version, which may be that of a value.
    seen: u64,
    /// [`SHORT`] in some steps, and otherwise [`LONG`].
    brief: Duration,
    deadline: Option<u64>,
    payload: Vec<u8>,
}

/// One of the stores, as instances with several type tags use it.
struct Side<S> {
    server: S,
    partitions: Vec<Arc<dyn Partition>>,
    subscription: Box<dyn Subscription>,
    /// The leases that were granted for each type, in their order.
    leases: Vec<Vec<Lease>>,
    /// The stamps of this epoch's writes. The stores have other epochs and clocks, and the same versions.
    epoch: u64,
    /// The time of the store at the last step.
    now: u64,
    has_copy: bool,
}

fn partition(l2: &dyn L2, type_tag: u64, of: u16) -> Arc<dyn Partition> {
    let name = PartitionName {
        type_tag,
        partition: PartitionNumber { number: 0, of },
        ..NAMESPACE.into()
    };
    l2.partition(name, LIMIT, Box::new(|_| ())).into()
}

impl<S: Server> Side<S> {
    async fn new(server: S) -> Self {
        let partitions: Vec<_> = (0..TYPES)
            .map(|tag| partition(server.l2(), tag, 1))
            .collect();
        let (clock, subscription) = subscribe(&*partitions[0]).await;
        Self {
            server,
            partitions,
            subscription,
            leases: (0..TYPES).map(|_| Vec::new()).collect(),
            epoch: clock.epoch,
            now: clock.now,
            has_copy: false,
        }
    }

    /// Does a step, and says which, and what came of it, but for what differs from store to store.
    async fn step(&mut self, rng: &mut Rng) -> String {
        let type_tag = rng.u64(0..TYPES);
        let key = *rng.choice(&KEYS).unwrap();
        let tags: Vec<&str> = TAGS.into_iter().filter(|_| rng.u8(0..4) == 0).collect();
        let length = if rng.u8(0..4) == 0 { 2000 } else { 3 };
        let mut value = of_type(type_tag, &vec![rng.u8(..); length], LONG, &tags);
        let brief = *rng.choice(&[SHORT, LONG, LONG, LONG]).unwrap();
        if rng.u8(0..3) == 0 {
            set_ttls(&mut value, ttls(rng, brief));
        }
        let one = One {
            place: usize::try_from(type_tag).unwrap(),
            partition: Arc::clone(&self.partitions[usize::try_from(type_tag).unwrap()]),
            key,
            value,
            tags,
            seen: rng.u64(0..40),
            brief,
            deadline: match rng.u8(0..8) {
                0 => Some(1),
                1 => Some(self.now + 60_000),
                _ => None,
            },
            payload: payload_of(Kind::Insert, &[key]),
        };
        let done = match rng.u8(0..20) {
            0..=9 => self.load(one, rng).await,
            10..=15 => self.change(one, rng).await,
            16 | 17 => self.write_behind(one, rng).await,
            18 => self.membership(one, rng).await,
            _ => self.rare(one, rng).await,
        };
        if brief == SHORT {
            // Both stores have come to its end at the next step.
            sleep(SHORT * 2).await;
        }
        format!("{key} {done}")
    }

    /// A step of a load.
    async fn load(&mut self, one: One, rng: &mut Rng) -> String {
        let (partition, key, seen) = (&*one.partition, one.key, one.seen);
        let leases = &mut self.leases[one.place];
        // One of the last, which may have ended.
        let lease = match leases.len() {
            0 => NO_LEASE,
            all => leases[rng.usize(all.saturating_sub(3)..all)],
        };
        match rng.u8(0..16) {
            0..=6 => {
                let want = match rng.u8(0..8) {
                    0..=2 => AcceptedValue::Any,
                    3 => AcceptedValue::NoValue,
                    4 => AcceptedValue::NewLoad,
                    5 | 6 => AcceptedValue::EvenExpired,
                    _ => AcceptedValue::OtherThan(seen),
                };
                let ask = LeaseRequest {
                    ttl: *rng.choice(&[LONG, one.brief, Duration::ZERO]).unwrap(),
                    want,
                    deadline: one.deadline,
                };
                match partition.acquire_lease(key, ask).await {
                    Ok(LeaseReply::Hit(bytes)) => format!("hit {}", values(&bytes, self.epoch)),
                    Ok(LeaseReply::Granted(lease)) => {
                        leases.push(lease);
                        "granted".to_owned()
                    }
                    Ok(LeaseReply::Replace(lease, bytes)) => {
                        leases.push(lease);
                        format!("granted, kept {}", values(&bytes, self.epoch))
                    }
                    Ok(LeaseReply::Wait(_)) => "wait".to_owned(),
                    Ok(other) => format!("{other:?}"),
                    Err(error) => refused(&error),
                }
            }
            7..=12 => {
                let replaces = rng.u8(0..5) == 0;
                let payload = replaces.then_some(&one.payload[..]);
                let filled = partition.fill(key, lease, &one.value, payload).await;
                filled_as(filled.unwrap(), self.epoch)
            }
            13 => {
                let tags: Vec<_> = one.tags.iter().map(|tag| (*tag).into()).collect();
                let again = partition.revalidate(key, lease, seen, ttls(rng, one.brief), &tags);
                let again = again.await.unwrap();
                again.map_or_else(|| "absent".to_owned(), |fill| filled_as(fill, self.epoch))
            }
            // In Redis a lease that END_LEASES or a clear has ended is there until its time.
            14 => {
                renewed(partition, key, lease).await;
                "renewed".to_owned()
            }
            _ => {
                given_back(partition, key, lease).await;
                "given back".to_owned()
            }
        }
    }

    /// A version of this epoch.
    fn version(&self, ver: u64) -> Version {
        let stamp = Stamp {
            epoch: self.epoch,
            ver,
            written_at: 0,
        };
        stamp.version()
    }

    /// A step that changes keys.
    async fn change(&mut self, one: One, rng: &mut Rng) -> String {
        let (partition, key, payload) = (&*one.partition, one.key, &one.payload[..]);
        let (value, deadline) = (&one.value, one.deadline);
        let which = rng.u8(0..14);
        let stamp = match which {
            0 | 1 => partition.insert(&[(key, value)], payload, deadline).await,
            2 => Ok(invalidate(partition, &[key]).await),
            3 => partition.expire(&[key], payload).await,
            4 => Ok(invalidate_tags(partition, &[*rng.choice(&TAGS).unwrap()]).await),
            5 => {
                let stamp = partition.end_leases().await.unwrap();
                let removed = partition.remove_prefixes(&[("eu:", stamp)]).await;
                return format!("{} removed {removed:?}", version(stamp));
            }
            6..=8 => {
                let version = if rng.bool() {
                    Version::ABSENT
                } else {
                    self.version(one.seen)
                };
                let stored = partition.insert_if(key, value, version, payload, deadline);
                match stored.await.transpose() {
                    Some(stamp) => stamp,
                    None => return "another version".to_owned(),
                }
            }
            9 | 10 => {
                let ttls = ttls(rng, one.brief);
                let new = if rng.bool() {
                    NewLifetime::Renewed(ttls)
                } else {
                    NewLifetime::Extended(ttls)
                };
                return match partition.touch(key, new, payload, deadline).await {
                    Ok(touched) => {
                        format!("touched {:?}", touched.map(|it| (it.change, it.stamp.ver)))
                    }
                    Err(error) => refused(&error),
                };
            }
            11 => {
                // A key that is held for long has few steps from there on.
                let hold = match one.brief {
                    LONG if key != KEYS[2] => Duration::ZERO,
                    brief => brief,
                };
                let payload = payload_of(Kind::Invalidate, &[key]);
                let held = partition.invalidate(&[key], &payload, hold).await;
                held.map(|ack| ack.stamp)
            }
            12 => {
                let is_off = rng.bool();
                return match partition.switch(is_off, deadline).await {
                    Ok(()) => format!("switched {is_off}"),
                    Err(error) => refused(&error),
                };
            }
            _ if rng.u8(0..4) == 0 => Ok(clear(partition).await),
            _ => return String::new(),
        };
        match stamp {
            Ok(stamp) => {
                self.epoch = stamp.epoch;
                format!("change {which} {:?}, {}", value.ttls, version(stamp))
            }
            Err(error) => refused(&error),
        }
    }

    #[cfg(not(feature = "write-behind"))]
    #[allow(clippy::unused_async, reason = "the steps need the feature")]
    async fn write_behind(&mut self, _: One, _: &mut Rng) -> String {
        String::new()
    }

    /// A step of a write that waits for its source.
    #[cfg(feature = "write-behind")]
    async fn write_behind(&mut self, one: One, rng: &mut Rng) -> String {
        use larder::l2::{Append, Settled, Written};

        let (partition, key) = (&*one.partition, one.key);
        let stream = partition.write_stream().unwrap();
        let fence = rng.u64(1..3);
        match rng.u8(0..6) {
            0..=2 => {
                let append = Append {
                    encoded_key: key.into(),
                    most: 3,
                    version: rng.bool().then(|| self.version(one.seen)),
                };
                let appended =
                    partition.append(key, &one.value, append, &one.payload, one.deadline);
                match appended.await {
                    Ok(Written::Done(ack)) => {
                        format!("appended {:?}, {}", one.value.ttls, version(ack.stamp))
                    }
                    Ok(other) => format!("{other:?}"),
                    Err(error) => refused(&error),
                }
            }
            3 => {
                let ttl = *rng.choice(&[LONG, one.brief, Duration::ZERO]).unwrap();
                let taken = stream.take(fence, ttl, 2).await.unwrap();
                format!("taken {:?}", taken.as_deref().map(texts))
            }
            4 => {
                let taken = stream.take(fence, LONG, rng.usize(1..4)).await.unwrap();
                let writes = taken.unwrap_or_default();
                let stored: BTreeSet<&str> = KEYS.into_iter().filter(|_| rng.bool()).collect();
                let settled = Settled {
                    writes: &writes.iter().collect::<Vec<_>>(),
                    outcome: match rng.u8(0..3) {
                        0 => Err("down"),
                        _ => Ok(&stored),
                    },
                    origin: ORIGIN,
                };
                let is_settled = match writes.len() {
                    0 => None,
                    _ => Some(stream.settle(fence, settled).await.unwrap()),
                };
                stream.take(fence, Duration::ZERO, 1).await.unwrap();
                format!("settled {is_settled:?} {:?}", texts(&writes))
            }
            _ => {
                let letters = stream.dead_letters(5).await.unwrap();
                let mut requeued = None;
                if let Some(letter) = letters.first() {
                    let payload = payload_of(Kind::Invalidate, &[&letter.key]);
                    requeued = Some(stream.requeue(letter, &payload).await.unwrap());
                }
                let pending = stream.pending().await.unwrap();
                format!(
                    "letters {:?}, requeued {requeued:?}, pending {} {} {}",
                    texts(&letters),
                    pending.length,
                    pending.dead_letters,
                    pending.has_worker
                )
            }
        }
    }

    /// A step of the list of members.
    async fn membership(&mut self, one: One, rng: &mut Rng) -> String {
        let partition = &*one.partition;
        match rng.u8(0..4) {
            // Without a heartbeat it notes nothing.
            0 => drop(partition.subscribe(OTHER, NEWCOMER).await.unwrap()),
            1 => partition.leave(OTHER.id).await.unwrap(),
            2 => {
                let members = partition.members(&[]).await.unwrap().list;
                if let Some(member) = members.iter().find(|one| one.info.id == OTHER.id) {
                    partition.forget(*member).await.unwrap();
                    // A late copy.
                    partition.forget(*member).await.unwrap();
                }
            }
            _ => {
                let swept = partition.sweep(rng.u64(1..3), one.brief).await.unwrap();
                return format!("swept {:?}", swept.map(|members| ids(&members.list)));
            }
        }
        let ids_of = [&[][..], &[OTHER.id], &[ME.id, 3]];
        let mut found = String::new();
        for ids_of in ids_of {
            let members = partition.members(ids_of).await.unwrap();
            write!(found, "members {:?} ", ids(&members.list)).unwrap();
        }
        found
    }

    /// Steps of a server and of another program.
    async fn rare(&mut self, one: One, rng: &mut Rng) -> String {
        match rng.u8(0..8) {
            0..=2 => {
                // A version that the partition has not issued, in the place of all values.
                let Some(bytes) = get(&*one.partition, one.key).await else {
                    return "nothing to forge".to_owned();
                };
                let mut value = values_in(&bytes)[0].to_vec();
                value[3] = 4;
                for at in [12, 28] {
                    let number = u64::from_be_bytes(value[at..at + 8].try_into().unwrap());
                    value[at..at + 8].copy_from_slice(&(number + 1000).to_be_bytes());
                }
                self.server.write_by_hand(one.key, &value).await;
                "forged".to_owned()
            }
            3 | 4 => {
                self.server.save().await;
                self.has_copy = true;
                "saved".to_owned()
            }
            5 => {
                let from_copy = self.has_copy && rng.bool();
                self.has_copy = from_copy;
                self.server.restart(from_copy).await;
                self.reconnect().await;
                format!("restarted {from_copy}")
            }
            _ => String::new(),
        }
    }

    /// Goes on after a restart. What a step over a connection from before would say depends on when it is noticed.
    async fn reconnect(&mut self) {
        let partitions = (0..TYPES).map(|tag| partition(self.server.l2(), tag, 1));
        self.partitions = partitions.collect();
        eventually("requests are answered", async || {
            let asked = self.partitions.iter().map(|partition| partition.get("k"));
            join_all(asked).await.iter().all(Result::is_ok)
        })
        .await;
        let (clock, subscription) = subscribe(&*self.partitions[0]).await;
        (self.subscription, self.epoch) = (subscription, clock.epoch);
    }

    /// The messages of a step and the clock; and the keys of the notices that a lease has ended.
    async fn told(&mut self) -> (String, BTreeSet<Key>) {
        let (mut told, mut ended) = (Vec::new(), BTreeSet::new());
        self.subscription.heartbeat(NOTHING);
        let clock = loop {
            match next_event(&mut *self.subscription).await {
                Event::Message(message) => {
                    let is_of_epoch = message.epoch == self.epoch;
                    told.push((
                        message.seq,
                        message.ver,
                        message.kind,
                        message.keys,
                        is_of_epoch,
                    ));
                }
                Event::LeaseEnded(key) => _ = ended.insert(key),
                Event::Heartbeat(clock) => break clock,
                other => panic!("{other:?}"),
            }
        };
        (self.epoch, self.now) = (clock.epoch, clock.now);
        let clock = format!("clock {} {} {}", clock.seq, clock.ver, clock.is_off);
        (format!("{told:?}, {clock}"), ended)
    }

    /// What is stored under each key, and which of it each instance could use.
    async fn stored(&self) -> String {
        let mut all = String::new();
        for key in KEYS {
            for partition in &self.partitions {
                let is_usable = usable(&**partition, key).await.is_some();
                write!(all, "{is_usable} ").unwrap();
            }
            let bytes = get(&*self.partitions[0], key).await;
            let stored = bytes.map_or_else(|| NONE.to_owned(), |it| values(&it, self.epoch));
            writeln!(all, "{stored}").unwrap();
        }
        let tags = self.partitions[0].tag_versions(&TAGS).await.unwrap();
        let tags = tags.into_iter().flatten();
        let tags = tags
            .filter(|tag| tag.epoch == self.epoch)
            .map(|tag| tag.ver);
        write!(all, "tags {:?}", tags.collect::<Vec<_>>()).unwrap();
        all
    }

    /// The messages that the log has.
    async fn log(&self) -> String {
        let (mut log, mut first) = (Vec::new(), 1);
        loop {
            // As many as the store gives at a time.
            let some = self.partitions[0].replay(first).await.unwrap();
            let Some(last) = some.last() else {
                return format!("{log:?}");
            };
            first = last.seq + 1;
            log.extend(
                some.into_iter()
                    .map(|it| (it.seq, it.ver, it.kind, it.keys)),
            );
        }
    }

    /// The namespace has two partitions from now on, unless writes wait for their source: no step of the former one is
    /// done.
    async fn close(&self) {
        let other = partition(self.server.l2(), 0, 2);
        let is_refused = other.end_leases().await.is_err();
        let (partition, message) = (
            &*self.partitions[0],
            payload_of(Kind::Invalidate, &["eu:a"]),
        );
        let done = [
            partition.expire(&["eu:a"], &message).await.is_ok(),
            partition.switch(true, None).await.is_ok(),
            partition.subscribe(ME, NEWCOMER).await.is_ok(),
        ];
        assert_eq!(done, [is_refused; 3]);
    }
}

/// TTLs of which some may be over at the next step.
fn ttls(rng: &mut Rng, brief: Duration) -> Ttls {
    let some = |rng: &mut Rng, ttl| (rng.u8(0..3) == 0).then_some(ttl);
    Ttls {
        soft: some(rng, brief),
        end: some(rng, LONG * 3),
        kept: some(rng, LONG).unwrap_or_default(),
        ..Ttls::new(*rng.choice(&[LONG, LONG * 2, brief]).unwrap())
    }
}

fn version(stamp: Stamp) -> String {
    format!("version {}", stamp.ver)
}

/// Its text differs from store to store.
fn refused(_: &L2Error) -> String {
    REFUSED.to_owned()
}

#[cfg(feature = "write-behind")]
fn texts(writes: &[larder::l2::Waiting]) -> Vec<(String, usize, bool, Option<String>)> {
    let text = |write: &larder::l2::Waiting| {
        // In Redis dead letters are in a stream of their own, and may have any ids.
        let is_first = write.reason.is_none() && write.version == write.id;
        (
            write.key.clone(),
            write.body.len(),
            is_first,
            write.reason.clone(),
        )
    };
    writes.iter().map(text).collect()
}

fn ids(members: &[larder::l2::Member]) -> Vec<(u64, Duration, u64)> {
    let mut ids: Vec<_> = members
        .iter()
        .map(|one| (one.info.id, one.info.max_staleness, one.applied.seq))
        .collect();
    ids.sort_unstable();
    ids
}

fn filled_as(fill: Fill, epoch: u64) -> String {
    match fill {
        Fill::Stored(ack) => format!("stored {}", ack.stamp.ver),
        Fill::Rejected(bytes) => {
            let stored = bytes.map(|it| values(&it, epoch));
            format!("rejected {}", stored.unwrap_or_else(|| NONE.to_owned()))
        }
        other => panic!("{other:?}"),
    }
}

/// Of each value: its version, its type tag, how it begins, and whether it is stale.
fn values(bytes: &[u8], epoch: u64) -> String {
    // In Redis values of a former epoch are there until their time.
    let of_epoch = values_in(bytes).into_iter();
    let of_epoch = of_epoch.filter(|value| stamp_of(value).epoch == epoch);
    let all = of_epoch.map(|value| {
        let is_stale = times_of(value).1.stale_at.is_some();
        (
            stamp_of(value).ver,
            type_tag_of(value),
            value[100],
            is_stale,
        )
    });
    let all: Vec<_> = all.collect();
    format!("{all:?}")
}

#[tokio::test]
async fn both_stores_do_alike() {
    for seed in seeds().unwrap_or(0..home::SEEDS) {
        do_alike(seed).await;
    }
}

/// Panics if the stores do not do alike in the steps of a seed.
pub(crate) async fn do_alike(seed: u64) {
    let redis = Redis::start().await;
    let memory = InMemory {
        store: Memory::start().await,
        copy: MemorySnapshot::default(),
    };
    let (mut one, mut other) = (Side::new(memory).await, Side::new(redis).await);
    let (rng, mut history) = (&mut Rng::with_seed(seed), String::new());
    for step in 0..home::STEPS {
        let mut mine = rng.fork();
        let mut same = mine.clone();
        let (expected, found) = join!(one.step(&mut mine), other.step(&mut same));
        assert_eq!(found, expected, "seed {seed}, step {step}:{history}");
        write!(history, "\n{step} {found}").unwrap();
        let ((expected, ended), (told, noticed)) = join!(one.told(), other.told());
        assert_eq!(told, expected, "seed {seed}, messages:{history}");
        // In Redis a lease that END_LEASES, a clear or its time has ended is there for a while: a notice too many is
        // a question too many.
        assert!(
            noticed.is_superset(&ended),
            "seed {seed}, {ended:?}:{history}"
        );
        let (expected, stored) = join!(one.stored(), other.stored());
        assert_eq!(stored, expected, "seed {seed}, values:{history}");
    }
    assert_eq!(other.log().await, one.log().await, "seed {seed}, the log");
    other.close().await;
}
