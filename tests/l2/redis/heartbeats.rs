//! What a heartbeat sends.

use std::time::{Duration, Instant};

use deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::Kind;
use larder::{Cache, RedisL2};

use super::members::{answer, answer_to};
use super::{calls, own_key, run};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;
use larder_store_tests::steps::Steps;

const BEATS: u64 = 20;
/// Of a beat, in bytes, with a part of a note.
const MOST: u64 = 200;
/// An `INFO commandstats` of a test, in bytes.
const INFO: u64 = 33;
/// Of a beat, the commands: those of the scripts, too.
const MOST_COMMANDS: u64 = 9;

/// What the server has received, in bytes.
pub(super) async fn received(raw: &mut MultiplexedConnection) -> u64 {
    let stats: String = run(raw, &["INFO", "stats"]).await;
    let received = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_net_input_bytes:"));
    received.unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_idle_instance_sends_little() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (_, mut subscription) = partition.subscribe(PATIENT, NEWCOMER).await.unwrap();
    // The first one loads the scripts, and notes that there is nothing.
    answer_to(NOTHING, &mut *subscription).await.unwrap();
    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    for _ in 0..BEATS {
        answer_to(NOTHING, &mut *subscription).await.unwrap();
    }
    let sent = received(&mut raw).await / BEATS;
    assert!((100..=MOST).contains(&sent), "{sent} bytes");

    let calls = calls(&mut raw).await;
    let all: u64 = calls.iter().map(|(_, count)| count).sum();
    assert!(all <= MOST_COMMANDS * BEATS, "{calls:?}");
    let scripts = calls.iter().filter(|(name, _)| name.starts_with("eval"));
    // Nothing is noted, as nothing has changed.
    let scripts: Vec<_> = scripts.collect();
    assert_eq!(scripts, [&("evalsha_ro".to_owned(), BEATS)]);
}

/// Waits until some instance has looked for silent members.
async fn has_swept(raw: &MultiplexedConnection) {
    eventually("it is the sweeper", async || {
        let name = format!("{{{NAMESPACE}.0}}!sweeper");
        run::<i64>(&mut raw.clone(), &["EXISTS", &name]).await == 1
    })
    .await;
}

/// A minute of beats at the default `max_staleness`, sooner: nothing that an instance sends on its own comes once in so
/// much time, but for its counters, which do not change while it is idle.
#[tokio::test]
async fn an_idle_minute_costs_its_heartbeats() {
    // One in a third of 2 s.
    const BEATS: u64 = 90;
    const STALENESS: Duration = Duration::from_millis(100);
    for with_global_stats in [false, true] {
        let server = RedisServer::start().await;
        let mut raw = server.connection().await;
        let cache: Cache<String, u32> = Cache::builder(NAMESPACE)
            .redis(server.url())
            .max_staleness(STALENESS)
            .l2_timeout(LIMIT)
            .build()
            .unwrap();
        cache.ready().await;
        // It is loaded once.
        cache.invalidate("k").await.unwrap();
        // So is the script by which the instance looks for silent members from time to time.
        has_swept(&raw).await;
        if with_global_stats {
            cache.global_stats().await.unwrap();
        }
        // The counters until now are stored once.
        eventually("they are stored", async || {
            let stats = format!("{{{NAMESPACE}.0}}!stats");
            let stored: Vec<String> = run(&mut raw.clone(), &["HVALS", &stats]).await;
            stored
                .iter()
                .any(|text| text.contains("invalidations_sent=1"))
        })
        .await;
        let began = Instant::now();
        let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
        let evals = async || {
            let calls = calls(&mut raw.clone()).await;
            let mut evals = calls.iter().filter(|(name, _)| name == "evalsha_ro");
            evals.next().map_or(0, |(_, count)| *count)
        };
        eventually("so many beats", async || evals().await >= BEATS).await;
        // But for the questions of this test.
        let asked: String = run(&mut raw, &["INFO", "commandstats"]).await;
        let asked = asked
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_info:calls="))
            .and_then(|line| line.split(',').next()?.parse::<u64>().ok())
            .unwrap();
        let sent = received(&mut raw).await - INFO * asked;
        let calls = calls(&mut raw).await;
        let of = |name: &str| {
            let mut named = calls.iter().filter(|(known, _)| known == name);
            named.next().map_or(0, |(_, count)| *count)
        };
        // The others come once in some time: notes in twice `max_staleness`, and looks for silent members.
        let (beats, others) = (of("evalsha_ro"), of("evalsha"));
        let times = began.elapsed().as_millis() / STALENESS.as_millis();
        assert!(u128::from(others) <= times + 3, "{others} in {times}");
        let requests = beats + others;
        println!("{sent} bytes for {beats} beats and {others} other requests");
        assert!(sent <= MOST * requests, "{sent} bytes: {calls:?}");
        let all: u64 = calls.iter().map(|(_, count)| count).sum();
        assert!(all <= MOST_COMMANDS * requests, "{calls:?}");
        let is_text = |name: &str| name == "eval" || name.starts_with("script");
        assert!(!calls.iter().any(|(name, _)| is_text(name)), "{calls:?}");
    }
}

