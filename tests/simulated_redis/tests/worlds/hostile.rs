//! Worlds that leave no way around one rule of the protocol.

use std::time::Duration;

use crate::config::{Config, ServerKind, ValuesIn};
use crate::faults::Fault;

/// The number of rules.
pub(crate) const RULES: u8 = 32;

impl Config {
    /// A small world in which this rule is all that stands between a reader and a stale value. Short, so that
    /// many can be tried.
    #[expect(clippy::too_many_lines, reason = "a list of worlds")]
    pub(crate) fn against(rule: u8, seed: u64) -> Self {
        let base = Self::small();
        let subscriber_lapses = vec![(Fault::SubscriberSilent, 1), (Fault::SubscriberHalfOpen, 1)];
        match rule {
            // Loads that a write overtakes.
            1 => Self {
                load_ms: 20..=150,
                ..base
            },
            // Peers that read between what may be two steps, and rarely anything that would put it right.
            2 => Self {
                instances: 5,
                write_rest_ms: 400,
                read_rest_ms: 4,
                ..base
            },
            // Replies that a message overtakes.
            3 => Self {
                max_staleness_ms: 100,
                delay_ms: 0..=40,
                write_rest_ms: 100,
                faults: vec![(Fault::SlowNetwork, 1)],
                ..base
            },
            // Loads that outlive the bound, and a second invalidation.
            4 => Self {
                max_staleness_ms: 100,
                load_ms: 50..=600,
                ..base
            },
            // Reads that take as long as the bound, and clears, which leave the values that they find; while instances
            // do not receive messages.
            5 if !seed.is_multiple_of(2) => Self {
                instances: 2,
                keys: 2,
                readers: 24,
                read_rest_ms: 4,
                max_staleness_ms: 100,
                l2_timeout_ms: 600,
                delay_ms: 20..=110,
                l1_ttl_ms: Some(10),
                write_rest_ms: 4000,
                fault_every_ms: 150,
                faults: vec![
                    (Fault::Cleared, 1),
                    (Fault::SubscriberSilent, 1),
                    (Fault::SubscriberHalfOpen, 1),
                ],
                ..base
            },
            // The loads of above, while no instance receives messages.
            5 => Self {
                instances: 2,
                max_staleness_ms: 60,
                load_ms: 400..=900,
                write_rest_ms: 500,
                fault_every_ms: 200,
                faults: subscriber_lapses,
                ..base
            },
            // Values that are always about to be refreshed.
            6 => Self {
                soft_ttl_ms: Some(60),
                load_ms: 20..=150,
                ..base
            },
            // Connections of subscribers that are always made anew, slowly.
            // Two round trips, to connect and to ask, take less than `l2_timeout`.
            7 => Self {
                delay_ms: 5..=45,
                fault_every_ms: 250,
                faults: vec![(Fault::SubscriberCut, 1)],
                ..base
            },
            8 => Self {
                faults: subscriber_lapses,
                ..base
            },
            9 => Self {
                fault_every_ms: 250,
                write_rest_ms: 400,
                faults: vec![(Fault::MessagesLost, 1), (Fault::SubscriberCut, 1)],
                ..base
            },
            10 => Self {
                max_staleness_ms: 600,
                keys: 8,
                write_rest_ms: 60,
                faults: vec![(Fault::SlowSubscriber, 1)],
                ..base
            },
            // Writers in one process, whose own messages come late; and epochs that change.
            11 => Self {
                instances: 2,
                inserts: 0.5,
                write_rest_ms: 60,
                delay_ms: 0..=40,
                faults: vec![
                    (Fault::StoreRolledBack, 1),
                    (Fault::RepliesVanish, 2),
                    (Fault::Cut, 2),
                ],
                ..base
            },
            // Calls that are cancelled, and loaders that panic.
            12 => Self {
                cancelled: 0.4,
                bad_loads: 0.1,
                load_ms: 20..=300,
                ..base
            },
            // Replicas that take over so often that instances ask those of before, while they do not hear of it.
            13 if !seed.is_multiple_of(2) => Self {
                max_staleness_ms: 100,
                l2_timeout_ms: 400,
                fault_every_ms: 200,
                faults: vec![(Fault::FailedOver, 1), (Fault::SubscriberSilent, 4)],
                ..base
            },
            13 => Self {
                fault_every_ms: 700,
                faults: vec![
                    (Fault::StoreRolledBack, 3),
                    (Fault::StoreEmptied, 1),
                    (Fault::FailedOver, 4),
                    (Fault::SubscriberSilent, 1),
                ],
                ..base
            },
            // Writes that do not reach the store, and more of them than can be deferred; inserts that arrive when
            // others have written since.
            14 => Self {
                instances: 4,
                writers: 6,
                write_rest_ms: 60,
                inserts: 0.6,
                fault_every_ms: 250,
                max_deferred: if seed.is_multiple_of(2) { 1 } else { 10_000 },
                faults: vec![
                    (Fault::RequestsVanish, 2),
                    (Fault::RepliesVanish, 2),
                    (Fault::Congestion, 6),
                    (Fault::Unreachable, 1),
                ],
                ..base
            },
            // Replicas that lag for longer than values are believed, also beside warm-ups.
            15 => Self {
                warming: 0.3,
                writers: 4,
                load_ms: 20..=150,
                ..base.lagging(600)
            },
            // Invalidations of all keys at once, which loads do not outlive.
            17 => Self {
                load_ms: 20..=150,
                write_rest_ms: 100,
                prefixes: 0.9,
                ..base
            },
            // Loads that fail where a value has expired, while instances do not receive messages.
            18 => Self {
                max_staleness_ms: 100,
                l2_ttl_ms: 300,
                stale_if_error_ms: 10_000,
                bad_loads: 0.6,
                fault_every_ms: 250,
                faults: subscriber_lapses,
                ..base
            },
            // Extensions that are under way when the value is invalidated.
            19 => Self {
                sliding_ms: Some(80),
                read_rest_ms: 4,
                write_rest_ms: 60,
                delay_ms: 0..=30,
                ..base
            },
            // A store that goes back to a snapshot after an instance has read a value, and before it reads the versions of
            // the tags, which were invalidated since the snapshot.
            20 if !seed.is_multiple_of(2) => Self {
                keys: 24,
                readers: 6,
                read_rest_ms: 20,
                max_staleness_ms: 100,
                l2_timeout_ms: 500,
                delay_ms: 0..=20,
                load_ms: 100..=300,
                write_rest_ms: 800,
                tags: 0.9,
                fault_every_ms: 60,
                faults: vec![
                    (Fault::StoreRolledBack, 2),
                    (Fault::SubscriberSilent, 12),
                    (Fault::SlowNetwork, 1),
                ],
                ..base
            },
            // Invalidations of tags, which loads and reads do not outlive; of some the store loses what it knows, and
            // new instances have nothing else.
            20 => Self {
                keys: 6,
                load_ms: 20..=150,
                delay_ms: 0..=40,
                write_rest_ms: 100,
                tags: 0.9,
                l1_ttl_ms: Some(200),
                fault_every_ms: 100,
                faults: vec![(Fault::TagVersionLost, 3), (Fault::Closed, 1)],
                ..base
            },
            // A publisher that makes messages up, with the numbers of those that come next.
            21 => Self {
                write_rest_ms: 100,
                faults: vec![(Fault::MessagesMadeUp, 1)],
                ..base
            },
            // Look-ups that know of a write before the message is here, and loads that began before it.
            22 => Self {
                tokens: 0.5,
                max_staleness_ms: 2000,
                load_ms: 100..=600,
                delay_ms: 0..=40,
                write_rest_ms: 100,
                fault_every_ms: 250,
                faults: vec![(Fault::SubscriberSilent, 1)],
                ..base
            },
            // Keys that are loaded for nobody, some of them slowly.
            23 => Self {
                warming: 0.5,
                writers: 6,
                load_ms: 20..=150,
                write_rest_ms: 60,
                ..base
            },
            // Writes that reach the source later, beside others and beside warm-ups, and a source that changes some;
            // workers that are silent, and of two releases.
            24 => Self {
                written_behind: 0.6,
                warming: 0.3,
                types: if seed % 3 == 2 { 2 } else { 1 },
                load_ms: 20..=150,
                write_rest_ms: 60,
                fault_every_ms: 250,
                faults: vec![
                    (Fault::RequestsVanish, 1),
                    (Fault::RepliesVanish, 2),
                    (Fault::Congestion, 2),
                    (Fault::Cut, 2),
                    (Fault::SubscriberSilent, 1),
                    (Fault::PausedLong, 1),
                    (Fault::Cleared, 1),
                ],
                ..base
            },
            // Many callers change few values.
            25 => Self {
                written_behind: 0.8,
                are_updates: true,
                writers: 8,
                load_ms: 20..=150,
                write_rest_ms: 30,
                fault_every_ms: 250,
                faults: vec![
                    (Fault::RequestsVanish, 1),
                    (Fault::RepliesVanish, 2),
                    (Fault::Congestion, 2),
                    (Fault::Cut, 2),
                    (Fault::PausedLong, 1),
                    (Fault::Cleared, 1),
                ],
                ..base
            },
            // Old primaries that answer as before, also those who read only and those whose subscription is silent,
            // while another one takes the writes.
            26 => Self {
                server: ServerKind::BehindSentinels,
                instances: 4,
                keys: 12,
                read_rest_ms: 4,
                write_rest_ms: 100,
                delay_ms: 0..=20,
                fault_every_ms: 1500,
                faults: vec![
                    (Fault::Isolated, 2),
                    (Fault::SplitBrain, 4),
                    (Fault::SubscriberHalfOpen, 1),
                    (Fault::SubscriberCut, 1),
                ],
                ..base
            },
            // Instances with one number of partitions and with another on a cluster, some of whose nodes lose what they
            // knew of that.
            27 if !seed.is_multiple_of(2) => Self {
                partitions: vec![1, 2],
                servers: 3,
                instances: 4,
                keys: 6,
                write_rest_ms: 60,
                fault_every_ms: 150,
                faults: vec![
                    (Fault::Closed, 4),
                    (Fault::SubscriberSilent, 1),
                    (Fault::HandedOver, 1),
                    (Fault::StoreRolledBack, 1),
                ],
                ..base
            },
            // Instances that are restarted one by one, with one number of partitions and with another, while some do not
            // hear of that.
            27 => Self {
                partitions: vec![1, 2, 4, 8, 16],
                instances: 4,
                keys: 6,
                waited_for: 0.1,
                write_rest_ms: 60,
                fault_every_ms: 150,
                faults: vec![
                    (Fault::Closed, 4),
                    (Fault::Death, 1),
                    (Fault::SubscriberSilent, 2),
                    (Fault::RequestsVanish, 1),
                    (Fault::RepliesVanish, 1),
                    (Fault::PausedLong, 1),
                    (Fault::Cut, 1),
                ],
                ..base
            },
            // Primaries that are replaced, and some of their successors lack the last writes; requests go on before the
            // subscription does, or stay with the old one.
            28 => Self {
                servers: 3,
                instances: 4,
                inserts: 0.3,
                waited_for: 0.1,
                tags: 0.1,
                tokens: 0.1,
                fault_every_ms: 300,
                faults: vec![
                    (Fault::HandedOver, 6),
                    (Fault::SubscriberSilent, 1),
                    (Fault::RepliesVanish, 1),
                    (Fault::SlowNetwork, 1),
                    (Fault::Cut, 1),
                ],
                ..base
            },
            // Inserts where no value is, while that of one release has expired, and that of another lies behind it.
            29 if !seed.is_multiple_of(2) => Self {
                types: 2,
                instances: 4,
                keys: 6,
                read_rest_ms: 300,
                write_rest_ms: 300,
                inserts: 0.4,
                competitions: 0.4,
                l2_ttl_ms: 200,
                ..base
            },
            // Releases side by side, each of which has values of its own under the keys that the other one changes.
            29 => Self {
                types: 2,
                instances: 4,
                inserts: 0.5,
                refreshes: 0.02,
                written_through: 0.2,
                load_ms: 5..=60,
                soft_ttl_ms: Some(200),
                ..base
            },
            // Loads of local values during which messages are lost, and tags are invalidated. Clears have instances forget
            // the states of tags.
            30 => Self {
                values_in: ValuesIn::Instances,
                max_staleness_ms: 100,
                keys: 8,
                inserts: 0.1,
                tags: 0.6,
                refreshes: 0.02,
                write_rest_ms: 300,
                load_ms: 20..=300,
                fault_every_ms: 300,
                faults: vec![(Fault::MessagesLost, 2), (Fault::Cleared, 3)],
                ..base
            },
            // A store that is put back, to what it held a moment ago. Heartbeats are rare, so that the numbers are there again
            // before one is sent; and each of many keys is rarely changed.
            31 if seed.is_multiple_of(2) => Self {
                instances: 2,
                max_staleness_ms: 1500,
                keys: 3000,
                lasts_ms: 60_000,
                readers: 12,
                writers: 12,
                write_rest_ms: 60,
                fault_every_ms: 30,
                faults: vec![(Fault::PutBack, 1), (Fault::ScriptsForgotten, 400)],
                ..base
            },
            // And to what it held before a clear.
            31 => Self {
                max_staleness_ms: 300,
                keys: 200,
                lasts_ms: 60_000,
                readers: 8,
                write_rest_ms: 100,
                fault_every_ms: 5000,
                faults: vec![(Fault::PutBack, 2), (Fault::Cleared, 1)],
                ..base
            },
            // A server without a name that loses what it was told a moment ago. As with the rule before, but connections break.
            32 if seed.is_multiple_of(2) => Self {
                server: ServerKind::Unnamed,
                faults: vec![(Fault::StoreRolledBack, 1), (Fault::ScriptsForgotten, 400)],
                ..Self::against(31, seed)
            },
            // And that another one replaces, which has all that it had; or that has what was before a clear.
            32 => Self {
                server: ServerKind::Unnamed,
                faults: vec![
                    (Fault::StoreRolledBack, 1),
                    (Fault::FailedOver, 1),
                    (Fault::Cleared, 1),
                ],
                ..Self::against(31, seed)
            },
            // Invalidations that are waited for, while instances do not receive them and the store's clock is stepped.
            _ => Self {
                max_staleness_ms: 1000,
                waited_for: 0.8,
                fault_every_ms: 150,
                faults: vec![
                    (Fault::ClockStepped, 2),
                    (Fault::SubscriberSilent, 1),
                    (Fault::SlowNetwork, 1),
                ],
                ..base
            },
        }
    }

