//! How soon a peer evicts an invalidated key, compared with how soon a subscriber receives a plain message, or one
//! that the same script publishes.
//!
//! In all cases a thread outside the runtime polls, and yields between polls.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder::Cache;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::cmd;

use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Goal, Row};
use crate::support::callers::percentile;
use crate::support::redis::Redis;
use crate::writes::{Scripted, invalidate_script};

/// Messages in each round.
const MESSAGES: u64 = 300;
const CHANNEL: &str = "plain";
const PARTITION: &str = "{plain:messages.0}";

const OURS: &str = "larder";
const PLAIN: &str = "PUBLISH to a subscriber";
const SCRIPT: &str = "an EVALSHA to a subscriber";

pub(crate) fn group() -> Group {
    let row = |of: &'static str, (figure, percent): (usize, usize)| Row {
        name: format!("invalidation seen by a peer, p{percent}"),
        of,
        ours: OURS.to_owned(),
        other: Some(of.to_owned()),
        figure,
        unit: "µs",
        goal: (of == PLAIN).then_some(Goal::new(1.3, 1.1)),
    };
    let rows = |of| [(0, 50), (1, 99)].map(|figure| row(of, figure));
    Group {
        rows: [PLAIN, SCRIPT].into_iter().flat_map(rows).collect(),
        rounds: ROUNDS,
        set_up,
    }
}

fn set_up() -> Vec<Contestant> {
    let redis = Rc::new(Redis::start());
    vec![ours(&redis), plain(&redis), script(&redis)]
}

fn ours(redis: &Rc<Redis>) -> Contestant {
    let redis = Rc::clone(redis);
    let instance = || redis.cache("bench:messages", |cache| cache);
    let (writer, peer): (Cache<u64, u64>, Cache<u64, u64>) = (instance(), instance());
    let round = move || {
        redis.runtime.block_on(fill(&writer, &peer));
        percentiles(|key| {
            let writer = writer.clone();
            let start = Instant::now();
            let invalidating = redis
                .runtime
                .spawn(async move { writer.invalidate(&key).await });
            while peer.get_local(&key).is_some() {
                thread::yield_now();
            }
            let seen = start.elapsed();
            redis.runtime.block_on(invalidating).unwrap().unwrap();
            seen
        })
    };
    Contestant::new(OURS, round)
}

async fn fill(writer: &Cache<u64, u64>, peer: &Cache<u64, u64>) {
    for key in 0..MESSAGES {
        writer.insert(&key, key).await.unwrap();
    }
    // Until the peer has applied the messages of all inserts.
    writer.invalidate_and_wait(&MESSAGES).await.unwrap();
    for key in 0..MESSAGES {
        peer.get(&key).await.unwrap();
    }
}

fn plain(redis: &Rc<Redis>) -> Contestant {
    let publisher = redis.connection();
    // The publishing side subscribes, too, as an instance does.
    let beside = subscriber(redis, CHANNEL, Arc::default());
    published(PLAIN, redis, CHANNEL, move |number| {
        let (mut publisher, _still_there) = (publisher.clone(), &beside);
        async move {
            let mut publish = cmd("PUBLISH");
            // As long as a message of larder.
            publish.arg(CHANNEL).arg(format!("{number:045}"));
            publish.query_async::<()>(&mut publisher).await.unwrap();
        }
    })
}

fn script(redis: &Rc<Redis>) -> Contestant {
    let writer = Scripted::new(redis, PARTITION, invalidate_script(), None);
    published(
        SCRIPT,
        redis,
        &format!("{PARTITION}!events"),
        move |number| {
            let mut writer = writer.clone();
            async move { writer.call(number).await }
        },
    )
}

/// Publishes numbers, and waits until a subscriber of the channel has received each of them.
fn published<Publishing: Future<Output = ()> + Send + 'static>(
    name: &str,
    redis: &Rc<Redis>,
    channel: &str,
    publish: impl Fn(u64) -> Publishing + 'static,
) -> Contestant {
    let redis = Rc::clone(redis);
    let seen = Arc::new(AtomicU64::new(0));
    let subscriber = subscriber(&redis, channel, Arc::clone(&seen));
    let mut last = 0;
    let round = move || {
        let _still_there = &subscriber;
        percentiles(|_| {
            last += 1;
            let start = Instant::now();
            let publishing = redis.runtime.spawn(publish(last));
            while seen.load(Ordering::Relaxed) != last {
                thread::yield_now();
            }
            let seen = start.elapsed();
            redis.runtime.block_on(publishing).unwrap();
            seen
        })
    };
    Contestant::new(name, round)
}

/// Keeps in `seen` the number that the last message ends with.
fn subscriber(redis: &Redis, channel: &str, seen: Arc<AtomicU64>) -> MultiplexedConnection {
    redis.subscriber(channel, move |payload| {
        let start = payload.iter().rposition(|byte| !byte.is_ascii_digit());
        let digits = &payload[start.map_or(0, |at| at + 1)..];
        let number = str::from_utf8(digits).unwrap().parse().unwrap();
        seen.store(number, Ordering::Relaxed);
    })
}

/// p50 and p99 in microseconds.
fn percentiles(message: impl FnMut(u64) -> Duration) -> Vec<f64> {
    let mut all: Vec<_> = (0..MESSAGES).map(message).collect();
    all.sort_unstable();
    [50, 99].map(|percent| percentile(&all, percent)).into()
}
