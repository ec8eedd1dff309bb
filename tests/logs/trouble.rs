//! A Redis in trouble: what goes on, what does not, and what the log says. Each test is a row of the table in
//! `src/l2/redis/failure_modes.md`.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{FromRedisValue, RedisResult, Value, cmd};
use larder::l2::deadpool_redis::{Manager, Pool};
use larder::{Builder, Cache, Caches, Loaded, Mode, RedisL2, ServiceSettings, Version};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tracing::Level;

use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::redis_server::RedisServer;
use crate::{SECRET, Texts, UNHURRIED, record};

/// The limit for a request to a Redis that does not answer any.
const HURRIED: Duration = Duration::from_millis(100);

/// What a cache does while its server is in trouble.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a column of the table"
)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    /// Whether an instance uses its L1.
    l1: bool,
    /// Whether it reads values from L2.
    reads: bool,
    /// Whether it stores in L2 what it has loaded.
    stores: bool,
    /// Whether it carries out inserts; if not, they are deferred.
    inserts: bool,
    /// Whether it carries out invalidations; if not, they are deferred.
    invalidates: bool,
}

const ALL: Row = Row {
    l1: true,
    reads: true,
    stores: true,
    inserts: true,
    invalidates: true,
};

const OFF: Row = Row {
    l1: false,
    reads: false,
    stores: false,
    inserts: false,
    invalidates: false,
};

/// Runs a test, and looks in what it has logged for keys, values and passwords.
fn watched(run: impl AsyncFnOnce(&Log)) {
    let log = Log::default();
    let shown = Shown(&log);
    record(&log, run(&log));
    drop(shown);
    assert_eq!(log.count(SECRET), 0);
}

/// The log, for a test that fails.
struct Shown<'a>(&'a Log);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0.text());
        }
    }
}

/// A command of the test's own.
async fn run<T: FromRedisValue>(redis: &mut MultiplexedConnection, words: &str) -> RedisResult<T> {
    let mut words = words.split(' ');
    let mut command = cmd(words.next().unwrap());
    command.arg(words.collect::<Vec<_>>());
    command.query_async(redis).await
}

/// Ends all connections but the test's own.
async fn end_connections(redis: &mut MultiplexedConnection) {
    for kind in ["normal", "pubsub"] {
        let _: i64 = run(redis, &format!("CLIENT KILL TYPE {kind}"))
            .await
            .unwrap();
    }
}

fn build(url: &str, set: impl Fn(Builder<String, String>) -> Builder<String, String>) -> Texts {
    let builder = Cache::builder("test:trouble").redis(url);
    let builder = builder.max_staleness(Duration::from_millis(300));
    set(builder.l2_timeout(UNHURRIED)).build().unwrap()
}

/// Loads a key; whatever the trouble is, its caller is answered.
async fn load(cache: &Texts, key: &str) -> bool {
    let loader = || async { Ok::<_, io::Error>(SECRET.to_owned()) };
    let entry = cache.get_or_load(key, loader).await.unwrap();
    assert_eq!(*entry, SECRET);
    entry.meta().version().is_some()
}

fn key(name: &str) -> String {
    format!("{SECRET}:{name}")
}

/// Two instances, and values in L2 that only one of them has read.
async fn in_good_order(
    url: &str,
    set: impl Fn(Builder<String, String>) -> Builder<String, String>,
) -> [Texts; 2] {
    let both = [build(url, &set), build(url, &set)];
    for cache in &both {
        cache.ready().await;
    }
    for name in ["stored", "gone", "kept"] {
        eventually("it is stored", || async {
            let inserted = both[0].insert(&key(name), SECRET.to_owned()).await;
            inserted.is_ok()
        })
        .await;
    }
    both
}

/// A server that is started with these arguments, a connection of the test's own, and two instances.
async fn start(
    arguments: &[&str],
    set: impl Fn(Builder<String, String>) -> Builder<String, String>,
) -> (RedisServer, MultiplexedConnection, [Texts; 2]) {
    let server = RedisServer::start_with(arguments).await;
    let redis = server.connection().await;
    let both = in_good_order(&server.url(), set).await;
    (server, redis, both)
}

