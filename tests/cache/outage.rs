//! A Redis that fails, hangs, comes back, or comes back older.

use std::error::Error;
use std::iter::successors;
use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::{Cache, Clock, Loaded, MemoryL2, RedisL2, Version};
use tokio::time::sleep;

use crate::fleet::{Fleet, Source, Texts, UNHURRIED, stores};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Step, Way};
use crate::support::redis_server::RedisServer;

const BOUND: Duration = Duration::from_millis(300);

async fn fleet() -> (Fleet, Texts, Texts) {
    let fleet = Fleet::redis().await;
    let (a, _) = fleet.instance_with(|b| b.max_staleness(BOUND)).await;
    let (b, _) = fleet.instance_with(|b| b.max_staleness(BOUND)).await;
    (fleet, a, b)
}

#[tokio::test]
async fn without_a_server_the_loader_answers() {
    let cache: Texts = Cache::builder("test:text")
        .redis("redis://127.0.0.1:1")
        .build()
        .unwrap();
    let truth = Source::new("v");
    assert!(cache.get("k").await.is_none());
    let entry = truth.through(&cache, "k").await.unwrap();
    assert_eq!(
        (entry.value().as_str(), entry.meta().version()),
        ("v", None)
    );
    assert!(
        cache
            .insert("k", String::new())
            .await
            .unwrap_err()
            .is_deferred()
    );
    let error = cache.invalidate("k").await.unwrap_err();
    assert!(error.is_deferred() && std::error::Error::source(&error).is_some());
    assert!(!cache.health().is_l2_up() && !cache.health().is_subscriber_live());
    assert!(cache.stats().l2_errors > 0);
}

/// What `MemoryL2::set_reachable` is for: a service's own test of what it does without L2.
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_in_memory() {
    let l2 = MemoryL2::with_clock(Clock::tokio());
    let [a, b] = [(); 2].map(|()| -> Texts {
        let builder = Cache::builder("test:text").clock(Clock::tokio());
        let builder = builder.l2(l2.clone()).max_staleness(BOUND);
        builder.build().unwrap()
    });
    let truth = Source::new("old");
    for cache in [&a, &b] {
        cache.ready().await;
        truth.through(cache, "k").await.unwrap();
    }
    assert_eq!(truth.loads(), 1);

    l2.set_reachable(false);
    truth.set("new");
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    sleep(BOUND).await;
    for cache in [&a, &b] {
        assert!(cache.get("k").await.is_none());
        let loaded = truth.through(cache, "k").await.unwrap();
        assert_eq!((loaded.as_str(), loaded.meta().version()), ("new", None));
        assert!(!cache.health().is_l2_up() && !cache.health().is_subscriber_live());
    }

    l2.set_reachable(true);
    for cache in [&a, &b] {
        cache.ready().await;
    }
    eventually("a has sent what it had deferred", async || {
        stores(&a, "k").await
    })
    .await;
    assert_eq!(*b.get("k").await.unwrap(), "loaded");
    assert!(a.health().is_ok() && b.health().is_ok());
}

#[tokio::test]
async fn a_server_that_dies_and_returns_empty() {
    let (mut fleet, a, b) = fleet().await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    fleet.server().kill();

    eventually("both notice", || async {
        !a.health().is_ok() && !b.health().is_ok()
    })
    .await;
    truth.set("new");
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    assert_eq!(*truth.through(&a, "k").await.unwrap(), "new");
    assert_eq!(
        *truth.through(&b, "k").await.unwrap(),
        "new",
        "L1 is not used while no messages arrive"
    );

    fleet.server().restart().await;
    a.ready().await;
    b.ready().await;
    eventually("both are well", || async {
        a.health().is_ok() && b.health().is_ok()
    })
    .await;
    eventually("values are stored again", || async {
        truth
            .through(&a, "k")
            .await
            .unwrap()
            .meta()
            .version()
            .is_some()
    })
    .await;
    assert_eq!(*truth.through(&b, "k").await.unwrap(), "new");
}

