//! What `top` knows: the last two looks at each namespace, and since when each member is silent.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder::RedisL2;
use larder::inspect::{FleetState, Member, StoredCounters, Watch};
use larder::stats::Stats;

use crate::server::unknown;
use crate::text::with_causes;

/// Two notes of a subscribed instance are less than this many of its `max_staleness` apart.
const NOTED_WITHIN: u32 = 3;

/// Reads Redis.
pub(super) struct Watcher {
    watch: Watch,
    names: Vec<String>,
}

/// What each namespace had at one moment, or why that is not known.
pub(super) type Looked = Vec<(String, Result<FleetState, Box<dyn Error>>)>;

impl Watcher {
    pub(super) fn new(l2: &RedisL2, names: Vec<String>) -> Self {
        let watch = Watch::new(l2);
        Self { watch, names }
    }

    /// Looks at all namespaces at once: one that does not answer is not to delay the others.
    pub(super) async fn look(&self) -> Looked {
        let looks = self.names.iter().map(async |name| {
            let looked = match self.watch.look(name).await {
                Ok(Some(state)) => Ok(state),
                Ok(None) => Err(unknown(name)),
                Err(error) => Err(error.into()),
            };
            (name.clone(), looked)
        });
        join_all(looks).await
    }
}

/// What is shown.
#[derive(Default)]
pub(super) struct Fleets {
    pub(super) each: BTreeMap<String, Fleet>,
    /// Whether the scan has looked at all keys.
    pub(super) are_all: bool,
}

/// What is known of a namespace.
#[derive(Default)]
pub(super) struct Fleet {
    pub(super) state: Option<FleetState>,
    /// Changes in a second, from the last look but one to the last.
    pub(super) rate: Option<f64>,
    /// Why the last look has failed.
    pub(super) error: Option<String>,
    notes: HashMap<u64, Noted>,
    /// When the last look was that has not failed: members are not silent while Redis is.
    looked: Option<Instant>,
}

/// The last notes of a member, one in each partition.
struct Noted {
    notes: Vec<u64>,
    since: Instant,
    /// Whether they are known to have been made at that time, and not before the first look.
    is_seen: bool,
}

/// A member of a fleet, over all partitions.
pub(super) struct MemberRow {
    pub(super) id: u64,
    /// How many messages it has not applied; `None` if it has applied none in the present epoch of some partition.
    pub(super) lag: Option<u64>,
    pub(super) max_staleness: Duration,
    /// How long ago it has noted something.
    pub(super) noted: Duration,
    /// Whether that is exact, or the time since the first look, in which it has noted nothing.
    pub(super) is_seen: bool,
    /// Whether it has noted nothing for so long that it must have ended, or lost its server.
    is_overdue: bool,
    /// How long ago it has stored its counters, and the release of larder that it runs.
    pub(super) counted: Option<StoredCounters>,
}

impl MemberRow {
    /// `None` until it has noted something, or has had the time to.
    pub(super) fn is_silent(&self) -> Option<bool> {
        (self.is_overdue || self.is_seen).then_some(self.is_overdue)
    }
}

impl Fleets {
    pub(super) fn new(are_all: bool) -> Self {
        Self {
            are_all,
            ..Self::default()
        }
    }

    /// Adds a look. The error is that of one of the namespaces, if all of them have failed.
    pub(super) fn add(&mut self, looked: Looked) -> Result<(), Box<dyn Error>> {
        let mut failed = None;
        let mut is_any = false;
        for (name, looked) in looked {
            let fleet = self.each.entry(name).or_default();
            match looked {
                Ok(state) => {
                    is_any = true;
                    fleet.add(state);
                }
                Err(error) => {
                    fleet.error = Some(with_causes(&*error));
                    fleet.rate = None;
                    failed = Some(error);
                }
            }
        }
        failed.filter(|_| !is_any).map_or(Ok(()), Err)
    }

    /// Whether it is known of each member whether it is silent.
    pub(super) fn are_judged(&self) -> bool {
        let mut members = self.each.values().flat_map(Fleet::members);
        members.all(|row| row.is_silent().is_some())
    }
}

