//! Which namespaces there are, and what their fleets do: for tools that look again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::cmd;

use super::audit::PartitionAudit;
use super::connections::{CONNECT_TIMEOUT, KeptConnections, at_most, connect, in_time};
use super::{Namespace, SCAN_COUNT};
use crate::l2::redis::RedisL2;
use crate::l2::redis::names::{CLOCK, literal};
use crate::l2::redis::steps::counts::stored_counts;
use crate::l2::{L2Error, PartitionNumber};
use crate::stats::{BYPASS, INSTANCE, MISMATCHED, RELEASE, SHARE, Stats};
use crate::util::partial_debug::partial_debug;

/// What comes before and after the name of a namespace in the name of its first clock, which each namespace has,
/// whatever its number of partitions is (rule 27: only the partitions of one number are used).
const FIRST_CLOCK: [&str; 2] = ["{", ".0}"];

/// The namespaces that a scan has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NamespaceScan {
    /// Their names.
    pub names: BTreeSet<String>,
    /// Whether all keys were looked at.
    pub are_all: bool,
}

/// The fleet of a namespace at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FleetState {
    /// What each partition keeps for itself.
    pub partitions: Vec<PartitionAudit>,
    /// What all instances have counted, as far as each has stored it, those that have ended included. The entries of L1
    /// are not stored, so their number is 0.
    pub counters: Stats,
    /// By instances, the last time each has stored its counters. The id of an instance is also its id as a member.
    pub stored: BTreeMap<u64, StoredCounters>,
}

/// The last time an instance has stored its counters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredCounters {
    /// How long ago.
    pub ago: Duration,
    /// The release of larder that the instance runs, such as `0.1.0`, if it has said so.
    pub release: Option<String>,
    /// Its [name](crate::Builder::instance_name), if it has said so.
    pub name: Option<String>,
    /// How long the instance has run.
    pub up: Duration,
    /// For which share of all keys the instance used the cache then, from 0.0 to 1.0; 0.0 also if it was switched off in
    /// this instance alone. Whether all instances are off is in
    /// [`PartitionClock::is_off`](crate::l2::PartitionClock::is_off).
    pub share: f64,
    /// Which list of prefixes it bypasses as all instances do, see [`BypassList::id`](super::BypassList::id). `None` for none.
    pub bypass: Option<u64>,
    /// The last keys that [`verify`](crate::Builder::verify) has found to be old in this instance, the oldest first: four
    /// at most, and none of more than 128 bytes.
    pub mismatched: Vec<String>,
}

