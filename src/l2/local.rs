//! The lane of a cache that has no L2: it stores nothing, only counts versions and keeps holds.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::expiring::Expiring;
use super::{
    EncodedValue, Fill, L2Error, Lane, LaneClock, Lease, LeaseReply, LeaseRequest, Member,
    MemberInfo, Members, Message, ReadResult, Reply, Stamp, Subscription, WriteAck, random,
};
use crate::clock::Clock;
use crate::lock::lock;
use crate::options::LONGEST;

/// With it, a cache with L1 only takes the same way through the code as any other.
pub(crate) struct LocalLane {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ver: u64,
    /// Tokens of the loads that may fill.
    leases: Expiring<u64>,
    /// Keys whose loads are not to be stored for a while.
    held: Expiring<()>,
}

impl LocalLane {
    /// The only epoch of a lane that nobody shares.
    pub(crate) const EPOCH: u64 = 1;

    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    fn step<T>(&self, step: impl FnOnce(&mut State, u64) -> T) -> T {
        step(&mut lock(&self.state), self.clock.now() / 1_000_000)
    }
}

impl State {
    fn stamp(&mut self) -> Stamp {
        self.ver += 1;
        Stamp {
            epoch: LocalLane::EPOCH,
            ver: self.ver,
            written_at: 0,
        }
    }

    fn hold(&mut self, key: &str, hold: Duration, now: u64) {
        if !hold.is_zero() {
            let longer = hold.max(self.held.remaining(key, now));
            self.held.insert(key, (), now, longer);
        }
    }
}

fn done<'a, T: Send + 'a>(value: T) -> Reply<'a, T> {
    ready(Ok(value)).boxed()
}

impl fmt::Debug for LocalLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalLane")
    }
}

impl Lane for LocalLane {
    fn get<'a>(&'a self, _key: &'a str) -> Reply<'a, Option<Bytes>> {
        done(None)
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>> {
        ready(keys.iter().map(|_| Ok(None)).collect()).boxed()
    }

    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply> {
        if ask.ttl.is_zero() {
            return done(LeaseReply::Miss);
        }
        done(self.step(|state, now| {
            if state.held.get(key, now).is_some() {
                return LeaseReply::Hold;
            }
            // Whoever had it was overtaken: of those who were not, an instance has one at a time.
            // There is no other instance to take over, so it lasts.
            let token = random();
            state.leases.insert(key, token, now, LONGEST);
            LeaseReply::Granted(Lease {
                token,
                epoch: Self::EPOCH,
            })
        }))
    }

    fn fill<'a>(&'a self, key: &'a str, lease: Lease, _value: &'a EncodedValue) -> Reply<'a, Fill> {
        done(self.step(|state, now| {
            if state.leases.get(key, now) != Some(&lease.token) {
                return Fill::Rejected(None);
            }
            state.leases.remove(key);
            Fill::Stored(state.stamp())
        }))
    }

    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        done(self.step(|state, now| {
            let is_ours = state.leases.get(key, now) == Some(&token);
            if is_ours && ttl.is_zero() {
                state.leases.remove(key);
            }
            is_ours
        }))
    }

    fn insert<'a>(
        &'a self,
        values: &'a [(&'a str, &'a EncodedValue)],
        _tail: &'a [u8],
        _deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        done(self.step(|state, _| {
            for (key, _) in values {
                state.leases.remove(key);
            }
            state.stamp()
        }))
    }

    fn invalidate<'a>(
        &'a self,
        keys: &'a [&'a str],
        _tail: &'a [u8],
        hold: Duration,
    ) -> Reply<'a, WriteAck> {
        let stamp = self.step(|state, now| {
            for key in keys {
                state.leases.remove(key);
                state.hold(key, hold, now);
            }
            state.stamp()
        });
        done(WriteAck {
            stamp,
            seq: 0,
            longest_staleness: Duration::ZERO,
            generation: 0,
            members_age: Duration::MAX,
        })
    }

    fn clear<'a>(&'a self, _tail: &'a [u8]) -> Reply<'a, Stamp> {
        done(self.step(|state, _| {
            state.leases = Expiring::default();
            state.stamp()
        }))
    }

    fn replay(&self, _first: u64) -> Reply<'_, Vec<Message>> {
        done(Vec::new())
    }

    fn members(&self) -> Reply<'_, Members> {
        done(Members {
            generation: 0,
            list: Vec::new(),
        })
    }

    fn forget(&self, _member: Member) -> Reply<'_, ()> {
        done(())
    }

    fn leave(&self, _id: u64) -> Reply<'_, ()> {
        done(())
    }

    fn keep_only(&self, _life: u64) -> bool {
        true
    }

    fn subscribe(&self, _me: MemberInfo) -> Reply<'_, (LaneClock, Box<dyn Subscription>)> {
        ready(Err(L2Error::closed())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l2::Want;

    #[tokio::test]
    async fn what_overtakes_a_load_ends_its_lease() {
        let lane = LocalLane::new(Clock::system());
        let value = &EncodedValue {
            body: Vec::new(),
            ttl: Duration::ZERO,
        };
        for overtaken_by in [
            "nothing",
            "insert",
            "invalidate",
            "clear",
            "another",
            "itself",
        ] {
            let ask = LeaseRequest {
                ttl: Duration::from_secs(60),
                want: Want::Any,
            };
            let Ok(LeaseReply::Granted(lease)) = lane.acquire_lease("k", ask).await else {
                panic!("it is granted");
            };
            assert!(lane.renew_lease("k", lease.token, ask.ttl).await.unwrap());
            let before = match overtaken_by {
                "insert" => lane.insert(&[("k", value)], b"", None).await.unwrap().ver,
                "invalidate" => {
                    let told = lane.invalidate(&["k"], b"", Duration::ZERO).await;
                    told.unwrap().stamp.ver
                }
                "clear" => lane.clear(b"").await.unwrap().ver,
                "another" => {
                    let _ = lane.acquire_lease("k", ask).await;
                    0
                }
                "itself" => {
                    let given_back = lane.renew_lease("k", lease.token, Duration::ZERO).await;
                    assert!(given_back.unwrap());
                    0
                }
                _ => 0,
            };
            let filled = lane.fill("k", lease, value).await.unwrap();
            let stands = matches!(&filled, Fill::Stored(stamp) if stamp.ver > before);
            assert_eq!(stands, overtaken_by == "nothing", "{overtaken_by}");
        }
    }
}
