//! A hit in L1 while invalidations arrive: one for every nine hits.
//!
//! The bench times nine hundred hits. Then a peer inserts a hundred of the keys, and the reader awaits the messages
//! and reads the keys from L2 again, none of which is timed. In the other case all this happens in another cache. So
//! the comparison shows what arrivals add to later hits, and not how threads compete for the processor.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use futures::future::join_all;
use larder::Cache;
use tokio::task::yield_now;

use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Goal, Row};
use crate::support::callers::percentile;
use crate::support::redis::Redis;

const KEYS: u64 = 1_000;
const HITS: u64 = 900;
const ARRIVALS: u64 = 100;
/// Bursts in each round.
const BURSTS: u64 = 20;

const HERE: &str = "they arrive here";
const ELSEWHERE: &str = "they arrive elsewhere";

pub(crate) fn group() -> Group {
    let rows = vec![Row {
        name: "L1 hit while 10 % are invalidations".to_owned(),
        of: "the same without",
        ours: HERE.to_owned(),
        other: Some(ELSEWHERE.to_owned()),
        figure: 0,
        unit: "ns",
        goal: Some(Goal::new(1.3, 1.1)),
    }];
    Group {
        rows,
        rounds: ROUNDS,
        set_up,
    }
}

/// Two instances of one cache.
#[derive(Clone)]
struct Pair {
    reader: Cache<u64, u64>,
    peer: Cache<u64, u64>,
}

fn set_up() -> Vec<Contestant> {
    let redis = Rc::new(Redis::start());
    let pair = |namespace| Pair {
        reader: redis.cache(namespace, |cache| cache),
        peer: redis.cache(namespace, |cache| cache),
    };
    let (one, other) = (pair("bench:arrivals"), pair("bench:elsewhere"));
    redis.runtime.block_on(async {
        for key in 0..KEYS {
            one.renew(key).await;
            other.renew(key).await;
        }
    });
    let contestant = |name, changed: &Pair| {
        let (redis, one, changed) = (Rc::clone(&redis), one.clone(), changed.clone());
        let round = move || vec![redis.runtime.block_on(hits(&one.reader, &changed))];
        Contestant::new(name, round)
    };
    vec![contestant(HERE, &one), contestant(ELSEWHERE, &other)]
}

impl Pair {
    /// The peer inserts the key; the reader evicts it, and reads it again.
    async fn renew(&self, key: u64) {
        self.peer.insert(&key, key).await.unwrap();
        while self.reader.get_local(&key).is_some() {
            yield_now().await;
        }
        self.reader.get(&key).await.unwrap();
    }
}

/// Nanoseconds per hit in the median burst.
async fn hits(reader: &Cache<u64, u64>, changed: &Pair) -> f64 {
    let mut bursts = Vec::new();
    for burst in 0..BURSTS {
        let start = Instant::now();
        for hit in 0..HITS {
            let key = (burst * HITS + hit) * 7919 % KEYS;
            black_box(reader.get_local(black_box(&key)).unwrap());
        }
        bursts.push(start.elapsed());
        let keys = (0..ARRIVALS).map(|arrival| (burst * ARRIVALS + arrival) * 7919 % KEYS);
        join_all(keys.map(|key| changed.renew(key))).await;
    }
    bursts.sort_unstable();
    #[allow(clippy::cast_precision_loss, reason = "they are few")]
    let hits = HITS as f64;
    percentile(&bursts, 50) * 1e3 / hits
}
