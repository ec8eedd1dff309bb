//! Invalidations that other programs publish on channels of their own.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::cmd;
use larder::{Cache, Invalidation, Loaded, MemoryL2};

use crate::fleet::UNHURRIED;
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::Network;

type Products = Cache<String, u64>;

/// Of what services publish: `{"service":"catalog","key":"product:42"}`, or `{"type":"product","id":42}`.
fn parse(payload: &[u8]) -> Vec<Invalidation> {
    let said: serde_json::Value = serde_json::from_slice(payload).unwrap();
    let text = |field: &str| said[field].as_str();
    let all = said["all"].as_bool().filter(|all| *all);
    let id = said["id"].as_u64().zip(text("type"));
    let key = text("key").map(Invalidation::key);
    let key = key.or_else(|| id.map(|(id, kind)| Invalidation::key(format!("{kind}:{id}"))));
    [
        key,
        text("tag").map(Invalidation::tag),
        text("prefix").map(Invalidation::prefix),
        all.map(|_| Invalidation::all()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn publish(redis: &mut MultiplexedConnection, channel: &str, payload: &str) -> u64 {
    let mut publishing = cmd("PUBLISH");
    let heard = publishing.arg(channel).arg(payload).query_async(redis);
    heard.await.unwrap()
}

/// How often the server has carried out a command.
async fn calls(redis: &mut MultiplexedConnection, name: &str) -> u64 {
    let mut asking = cmd("INFO");
    let said: String = asking.arg("commandstats").query_async(redis).await.unwrap();
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

async fn is_gone(cache: &Products, key: &str) {
    eventually(&format!("{key} is gone"), async || {
        cache.get(key).await.is_none()
    })
    .await;
}

#[tokio::test]
async fn what_one_instance_hears_is_gone_everywhere() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let build = || {
        Cache::builder("test:listen")
            .l2(home::open(server.url()))
            .l2_timeout(UNHURRIED)
            .partitions(1)
    };
    let listening: Products = build()
        .listen_to("changes", parse)
        .listen_to("more changes", parse)
        .build()
        .unwrap();
    let other: Products = build().build().unwrap();
    listening.ready().await;
    for (channel, payload, goes, stays) in [
        (
            "changes",
            r#"{"service":"catalog","key":"product:42"}"#,
            &["product:42"][..],
            &["product:43", "page"][..],
        ),
        (
            "more changes",
            r#"{"type":"product","id":42}"#,
            &["product:42"],
            &["product:43", "page"],
        ),
        (
            "changes",
            r#"{"tag":"shown"}"#,
            &["page"],
            &["product:42", "product:43"],
        ),
        (
            "changes",
            r#"{"prefix":"product:"}"#,
            &["product:42", "product:43"],
            &["page"],
        ),
        (
            "changes",
            r#"{"all":true}"#,
            &["product:42", "product:43", "page"],
            &[],
        ),
    ] {
        for key in ["product:42", "product:43"] {
            other.insert(key, 450).await.unwrap();
        }
        other
            .insert("page", Loaded::new(1).tags(["shown"]))
            .await
            .unwrap();
        for key in ["product:42", "product:43", "page"] {
            eventually("it is seen", async || listening.get(key).await.is_some()).await;
        }
        assert_eq!(publish(&mut redis, channel, payload).await, 1);
        for instance in [&listening, &other] {
            for key in goes {
                is_gone(instance, key).await;
            }
            for key in stays {
                assert!(instance.get(*key).await.is_some(), "{payload}: {key}");
            }
        }
    }
    assert_eq!(listening.stats().events_heard, 5);
    assert_eq!(listening.stats().events_dropped, 0);
}

/// Each line is a prefix, but for those that begin with "key ".
fn lines(payload: &[u8]) -> Vec<Invalidation> {
    let lines = str::from_utf8(payload).unwrap().lines();
    let each = lines.map(|line| match line.strip_prefix("key ") {
        Some(key) => Invalidation::key(key),
        None => Invalidation::prefix(line),
    });
    each.collect()
}

#[tokio::test]
async fn all_prefixes_of_a_message_share_a_pass() {
    const PREFIXES: usize = 400;
    if home::is_simulated("it counts no commands") {
        return;
    }
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    // Without L1: each of the messages has every instance walk it, which takes long in a build for tests.
    let build = || {
        let builder = Cache::builder("test:listen")
            .l2(home::open(server.url()))
            .l2_timeout(UNHURRIED)
            .partitions(1);
        builder.l1_capacity(0)
    };
    let listening: Products = build().listen_to("changes", lines).build().unwrap();
    let other: Products = build().build().unwrap();
    listening.ready().await;
    other.ready().await;
    // So many that one SCAN does not see all of them.
    let keys: Vec<String> = (0..3 * PREFIXES)
        .map(|n| format!("{}:{n}", n % (PREFIXES + 1)))
        .collect();
    let values = keys.iter().map(|key| (key.as_str(), 1));
    other.insert_many(values).await.unwrap();
    let prefixes: Vec<String> = (0..PREFIXES).map(|n| format!("{n}:")).collect();
    publish(&mut redis, "changes", &prefixes.join("\n")).await;
    for key in &keys {
        if key.starts_with(&format!("{PREFIXES}:")) {
            assert!(other.get(key.as_str()).await.is_some(), "{key}");
        } else {
            is_gone(&other, key).await;
        }
    }
    eventually("all are done", async || {
        listening.stats().invalidations_sent == PREFIXES as u64
    })
    .await;
    // A pass asks for about a thousand keys at a time.
    let scans = calls(&mut redis, "scan").await;
    assert!((1..=8).contains(&scans), "{scans}");
    assert_eq!(listening.stats().writes_deferred, 0);
}

#[tokio::test]
async fn too_many_prefixes_become_one_clear() {
    if home::is_simulated("it counts no commands") {
        return;
    }
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let products: Products = Cache::builder("test:listen")
        .l2(home::open(server.url()))
        .l2_timeout(UNHURRIED)
        .partitions(1)
        .l1_capacity(0)
        .listen_to("changes", lines)
        .build()
        .unwrap();
    products.ready().await;
    for (many, stays) in [(1024, true), (1025, false)] {
        products.insert("tea", 450).await.unwrap();
        products.insert("7:", 450).await.unwrap();
        let prefixes: Vec<String> = (0..many).map(|n| format!("{n}:")).collect();
        let message = format!("{}\nkey milk", prefixes.join("\n"));
        publish(&mut redis, "changes", &message).await;
        is_gone(&products, "7:").await;
        assert_eq!(products.get("tea").await.is_some(), stays, "{many}");
    }
    let scans = calls(&mut redis, "scan").await;
    assert!((1..=4).contains(&scans), "{scans}");
}

#[tokio::test]
async fn a_parser_that_panics_costs_its_own_message() {
    let l2 = MemoryL2::new();
    let products: Products = Cache::builder("test:listen")
        .l2(l2.clone())
        .listen_to("changes", parse)
        .build()
        .unwrap();
    products.ready().await;
    products.insert("tea", 450).await.unwrap();
    for payload in [
        &b"no JSON"[..],
        br#"{"id":"no number"}"#,
        br#"{"key":"tea"}"#,
    ] {
        l2.publish("changes", payload);
    }
    is_gone(&products, "tea").await;
    let stats = products.stats();
    assert_eq!((stats.events_heard, stats.parser_panics), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_becomes_one_clear() {
    let l2 = MemoryL2::new();
    let (begin, begun) = mpsc::channel::<()>();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let parsed = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&parsed);
    let products: Products = Cache::builder("test:listen")
        .l2(l2.clone())
        .listen_to("changes", move |payload| {
            if payload == b"wait" {
                begin.send(()).unwrap();
                may_go.lock().unwrap().recv().unwrap();
            }
            keep.lock().unwrap().push(payload.to_vec());
            Vec::new()
        })
        .build()
        .unwrap();
    products.ready().await;
    products.insert("tea", 450).await.unwrap();
    l2.publish("changes", b"wait");
    eventually("the parser has begun", async || begun.try_recv().is_ok()).await;
    for _ in 0..=4096 {
        l2.publish("changes", b"one of many");
    }
    // Whether or not the parser ever ends.
    is_gone(&products, "tea").await;
    go.send(()).unwrap();
    assert!(products.stats().events_dropped >= 4096);
    let flushes = products.stats().l1_flushes;

    // What comes later is parsed again, and clears nothing.
    products.insert("tea", 450).await.unwrap();
    l2.publish("changes", b"the last");
    eventually("the last is parsed", async || {
        parsed
            .lock()
            .unwrap()
            .last()
            .is_some_and(|last| last == b"the last")
    })
    .await;
    assert!(products.get("tea").await.is_some());
    assert!(products.stats().l1_flushes <= flushes + 1);

    // Few, and large.
    let large = vec![b' '; 3 << 20];
    l2.publish("changes", b"wait");
    eventually("the parser has begun", async || begun.try_recv().is_ok()).await;
    for _ in 0..3 {
        l2.publish("changes", &large);
    }
    go.send(()).unwrap();
    is_gone(&products, "tea").await;
}

/// The entry of an instance changes with each heartbeat.
async fn entry(redis: &mut MultiplexedConnection) -> Vec<String> {
    let mut reading = cmd("HVALS");
    let read = reading.arg("{test:listen.0}!live").query_async(redis);
    read.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_parser_delays_no_heartbeat() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let (begin, begun) = mpsc::channel::<()>();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let products: Products = Cache::builder("test:listen")
        .l2(home::open(server.url()))
        .l2_timeout(UNHURRIED)
        .partitions(1)
        .max_staleness(Duration::from_millis(300))
        .listen_to("changes", move |_| {
            begin.send(()).unwrap();
            let _ = may_go.lock().unwrap().recv();
            Vec::new()
        })
        .build()
        .unwrap();
    products.ready().await;
    publish(&mut redis, "changes", "{}").await;
    eventually("the parser has begun", async || begun.try_recv().is_ok()).await;
    for _ in 0..3 {
        let before = entry(&mut redis).await;
        eventually("another heartbeat", async || {
            entry(&mut redis.clone()).await != before
        })
        .await;
    }
    eventually("it is live", async || {
        products.health().is_subscriber_live()
    })
    .await;
    go.send(()).unwrap();
}

#[tokio::test]
async fn another_connection_listens_again() {
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let products: Products = Cache::builder("test:listen")
        .l2(home::open(server.url()))
        .l2_timeout(UNHURRIED)
        .partitions(1)
        .listen_to("changes", parse)
        .build()
        .unwrap();
    for n in 1..=3 {
        products.ready().await;
        products.insert("tea", 450).await.unwrap();
        assert_eq!(publish(&mut redis, "changes", r#"{"key":"tea"}"#).await, 1);
        is_gone(&products, "tea").await;
        assert_eq!(products.stats().events_heard, n);
        let mut killing = cmd("CLIENT");
        killing.arg("KILL").arg("TYPE").arg("pubsub");
        let _: u64 = killing.query_async(&mut redis).await.unwrap();
        eventually("it has noticed", async || {
            !products.health().is_subscriber_live() || products.stats().l2_errors > 0
        })
        .await;
        eventually("it listens again", async || {
            let mut counting = cmd("PUBSUB");
            counting.arg("NUMSUB").arg("changes");
            let counted: (String, u64) = counting.query_async(&mut redis.clone()).await.unwrap();
            counted.1 == 1
        })
        .await;
    }
}

#[tokio::test]
async fn what_l2_refuses_is_deferred() {
    if home::is_simulated("it has one user") {
        return;
    }
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let admin = redis.clone();
    let user = async |right: &str| {
        let mut setting = cmd("ACL");
        setting.arg("SETUSER").arg("service").arg("on").arg(">x");
        setting.arg("~*").arg("&*").arg("+@all").arg(right);
        let () = setting.query_async(&mut admin.clone()).await.unwrap();
    };
    user("-del").await;
    let url = format!("redis://service:x@127.0.0.1:{}", server.port());
    let products: Products = Cache::builder("test:listen")
        .redis(url)
        .listen_to("changes", parse)
        .build()
        .unwrap();
    let other: Products = Cache::builder("test:listen")
        .l2(home::open(server.url()))
        .partitions(1)
        .build()
        .unwrap();
    products.ready().await;
    other.insert("tea", 450).await.unwrap();
    publish(&mut redis, "changes", r#"{"key":"tea"}"#).await;
    eventually("it is deferred", async || {
        products.stats().writes_deferred == 1
    })
    .await;
    assert!(other.get("tea").await.is_some());
    user("+del").await;
    is_gone(&other, "tea").await;
}

/// It would not know what it misses.
#[tokio::test]
async fn without_the_right_to_listen_it_is_not_ready() {
    if home::is_simulated("it has one user") {
        return;
    }
    let server = home::start_with(&[]).await;
    let mut redis = server.connection().await;
    let mut setting = cmd("ACL");
    setting.arg("SETUSER").arg("service").arg("on").arg(">x");
    setting
        .arg("~*")
        .arg("&{test:listen.0}!events")
        .arg("+@all");
    let () = setting.query_async(&mut redis).await.unwrap();
    let url = format!("redis://service:x@127.0.0.1:{}", server.port());
    let products: Products = Cache::builder("test:listen")
        .redis(url)
        .listen_to("changes", parse)
        .build()
        .unwrap();
    eventually("it has tried", async || products.stats().l2_errors > 1).await;
    assert!(!products.health().is_subscriber_live());
}

#[test]
fn channels_that_cannot_work_are_refused() {
    let build = || Cache::<String, u64>::builder("test:listen");
    let no_channels = Network::new(MemoryL2::new());
    for (builder, mistake) in [
        (build().listen_to("changes", parse), "needs Redis as L2"),
        (
            build().l2(no_channels).listen_to("changes", parse),
            "needs Redis as L2",
        ),
        (
            build().l2(MemoryL2::new()).listen_to("", parse),
            "has no name",
        ),
        (
            build()
                .l2(MemoryL2::new())
                .listen_to("{shop:price.0}!events", parse),
            "own messages",
        ),
        (
            build()
                .l2(MemoryL2::new())
                .listen_to("changes", parse)
                .listen_to("changes", parse),
            "given twice",
        ),
    ] {
        let refused = builder.build().err().unwrap();
        let mistakes: Vec<_> = refused.mistakes().collect();
        assert!(
            mistakes.len() == 1 && mistakes[0].contains(mistake),
            "{mistakes:?}"
        );
    }
}
