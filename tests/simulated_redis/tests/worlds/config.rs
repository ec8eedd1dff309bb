//! What a world is like, drawn from its seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

use crate::faults::Fault;

/// Where values are besides L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValuesIn {
    L2,
    /// Nowhere: each value stays in the instance that has loaded it.
    Instances,
    /// In L2 for every other instance, as during a rolling deploy.
    Both,
}

impl ValuesIn {
    /// Whether the values of an instance stay in it.
    pub(crate) fn are_local_to(self, instance: usize) -> bool {
        match self {
            Self::L2 => false,
            Self::Instances => true,
            Self::Both => instance % 2 == 1,
        }
    }
}

/// What is known of the server, of one that is no cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    Plain,
    /// Sentinels name the primary.
    BehindSentinels,
    /// It names no incarnation, so its history is known by its data alone.
    Unnamed,
}

/// One world's constants. Times are in milliseconds of simulated time.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) instances: usize,
    pub(crate) keys: u64,
    /// How uneven the keys are asked for: 1 is even.
    pub(crate) skew: i32,
    pub(crate) lasts_ms: u64,
    pub(crate) readers: usize,
    pub(crate) writers: usize,
    /// How long a reader, or a writer, rests in the mean.
    pub(crate) read_rest_ms: u64,
    pub(crate) write_rest_ms: u64,
    /// The share of writes that are inserts.
    pub(crate) inserts: f64,
    /// The share of inserts of many keys during which their instance is switched off and on again.
    pub(crate) switched: f64,
    /// The share of writes in whose place all instances are switched off, or on again.
    pub(crate) switched_everywhere: f64,
    /// The share of writes that are invalidations everywhere, waited for.
    pub(crate) waited_for: f64,
    /// The share of writes that invalidate all keys with a prefix.
    pub(crate) prefixes: f64,
    /// The share of writes that invalidate a tag. If there are any, values have tags.
    pub(crate) tags: f64,
    /// The share of look-ups that load anew, whatever is there.
    pub(crate) refreshes: f64,
    /// The share of look-ups before which the key is touched or expired.
    pub(crate) touches: f64,
    /// The share of writes that are inserts on a condition, by two instances at once.
    pub(crate) competitions: f64,
    /// The share of changes that write through the cache.
    pub(crate) written_through: f64,
    /// The share of writes in whose place an instance is warmed up.
    pub(crate) warming: f64,
    /// The share of writes that reach the source later. If there are any, the others are made beside them.
    pub(crate) written_behind: f64,
    /// Whether each of these is an update, and what is done beside them commits nothing.
    pub(crate) are_updates: bool,
    pub(crate) values_in: ValuesIn,
    /// The share of look-ups that are given the token of a write.
    pub(crate) tokens: f64,
    /// For how long entries live without a read.
    pub(crate) sliding_ms: Option<u64>,
    /// The share of calls that are cancelled.
    pub(crate) cancelled: f64,
    /// That of every other instance; the rest have twice as long, if it is `uneven`.
    pub(crate) max_staleness_ms: u64,
    pub(crate) uneven: bool,
    /// For how long L1 may answer unproven.
    pub(crate) available_ms: Option<u64>,
    pub(crate) l2_timeout_ms: u64,
    pub(crate) l2_ttl_ms: u64,
    /// All that there is, or nothing: of less, it depends on random hashes and the real time what moka puts
    /// out, and no seed had one history.
    pub(crate) l1_capacity: u64,
    /// Where it is shorter than a request takes, entries are gone again while there are others under way.
    pub(crate) l1_ttl_ms: Option<u64>,
    pub(crate) soft_ttl_ms: Option<u64>,
    /// From which share of its time on a value that is read is refreshed.
    pub(crate) refresh_ahead: Option<f64>,
    /// For how long values are kept past their TTL. Loads fail more often then.
    pub(crate) stale_if_error_ms: u64,
    /// How long a caller waits for the refresh of a stale value.
    pub(crate) stale_wait: Duration,
    pub(crate) error_ttl_ms: u64,
    pub(crate) lease_ttl_ms: u64,
    pub(crate) lease_wait_ms: u64,
    pub(crate) load_timeout_ms: u64,
    pub(crate) max_deferred: usize,
    /// How many partitions the instances are told that the namespace has: the first number in the first part of the world's
    /// time, and in each later one the next number, or still the one before.
    pub(crate) partitions: Vec<u16>,
    /// How many schema versions the instances have.
    pub(crate) types: usize,
    /// How many primaries there are: those of a cluster, if they are several.
    pub(crate) servers: usize,
    /// How long a packet takes.
    pub(crate) delay_ms: RangeInclusive<u64>,
    pub(crate) load_ms: RangeInclusive<u64>,
    pub(crate) slow_load_ms: RangeInclusive<u64>,
    pub(crate) slow_loads: f64,
    /// The share of loads that fail, panic or hang.
    pub(crate) bad_loads: f64,
    /// How far the replica lags behind that loads read.
    pub(crate) lag_ms: u64,
    /// How long it is between faults, in the mean.
    pub(crate) fault_every_ms: u64,
    pub(crate) server: ServerKind,
    /// How often each kind of fault is chosen.
    pub(crate) faults: Vec<(Fault, u32)>,
}