    /// Many read one key, which L1 has no room for: of two reads under way, one may have been overtaken by an
    /// insert, and a caller that comes when the other has ended must not join it.
    pub(crate) fn without_room() -> Self {
        Self {
            keys: 1,
            readers: 12,
            inserts: 1.0,
            write_rest_ms: 100,
            delay_ms: 0..=40,
            l1_capacity: 0,
            faults: vec![(Fault::SlowNetwork, 1)],
            ..Self::small()
        }
    }

    /// Values with tags are inserted together, and L1 is emptied while they are encoded: after the tags of some were
    /// looked at, and before the insert of these begins.
    pub(crate) fn switched_while_encoding() -> Self {
        Self {
            keys: 6,
            inserts: 0.9,
            switched: 0.9,
            tags: 0.3,
            write_rest_ms: 60,
            ..Self::small()
        }
    }

    /// All instances are switched off and on, and copies of the requests arrive late.
    pub(crate) fn switched_everywhere() -> Self {
        Self {
            instances: 4,
            writers: 3,
            inserts: 0.6,
            switched_everywhere: 0.3,
            write_rest_ms: 60,
            fault_every_ms: 100,
            faults: vec![
                (Fault::SlowNetwork, 1),
                (Fault::Cut, 3),
                (Fault::Congestion, 1),
            ],
            ..Self::small()
        }
    }