/// Rule 13: a restart from a snapshot brings back what was deleted since.
#[tokio::test]
async fn a_server_that_returns_older_resurrects_nothing() {
    let server = home::start_with(&["--save", "3600 1", "--dbfilename", "dump.rdb"]).await;
    let url = server.url();
    let mut fleet = Fleet::on(server, url);
    let (a, _) = fleet.instance().await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    let mut redis = fleet.server().connection().await;
    let () = cmd("SAVE").query_async(&mut redis).await.unwrap();
    truth.set("new");
    a.invalidate("k").await.unwrap();
    fleet.server().kill();
    fleet.server().restart().await;

    home::takes_requests(fleet.server()).await;
    let mut redis = fleet.server().connection().await;
    let back: bool = redis.exists("{test:text.0}:k").await.unwrap();
    assert!(back, "or this test proves nothing");
    // Whichever look-up is the first after the restart, and however often.
    for _ in 0..50 {
        assert!(a.get("k").await.is_none());
        tokio::task::yield_now().await;
    }
    let (b, _) = fleet.instance().await;
    assert!(b.get("k").await.is_none());
    a.ready().await;
    assert!(a.get("k").await.is_none());
    eventually("the new value takes its place", || async {
        let entry = truth.through(&b, "k").await.unwrap();
        assert_eq!(*entry, "new");
        entry.meta().version().is_some()
    })
    .await;
}

/// Rule 11: values that outlive their clock are of another epoch.
#[tokio::test]
async fn values_that_outlive_their_clock_are_misses() {
    let (mut fleet, a, b) = fleet().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    b.get("k").await.unwrap();
    let mut redis = fleet.server().connection().await;
    let () = redis.del("{test:text.0}!clock").await.unwrap();

    eventually("both have noticed", || async {
        a.get("k").await.is_none() && b.get("k").await.is_none()
    })
    .await;
    let truth = Source::new("new");
    truth.through(&a, "k").await.unwrap();
    eventually("the new epoch is known everywhere", || async {
        truth.through(&a, "k").await.unwrap();
        truth.through(&b, "k").await.unwrap();
        b.get_local("k").is_some_and(|entry| *entry == "new")
    })
    .await;
    a.invalidate("k").await.unwrap();
    eventually("and invalidations work in it", || async {
        b.get_local("k").is_none()
    })
    .await;
}