impl Config {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut config = Self::with_one_server(seed);
        config.faults.extend([
            (Fault::AnswersHeldUp, 3),
            (Fault::MessagesHeldUp, 3),
            (Fault::StoreAway, 2),
            (Fault::StorePaused, 3),
            (Fault::StoreFull, 3),
            (Fault::KeyEvicted, 8),
            (Fault::ScriptsForgotten, 3),
        ]);
        // Redis loses holds; and a replica of the source may give what is older than an epoch.
        if config.lag_ms == 0 {
            config.faults.push((Fault::Flushed, 3));
            if seed % 2 == 1 {
                config.server = ServerKind::BehindSentinels;
                let others = [(Fault::Isolated, 3), (Fault::SplitBrain, 2)];
                config.faults.extend(others);
            }
        } else {
            config.faults.push((Fault::HoldEvicted, 3));
        }
        match seed % 16 {
            2 => config.faults.push((Fault::PutBack, 3)),
            6 => config.faults.push((Fault::ClockSteppedBack, 3)),
            _ => {}
        }
        config
    }

    /// On the nodes of a cluster, some of whose partitions are more after a while.
    pub(crate) fn in_cluster(seed: u64) -> Self {
        let mut config = Self::draw(seed);
        let moves = [(Fault::SlotMoved, 3), (Fault::NobodyElected, 2)];
        config.faults.extend(moves);
        if config.lag_ms == 0 {
            config.faults.extend([
                (Fault::HandedOver, 4),
                (Fault::Isolated, 3),
                (Fault::SplitBrain, 2),
                (Fault::CutAndGrown, 1),
            ]);
        } else {
            // A load that reads from a replica may be older than the epoch that a failover begins: see `lagging`.
            let fails_over = |fault| matches!(fault, Fault::StoreAway | Fault::StorePaused);
            config.faults.retain(|(fault, _)| !fails_over(*fault));
        }
        Self {
            partitions: if seed % 4 == 1 { vec![1, 2] } else { vec![4] },
            servers: 3,
            server: ServerKind::Plain,
            ..config
        }
    }

    fn with_one_server(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed ^ 0xc0f1_9a5e);
        let max_staleness_ms = *rng.choice(&[150, 300, 600, 1000, 2000]).unwrap();
        let l2_timeout_ms = *rng.choice(&[100, 200, 500]).unwrap();
        let l2_ttl_ms = *rng.choice(&[1500, 10_000, 3_600_000]).unwrap();
        let slow_load = max_staleness_ms * 3 / 2;
        let mut drawn = Self {
            instances: rng.usize(3..=5),
            keys: rng.u64(6..=40),
            skew: rng.i32(1..=3),
            lasts_ms: 100_000,
            readers: rng.usize(2..=4),
            writers: rng.usize(2..=4),
            read_rest_ms: rng.u64(40..=160),
            write_rest_ms: rng.u64(150..=1500),
            inserts: *rng.choice(&[0.0, 0.1, 0.3]).unwrap(),
            switched: if seed % 3 == 1 { 0.3 } else { 0.0 },
            switched_everywhere: 0.0,
            waited_for: *rng.choice(&[0.0, 0.1]).unwrap(),
            prefixes: if seed % 8 < 3 { 0.05 } else { 0.0 },
            tags: if (seed / 8).is_multiple_of(2) {
                0.1
            } else {
                0.0
            },
            refreshes: if seed.is_multiple_of(3) { 0.01 } else { 0.0 },
            touches: if seed % 3 == 1 { 0.02 } else { 0.0 },
            competitions: if seed % 4 == 2 { 0.2 } else { 0.0 },
            written_through: if seed % 5 == 1 { 0.2 } else { 0.0 },
            warming: if seed % 3 == 2 { 0.1 } else { 0.0 },
            written_behind: 0.0,
            values_in: ValuesIn::L2,
            are_updates: false,
            tokens: if seed.is_multiple_of(2) { 0.05 } else { 0.0 },
            sliding_ms: (seed % 5 == 3).then_some(if seed.is_multiple_of(2) { 300 } else { 1200 }),
            cancelled: *rng.choice(&[0.0, 0.02, 0.1]).unwrap(),
            max_staleness_ms,
            uneven: rng.u8(0..4) == 0,
            available_ms: (rng.u8(0..4) == 0).then(|| rng.u64(100..=5000)),
            l2_timeout_ms,
            l2_ttl_ms,
            l1_capacity: 10_000,
            l1_ttl_ms: (rng.u8(0..4) == 0).then(|| rng.u64(200..=1400)),
            soft_ttl_ms: (rng.u8(0..3) == 0).then(|| rng.u64(100..=1200)),
            refresh_ahead: (seed % 7 == 2).then_some(0.5),
            stale_if_error_ms: 0,
            stale_wait: Duration::ZERO,
            error_ttl_ms: 0,
            lease_ttl_ms: *rng.choice(&[400, 1000, 2000]).unwrap(),
            lease_wait_ms: *rng.choice(&[1000, 2000, 5000]).unwrap(),
            load_timeout_ms: rng.u64(slow_load * 2..=slow_load * 2 + 4000),
            max_deferred: *rng.choice(&[2, 10_000]).unwrap(),
            partitions: vec![1],
            types: if seed % 5 == 4 { 2 } else { 1 },
            servers: 1,
            delay_ms: *rng.choice(&[0, 1, 3]).unwrap()..=*rng.choice(&[3, 8, 20]).unwrap(),
            load_ms: rng.u64(0..=10)..=*rng.choice(&[20, 60, 300]).unwrap(),
            slow_load_ms: slow_load..=slow_load * 2,
            slow_loads: *rng.choice(&[0.01, 0.03, 0.1]).unwrap(),
            bad_loads: *rng.choice(&[0.0, 0.02, 0.05]).unwrap(),
            lag_ms: 0,
            fault_every_ms: *rng.choice(&[700, 1500, 4000]).unwrap(),
            server: ServerKind::Plain,
            faults: all_faults(),
        };
        match rng.u8(0..8) {
            0 => drawn.l1_capacity = 0,
            1 => drawn.l1_ttl_ms = Some(rng.u64(1..=30)),
            _ => {}
        }
        drawn.falling_back(&mut Rng::with_seed(seed ^ 0xfa11_bacc));
        if seed.is_multiple_of(4) {
            drawn.messages_made_up();
        }
        match seed % 8 {
            7 => drawn.lagging(rng.u64(20..=1500)),
            _ => drawn,
        }
    }

    /// Of some worlds, with what is handed out when loads fail. Its draws are its own, so that they change no other.
    fn falling_back(&mut self, rng: &mut Rng) {
        if rng.bool() {
            self.stale_if_error_ms = *rng.choice(&[200, 2000, 60_000]).unwrap();
            self.bad_loads = self.bad_loads.max(*rng.choice(&[0.02, 0.1, 0.4]).unwrap());
            self.l2_ttl_ms = *rng.choice(&[300, 1500]).unwrap();
            self.soft_ttl_ms = self.soft_ttl_ms.map(|ttl| ttl.min(self.l2_ttl_ms / 2));
            self.l1_ttl_ms = self.l1_ttl_ms.map(|ttl| ttl.min(self.l2_ttl_ms));
            self.sliding_ms = self.sliding_ms.map(|idle| idle.min(self.l2_ttl_ms / 2));
        }
        if self.soft_ttl_ms.is_some() && rng.bool() {
            let ms = Duration::from_millis(rng.u64(1..=200));
            self.stale_wait = *rng.choice(&[ms, Duration::MAX]).unwrap();
        }
        if rng.u8(0..4) == 0 {
            self.error_ttl_ms = rng.u64(10..=1000);
        }
    }

    /// With loads that read from replicas, and holds for as long as these lag. What takes the store's holds
    /// away, or comes without one, is left out: no cache can make up for that.
    pub(crate) fn lagging(mut self, lag_ms: u64) -> Self {
        self.lag_ms = lag_ms;
        self.inserts = 0.0;
        self.competitions = 0.0;
        self.written_through = 0.0;
        self.waited_for = 0.0;
        self.prefixes = 0.0;
        self.tags = 0.0;
        self.tokens = 0.0;
        self.max_deferred = 10_000;
        self.faults.retain(|(fault, _)| {
            !matches!(
                fault,
                Fault::StoreEmptied
                    | Fault::StoreRolledBack
                    | Fault::ClockStepped
                    | Fault::FailedOver
                    | Fault::Cleared
            )
        });
        self
    }

    /// A drawn world without holds, whose values stay in the instance that has loaded them.
    pub(crate) fn with_local_values(seed: u64) -> Self {
        let without_lag = seed / 7 * 8 + seed % 7;
        Self {
            values_in: if seed % 3 == 2 {
                ValuesIn::Both
            } else {
                ValuesIn::Instances
            },
            competitions: 0.0,
            types: 1,
            ..Self::draw(without_lag)
        }
    }

    /// The most partitions that the namespace gets. All other numbers divide this one.
    pub(crate) fn most_partitions(&self) -> u16 {
        self.partitions.iter().copied().max().unwrap_or(1)
    }

    /// The number of partitions that an instance is told which starts after so long.
    pub(crate) fn partitions_at(&self, since: Duration, rng: &mut Rng) -> u16 {
        let parts = self.partitions.len();
        let part = Duration::from_millis(self.lasts_ms) / u32::try_from(parts).unwrap();
        let now = (0..parts)
            .rev()
            .find(|at| since >= part * u32::try_from(*at).unwrap());
        let now = now.unwrap_or(0);
        self.partitions[now.saturating_sub(usize::from(parts > 1 && rng.bool()))]
    }

    pub(crate) fn max_staleness(&self) -> Duration {
        Duration::from_millis(self.max_staleness_ms)
    }

    /// That of one instance.
    pub(crate) fn max_staleness_of(&self, instance: usize) -> Duration {
        let longer = self.uneven && instance % 2 == 1;
        self.max_staleness() * if longer { 2 } else { 1 }
    }

    /// Whether each heartbeat of an instance is answered within `max_staleness` while there is no fault.
    pub(crate) fn are_heartbeats_in_time(&self, instance: usize) -> bool {
        Duration::from_millis(2 * self.delay_ms.end()) < self.max_staleness_of(instance)
    }

    /// The schema version of one instance.
    pub(crate) fn type_of(&self, instance: usize) -> u32 {
        u32::try_from(instance % self.types).unwrap()
    }

    pub(crate) fn l2_timeout(&self) -> Duration {
        Duration::from_millis(self.l2_timeout_ms)
    }

    /// How long after L2 has said how to load a key, a load may begin when all is well: when the answer has come, and
    /// those for the keys that are loaded together with it, one of which may be asked for twice.
    pub(crate) fn late(&self) -> Duration {
        3 * Duration::from_millis(self.delay_ms.end() + 1)
    }

    pub(crate) fn lease_wait(&self) -> Duration {
        Duration::from_millis(self.lease_wait_ms)
    }

    /// How long after its end a fault may still show: connections are made again with growing pauses, a
    /// lease of the lost runs out, deferred writes are delivered.
    pub(crate) fn recovery(&self) -> Duration {
        // Nodes of a cluster suspect one another, elect and are heard of.
        let elected = if self.servers > 1 { 5000 } else { 0 };
        let connected = 4 * self.max_staleness_ms + 4 * self.l2_timeout_ms + 2500;
        Duration::from_millis(connected + self.lease_ttl_ms + elected)
    }

    /// What is looked up after a load has failed, or after a refresh: then perhaps there is a load to wait for all the
    /// same.
    fn falls_back_within_ms(&self) -> u64 {
        let looked_up = if self.stale_if_error_ms > 0 { 3 } else { 0 };
        let refreshed = match self.stale_wait {
            Duration::ZERO => 0,
            _ => 5 * self.l2_timeout_ms + self.lease_wait_ms + self.load_timeout_ms,
        };
        looked_up * self.l2_timeout_ms + refreshed
    }

    /// A caller that has waited for a load may find that a tag was invalidated meanwhile, or that the load began before
    /// the write whose token it has; a request for tag versions is one more.
    fn loads_again_within_ms(&self) -> u64 {
        if self.tags > 0.0 || self.tokens > 0.0 {
            4 * self.l2_timeout_ms + self.lease_wait_ms + self.load_timeout_ms
        } else {
            0
        }
    }

    /// A look-up reads L2, waits for another's load, then loads and stores.
    pub(crate) fn answered_within(&self) -> Duration {
        Duration::from_millis(
            3 * self.l2_timeout_ms
                + self.lease_wait_ms
                + self.load_timeout_ms
                + self.falls_back_within_ms()
                + self.loads_again_within_ms()
                + 10,
        )
    }
}

