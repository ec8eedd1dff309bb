//! What a namespace has in Redis, read by tools. Nothing is changed: no member joins, no epoch begins, and no number of
//! lanes is settled. So none of this goes over the connections of a lane, which begin with RUN.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::iter;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{PushInfo, PushKind, RedisResult, Value, cmd};
use futures::future::select_all;
use futures::{FutureExt, TryFutureExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::RedisL2;
use super::call::{Call, Lua, clock};
use super::error::{connect_error, l2_error};
use super::lane::tag_version;
use super::names::{CLOCK, HOLD, LEASE, Names, TAG_VERSION, VALUE};
use super::primary::PrimaryAt;
use super::scripts::{self, CHECKED, MARK, lua};
use super::server::CONNECT;
use super::topology::Topology;
use crate::key::Key;
use crate::l2::{L2Error, LaneClock, LaneName, LaneNumber, Lifetime, Message, Stamp, TagVersion};
use crate::util::crc16::nth;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;
use crate::vocabulary::MOST_LANES;
use crate::wire::envelope::{self, Envelope, PAYLOAD_IN_BODY, Place, STAMPED};
use crate::wire::{codec, message};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Messages of a lane that wait to be read. More are dropped, which leaves a hole in their numbers.
const WAITING: usize = 4096;
/// Keys that a step of a SCAN looks at, or about as many.
const SCANNED: usize = 1000;

lua! {
    INSPECT: [CHECKED, scripts::CLOCK, scripts::INCARNATION, MARK], "inspect.lua";
}

/// A namespace in Redis, to be looked at. No call changes anything there.
///
/// Each call makes a connection of its own. A user needs the rights that a cache needs; of these
/// `+evalsha_ro +script|load +mget +pttl +type +hget +time +info` for [`key`](Self::key) and [`lanes`](Self::lanes),
/// and `+subscribe` with the channel for [`changes`](Self::changes).
pub struct Namespace {
    topology: Arc<Topology>,
    name: String,
    lanes: u16,
    is_known: bool,
}

/// One lane of a namespace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LaneState {
    /// Which one.
    pub lane: LaneNumber,
    /// The server that has it: host and port, or the path of a socket.
    pub node: String,
    /// Its clock. If that is missing or damaged, the epoch is 0, and the next instance begins a new one.
    pub clock: LaneClock,
    /// Whether the server has started again, or taken over, since an instance used the lane last: then the next instance
    /// begins a new epoch, unless it can prove that nothing was lost (rules 13 and 28).
    pub has_restarted: bool,
}

/// What a key has in Redis.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredKey {
    /// The lane of the key.
    pub lane: LaneState,
    /// Its values, one for each type tag (rule 29), the one that was stored last in front.
    pub values: Vec<Result<StoredValue, Damaged>>,
    /// The type of what is stored, as Redis names it, if that is not a string: then it counts as absent.
    pub other_type: Option<String>,
    /// For how long Redis keeps the key; `None` for no limit, or no key.
    pub kept: Option<Duration>,
    /// The loads that may fill it, one for each type tag.
    pub leases: Vec<StoredLease>,
    /// For how long no load of it is stored (rule 15). `None` if it is not held.
    pub held: Option<Duration>,
    /// The write that waits for its source, with write-behind.
    pub mark: Option<Mark>,
    /// The last invalidation of each tag of its values; `None` if Redis does not know it.
    pub tags: BTreeMap<Key, Option<TagVersion>>,
}

/// A value as it is stored, whose checksum matches.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredValue {
    /// When it was written.
    pub stamp: Stamp,
    /// Until when it is valid.
    pub lifetime: Lifetime,
    /// By its type tag, instances tell values of their own type from those of others.
    pub type_tag: u64,
    /// The number of its outermost format.
    pub codec: u8,
    /// The hash of the names and kinds of its parts, with bincode and postcard.
    pub shape: Option<u64>,
    /// The encoded value.
    pub payload: Vec<u8>,
    /// How many bytes it takes with its head and its tags.
    pub size: usize,
    /// Its tags.
    pub tags: Vec<Key>,
}

/// Bytes that are not a value: a miss for every instance.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Damaged(envelope::Damage);

/// The right of a load to fill a key.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StoredLease {
    /// The epoch in which it was granted.
    pub epoch: u64,
    /// The last version that had been issued when it was granted.
    pub began: u64,
    /// The type tag of the load.
    pub type_tag: u64,
    /// When it ends, in milliseconds of the server's time.
    pub till: u64,
    /// Whether another load waits for its end.
    pub is_awaited: bool,
}

/// A write that waits for its source, and holds loads of its key off.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Mark {
    /// The id of its entry in the stream of writes.
    pub entry: String,
    /// The epoch of the value that was stored with it; zero if there was none.
    pub epoch: u64,
    /// The version of that value.
    pub ver: u64,
}