/// What they do now.
async fn row([cache, reader]: &[Texts; 2], expected: Row) {
    eventually("L1 is used or not", async || {
        // A look-up asks for a proof.
        reader.get(&key("kept")).await;
        reader.health().is_subscriber_live() == expected.l1
    })
    .await;
    let mut seen = Row {
        l1: expected.l1,
        reads: reader.get(&key("stored")).await.is_some(),
        stores: load(cache, &key("loaded")).await,
        ..OFF
    };
    let inserted = cache.insert(&key("inserted"), SECRET.to_owned()).await;
    let invalidated = cache.invalidate(&key("gone")).await;
    for (written, is_done) in [
        (inserted, &mut seen.inserts),
        (invalidated, &mut seen.invalidates),
    ] {
        *is_done = written.is_ok();
        assert!(written.is_ok() || written.unwrap_err().is_deferred());
    }
    assert_eq!(seen, expected);
}

/// Waits until the log says why, while there are look-ups and writes.
async fn says(log: &Log, cache: &Texts, why: &str) {
    eventually(&format!("the log says {why}"), async || {
        load(cache, &key(&fastrand::u64(..).to_string())).await;
        let _ = cache.invalidate(&key("new")).await;
        log.count(why) > 0
    })
    .await;
}

/// Waits until everything works again; what was deferred has been delivered by then.
async fn is_well([cache, reader]: &[Texts; 2]) {
    eventually("everything works again", async || {
        load(cache, &key(&fastrand::u64(..).to_string())).await
            && cache.insert(&key("x"), String::new()).await.is_ok()
            && cache.health().is_ok()
            && reader.get(&key("gone")).await.is_none()
            && reader.health().is_ok()
    })
    .await;
}