impl Config {
    /// A publisher makes messages up. What is lost besides, on a connection that goes on, it can hide: rule 21.
    fn messages_made_up(&mut self) {
        self.faults
            .retain(|(fault, _)| !matches!(fault, Fault::MessagesLost | Fault::SlowSubscriber));
        self.faults.push((Fault::MessagesMadeUp, 8));
    }
}

fn all_faults() -> Vec<(Fault, u32)> {
    vec![
        (Fault::SlowNetwork, 3),
        (Fault::Congestion, 3),
        (Fault::RequestsVanish, 2),
        (Fault::RepliesVanish, 3),
        (Fault::HalfOpen, 2),
        (Fault::Cut, 3),
        (Fault::SubscriberSilent, 3),
        (Fault::SubscriberHalfOpen, 2),
        (Fault::SubscriberCut, 3),
        (Fault::MessagesLost, 5),
        (Fault::SlowSubscriber, 3),
        (Fault::Paused, 2),
        (Fault::PausedLong, 2),
        (Fault::Unreachable, 2),
        (Fault::Death, 2),
        (Fault::Closed, 2),
        (Fault::StoreEmptied, 3),
        (Fault::StoreRolledBack, 4),
        (Fault::ClockStepped, 2),
        (Fault::FailedOver, 3),
        (Fault::Cleared, 3),
        (Fault::TagVersionLost, 3),
    ]
}