/// Why no instance uses a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyNot {
    /// The clock of the lane is missing or damaged.
    NoClock,
    /// The server has restarted or failed over.
    Restarted,
    /// It is of this epoch, and the lane has another one.
    OtherEpoch(u64),
    /// The lane has not issued its version yet (rule 11).
    NotIssued,
    /// Its lifetime has ended so many milliseconds ago. It may be kept for loads that fail.
    Expired(u64),
    /// Redis does not know when this tag was invalidated last.
    UnknownTag(Key),
    /// This tag was invalidated with this version.
    InvalidatedTag(Key, u64),
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClock => f.write_str("the lane has lost its clock"),
            Self::Restarted => f.write_str("the server has restarted since"),
            Self::OtherEpoch(epoch) => write!(f, "its epoch {epoch} is over"),
            Self::NotIssued => f.write_str("its version was never issued"),
            Self::Expired(ms) => write!(f, "expired {:?} ago", Duration::from_millis(*ms)),
            Self::UnknownTag(tag) => write!(f, "the version of tag {tag} is lost"),
            Self::InvalidatedTag(tag, ver) => write!(f, "tag {tag} was invalidated at {ver}"),
        }
    }
}

impl Namespace {
    /// Reads how many lanes a namespace has, from its first clock.
    ///
    /// Cost: a connection, and one round trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::RedisL2;
    /// use larder::inspect::Namespace;
    ///
    /// let l2 = RedisL2::open("redis://127.0.0.1:6379")?;
    /// let prices = Namespace::find(&l2, "shop:price").await?;
    /// let tea = prices.key("tea").await?;
    /// for value in tea.values.iter().flatten() {
    ///     println!("version {}: {:?}", value.stamp.ver, tea.why_not(value));
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn find(l2: &RedisL2, namespace: &str) -> Result<Self, L2Error> {
        let mut found = Self {
            topology: Arc::clone(&l2.0.topology),
            name: namespace.to_owned(),
            lanes: 1,
            is_known: false,
        };
        let mut first = found.connect(LaneNumber::ONLY).await?;
        let mut ask = cmd("HGET");
        ask.arg(first.names.name(CLOCK, "")).arg("lanes");
        let named: Option<Vec<u8>> = in_time(ask.query_async(&mut first.connection)).await?;
        let named = named.and_then(|named| str::from_utf8(&named).ok()?.parse().ok());
        let named = named.filter(|lanes| (1..=MOST_LANES).contains(lanes));
        found.is_known = named.is_some();
        found.lanes = named.unwrap_or(1);
        Ok(found)
    }

    /// Whether its clock is there: any instance has used it, and Redis has not lost it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// How many lanes it has.
    #[must_use]
    pub fn number_of_lanes(&self) -> u16 {
        self.lanes
    }

