//! The two stores do alike, whatever steps come in whatever order: the simulation shows that the steps of the store in
//! memory keep the promises, and this that those of Redis are the same steps.

use std::fmt::Write as _;
use std::sync::Arc;

use fastrand::Rng;
use larder::l2::{
    EncodedValue, Fill, Kind, L2, Lane, LaneName, Lease, LeaseReply, NewLifetime, Stamp, Ttls,
    Version, Want,
};
use larder_store_tests::steps::Steps;

use crate::store::*;

/// `LARDER_SEEDS=100` runs more.
const SEEDS: u64 = 4;
const STEPS: usize = 250;
const TYPES: u64 = 3;
/// No values.
const NONE: &str = "[]";
const KEYS: [&str; 2] = ["eu:a", "us:b"];
const TAGS: [&str; 2] = ["t", "u"];

/// What a step is about.
struct One {
    /// The number of its type.
    place: usize,
    lane: Arc<dyn Lane>,
    key: &'static str,
    value: EncodedValue,
    tags: Vec<&'static str>,
    /// A version, which may be that of a value.
    seen: u64,
    payload: Vec<u8>,
}

/// One of the stores, as instances with several type tags use it.
struct Side {
    lanes: Vec<Arc<dyn Lane>>,
    /// The leases that were granted for each type, in their order.
    leases: Vec<Vec<Lease>>,
    /// The stamps of this epoch's writes. The stores have other epochs and clocks, and the same versions.
    epoch: u64,
}

impl Side {
    fn new(l2: &dyn L2) -> Self {
        let lane = |type_tag| {
            let name = LaneName {
                type_tag,
                ..NAMESPACE.into()
            };
            l2.lane(name, LIMIT, Box::new(|_| ())).into()
        };
        Self {
            lanes: (0..TYPES).map(lane).collect(),
            leases: (0..TYPES).map(|_| Vec::new()).collect(),
            epoch: 0,
        }
    }

    /// Does a step, and says what came of it, but for what differs from store to store.
    async fn step(&mut self, rng: &mut Rng) -> String {
        let type_tag = rng.u64(0..TYPES);
        let key = *rng.choice(&KEYS).unwrap();
        let tags: Vec<&str> = TAGS.into_iter().filter(|_| rng.u8(0..4) == 0).collect();
        let length = if rng.u8(0..4) == 0 { 2000 } else { 3 };
        let one = One {
            place: usize::try_from(type_tag).unwrap(),
            lane: Arc::clone(&self.lanes[usize::try_from(type_tag).unwrap()]),
            key,
            value: of_type(type_tag, &vec![rng.u8(..); length], LONG, &tags),
            tags,
            seen: rng.u64(0..40),
            payload: payload_of(Kind::Insert, &[key]),
        };
        if rng.bool() {
            self.load(one, rng).await
        } else {
            self.change(one, rng).await
        }
    }

    /// A step of a load.
    async fn load(&mut self, one: One, rng: &mut Rng) -> String {
        let (lane, key, seen) = (&*one.lane, one.key, one.seen);
        let leases = &mut self.leases[one.place];
        // One of the last, which may have ended.
        let lease = match leases.len() {
            0 => NO_LEASE,
            all => leases[rng.usize(all.saturating_sub(3)..all)],
        };
        match rng.u8(0..16) {
            0..=6 => {
                let want = match rng.u8(0..6) {
                    0..=2 => Want::Any,
                    3 => Want::Nothing,
                    4 => Want::Anew,
                    _ => Want::OtherThan(seen),
                };
                match acquire_lease_for(lane, key, LONG, want).await {
                    LeaseReply::Hit(bytes) => format!("hit {}", values(&bytes, self.epoch)),
                    LeaseReply::Granted(lease) => {
                        leases.push(lease);
                        self.epoch = lease.epoch;
                        "granted".to_owned()
                    }
                    LeaseReply::Wait(_) => "wait".to_owned(),
                    other => format!("{other:?}"),
                }
            }
            7..=12 => {
                let replaces = rng.u8(0..5) == 0;
                let payload = replaces.then_some(&one.payload[..]);
                let filled = lane.fill(key, lease, &one.value, payload).await;
                filled_as(filled.unwrap(), self.epoch)
            }
            13 => {
                let tags: Vec<_> = one.tags.iter().map(|tag| (*tag).into()).collect();
                let again = lane.revalidate(key, lease, seen, Ttls::new(LONG), &tags);
                let again = again.await.unwrap();
                again.map_or_else(|| "absent".to_owned(), |fill| filled_as(fill, self.epoch))
            }
            // In Redis a lease that END_LEASES or a clear has ended is there until its time.
            14 => {
                renewed(lane, key, lease).await;
                "renewed".to_owned()
            }
            _ => {
                given_back(lane, key, lease).await;
                "given back".to_owned()
            }
        }
    }