impl Fleet {
    fn add(&mut self, state: FleetState) {
        let now = Instant::now();
        let before = self.state.take();
        let is_first = before.is_none();
        self.rate = before.and_then(|before| rate(&before, &state));
        let mut notes = HashMap::<u64, Vec<u64>>::new();
        for member in state
            .partitions
            .iter()
            .flat_map(|partition| &partition.members)
        {
            notes.entry(member.info.id).or_default().push(member.note);
        }
        // Those that have left are forgotten.
        let known = std::mem::take(&mut self.notes);
        self.notes = notes
            .into_iter()
            .map(|(id, notes)| {
                let noted = match known.get(&id) {
                    Some(known) if known.notes == notes => Noted { notes, ..*known },
                    // It has noted something since the last look, or joined.
                    _ => Noted {
                        notes,
                        since: now,
                        is_seen: !is_first,
                    },
                };
                (id, noted)
            })
            .collect();
        self.error = None;
        self.looked = Some(now);
        self.state = Some(state);
    }

    /// Whether all instances are switched off, as far as one partition says so.
    pub(super) fn is_off(&self) -> bool {
        let partitions = self.state.iter().flat_map(|state| &state.partitions);
        partitions
            .into_iter()
            .any(|partition| partition.state.clock.is_off)
    }

    /// Its members; those that lag or are silent come first.
    pub(super) fn members(&self) -> Vec<MemberRow> {
        let mut rows = BTreeMap::<u64, MemberRow>::new();
        let state = self.state.iter();
        for partition in state.clone().flat_map(|state| &state.partitions) {
            let clock = partition.state.clock;
            for Member { info, applied, .. } in &partition.members {
                let lag = clock.seq.saturating_sub(applied.seq);
                let lag = (applied.epoch == clock.epoch).then_some(lag);
                let row = rows.entry(info.id).or_insert_with(|| self.member(info.id));
                row.lag = row.lag.zip(lag).map(|(all, lag)| all + lag);
                row.max_staleness = info.max_staleness;
                row.is_overdue = row.noted >= info.max_staleness * NOTED_WITHIN;
            }
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.sort_by_key(|row| {
            (
                !row.is_overdue,
                row.lag.is_some(),
                u64::MAX - row.lag.unwrap_or(0),
            )
        });
        rows
    }

    fn member(&self, id: u64) -> MemberRow {
        let (noted, looked) = (self.notes.get(&id), self.looked);
        let unchanged = noted
            .zip(looked)
            .map(|(noted, looked)| looked - noted.since);
        let state = self.state.as_ref();
        MemberRow {
            id,
            lag: Some(0),
            max_staleness: Duration::ZERO,
            noted: unchanged.unwrap_or_default(),
            is_seen: noted.is_some_and(|noted| noted.is_seen),
            is_overdue: false,
            counted: state.and_then(|state| state.stored.get(&id).cloned()),
        }
    }
}

/// Changes in a second, by the numbers of the clocks and the time of the server.
fn rate(before: &FleetState, now: &FleetState) -> Option<f64> {
    let sum = |state: &FleetState| {
        state
            .partitions
            .iter()
            .map(|partition| partition.state.clock.seq)
            .sum::<u64>()
    };
    let time = |state: &FleetState| {
        state
            .partitions
            .first()
            .map(|partition| partition.state.clock.now)
    };
    // A clock that was lost, or set back, has no rate.
    let changes = sum(now).checked_sub(sum(before))?;
    let passed = time(now)?.checked_sub(time(before)?)?;
    ratio(changes * 1000, passed)
}

/// The share of look-ups that either level has answered.
pub(super) fn hit_rate(counted: &Stats) -> Option<f64> {
    let hits = counted.l1_hits + counted.l2_hits;
    ratio(hits, hits + counted.l2_misses)
}

fn ratio(part: u64, of: u64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "a few digits of it are shown")]
    let ratio = part as f64 / of as f64;
    (of > 0).then_some(ratio)
}
