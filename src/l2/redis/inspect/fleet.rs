//! Which namespaces there are, and what their fleets do: for tools that look again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use deadpool_redis::redis::cmd;
use futures::TryFutureExt;

use super::audit::LaneAudit;
use super::{CONNECT, Connected, Namespace, SCANNED, at_most, connect_error, in_time};
use crate::l2::redis::RedisL2;
use crate::l2::redis::lane::stored_counts;
use crate::l2::redis::names::CLOCK;
use crate::l2::{L2Error, LaneNumber};
use crate::stats::Stats;
use crate::util::partial_debug::partial_debug;

/// What comes before and after the name of a namespace in the name of its first clock, which each namespace has,
/// whatever its number of lanes is (rule 27).
const FIRST_CLOCK: [&str; 2] = ["{", ".0}"];

/// The namespaces that a scan has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Found {
    /// Their names.
    pub names: BTreeSet<String>,
    /// Whether all keys were looked at.
    pub are_all: bool,
}

/// The fleet of a namespace at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FleetState {
    /// What each lane keeps for itself.
    pub lanes: Vec<LaneAudit>,
    /// What all instances have counted, as far as each has stored it, those that have ended included. The entries of L1
    /// are not stored, so their number is 0.
    pub counters: Stats,
    /// By instances, how long ago each has stored its counters. The id of an instance is also its id as a member.
    pub stored: BTreeMap<u64, Duration>,
}

impl Namespace {
    /// Looks for namespaces by a SCAN for their clocks, over `most` names of keys on each server, or about as many. Needs
    /// `+scan`, and no right to the keys.
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
    /// for name in Namespace::scan(&l2, 1_000_000).await?.names {
    ///     let mut fleet = Namespace::find(&l2, &name).await?.watch().await?;
    ///     let now = fleet.look().await?;
    ///     println!("{name}: {} loads in {} lanes", now.counters.loads, now.lanes.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn scan(l2: &RedisL2, most: usize) -> Result<Found, L2Error> {
        let [before, after] = FIRST_CLOCK;
        // No name of a namespace has a character of a pattern's own meaning here: braces have none.
        let pattern = format!("{before}*{after}{CLOCK}");
        let mut found = Found {
            are_all: true,
            ..Found::default()
        };
        for primary in at_most(CONNECT, l2.0.topology.all()).await? {
            let primary = at_most(CONNECT, primary.find()).await?;
            let connecting = primary.connector.connection().map_err(connect_error);
            let mut connection = at_most(CONNECT, connecting).await?;
            let (mut cursor, mut looked_at) = (0_u64, 0);
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern);
                scan.arg("COUNT").arg(SCANNED);
                let names: Vec<Vec<u8>>;
                (cursor, names) = in_time(scan.query_async(&mut connection)).await?;
                found.names.extend(names.iter().filter_map(|name| {
                    let name = str::from_utf8(name).ok()?.strip_prefix(before)?;
                    let name = name.strip_suffix(CLOCK)?.strip_suffix(after)?;
                    // A key of some cache may end like a clock; no namespace has a brace.
                    (!name.contains(['{', '}'])).then(|| name.to_owned())
                }));
                looked_at += SCANNED;
                if cursor == 0 || looked_at >= most {
                    found.are_all &= cursor == 0;
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Connects to all lanes, to look at them several times.
    ///
    /// Cost: a connection for each lane, which is kept.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached.
    pub async fn watch(&self) -> Result<Watch, L2Error> {
        let mut lanes = Vec::new();
        for lane in LaneNumber::all(self.lanes) {
            lanes.push(self.connect(lane).await?);
        }
        Ok(Watch { lanes })
    }
}

/// The connections to the lanes of a namespace, over which its fleet is looked at.
pub struct Watch {
    lanes: Vec<Connected>,
}

partial_debug!([] Watch, "Watch");

impl Watch {
    /// Looks at the fleet. The rate of changes is the difference of two looks at the `seq` of each clock.
    ///
    /// Cost: one round trip for each lane, and one for the counters.
    ///
    /// # Errors
    ///
    /// If a server cannot be reached, or refuses a request; or if the number of lanes has changed. After an error, begin
    /// anew with [`Namespace::find`]: the connections stay as they are.
    pub async fn look(&mut self) -> Result<FleetState, L2Error> {
        let mut state = FleetState {
            lanes: Vec::new(),
            counters: Stats::default(),
            stored: BTreeMap::new(),
        };
        for lane in &mut self.lanes {
            state.lanes.push(lane.audit().await?);
        }
        // Instances store their counters in the first lane.
        let (Some(first), Some(audit)) = (self.lanes.first_mut(), state.lanes.first()) else {
            return Ok(state);
        };
        let now = audit.state.clock.now;
        for (instance, text) in
            in_time(stored_counts(&first.names, first.connection.clone())).await?
        {
            state.counters.add_text(&text);
            // By the server's time, with which a text begins. The sums of instances that have ended have the id 0.
            let at = text.split(' ').next().and_then(|at| at.parse().ok());
            if let Some(at) = at.filter(|_| instance != 0) {
                let ago = Duration::from_millis(now.saturating_sub(at));
                state.stored.insert(instance, ago);
            }
        }
        Ok(state)
    }
}