impl Namespace {
    /// Looks for namespaces by a SCAN for their clocks, over `most` names of keys on each server, or about as many.
    /// Needs `+scan`, and no right to the keys.
    ///
    /// Cost: for each server a connection, and a round trip for each thousand names. In a cluster the primaries are
    /// asked first who has which slot.
    ///
    /// # Errors
    ///
    /// If a server cannot be reached, or refuses a request.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::RedisL2;
    /// use larder::inspect::Namespace;
    ///
    /// let l2 = RedisL2::open("redis://127.0.0.1:6379")?;
    /// let found = Namespace::scan(&l2, 1_000_000).await?;
    /// println!("{:?}, all: {}", found.names, found.are_all);
    /// # Ok(()) }
    /// ```
    pub async fn scan(l2: &RedisL2, most: usize) -> Result<NamespaceScan, L2Error> {
        let [before, after] = FIRST_CLOCK;
        let before = &*format!("{}{before}", l2.0.key_prefix);
        // Braces have no meaning in a pattern, but a prefix may have characters that do.
        // Namespaces with another prefix are those of other fleets, and are not looked for.
        let pattern = format!("{}*{after}{CLOCK}", literal(before));
        let mut found = NamespaceScan {
            are_all: true,
            ..NamespaceScan::default()
        };
        // One after the other: a tool may take its time, and the servers have other work.
        for primary in at_most(CONNECT_TIMEOUT, l2.0.topology.all()).await? {
            let primary = at_most(CONNECT_TIMEOUT, primary.find()).await?;
            let mut connection = connect(&primary.connector).await?;
            let (mut cursor, mut looked_at) = (0_u64, 0);
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern);
                scan.arg("COUNT").arg(SCAN_COUNT);
                let names: Vec<Vec<u8>>;
                (cursor, names) = in_time(scan.query_async(&mut connection)).await?;
                found.names.extend(names.iter().filter_map(|name| {
                    let name = str::from_utf8(name).ok()?.strip_prefix(before)?;
                    let name = name.strip_suffix(CLOCK)?.strip_suffix(after)?;
                    // A key of some cache may end like a clock; no namespace has a brace.
                    (!name.contains(['{', '}'])).then(|| name.to_owned())
                }));
                // The server may return more or fewer names than it has looked at, so the names say nothing of that.
                looked_at += SCAN_COUNT;
                if cursor == 0 || looked_at >= most {
                    found.are_all &= cursor == 0;
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// Looks at fleets again and again, over connections that all of them share.
///
/// ```no_run
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::RedisL2;
/// use larder::inspect::{Namespace, Watch};
///
/// let l2 = RedisL2::open("redis://127.0.0.1:6379")?;
/// let watch = Watch::new(&l2);
/// for name in Namespace::scan(&l2, 1_000_000).await?.names {
///     if let Some(fleet) = watch.look(&name).await? {
///         println!("{name}: {} loads in {} partitions", fleet.counters.loads, fleet.partitions.len());
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Watch {
    l2: RedisL2,
    kept: Arc<KeptConnections>,
}

partial_debug!([] Watch, "Watch");

impl Watch {
    /// Does not connect yet.
    #[must_use]
    pub fn new(l2: &RedisL2) -> Self {
        Self {
            l2: l2.clone(),
            kept: Arc::default(),
        }
    }

    /// Looks at the fleet of a namespace; `None` if no instance has used it, or Redis has lost its clock. The rate of
    /// changes is the difference of two looks at the `seq` of each clock.
    ///
    /// Cost: one round trip for the number of partitions, one for each partition, and one for the counters, over one
    /// connection to each server, which is kept. Sentinels, or the nodes of a cluster, are asked first. Safe to cancel.
    ///
    /// # Errors
    ///
    /// If a server cannot be reached, or refuses a request; or if the number of partitions changes meanwhile. The next call
    /// makes new connections if it has to.
    pub async fn look(&self, namespace: &str) -> Result<Option<FleetState>, L2Error> {
        let looked = self.look_over_kept(namespace).await;
        if looked.as_ref().is_err_and(|error| !error.is_refused()) {
            // Which connection is at fault is not known, and new ones are cheap.
            self.kept.forget();
        }
        looked
    }

    async fn look_over_kept(&self, namespace: &str) -> Result<Option<FleetState>, L2Error> {
        // The number of partitions is read each time: it may have changed since the last look.
        let kept = Some(Arc::clone(&self.kept));
        let namespace = Namespace::find_over(kept, &self.l2, namespace).await?;
        if !namespace.is_known() {
            return Ok(None);
        }
        let mut state = FleetState {
            partitions: Vec::new(),
            counters: Stats::default(),
            stored: BTreeMap::new(),
        };
        for number in PartitionNumber::all(namespace.number_of_partitions()) {
            let mut partition = namespace.connect(number).await?;
            let audit = partition.audit().await?;
            // Instances store their counters in the first partition.
            if number.number == 0 {
                let counts = stored_counts(&partition.names, partition.connection.clone());
                state.count(&in_time(counts).await?, audit.state.clock.now);
            }
            state.partitions.push(audit);
        }
        Ok(Some(state))
    }
}

impl FleetState {
    /// The name of an instance, if it has stored one. See [`StoredCounters::name`].
    #[must_use]
    pub fn name(&self, instance: u64) -> Option<&str> {
        self.stored.get(&instance)?.name.as_deref()
    }

    /// Adds up what instances have stored until this time of the server.
    fn count(&mut self, stored: &[(u64, String)], now: u64) {
        for (instance, text) in stored {
            self.counters.add_text(text);
            // A text begins with the time. The sums of instances that have ended have the id 0.
            let at = text.split(' ').next().and_then(|at| at.parse().ok());
            if let Some(at) = at.filter(|_| *instance != 0) {
                let ago = Duration::from_millis(now.saturating_sub(at));
                let part = |name| text.split(' ').find_map(|part| part.strip_prefix(name));
                let share = part(SHARE).and_then(|share| share.parse().ok());
                let bypass = part(BYPASS).and_then(|id| u64::from_str_radix(id, 16).ok());
                let ran = text.split(' ').nth(1).and_then(|ran| ran.parse().ok());
                let counted = StoredCounters {
                    ago,
                    release: part(RELEASE).map(str::to_owned),
                    name: part(INSTANCE).map(str::to_owned),
                    up: ago + Duration::from_millis(ran.unwrap_or(0)),
                    share: share
                        .filter(|share| (0.0..=1.0).contains(share))
                        .unwrap_or(1.0),
                    bypass,
                    mismatched: part(MISMATCHED).map(keys_of).unwrap_or_default(),
                };
                self.stored.insert(*instance, counted);
            }
        }
    }
}

/// Keys in hexadecimal digits. Another program may have written any text.
fn keys_of(text: &str) -> Vec<String> {
    let key = |digits: &str| {
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        String::from_utf8(pairs.map(byte).collect::<Option<_>>()?).ok()
    };
    let texts = text
        .split(',')
        .filter(|text| text.bytes().all(|digit| digit.is_ascii_hexdigit()));
    texts.filter_map(key).collect()
}