/// The scripts are loaded again, and the answer still comes after all messages before it, over the same connection.
#[tokio::test]
async fn a_server_that_has_forgotten_the_scripts_is_sent_them_once() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (_, mut subscription) = subscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
    let _: () = run(&mut raw, &["SCRIPT", "FLUSH"]).await;
    answer(&mut *subscription).await.unwrap();

    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    answer(&mut *subscription).await.unwrap();
    let calls = calls(&mut raw).await;
    assert!(
        !calls.iter().any(|(name, _)| name.starts_with("script")),
        "{calls:?}"
    );
}

/// Twenty caches at the default `max_staleness`, sooner: they ask together, whenever they were built.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_idle_caches_cost_little_more_than_one() {
    const CACHES: u64 = 20;
    const BEATS: u64 = 20;
    const STALENESS: Duration = Duration::from_millis(600);
    let server = RedisServer::start().await;
    let mut raw = server.connection().await;
    let mut caches = Vec::new();
    for n in 0..CACHES {
        let builder: larder::Builder<String, u32> = Cache::builder(format!("test:{n}"));
        let builder = builder.redis(server.url());
        let builder = builder.max_staleness(STALENESS).l2_timeout(LIMIT);
        let cache = builder.build().unwrap();
        cache.ready().await;
        caches.push(cache);
    }
    let began = Instant::now();
    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    let before = received(&mut raw).await;
    let beats = async || {
        let calls = calls(&mut raw.clone()).await;
        let of = |name: &str| {
            calls
                .iter()
                .find(|(known, _)| known == name)
                .map_or(0, |(_, n)| *n)
        };
        // A note is two HSETs. It has one HGET, and so has a look at the members; a heartbeat has four. Where counters are
        // stored for the first time, there is one HGETALL more than HGETs.
        let noted = of("hset") / 2;
        let beats = of("hget").saturating_sub(noted + of("hgetall")) / 4;
        (of("evalsha_ro"), beats / CACHES, noted / CACHES)
    };
    eventually("each has sent its heartbeats", async || {
        beats().await.1 >= BEATS
    })
    .await;
    let (scripts, each, notes) = beats().await;
    let sent = received(&mut raw).await - before;
    let bytes = sent / each;
    // With every sixth, or one in between when a task was late.
    let times = began.elapsed().as_millis() / STALENESS.as_millis();
    assert!(u128::from(notes) <= times + 2, "{notes} notes in {times}");
    println!("{scripts} requests for {each} beats of {CACHES} caches, {bytes} bytes a beat");
    // Those of tasks that run on another thread may come a little later, and are another request.
    assert!(scripts <= 4 * each, "{scripts} for {each}");
    assert!(bytes <= MOST * CACHES, "{bytes} bytes");
    let list: String = run(&mut raw, &["CLIENT", "LIST"]).await;
    assert!(
        list.lines()
            .filter(|line| line.contains(" name=larder:"))
            .count()
            <= 3
    );
}