    /// The partitions on a cluster become more twice, so the first ones were closed for others that are closed, too.
    pub(crate) fn grown_twice() -> Self {
        Self {
            partitions: vec![2, 4, 8],
            servers: 3,
            instances: 2,
            readers: 1,
            lasts_ms: 6000,
            max_staleness_ms: 1000,
            l2_timeout_ms: 500,
            delay_ms: 0..=2,
            fault_every_ms: 500,
            faults: vec![(Fault::Closed, 1)],
            ..Self::small()
        }
    }

    /// Instances die, and their callers go on for so long that their last loads begin when the rest of the fleet has
    /// recovered from the death.
    pub(crate) fn with_deaths() -> Self {
        Self {
            lasts_ms: 80_000,
            instances: 4,
            keys: 2,
            readers: 6,
            write_rest_ms: 10_000,
            max_staleness_ms: 100,
            l2_timeout_ms: 50,
            l2_ttl_ms: 100,
            l1_capacity: 0,
            lease_ttl_ms: 400,
            // No load of the other instances is excused because it has waited too long.
            lease_wait_ms: 20_000,
            load_timeout_ms: 2000,
            load_ms: 1700..=1900,
            fault_every_ms: 1000,
            faults: vec![(Fault::Death, 1)],
            ..Self::small()
        }
    }