    /// A step that changes keys.
    async fn change(&mut self, one: One, rng: &mut Rng) -> String {
        let (lane, key, payload) = (&*one.lane, one.key, &one.payload[..]);
        let stamp = match rng.u8(0..12) {
            0 | 1 => lane
                .insert(&[(key, &one.value)], payload, None)
                .await
                .unwrap(),
            2 => invalidate(lane, &[key]).await,
            3 => lane.expire(&[key], payload).await.unwrap(),
            4 => invalidate_tags(lane, &[*rng.choice(&TAGS).unwrap()]).await,
            5 => {
                let stamp = lane.end_leases().await.unwrap();
                let removed = lane.remove_prefixes(&[("eu:", stamp)]).await;
                return format!("{} removed {removed:?}", self.note(stamp));
            }
            6..=8 => {
                let seen = Stamp {
                    epoch: self.epoch,
                    ver: one.seen,
                    written_at: 0,
                };
                let version = if rng.bool() {
                    Version::ABSENT
                } else {
                    seen.version()
                };
                let stored = lane
                    .insert_if(key, &one.value, version, payload, None)
                    .await;
                match stored.unwrap() {
                    Some(stamp) => stamp,
                    None => return "another version".to_owned(),
                }
            }
            9 | 10 => {
                let ttls = Ttls::new(LONG * 2);
                let new = if rng.bool() {
                    NewLifetime::Renewed(ttls)
                } else {
                    NewLifetime::Extended(ttls)
                };
                let touched = lane.touch(key, new, payload, None).await.unwrap();
                return format!("touched {:?}", touched.map(|it| (it.change, it.stamp.ver)));
            }
            _ if rng.u8(0..4) == 0 => clear(lane).await,
            _ => return String::new(),
        };
        self.note(stamp)
    }

    fn note(&mut self, stamp: Stamp) -> String {
        self.epoch = stamp.epoch;
        format!("version {}", stamp.ver)
    }

    /// What is stored under each key, and which of it each instance could use.
    async fn stored(&self) -> String {
        let mut all = String::new();
        for key in KEYS {
            for lane in &self.lanes {
                let is_usable = usable(&**lane, key).await.is_some();
                write!(all, "{is_usable} ").unwrap();
            }
            let bytes = get(&*self.lanes[0], key).await;
            writeln!(
                all,
                "{}",
                bytes.map_or_else(|| NONE.to_owned(), |it| values(&it, self.epoch))
            )
            .unwrap();
        }
        all
    }
}

fn filled_as(fill: Fill, epoch: u64) -> String {
    match fill {
        Fill::Stored(stamp) => format!("stored {}", stamp.ver),
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
    let seeds = std::env::var("LARDER_SEEDS").ok();
    let seeds = seeds.and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let (memory, redis) = (Memory::start().await, Redis::start().await);
        let (mut one, mut other) = (Side::new(memory.l2()), Side::new(redis.l2()));
        let rng = &mut Rng::with_seed(seed);
        for step in 0..STEPS {
            let mut mine = rng.fork();
            let mut same = mine.clone();
            let expected = one.step(&mut mine).await;
            let found = other.step(&mut same).await;
            assert_eq!(found, expected, "seed {seed}, step {step}");
            let (expected, stored) = (one.stored().await, other.stored().await);
            assert_eq!(stored, expected, "seed {seed}, step {step}: {found}");
        }
    }
}
