//! What happens to Redis and to the source, and when.

use std::time::Duration;

use larder::l2::deadpool_redis::redis::cmd;

use crate::support::proxy::{Line, Proxy};
use crate::support::redis_server::RedisServer;

/// Before the first fault.
pub(crate) const WARM_UP: u64 = 20;
/// One fault, and the calm after it; in seconds, like all of these.
pub(crate) const SLOT: u64 = 20;
pub(crate) const FAULT: u64 = 10;
/// Within each slot the source fails, too: late enough that a recovery from a flush at its begin is over.
pub(crate) const SOURCE_FAILS: std::ops::Range<u64> = 6..9;
pub(crate) const ROUND: u64 = SLOT * FAULTS.len() as u64;

const DELAY: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, and a restart without data.
    Killed,
    /// `SIGSTOP`, and `SIGCONT`.
    Paused,
    /// One `FLUSHALL`, at the begin.
    Flushed,
    /// Connections are cut, and new ones refused.
    Cut,
    /// Each piece of bytes is late by [`DELAY`], in both ways.
    Slow,
    /// Redis is well, and the source fails all the time.
    Source,
}

pub(crate) const FAULTS: [Fault; 6] = [
    Fault::Killed,
    Fault::Paused,
    Fault::Flushed,
    Fault::Cut,
    Fault::Slow,
    Fault::Source,
];

/// What a second of a run belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    WarmUp,
    Calm,
    During(Fault),
}

impl Phase {
    /// Of the second that begins so many seconds after the start.
    pub(crate) fn at(second: u64) -> Self {
        let Some(since) = second.checked_sub(WARM_UP) else {
            return Self::WarmUp;
        };
        if since % SLOT >= FAULT {
            return Self::Calm;
        }
        let slot = usize::try_from(since % ROUND / SLOT).expect("there are few");
        Self::During(FAULTS[slot])
    }
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Killed => "Redis killed",
            Self::Paused => "Redis paused",
            Self::Flushed => "Redis flushed",
            Self::Cut => "Redis cut off",
            Self::Slow => "Redis slow",
            Self::Source => "source down",
        }
    }

    /// When its recovery can begin, in seconds after its begin.
    pub(crate) fn is_over_after(self) -> u64 {
        if self == Self::Flushed { 0 } else { FAULT }
    }

    pub(crate) fn source_fails(self) -> std::ops::Range<u64> {
        if self == Self::Source {
            0..FAULT
        } else {
            SOURCE_FAILS
        }
    }

    pub(crate) async fn begin(self, redis: &mut RedisServer, proxy: &Proxy) {
        match self {
            Self::Killed => redis.kill(),
            Self::Paused => redis.pause(),
            Self::Flushed => {
                let mut connection = redis.connection().await;
                let flushed = cmd("FLUSHALL").query_async(&mut connection).await;
                let () = flushed.expect("Redis takes a FLUSHALL");
            }
            Self::Cut => {
                proxy.refuse(true);
                proxy.cut();
            }
            Self::Slow => proxy.set_all(Line::Slow(DELAY)),
            Self::Source => {}
        }
    }

    pub(crate) async fn end(self, redis: &mut RedisServer, proxy: &Proxy) {
        match self {
            Self::Killed => redis.restart().await,
            Self::Paused => redis.resume(),
            Self::Cut | Self::Slow => proxy.heal(),
            Self::Flushed | Self::Source => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FAULT, Fault, Phase, ROUND, SLOT, WARM_UP};

    #[test]
    fn each_fault_has_its_slot_in_each_round() {
        assert_eq!(Phase::at(WARM_UP - 1), Phase::WarmUp);
        for round in [0, 1, 7] {
            let begin = WARM_UP + round * ROUND;
            assert_eq!(Phase::at(begin), Phase::During(Fault::Killed));
            assert_eq!(Phase::at(begin + FAULT - 1), Phase::During(Fault::Killed));
            assert_eq!(Phase::at(begin + FAULT), Phase::Calm);
            assert_eq!(Phase::at(begin + SLOT - 1), Phase::Calm);
            assert_eq!(Phase::at(begin + SLOT), Phase::During(Fault::Paused));
            let last = begin + ROUND - SLOT;
            assert_eq!(Phase::at(last), Phase::During(Fault::Source));
        }
    }
}