/// The table of the guide: what idle caches of a process cost the server. Prints a row for each case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes: sh tests/proof.sh tests"]
async fn what_idle_caches_cost() {
    const SECONDS: u64 = 30;
    let mut costs = Vec::new();
    for (caches, partitions, are_shared) in
        [(1, 1, true), (20, 1, true), (20, 1, false), (20, 4, true)]
    {
        let server = RedisServer::start().await;
        let mut raw = server.connection().await;
        let l2 = RedisL2::open(server.url()).unwrap();
        // The scripts are loaded once.
        let builder: larder::Builder<String, u32> = Cache::builder(NAMESPACE);
        let builder = builder.redis(server.url());
        let loads = builder.max_staleness(Duration::from_millis(30));
        let loads = loads.build().unwrap();
        has_swept(&raw).await;
        loads.close().await;
        drop(loads);
        let mut all = Vec::new();
        for n in 0..caches {
            let own = || RedisL2::open(server.url()).unwrap();
            let l2 = if are_shared { l2.clone() } else { own() };
            let builder: larder::Builder<String, u32> = Cache::builder(format!("test:{n}"));
            let cache = builder.l2(l2).partitions(partitions).build().unwrap();
            cache.ready().await;
            cache.insert("k", 1).await.unwrap();
            all.push(cache);
        }
        let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
        let (bytes, cpu) = (received(&mut raw).await, computed(&mut raw).await);
        // Not for something to happen: the time is a part of what is measured.
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        let cpu = (computed(&mut raw).await - cpu) / SECONDS;
        let bytes = (received(&mut raw).await - bytes) / SECONDS;
        let calls = calls(&mut raw).await;
        let scripts = calls.iter().filter(|(name, _)| name.starts_with("eval"));
        let scripts = scripts.map(|(_, count)| count).sum::<u64>() * 60 / SECONDS;
        let list: String = run(&mut raw, &["CLIENT", "LIST"]).await;
        let named = list.lines().filter(|line| line.contains(" name=larder:"));
        let connections = named.count() as u64;
        println!(
            "{caches} caches of {partitions} partitions, shared: {are_shared}: {connections} connections, {scripts} scripts a minute, {bytes} bytes and {cpu} µs of CPU a second"
        );
        costs.push([connections, scripts, bytes]);
    }
    let [_, shared, own, _] = &costs[..] else {
        panic!("four cases");
    };
    assert!(
        shared
            .iter()
            .zip([4, 300, 4_000])
            .all(|(cost, most)| *cost <= most)
    );
    assert!(own[0] > 5 * shared[0] && own[1] > 5 * shared[1] && own[2] > shared[2]);
}

/// What the guide says of many instances. Prints how long the server takes for each step.
#[tokio::test]
#[ignore = "it measures: sh tests/proof.sh tests"]
async fn what_a_thousand_members_cost() {
    const MEMBERS: u64 = 1000;
    const TIMES: u64 = 200;
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (clock, mut subscription) = subscribe(&*partition).await;
    // Numbers as long as in a service.
    let first = clock.epoch / 2;
    for id in first..first + MEMBERS {
        let entry = format!("{}:123456:2000:{}", clock.epoch, clock.epoch);
        let (name, id) = (own_key("live"), id.to_string());
        let _: i64 = run(&mut raw, &["HSET", &name, &id, &entry]).await;
    }
    let some: Vec<u64> = (first..first + 32).collect();
    let payload = payload_of(Kind::InvalidateAwaited, &["k"]);
    let mut costs = Vec::new();
    for step in ["all", "32 of them", "an invalidation", "a heartbeat"] {
        let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
        for _ in 0..TIMES {
            match step {
                "all" => assert_eq!(partition.members(&[]).await.unwrap().list.len(), 1001),
                "32 of them" => assert_eq!(partition.members(&some).await.unwrap().list.len(), 32),
                "an invalidation" => {
                    _ = partition.invalidate(&["k"], &payload, LONG).await.unwrap();
                }
                _ => answer(&mut *subscription).await.unwrap(),
            }
        }
        let stats: String = run(&mut raw, &["INFO", "commandstats"]).await;
        let scripts = stats
            .lines()
            .filter(|line| line.starts_with("cmdstat_evalsha"));
        let times = scripts.map(|line| line.split([',', '=']).nth(3).unwrap());
        let spent = times.map(|time| time.parse::<u64>().unwrap()).sum::<u64>() / TIMES;
        println!("{step}: {spent} µs");
        costs.push(spent);
    }
    assert!(costs[1] * 4 < costs[0], "{costs:?}");
}

/// How long the server has computed, in µs.
pub(super) async fn computed(raw: &mut MultiplexedConnection) -> u64 {
    let cpu: String = run(raw, &["INFO", "cpu"]).await;
    let of = |name: &str| {
        let line = cpu.lines().find_map(|line| line.strip_prefix(name));
        let digits = line.unwrap().trim().replace('.', "");
        digits.parse::<u64>().unwrap()
    };
    of("used_cpu_sys:") + of("used_cpu_user:")
}