    /// A world in which nothing goes wrong by itself.
    fn small() -> Self {
        Self {
            instances: 3,
            keys: 3,
            skew: 1,
            lasts_ms: 20_000,
            readers: 3,
            writers: 2,
            read_rest_ms: 10,
            write_rest_ms: 150,
            inserts: 0.0,
            switched: 0.0,
            switched_everywhere: 0.0,
            waited_for: 0.0,
            prefixes: 0.0,
            tags: 0.0,
            refreshes: 0.0,
            touches: 0.0,
            competitions: 0.0,
            written_through: 0.0,
            warming: 0.0,
            written_behind: 0.0,
            are_updates: false,
            values_in: ValuesIn::L2,
            tokens: 0.0,
            sliding_ms: None,
            cancelled: 0.0,
            max_staleness_ms: 300,
            uneven: false,
            available_ms: None,
            server: ServerKind::Plain,
            l2_timeout_ms: 200,
            l2_ttl_ms: 3_600_000,
            l1_capacity: 10_000,
            l1_ttl_ms: None,
            soft_ttl_ms: None,
            refresh_ahead: None,
            stale_if_error_ms: 0,
            stale_wait: Duration::ZERO,
            error_ttl_ms: 0,
            lease_ttl_ms: 1000,
            lease_wait_ms: 2000,
            load_timeout_ms: 3000,
            max_deferred: 10_000,
            partitions: vec![1],
            types: 1,
            servers: 1,
            delay_ms: 0..=8,
            load_ms: 5..=40,
            slow_load_ms: 300..=900,
            slow_loads: 0.0,
            bad_loads: 0.0,
            lag_ms: 0,
            fault_every_ms: 500,
            faults: Vec::new(),
        }
    }
}