#[test]
fn a_full_memory() {
    watched(async |log| {
        let (_server, mut redis, both) = start(&[], |b| b).await;
        let () = run(&mut redis, "CONFIG SET maxmemory 1").await.unwrap();
        says(log, &both[0], "OOM: its memory is full").await;
        let expected = Row {
            l1: true,
            reads: true,
            invalidates: true,
            ..OFF
        };
        row(&both, expected).await;
        let [cache, _] = &both;
        for other in [
            cache.invalidate_tag("t").await.map(drop),
            cache.invalidate_prefix("k").await.map(drop),
            cache.invalidate_and_hold("k", HURRIED).await.map(drop),
            cache.invalidate_and_wait("k").await.map(drop),
            cache.expire(&key("stored")).await.map(drop),
            cache.touch(&key("stored"), UNHURRIED).await.map(drop),
            cache.clear().await.map(drop),
        ] {
            assert!(other.is_ok(), "{other:?}");
        }
        let compared = cache
            .insert_if("k", SECRET.to_owned(), Version::ABSENT)
            .await;
        assert!(compared.unwrap_err().is_refused());
        let () = run(&mut redis, "CONFIG SET maxmemory 0").await.unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_script_that_does_not_end() {
    watched(async |log| {
        let (server, mut redis, both) = start(&["--lua-time-limit", "10"], |b| b).await;
        let limit = Duration::from_secs(3600);
        let available = build(&server.url(), |b| b.mode(Mode::Available { limit }));
        available.ready().await;
        assert!(available.get(&key("kept")).await.is_some());
        let mut other = server.connection().await;
        let script = tokio::spawn(async move {
            let mut endless = cmd("EVAL");
            endless.arg("while true do end").arg(0);
            endless.query_async::<Value>(&mut other).await
        });
        says(log, &both[0], "BUSY: a script of another program").await;
        row(&both, OFF).await;
        eventually("it answers from L1", async || {
            let kept = available.get(&key("kept")).await;
            kept.expect("L1 has it").meta().is_unproven()
        })
        .await;
        let () = run(&mut redis, "SCRIPT KILL").await.unwrap();
        assert!(script.await.unwrap().is_err());
        is_well(&both).await;
    });
}

#[test]
fn a_snapshot_that_cannot_be_saved() {
    watched(async |log| {
        let (server, mut redis, both) = start(&["--save", "3600 1"], |b| b).await;
        // A file cannot take the place of a directory.
        let file = server.path().join("dump.rdb");
        fs::create_dir(&file).unwrap();
        let _: Value = run(&mut redis, "BGSAVE").await.unwrap();
        says(log, &both[0], "MISCONF: it takes no writes").await;
        row(&both, OFF).await;
        fs::remove_dir(&file).unwrap();
        let _: Value = run(&mut redis, "BGSAVE").await.unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_primary_that_becomes_a_replica() {
    watched(async |log| {
        let (_server, mut redis, both) = start(&[], |b| b).await;
        let () = run(&mut redis, "REPLICAOF 127.0.0.1 1").await.unwrap();
        says(log, &both[0], "READONLY: it is a replica").await;
        row(&both, OFF).await;
        let () = run(&mut redis, "REPLICAOF NO ONE").await.unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_primary_without_its_replicas() {
    watched(async |log| {
        let (_server, mut redis, both) = start(&[], |b| b).await;
        let replicas = "CONFIG SET min-replicas-to-write";
        let () = run(&mut redis, &format!("{replicas} 1")).await.unwrap();
        says(log, &both[0], "NOREPLICAS: it takes no writes").await;
        row(&both, OFF).await;
        let () = run(&mut redis, &format!("{replicas} 0")).await.unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_member_of_a_cluster() {
    watched(async |log| {
        let server = RedisServer::start_with(&["--cluster-enabled", "yes"]).await;
        let both = [build(&server.url(), |b| b), build(&server.url(), |b| b)];
        says(log, &both[0], "CLUSTERDOWN: some slots").await;
        row(&both, OFF).await;
    });
}

#[test]
fn a_password_that_was_changed() {
    watched(async |log| {
        let server = RedisServer::start().await;
        let mut redis = server.connection().await;
        let user = format!("ACL SETUSER app on >{SECRET} ~* &* +@all");
        let () = run(&mut redis, &user).await.unwrap();
        let url = format!("redis://app:{SECRET}@127.0.0.1:{}", server.port());
        let both = in_good_order(&url, |b| b).await;
        let changed = "ACL SETUSER app resetpass >another";
        let () = run(&mut redis, changed).await.unwrap();
        end_connections(&mut redis).await;
        says(log, &both[0], "WRONGPASS: it does not accept").await;
        row(&both, OFF).await;
        let () = run(&mut redis, &user).await.unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_password_that_was_set() {
    watched(async |log| {
        let (_server, mut redis, both) = start(&[], |b| b).await;
        let () = run(&mut redis, "CONFIG SET requirepass x").await.unwrap();
        end_connections(&mut redis).await;
        says(log, &both[0], "NOAUTH: it demands a password").await;
        row(&both, OFF).await;
        let () = run(&mut redis, "ACL SETUSER default nopass").await.unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_server_with_no_connection_to_spare() {
    watched(async |log| {
        let (_server, mut redis, both) = start(&[], |b| b).await;
        let () = run(&mut redis, "CONFIG SET maxclients 1").await.unwrap();
        end_connections(&mut redis).await;
        says(log, &both[0], "it may have reached its maxclients").await;
        row(&both, OFF).await;
        let () = run(&mut redis, "CONFIG SET maxclients 1000").await.unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_server_that_reads_its_data() {
    watched(async |log| {
        // Nothing but this makes a small file take long.
        let slow = [
            "--key-load-delay",
            "1000",
            "--loading-process-events-interval-bytes",
            "1024",
        ];
        let arguments = [&slow[..], &["--enable-debug-command", "yes"]].concat();
        let (mut server, mut redis, both) = start(&arguments, |b| b).await;
        let _: Value = run(&mut redis, "DEBUG POPULATE 10000").await.unwrap();
        let () = run(&mut redis, "SAVE").await.unwrap();
        server.restart().await;
        says(log, &both[0], "LOADING: it is loading").await;
        row(&both, OFF).await;
        let mut redis = server.connection().await;
        let () = run(&mut redis, "CONFIG SET key-load-delay 0")
            .await
            .unwrap();
        is_well(&both).await;
    });
}

#[test]
fn a_pause() {
    watched(async |log| {
        let (_server, mut redis, both) = start(&[], |b| b.l2_timeout(HURRIED)).await;
        let () = run(&mut redis, "CLIENT PAUSE 3000 ALL").await.unwrap();
        says(log, &both[0], "did not answer").await;
        row(&both, OFF).await;
        is_well(&both).await;
    });
}

#[test]
fn a_pause_of_writes() {
    watched(async |log| {
        let (_server, mut redis, both) = start(&[], |b| b.l2_timeout(HURRIED)).await;
        let pause = "CLIENT PAUSE 60000 WRITE";
        let () = run(&mut redis, pause).await.unwrap();
        says(log, &both[0], "did not answer").await;
        row(&both, OFF).await;
        let () = run(&mut redis, "CLIENT UNPAUSE").await.unwrap();
        is_well(&both).await;
    });
}

/// A command that an operator has forbidden: it is named, and its arguments are not shown.
#[test]
fn a_command_that_was_renamed() {
    for command in ["EVALSHA", "EVALSHA_RO", "GET", "XADD", "PUBLISH"] {
        watched(async |log| {
            let server = RedisServer::start_with(&["--rename-command", command, ""]).await;
            let cache = build(&server.url(), |b| b.max_staleness(UNHURRIED));
            let why = format!("does not know {}:", command.to_lowercase());
            says(log, &cache, &why).await;
        });
    }
}

/// Reads a request, which is an array of texts.
async fn request(client: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut line = String::new();
    client.read_line(&mut line).await?;
    let Ok(many) = line.trim_start_matches('*').trim_end().parse() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    for _ in 0..many {
        line.clear();
        client.read_line(&mut line).await?;
        let length: usize = line.trim_start_matches('$').trim_end().parse().unwrap();
        let mut word = vec![0; length + 2];
        client.read_exact(&mut word).await?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Ok(words)
}

/// Answers as Redis 6.2 does, which cannot be installed everywhere.
async fn redis_6_2(client: TcpStream) -> io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        let answer = match request(&mut client).await?[0].as_str() {
            "HELLO" => "%2\r\n+version\r\n+6.2.14\r\n+proto\r\n:3\r\n",
            "CLIENT" => "-ERR Unknown subcommand or wrong number of arguments for 'SETINFO'.\r\n",
            "SUBSCRIBE" => ">3\r\n+subscribe\r\n+a\r\n:1\r\n",
            "GET" => "_\r\n",
            "EVALSHA" => "-NOSCRIPT No matching script. Please use EVAL.\r\n",
            "SCRIPT" => {
                "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#' \r\n"
            }
            other => panic!("{other}"),
        };
        client.write_all(answer.as_bytes()).await?;
    }
}

#[test]
fn a_server_that_is_too_old() {
    watched(async |log| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(redis_6_2(client));
            }
        });
        let cache = build(&url, |b| b);
        says(log, &cache, "Redis 7.0 or later, or Valkey, is needed").await;
        assert!(!cache.health().is_ok());
    });
}

/// By another program, or a mistake of a person.
#[test]
fn something_else_under_every_key() {
    watched(async |_| {
        let (server, mut redis, both) = start(&[], |b| b).await;
        let [cache, _] = &both;
        for harm in ["SET", "LPUSH", "SADD"] {
            let tagged = Loaded::new(SECRET.to_owned()).tags(["t"]);
            cache.insert(&key("stored"), tagged).await.unwrap();
            let held = cache.invalidate_and_hold(&key("held"), UNHURRIED).await;
            held.unwrap();
            // While its lease is there.
            let damaged = async {
                let names: Vec<String> = run(&mut redis, "KEYS *").await.unwrap();
                for kind in [
                    "!clock", "!log", "!live", "!lease:", "!hold:", "!tag:", "}:",
                ] {
                    assert!(names.iter().any(|name| name.contains(kind)), "{kind}");
                }
                for name in names {
                    let () = run(&mut redis, &format!("DEL {name}")).await.unwrap();
                    let _: Value = run(&mut redis, &format!("{harm} {name} x")).await.unwrap();
                }
                Ok::<_, io::Error>(SECRET.to_owned())
            };
            let (damage, done) = oneshot::channel();
            let leased = key(&format!("leased:{harm}"));
            let loading = cache.get_or_load(&leased, || async { done.await.unwrap() });
            let (loaded, ()) = tokio::join!(loading, async {
                eventually("there is a lease", || async {
                    let mut redis = server.connection().await;
                    let leases: Vec<String> = run(&mut redis, "KEYS *!lease:*").await.unwrap();
                    !leases.is_empty()
                })
                .await;
                damage.send(damaged.await).unwrap();
            });
            assert_eq!(*loaded.unwrap(), SECRET);
            for name in ["stored", "held", "gone"] {
                let name = key(name);
                eventually("it is loaded and stored", || load(cache, &name)).await;
            }
            cache.invalidate(&key("gone")).await.unwrap();
            is_well(&both).await;
            eventually("they are of use again", || async {
                let mut redis = server.connection().await;
                let mut found = Vec::new();
                for name in ["clock", "log", "live"] {
                    let kind = format!("TYPE {{test:trouble.0}}!{name}");
                    found.push(run::<String>(&mut redis, &kind).await.unwrap());
                }
                found == ["hash", "stream", "hash"]
            })
            .await;
        }
    });
}

/// Each of these is found with INFO, for which a right is documented.
#[test]
fn a_policy_that_evicts_any_key() {
    let line = "Redis may evict the keys that the cache keeps for itself";
    for policy in [
        "allkeys-lru",
        "allkeys-random",
        "volatile-lru",
        "noeviction",
    ] {
        let is_bad = usize::from(policy.starts_with("allkeys"));
        watched(async |log| {
            let (mut server, mut redis, both) = start(&["--maxmemory-policy", policy], |b| b).await;
            row(&both, ALL).await;
            // Once for each cache, however often it connects.
            end_connections(&mut redis).await;
            is_well(&both).await;
            assert_eq!(log.count(line), 2 * is_bad, "{policy}");
            server.restart().await;
            is_well(&both).await;
            assert_eq!(log.count(line), 4 * is_bad, "{policy}");
            assert_eq!(log.count(policy), 4 * is_bad);
        });
    }
}

/// As managed services do. What can be done without is said once for all partitions and caches.
#[test]
fn a_server_that_hides_something() {
    let lines = [
        "INFO of the server has no run_id",
        "connections have no name in CLIENT LIST",
    ];
    watched(async |log| {
        let no_client = ["--rename-command", "CLIENT", ""];
        let server = RedisServer::start_without(&["run_id"], &no_client).await;
        let both = in_good_order(&server.url(), |b| b.partitions(4)).await;
        row(&both, ALL).await;
        is_well(&both).await;
        assert_eq!(lines.map(|line| log.count(line)), [1, 1]);
    });
    let line = "the server does not let scripts call INFO, or its INFO has no master_replid";
    for (hidden, renamed) in [
        (&["master_replid"][..], &[][..]),
        (&[], &["--rename-command", "INFO", "ABOUT"]),
    ] {
        watched(async |log| {
            let server = RedisServer::start_without(hidden, renamed).await;
            let both = in_good_order(&server.url(), |b| b.partitions(4)).await;
            row(&both, ALL).await;
            is_well(&both).await;
            assert_eq!(log.count(line), 1);
        });
    }
}

/// The application has taken all that there are.
#[test]
fn a_pool_that_is_exhausted() {
    watched(async |log| {
        let server = RedisServer::start().await;
        let manager = Manager::new(server.url()).unwrap();
        let pool = Pool::builder(manager).max_size(1).build().unwrap();
        let taken = pool.get().await.unwrap();
        let l2 = RedisL2::with_pool(pool, server.url()).unwrap();
        let cache: Texts = Cache::builder("test:trouble").l2(l2).build().unwrap();
        // Its subscription is no connection of the pool.
        cache.ready().await;
        says(log, &cache, "raise its max_size").await;
        let health = cache.health();
        assert!(!health.is_l2_up() && health.is_subscriber_live());
        drop(taken);
        // One is enough.
        is_well(&[cache.clone(), cache]).await;
    });
}

#[test]
fn sentinels_without_a_majority() {
    watched(async |log| {
        let server = RedisServer::start().await;
        let config = format!("sentinel monitor catalog 127.0.0.1 {} 2\n", server.port());
        let starting = [&config; 3].map(|config| RedisServer::start_sentinel(config, &[]));
        let [mut first, mut second, third] = join_all(starting).await.try_into().ok().unwrap();
        let l2 = RedisL2::sentinel("catalog", [first.url(), second.url(), third.url()]).unwrap();
        let both = in_good_order(&server.url(), |builder| builder.l2(l2.clone())).await;
        first.kill();
        second.pause();
        says(log, &both[0], "sentinels must name the same primary").await;
        row(&both, OFF).await;
        second.resume();
        is_well(&both).await;
    });
}

/// One line when it begins and one when it is over, however many caches meet it; and one for all that is lost with
/// them.
#[test]
fn an_outage_is_said_once_for_all_caches_of_a_server() {
    let log = Log::default();
    let shown = Shown(&log);
    log.record(Level::INFO, async {
        let mut server = RedisServer::start().await;
        let l2 = RedisL2::open(server.url()).unwrap();
        let caches = Caches::with_l2("shop", ServiceSettings::default(), l2);
        let all: [Texts; 8] = std::array::from_fn(|n| {
            let builder = caches.cache(&format!("c{n}"));
            let builder = builder.max_staleness(UNHURRIED);
            // The system refuses at once what a dead server does not answer.
            builder.l2_timeout(UNHURRIED).build().unwrap()
        });
        let are_used = async || {
            for cache in &all {
                load(cache, &key(&fastrand::u64(..).to_string())).await;
                let _ = cache.invalidate(&key("k")).await;
            }
        };
        let restarted = "L2 was restarted";
        // What a server may say while it ends or starts is another cause.
        let warned = || {
            let text = log.text();
            let lines = text.lines().filter(|line| line.contains("WARN"));
            let others = ["maxclients", "LOADING"];
            lines
                .filter(|line| !others.iter().any(|other| line.contains(other)))
                .count()
        };
        caches.ready().await;
        are_used().await;
        assert_eq!(warned(), 0);

        server.kill();
        eventually("all miss it", async || {
            are_used().await;
            caches.iter().all(|cache| cache.health().is_breaker_open())
        })
        .await;
        are_used().await;
        assert_eq!(warned(), 1);
        let names = (0..8).map(|n| format!("shop:c{n}")).collect::<Vec<_>>();
        assert!(log.count(&names.join(", ")) > 0);

        server.restart().await;
        eventually("all have it again", async || {
            are_used().await;
            caches.is_healthy() && log.count("L2 is answering again") == 1
        })
        .await;
        let before = warned();
        assert_eq!(before, 1 + log.count(restarted), "it may have been empty");
        assert!(log.count(restarted) <= 1);

        server.kill();
        eventually("all miss it", async || {
            are_used().await;
            caches.iter().all(|cache| cache.health().is_breaker_open())
        })
        .await;
        caches.close().await;
        assert_eq!(log.count("closed before deferred"), 1);
        assert_eq!(warned(), before + 2);
    });
    drop(shown);
    assert_eq!(log.count(SECRET), 0);
}