    /// Reads all that a key has, in one step; and then the versions of its tags.
    ///
    /// The key is given as text, as [`redis_key`](crate::key::redis_key) makes it.
    ///
    /// Cost: a connection, and one round trip; another one if a value has tags.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    pub async fn key(&self, key: &str) -> Result<StoredKey, L2Error> {
        let number = nth(key, usize::from(self.lanes));
        let lane = LaneNumber {
            // There are 16 at most.
            number: u16::try_from(number).unwrap_or_default(),
            of: self.lanes,
        };
        self.read(lane, key).await
    }

    /// Reads the state of each lane.
    ///
    /// Cost: a connection and a round trip for each lane.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request.
    pub async fn lanes(&self) -> Result<Vec<LaneState>, L2Error> {
        let mut lanes = Vec::new();
        for lane in LaneNumber::all(self.lanes) {
            lanes.push(self.read(lane, "").await?.lane);
        }
        Ok(lanes)
    }

    /// Counts the keys that begin with a prefix and have values, usable or not. Needs `+scan`.
    ///
    /// Cost: for each lane a connection, and a pass of SCAN over its server, of about a thousand names in a round trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request.
    pub async fn count(&self, prefix: &str) -> Result<usize, L2Error> {
        let mut keys = BTreeSet::new();
        for lane in LaneNumber::all(self.lanes) {
            let mut lane = self.connect(lane).await?;
            let pattern = lane.names.values_under(prefix);
            let mut cursor = 0_u64;
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern);
                scan.arg("COUNT").arg(SCANNED);
                let names: Vec<Vec<u8>>;
                (cursor, names) = in_time(scan.query_async(&mut lane.connection)).await?;
                // A pass may return a name twice.
                keys.extend(names);
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(keys.len())
    }

    /// Subscribes to the changes of all lanes.
    ///
    /// Cost: a connection for each lane, and a round trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    pub async fn changes(&self) -> Result<Changes, L2Error> {
        let mut changes = Changes::default();
        for lane in LaneNumber::all(self.lanes) {
            let (sender, messages) = mpsc::channel(WAITING);
            let sender = Mutex::new(Some(sender));
            let found = self.primary(lane).await?;
            let connecting = found.connector.subscriber(move |push| {
                receive(&mut lock(&sender), push);
                Ok::<_, Infallible>(())
            });
            let connecting = connecting.map_err(connect_error);
            let mut connection = at_most(CONNECT, connecting).await?;
            let names = self.names(lane);
            // A sharded channel is on the node that has the slot.
            let subscribe = cmd(if names.slot.is_some() {
                "SSUBSCRIBE"
            } else {
                "SUBSCRIBE"
            });
            let subscribe = subscribe.clone().arg(&names.events).clone();
            in_time(subscribe.exec_async(&mut connection)).await?;
            changes.lanes.push((lane, messages));
            changes.connections.push(connection);
        }
        Ok(changes)
    }

    fn names(&self, lane: LaneNumber) -> Names {
        let namespace = &*self.name;
        let name = LaneName {
            lane,
            ..LaneName::from(namespace)
        };
        Names::new(name, self.topology.database())
    }

    /// Where the server of a lane is.
    async fn primary(&self, lane: LaneNumber) -> Result<PrimaryAt, L2Error> {
        let slot = self.names(lane).slot;
        at_most(CONNECT, async {
            self.topology.find(slot).await?.primary.find().await
        })
        .await
    }

    async fn connect(&self, lane: LaneNumber) -> Result<Connected, L2Error> {
        let found = self.primary(lane).await?;
        let connecting = found.connector.connection().map_err(connect_error);
        Ok(Connected {
            names: self.names(lane),
            node: found.connector.address(),
            connection: at_most(CONNECT, connecting).await?,
        })
    }

    async fn read(&self, lane: LaneNumber, key: &str) -> Result<StoredKey, L2Error> {
        let mut at = self.connect(lane).await?;
        let mut call = Call::by("EVALSHA_RO", &INSPECT, &at.names, 4);
        call.keys(&[VALUE, LEASE, HOLD], &[key]).own(&[CLOCK]);
        call.load();
        let answer: Answer = in_time(call.run(at.connection.clone())).await?;
        let ((value, lease, hold), left, kind, numbers, run, is_run, mark) = answer;
        let [kept, lease_kept, held] =
            left.map(|ms| u64::try_from(ms).ok().map(Duration::from_millis));
        let clock = clock(numbers, &run);
        let place = Place::namespace(&self.name).key(key);
        let values: Vec<_> = (value.iter())
            .flat_map(|bytes| envelope::open_each(bytes, place))
            .map(|value| value.map(StoredValue::new).map_err(Damaged))
            .collect();
        let tags = values.iter().flatten().flat_map(|value| value.tags.clone());
        let tags = at.tag_versions(tags.collect()).await?;
        // One without a TTL is not of this crate.
        let lease = lease.filter(|_| lease_kept.is_some()).unwrap_or_default();
        let leases = lease.split(' ').filter_map(StoredLease::parse);
        let mark = mark.map(|(entry, till, epoch, ver)| (Mark { entry, epoch, ver }, till));
        let held = match &mark {
            // A hold that was asked for meanwhile is in the mark.
            Some((_, till)) => till
                .checked_sub(clock.now)
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
            None => held.filter(|_| hold.is_some()),
        };
        Ok(StoredKey {
            values,
            other_type: Some(kind).filter(|kind| !matches!(&**kind, "none" | "string")),
            kept,
            leases: leases.filter(|lease| lease.till > clock.now).collect(),
            held,
            mark: mark.map(|(mark, _)| mark),
            tags,
            lane: LaneState {
                lane,
                node: at.node,
                clock,
                has_restarted: is_run == 0,
            },
        })
    }
}

partial_debug!([] Namespace, "Namespace");

/// What INSPECT answers.
type Answer = (
    (Option<Vec<u8>>, Option<String>, Option<String>),
    [i64; 3],
    String,
    [u64; 4],
    String,
    u8,
    Option<(String, u64, u64, u64)>,
);

/// The server of a lane.
struct Connected {
    names: Names,
    node: String,
    connection: MultiplexedConnection,
}

impl Connected {
    async fn tag_versions(
        &mut self,
        tags: BTreeSet<Key>,
    ) -> Result<BTreeMap<Key, Option<TagVersion>>, L2Error> {
        if tags.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut ask = cmd("MGET");
        for tag in &tags {
            ask.arg(self.names.name(TAG_VERSION, tag));
        }
        let stored: Vec<Option<Vec<u8>>> = in_time(ask.query_async(&mut self.connection)).await?;
        let versions = stored.into_iter().map(tag_version);
        Ok(iter::zip(tags, versions).collect())
    }
}