#[tokio::test]
async fn everything_is_flushed_by_another_program() {
    let (mut fleet, a, b) = fleet().await;
    let truth = Source::new("v");
    for _ in 0..3 {
        truth.through(&a, "k").await.unwrap();
        let mut redis = fleet.server().connection().await;
        let () = cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
        let () = cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut redis)
            .await
            .unwrap();
        eventually("L1 is flushed", || async { a.get_local("k").is_none() }).await;
        a.invalidate("k").await.unwrap();
        // What comes before the first new connection is of an epoch that this one ends.
        eventually("both go on", || async {
            let _ = b.insert("k", "w".to_owned()).await;
            a.get("k").await.is_some_and(|entry| *entry == "w") && b.get("k").await.is_some()
        })
        .await;
        a.invalidate("k").await.unwrap();
    }
    eventually("both are well", || async {
        a.health().is_ok() && b.health().is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_whose_connection_is_killed_subscribes_again_and_catches_up() {
    let (mut fleet, a, b) = fleet().await;
    let truth = Source::new("v");
    truth.through(&b, "k").await.unwrap();
    truth.through(&b, "other").await.unwrap();
    let flushes = b.stats().l1_flushes;
    let mut redis = fleet.server().connection().await;
    let () = cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("pubsub")
        .query_async(&mut redis)
        .await
        .unwrap();
    a.invalidate("k").await.unwrap();
    eventually("b receives it, or replays it later", || async {
        b.health().is_ok() && b.get_local("k").is_none() && b.get_local("other").is_some()
    })
    .await;
    assert_eq!(b.stats().l1_flushes, flushes);
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for_long() {
    let mut fleet = Fleet::redis().await;
    let set = |b: larder::Builder<String, String>| {
        b.max_staleness(BOUND).l2_timeout(Duration::from_millis(50))
    };
    let ((a, _), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    fleet.server().pause();

    truth.set("new");
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    assert!(
        a.insert("other", "lost".to_owned())
            .await
            .unwrap_err()
            .is_deferred()
    );
    assert_eq!(*truth.through(&a, "k").await.unwrap(), "new");
    eventually("b trusts its L1 no longer", || async {
        b.get_local("k").is_none()
    })
    .await;
    assert_eq!(*truth.through(&b, "k").await.unwrap(), "new");

    fleet.server().resume();
    a.ready().await;
    b.ready().await;
    // What was stuck lands now or never; either way the deferred invalidations have the last word.
    eventually("all invalidations are sent", || async {
        a.get("k").await.is_none() && b.get("k").await.is_none()
    })
    .await;
    eventually("the insert that failed is not there", || async {
        a.get("other").await.is_none() && b.get("other").await.is_none()
    })
    .await;
    eventually("the key is used again", || async {
        truth.through(&a, "k").await.unwrap();
        a.get_local("k").is_some_and(|entry| *entry == "new")
    })
    .await;
}

/// Rule 14: an insert whose reply is lost may or may not have happened.
#[tokio::test]
async fn an_insert_of_unknown_fate_is_invalidated() {
    let fleet = Fleet::redis().await;
    let (a, wire) = fleet.instance_with(|b| b.max_staleness(BOUND)).await;
    let (b, _) = fleet.instance_with(|b| b.max_staleness(BOUND)).await;
    a.insert("k", "1".to_owned()).await.unwrap();
    wire.lose(Step::Insert, Way::Reply, 1);
    assert!(
        a.insert("k", "2".to_owned())
            .await
            .unwrap_err()
            .is_deferred()
    );
    assert!(
        a.get("k").await.is_none(),
        "until it is settled, a does not use the key"
    );
    eventually("it is settled", || async {
        wire.asked(Step::Invalidate) >= 1 && b.get("k").await.is_none()
    })
    .await;
    a.insert("k", "3".to_owned()).await.unwrap();
    eventually("and the key works", || async {
        b.get("k").await.is_some_and(|entry| *entry == "3")
    })
    .await;
}

/// More keys than the outbox holds: the whole namespace is cleared instead.
#[tokio::test]
async fn too_many_deferred_keys_become_one_clear() {
    let fleet = Fleet::redis().await;
    let (a, wire) = fleet
        .instance_with(|b| b.max_deferred(3).max_staleness(BOUND))
        .await;
    let (b, _) = fleet.instance_with(|b| b.max_staleness(BOUND)).await;
    let keys = ["0", "1", "2", "3", "4", "5"];
    for key in keys {
        b.insert(key, "old".to_owned()).await.unwrap();
    }
    wire.lose(Step::Clear, Way::Request, 1);
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    for key in &keys[..5] {
        assert!(a.invalidate(*key).await.unwrap_err().is_deferred());
        assert!(a.get(*key).await.is_none());
    }
    eventually(
        "all are gone, those that were not invalidated included",
        || async {
            let mut left = 0;
            for key in keys {
                left += usize::from(b.get(key).await.is_some());
            }
            left == 0
        },
    )
    .await;
    assert_eq!(wire.asked(Step::Clear), 1);
    let truth = Source::new("new");
    eventually("a uses its keys again", || async {
        truth.through(&a, "0").await.unwrap();
        a.get_local("0").is_some_and(|entry| *entry == "new")
    })
    .await;
}

#[tokio::test]
async fn a_password_is_not_shown() {
    let server = RedisServer::start_with(&["--requirepass", "hunter2"]).await;
    let right: Texts = Cache::builder("test:text")
        .redis(server.url())
        .l2_timeout(UNHURRIED)
        .build()
        .unwrap();
    right.ready().await;
    right.insert("k", "v".to_owned()).await.unwrap();

    let url = format!("redis://:hunter3@127.0.0.1:{}", server.port());
    let wrong: Texts = Cache::builder("test:text").redis(&url).build().unwrap();
    assert!(wrong.get("k").await.is_none());
    let error = wrong.invalidate("k").await.unwrap_err();
    let shown = format!("{error} {error:?} {wrong:?}");
    assert!(!shown.contains("hunter"), "{shown}");
}

#[tokio::test]
async fn a_pool_of_ones_own() {
    use larder::l2::deadpool_redis::{Manager, Pool};

    let server = RedisServer::start().await;
    let pool = Pool::builder(Manager::new(server.url()).unwrap())
        .max_size(1)
        .build()
        .unwrap();
    let (a, b): (Texts, Texts) = (
        Cache::builder("test:text")
            .l2(RedisL2::with_pool(pool.clone(), server.url()).unwrap())
            .l2_timeout(UNHURRIED)
            .build()
            .unwrap(),
        Cache::builder("test:text")
            .redis(server.url())
            .l2_timeout(UNHURRIED)
            .build()
            .unwrap(),
    );
    a.ready().await;
    b.ready().await;
    a.insert("k", "1".to_owned()).await.unwrap();
    assert_eq!(*b.get("k").await.unwrap(), "1");
    assert_eq!(pool.status().available, 0, "the one connection is kept");
    b.insert("k", "2".to_owned()).await.unwrap();
    eventually("a receives it", || async { a.get_local("k").is_none() }).await;
    assert_eq!(*a.get("k").await.unwrap(), "2");
}

/// A server that is known to hang costs each request a fraction of its time limit, not all of it.
#[tokio::test]
async fn a_server_that_is_known_to_hang_is_hardly_waited_for() {
    let mut fleet = Fleet::redis().await;
    let limit = Duration::from_millis(200);
    let (a, _) = fleet.instance_with(|b| b.l2_timeout(limit)).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    fleet.server().pause();
    eventually("it is known", || async {
        a.get("other").await;
        !a.health().is_l2_up() && a.stats().l2_errors >= 3
    })
    .await;
    let many = async {
        for _ in 0..60 {
            assert!(a.get("other").await.is_none());
        }
    };
    assert!(
        tokio::time::timeout(limit * 30, many).await.is_ok(),
        "at the limit each, they take twice that"
    );
    fleet.server().resume();
    eventually("it is back", || async { a.get("k").await.is_some() }).await;
}

#[tokio::test]
async fn closing_delivers_what_was_deferred() {
    let fleet = Fleet::redis().await;
    // No heartbeat comes in time to deliver it.
    let (a, wire) = fleet
        .instance_with(|b| b.max_staleness(Duration::from_secs(3600)))
        .await;
    let (b, _) = fleet.instance().await;
    b.insert("k", "old".to_owned()).await.unwrap();
    // Nor does the answer to the first one.
    wire.silence(true);
    wire.lose(Step::Invalidate, Way::Request, 1);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    a.close().await;
    assert_eq!(a.stats().invalidations_sent, 1);
    eventually("b receives it", || async { b.get_local("k").is_none() }).await;
    assert!(b.get("k").await.is_none());
}

/// A clock that is put back within its epoch, as by restoring a single key.
#[tokio::test]
async fn messages_whose_numbers_went_back_are_noticed() {
    let (mut fleet, a, b) = fleet().await;
    for _ in 0..20 {
        a.invalidate("other").await.unwrap();
    }
    eventually("b has received it", || async {
        b.stats().invalidations_received == 20
    })
    .await;
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    let mut redis = fleet.server().connection().await;
    let clock = "{test:text.0}!clock";
    let mut at: Vec<u8> = redis.hget(clock, "at").await.unwrap();
    at[8..16].fill(0);
    let () = redis.hset(clock, "at", at).await.unwrap();
    truth.set("new");
    a.invalidate("k").await.unwrap();
    eventually("b receives it", || async {
        *truth.through(&b, "k").await.unwrap() == "new"
    })
    .await;
}

/// How many connections of larder there are.
async fn connections(server: &RedisServer) -> usize {
    let mut list = cmd("CLIENT");
    list.arg("LIST");
    let list: String = list
        .query_async(&mut server.connection().await)
        .await
        .unwrap();
    list.lines()
        .filter(|line| line.contains(" name=larder:"))
        .count()
}

/// Caches with the same URL share connections by themselves.
#[tokio::test]
async fn many_caches_share_the_connections_to_a_server() {
    let server = RedisServer::start().await;
    let build = |n: usize| -> Texts {
        let builder = Cache::builder(format!("test:{n}")).redis(server.url());
        builder.l2_timeout(UNHURRIED).build().unwrap()
    };
    let mut caches: Vec<_> = (0..20).map(build).collect();
    for (n, cache) in caches.iter().enumerate() {
        cache.ready().await;
        cache.insert("k", n.to_string()).await.unwrap();
    }
    eventually("they share two", async || connections(&server).await == 2).await;
    for n in 0..20 {
        // With an L1 of its own.
        let other = build(n);
        other.ready().await;
        assert_eq!(*other.get("k").await.unwrap(), n.to_string());
    }
    // One that is closed does no harm to the others.
    for cache in caches.drain(..19) {
        cache.close().await;
    }
    let last = &caches[0];
    last.insert("k", "again".to_owned()).await.unwrap();
    last.invalidate_and_wait("k").await.unwrap();
    assert!(last.health().is_ok());
    // One with other connections is told so.
    let l2 = RedisL2::open(server.url()).unwrap();
    let own: Texts = Cache::builder("test:own").l2(l2).build().unwrap();
    own.ready().await;
    own.insert("k", "v".to_owned()).await.unwrap();
    eventually("there are two more", async || {
        connections(&server).await == 4
    })
    .await;
    own.close().await;
    drop(own);
    caches.pop().unwrap().close().await;
    eventually("all are closed", async || connections(&server).await == 0).await;
}

#[tokio::test]
async fn a_pool_that_is_too_small_is_named_as_the_cause() {
    use larder::l2::deadpool_redis::{Manager, Pool};

    let server = RedisServer::start().await;
    let pool = Pool::builder(Manager::new(server.url()).unwrap())
        .max_size(1)
        .build()
        .unwrap();
    // The service needs it for something else.
    let _taken = pool.get().await.unwrap();
    let l2 = RedisL2::with_pool(pool.clone(), server.url()).unwrap();
    let cache: Texts = Cache::builder("test").l2(l2).build().unwrap();
    eventually("the error says so", || async {
        let error = cache.invalidate("k").await.unwrap_err();
        let causes = successors(error.source(), |error| (*error).source());
        causes.last().unwrap().to_string().contains("max_size")
    })
    .await;
}

/// The rights that the guide names, for every cache, or also for one call.
fn rights(call: Option<&str>) -> String {
    let page = include_str!("../../src/guide/redis.md");
    let text = match call {
        None => {
            let (_, block) = page.split_once("```text\n+evalsha").unwrap();
            format!("+evalsha{}", block.split_once("```").unwrap().0)
        }
        Some(call) => {
            let (_, table) = page.split_once("| also for | rights |").unwrap();
            let row = table.lines().find(|row| row.contains(call)).unwrap();
            row.rsplit('|').nth(1).unwrap().replace('`', "")
        }
    };
    home::rights(&text.replace("catalog:product", "test:text"))
}

async fn grant(server: &RedisServer, rights: &str) {
    let mut acl = cmd("ACL");
    acl.arg("SETUSER").arg("app").arg("on").arg(">hunter2");
    acl.arg(rights.split_whitespace().collect::<Vec<_>>());
    // On a server they are of no use.
    acl.arg(&["+cluster|nodes", "+cluster|info"]);
    let () = acl
        .query_async(&mut server.connection().await)
        .await
        .unwrap();
}

/// A server with a user that has the rights for every cache.
async fn with_few_rights() -> Fleet {
    let server = home::start_with(&[]).await;
    grant(&server, &rights(None)).await;
    let url = format!("redis://app:hunter2@127.0.0.1:{}", server.port());
    Fleet::on(server, url)
}

/// The rights that the guide names are enough.
#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    let fleet = with_few_rights().await;
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    let soon = Loaded::new("v".to_owned()).soft_ttl(Duration::ZERO);
    a.insert("other", soon).await.unwrap();
    truth.through(&a, "other").await.unwrap();
    eventually("it is refreshed", || async { a.stats().refreshes == 1 }).await;
    a.refresh("other", || truth.load()).await.unwrap();
    a.insert("large", "v".repeat(2000)).await.unwrap();
    let tagged = Loaded::new("v".to_owned()).tags(["t"]);
    a.insert("tagged", tagged).await.unwrap();
    assert!(b.get("tagged").await.is_some());
    a.invalidate_tag("t").await.unwrap();
    // As many as it takes until the log is trimmed.
    for _ in 0..100 {
        a.invalidate("k").await.unwrap();
    }
    eventually("b receives it", || async { b.get_local("k").is_none() }).await;
    wire.drop_messages(true);
    a.invalidate_and_hold("k", Duration::from_millis(1))
        .await
        .unwrap();
    eventually("b reads the log", || async { b.stats().replays > 0 }).await;
    wire.drop_messages(false);
    a.invalidate_and_wait("other").await.unwrap();
    a.clear().await.unwrap();
    eventually("a heartbeat is answered", || async { b.health().is_ok() }).await;
    b.close().await;
    assert_eq!((a.stats().l2_errors, b.stats().l2_errors), (0, 0));
}

/// Some calls need more, and the guide says what.
#[tokio::test]
async fn a_call_that_needs_more_rights_works_with_them() {
    let long = Duration::from_secs(60);
    let work = async |call: &str, cache: &Texts| match call {
        "expire" => cache.expire("k").await.is_ok(),
        "touch" => cache.touch("k", long).await.is_ok(),
        "insert_if" => {
            let inserted = cache.insert_if("k", "v".to_owned(), Version::ABSENT).await;
            inserted.is_ok()
        }
        "invalidate_prefix" => cache.invalidate_prefix("k").await.is_ok(),
        _ => {
            let before = cache.stats();
            let soon = Loaded::new("v".to_owned()).soft_ttl(Duration::ZERO);
            cache.insert("k", soon).await.unwrap();
            let unchanged = |_| async { Ok::<_, std::io::Error>(Loaded::unchanged()) };
            cache.get_or_load_with("k", unchanged).await.unwrap();
            eventually("the refresh ends", || async {
                let now = cache.stats();
                now.refreshes + now.refresh_failures > before.refreshes + before.refresh_failures
            })
            .await;
            cache.stats().refreshes > before.refreshes
        }
    };
    for call in [
        "Loaded::unchanged",
        "expire",
        "touch",
        "insert_if",
        "invalidate_prefix",
    ] {
        let fleet = with_few_rights().await;
        let Fleet::Redis { server, .. } = &fleet else {
            panic!("it is a Redis");
        };
        let more = rights(Some(call));
        for right in more.split_whitespace() {
            let (cache, _) = fleet.instance().await;
            cache.insert("k", "v".to_owned()).await.unwrap();
            // A value that cannot be compared is sent.
            if (call, right) != ("Loaded::unchanged", "+getrange") {
                assert!(!work(call, &cache).await, "{call} without {right}");
            }
            grant(server, right).await;
        }
        let (cache, _) = fleet.instance().await;
        assert!(work(call, &cache).await, "{call} with {more}");
    }
}

/// An instance on Redis that soon tries again what was deferred.
async fn soon_delivering() -> (Fleet, Texts) {
    let fleet = Fleet::redis().await;
    let (a, _) = fleet
        .instance_with(|b| b.max_staleness(Duration::from_millis(150)))
        .await;
    (fleet, a)
}

/// Which keys of its values Redis does not refuse from now on.
async fn allow(fleet: &mut Fleet, keys: &str) {
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "default", "resetkeys", "~{test:text.0}!*", keys]);
    let mut redis = fleet.server().connection().await;
    let () = acl.query_async(&mut redis).await.unwrap();
}

/// Some keys stay refused, and more of them than are delivered in one go come first.
#[tokio::test]
async fn deferred_keys_that_are_refused_hold_up_no_others() {
    let (mut fleet, a) = soon_delivering().await;
    let refused: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    let allowed = ["j", "l", "m"];
    allow(&mut fleet, "~nothing").await;
    for key in refused.iter().map(String::as_str).chain(allowed) {
        assert!(a.invalidate(key).await.unwrap_err().is_deferred());
    }
    allow(&mut fleet, "~{test:text.0}:[jlm]").await;
    for key in allowed {
        eventually("it is used again", || stores(&a, key)).await;
    }
    allow(&mut fleet, "~{test:text.0}:*").await;
    for key in refused.iter().step_by(10) {
        eventually("so are the others", || stores(&a, key)).await;
    }
}

/// However often they are written again meanwhile.
#[tokio::test]
async fn deferred_keys_that_are_refused_again_and_again_hold_up_no_others() {
    let (mut fleet, a) = soon_delivering().await;
    let refused: Vec<String> = (0..1000).map(|n| format!("k{n}")).collect();
    allow(&mut fleet, "~nothing").await;
    assert!(a.invalidate("l").await.unwrap_err().is_deferred());
    assert!(a.invalidate_many(&refused).await.unwrap_err().is_deferred());
    allow(&mut fleet, "~{test:text.0}:l").await;
    let again = async {
        loop {
            assert!(a.invalidate_many(&refused).await.unwrap_err().is_deferred());
        }
    };
    tokio::select! {
        () = again => {}
        () = eventually("the other is used again", || stores(&a, "l")) => {}
    }
}

/// What connects, and is refused then, is not tried again and again at full speed. Time is tokio's own
/// here: it passes as fast as all wait.
#[tokio::test(start_paused = true)]
async fn a_subscriber_whose_heartbeats_are_refused_backs_off() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.build(|b| b);
    wire.refuse_heartbeats();
    assert!(a.get("k").await.is_none());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let sessions = wire.asked(Step::Subscribe);
    assert!((10..50).contains(&sessions), "{sessions} sessions in 20 s");
    a.insert("k", "v".to_owned()).await.unwrap();
    assert_eq!(*a.get("k").await.unwrap(), "v", "L2 is of use all the same");
}