impl StoredKey {
    /// Why no instance uses a value of this key; nothing if those with its type tag do.
    #[must_use]
    pub fn why_not(&self, value: &StoredValue) -> Vec<WhyNot> {
        let (Stamp { epoch, ver, .. }, clock) = (value.stamp, self.lane.clock);
        if clock.epoch == 0 {
            return vec![WhyNot::NoClock];
        }
        let mut why = Vec::new();
        if self.lane.has_restarted {
            why.push(WhyNot::Restarted);
        }
        if epoch != clock.epoch {
            why.push(WhyNot::OtherEpoch(epoch));
        } else if ver > clock.ver {
            why.push(WhyNot::NotIssued);
        }
        if let Some(ago) = clock.now.checked_sub(value.lifetime.expires_at) {
            why.push(WhyNot::Expired(ago));
        }
        // Tag versions compare within an epoch.
        let tags = value.tags.iter().filter(|_| epoch == clock.epoch);
        why.extend(tags.filter_map(|tag| match self.tags.get(tag)? {
            Some(version) if version.epoch == epoch && version.ver < ver => None,
            Some(version) if version.epoch == epoch => {
                Some(WhyNot::InvalidatedTag(tag.clone(), version.ver))
            }
            _ => Some(WhyNot::UnknownTag(tag.clone())),
        }));
        why
    }
}

impl StoredValue {
    fn new(value: Envelope<'_>) -> Self {
        let tags = value.tags.iter().map(|tag| 2 + tag.len()).sum::<usize>();
        Self {
            stamp: value.stamp,
            lifetime: value.lifetime,
            type_tag: value.head.type_tag,
            codec: value.head.codec,
            shape: codec::shape_of(value.head.codec, value.payload),
            payload: value.payload.to_vec(),
            size: STAMPED + PAYLOAD_IN_BODY + value.payload.len() + tags,
            tags: value.tags,
        }
    }

    /// The name of its outermost format.
    #[must_use]
    pub fn format(&self) -> &'static str {
        codec::name_of(self.codec)
    }
}

impl StoredLease {
    /// Reads `epoch:began:token:tag:till` and the marks behind it, as lease.lua describes them.
    fn parse(lease: &str) -> Option<Self> {
        let mut fields = lease.split(':');
        let (epoch, began) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _token = fields.next()?;
        let type_tag = u64::from_str_radix(fields.next()?, 16).ok()?;
        let marked = fields.next()?;
        let till = marked.trim_end_matches(['+', '&']);
        Some(Self {
            epoch,
            began,
            type_tag,
            till: till.parse().ok()?,
            is_awaited: marked.contains('+'),
        })
    }
}

/// The changes of a namespace, in the order of each lane.
#[derive(Default)]
pub struct Changes {
    lanes: Vec<(LaneNumber, mpsc::Receiver<Message>)>,
    /// The subscriptions end with them.
    connections: Vec<MultiplexedConnection>,
}

partial_debug!([] Changes, "Changes");

impl Changes {
    /// The next change, with its lane. `None` if a connection has ended. A message that finds 4 096 of its lane waiting
    /// is dropped, which leaves a hole in their numbers.
    ///
    /// Safe to cancel: no change is lost by that.
    pub async fn next(&mut self) -> Option<(LaneNumber, Message)> {
        let lanes = self.lanes.iter_mut().map(|(lane, messages)| {
            let next = async { Some((*lane, messages.recv().await?)) };
            next.boxed()
        });
        select_all(lanes).await.0
    }
}

/// Keeps a message, and ends the subscription at any other push but its confirmation. Runs inside the connection's
/// driver, so it does not wait.
fn receive(sender: &mut Option<mpsc::Sender<Message>>, push: PushInfo) {
    match (push.kind, push.data.get(1)) {
        (PushKind::Message | PushKind::SMessage, Some(Value::BulkString(payload))) => {
            // A notice is no message.
            if let (Some(sender), Some(message)) = (sender, message::open(payload)) {
                let _ = sender.try_send(message);
            }
        }
        (PushKind::Subscribe | PushKind::SSubscribe, _) => {}
        _ => *sender = None,
    }
}

/// Waits for an answer.
async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, L2Error> {
    at_most(LIMIT, answer.map_err(l2_error)).await
}

async fn at_most<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, L2Error>>,
) -> Result<T, L2Error> {
    let answer = timeout(limit, answer).await;
    answer.unwrap_or_else(|_| Err(L2Error::timed_out(limit)))
}
