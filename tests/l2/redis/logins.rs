//! Users and sockets: who a connection belongs to, by which way it comes, and that no secret is shown.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, stream};
use larder::Cache;
use larder::l2::deadpool_redis::redis::{
    BasicAuth, ErrorKind, RedisError, RedisResult, StreamingCredentialsProvider, Value,
};
use larder::l2::deadpool_redis::{Manager, Pool, Runtime};
use larder::l2::{L2Error, RedisL2};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Level;

use super::*;
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::redis_server::RedisServer;

const FIRST: &str = "s3cr3t-first";
const SECOND: &str = "s3cr3t-second";

/// A user and a password, which change.
struct Rotated(watch::Receiver<(&'static str, &'static str)>);

impl StreamingCredentialsProvider for Rotated {
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send>> {
        let mut login = self.0.clone();
        login.mark_changed();
        Box::pin(stream::unfold(login, |mut login| async {
            login.changed().await.ok()?;
            let (user, password) = *login.borrow_and_update();
            Some((Ok(BasicAuth::new(user.into(), password.into())), login))
        }))
    }
}

async fn allow(server: &RedisServer, user: &str, password: &str) {
    let mut raw = server.connection().await;
    let password = format!(">{password}");
    let rights = ["ACL", "SETUSER", user, "on", &password, "~*", "&*", "+@all"];
    let () = run(&mut raw, &rights).await;
}

#[tokio::test]
async fn connections_follow_credentials_that_change() {
    let server = RedisServer::start().await;
    allow(&server, "first", FIRST).await;
    let (changes, login) = watch::channel(("first", FIRST));
    let l2 = RedisL2::open(format!("redis://nobody:wrong@127.0.0.1:{}", server.port()));
    let l2 = l2.unwrap().credentials(Rotated(login)).unwrap();
    let partition = partition_of(&l2, NAMESPACE);
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    assert_eq!(message(&mut *subscription).await.keys.len(), 1);
    assert_eq!(connected(&server, "user").await, ["first"; 2]);

    allow(&server, "second", SECOND).await;
    changes.send(("second", SECOND)).unwrap();
    eventually("both connections log in anew", || async {
        connected(&server, "user").await == ["second"; 2]
    })
    .await;
    // Redis cuts the connections of a user that is removed.
    let () = run(&mut server.connection().await, &["ACL", "DELUSER", "first"]).await;
    insert(&*partition, "k", b"w").await;
    assert_eq!(message(&mut *subscription).await.keys.len(), 1);
}

#[tokio::test]
async fn a_new_connection_logs_in_with_the_latest_credentials() {
    let server = RedisServer::start().await;
    allow(&server, "user", FIRST).await;
    let (changes, login) = watch::channel(("user", FIRST));
    let l2 = RedisL2::open(server.url()).unwrap();
    let l2 = l2.credentials(Rotated(login)).unwrap();
    changes.send(("user", SECOND)).unwrap();
    let partition = partition_of(&l2, NAMESPACE);
    assert!(partition.get("k").await.unwrap_err().is_refused());

    let server = RedisServer::start().await;
    allow(&server, "user", SECOND).await;
    let (_changes, login) = watch::channel(("user", SECOND));
    let l2 = RedisL2::open(server.url()).unwrap();
    let partition = partition_of(&l2.credentials(Rotated(login)).unwrap(), NAMESPACE);
    insert(&*partition, "k", b"v").await;
    assert_eq!(connected(&server, "user").await, ["user"]);
}

/// Gives what it has, and nothing after that.
struct Gives(fn() -> Vec<RedisResult<BasicAuth>>);

impl StreamingCredentialsProvider for Gives {
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send>> {
        Box::pin(stream::iter((self.0)()))
    }
}

#[tokio::test]
async fn a_provider_that_fails_is_named() {
    fn failed(kind: ErrorKind) -> Vec<RedisResult<BasicAuth>> {
        vec![Err(RedisError::from((kind, "no token", SECOND.to_owned())))]
    }
    let partition_with = |server: &RedisServer, gives| {
        let l2 = RedisL2::open(server.url()).unwrap();
        partition_of(&l2.credentials(Gives(gives)).unwrap(), NAMESPACE)
    };
    let server = RedisServer::start().await;
    let cases: [(fn() -> Vec<_>, _); 4] = [
        (Vec::new, "has given none"),
        (|| failed(ErrorKind::Client), "has failed"),
        (|| failed(ErrorKind::AuthenticationFailed), "has failed"),
        (|| vec![Err(io::Error::other(SECOND).into())], "has failed"),
    ];
    for (gives, what) in cases {
        let partition = partition_with(&server, gives);
        let of_request = partition.get("k").await.unwrap_err();
        for error in [
            of_request,
            partition.subscribe(ME, NEWCOMER).await.err().unwrap(),
        ] {
            let said = format!("{:?}: {}", error, error.source().unwrap());
            assert!(said.contains(what) && !said.contains(SECOND), "{said}");
        }
    }
    // Once it has given some, it may end.
    allow(&server, "user", FIRST).await;
    let partition = partition_with(&server, || {
        vec![Ok(BasicAuth::new("user".into(), FIRST.into()))]
    });
    let _subscription = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    assert_eq!(connected(&server, "user").await, ["user"; 2]);
}

/// And not the default user, who may have other rights.
#[tokio::test]
async fn a_user_without_a_password_logs_in() {
    let server = RedisServer::start().await;
    let rights = ["ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all"];
    let () = run(&mut server.connection().await, &rights).await;
    let open = |user| RedisL2::open(format!("redis://{user}@127.0.0.1:{}", server.port())).unwrap();
    let partition = partition_of(&open("app"), NAMESPACE);
    let _subscription = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    assert_eq!(connected(&server, "user").await, ["app"; 2]);

    // A password that was written in the wrong place.
    let partition = partition_of(&open(FIRST), NAMESPACE);
    assert!(partition.get("k").await.unwrap_err().is_refused());
    assert!(
        partition
            .subscribe(ME, NEWCOMER)
            .await
            .err()
            .unwrap()
            .is_refused()
    );
}

/// All connections log in alike: none is refused where the other is not.
#[tokio::test]
async fn a_password_is_the_same_for_all_connections() {
    // What the server demands, and what it is given.
    for (of_server, given, is_accepted) in [
        ("", "", true),
        ("", FIRST, true),
        (FIRST, FIRST, true),
        (FIRST, SECOND, false),
        (FIRST, "", false),
    ] {
        let server = RedisServer::start().await;
        let mut raw = server.connection().await;
        let () = run(&mut raw, &["CONFIG", "SET", "requirepass", of_server]).await;
        let login = match given {
            "" => String::new(),
            given => format!(":{given}@"),
        };
        let url = format!("redis://{login}127.0.0.1:{}", server.port());
        let partition = partition_of(&RedisL2::open(&*url).unwrap(), NAMESPACE);
        let ways = [
            partition.get("k").await.err(),
            partition.connected().await.err(),
            partition.subscribe(ME, NEWCOMER).await.err(),
        ];
        for error in &ways {
            let accepted = error.is_none();
            assert_eq!(accepted, is_accepted, "{of_server} {given}: {error:?}");
            assert!(error.as_ref().is_none_or(L2Error::is_refused), "{error:?}");
        }

        let cache = Cache::<String, String>::builder("test:logins");
        let cache = cache.redis(&*url).build().unwrap();
        if is_accepted {
            cache.ready().await;
            cache.insert("k", "v".to_owned()).await.unwrap();
        } else {
            let waiting = timeout(Duration::from_millis(300), cache.ready());
            assert!(waiting.await.is_err(), "{of_server} {given}");
        }
    }
}

/// A pool logs in by itself, and may be refused where the subscription is not.
#[test]
fn a_cache_whose_requests_are_refused_is_not_ready() {
    let log = Log::default();
    let run = async {
        let server = RedisServer::start().await;
        // A password alone, which a server without one refuses.
        let of_pool = format!("redis://:{FIRST}@127.0.0.1:{}", server.port());
        let pool = Pool::builder(Manager::new(of_pool).unwrap());
        let pool = pool.runtime(Runtime::Tokio1).build().unwrap();
        let l2 = RedisL2::with_pool(pool, server.url()).unwrap();
        let cache = Cache::<String, String>::builder("test:logins").l2(l2);
        let cache = cache.build().unwrap();
        eventually("it is subscribed", async || {
            cache.health().is_subscriber_live()
        })
        .await;
        let mut ready = tokio::spawn({
            let cache = cache.clone();
            async move { cache.ready().await }
        });
        eventually("the log says why", async || {
            log.text().contains("may be disabled")
        })
        .await;
        assert!(!ready.is_finished());
        // As the line says: the server demands it now.
        let mut raw = server.connection().await;
        let () = super::run(&mut raw, &["CONFIG", "SET", "requirepass", FIRST]).await;
        timeout(LIMIT, &mut ready).await.unwrap().unwrap();
        cache.insert("k", "v".to_owned()).await.unwrap();
    };
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    log.record(Level::WARN, run);
    let log = log.text();
    assert!(log.contains("demands no password"), "{log}");
    assert!(!log.contains(FIRST), "{log}");
}

#[tokio::test]
async fn a_unix_socket_is_a_way_too() {
    // In the folder of the server, which removes it.
    let server = RedisServer::start_with(&["--unixsocket", "redis.sock"]).await;
    let socket = server.path().join("redis.sock");
    let path = socket.to_str().unwrap();
    for scheme in ["unix", "redis+unix"] {
        let l2 = RedisL2::open(format!("{scheme}://{path}?db=3")).unwrap();
        let partition = partition_of(&l2, NAMESPACE);
        let (_, mut subscription) = subscribe(&*partition).await;
        insert(&*partition, "k", b"v").await;
        assert_eq!(message(&mut *subscription).await.keys.len(), 1);
        assert_eq!(connected(&server, "db").await, ["3"; 2]);
        drop((partition, subscription, l2));
        eventually("they are closed", || async {
            connected(&server, "db").await.is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn connections_say_whose_they_are() {
    let server = RedisServer::start().await;
    let l2 = RedisL2::open(server.url()).unwrap();
    for (namespace, name) in [
        ("catalog:product", "larder:catalog:product"),
        ("straße 7", "larder:stra_e_7"),
    ] {
        let partition = partition_of(&l2, namespace);
        let _subscription = subscribe(&*partition).await;
        insert(&*partition, "k", b"v").await;
        let names = connected(&server, "name").await;
        assert_eq!(names.iter().filter(|other| *other == name).count(), 2);
    }
}

#[test]
fn no_level_of_the_log_shows_a_secret() {
    let log = Log::default();
    let run = async {
        let server = RedisServer::start().await;
        allow(&server, "user", FIRST).await;
        let (changes, login) = watch::channel(("user", FIRST));
        let wrong = format!("redis://user:{SECOND}@127.0.0.1:{}", server.port());
        let right = RedisL2::open(server.url()).unwrap();
        let right = right.credentials(Rotated(login)).unwrap();
        for l2 in [right, RedisL2::open(wrong).unwrap()] {
            let cache: Cache<String, String> =
                Cache::builder("test:logins").l2(l2).build().unwrap();
            _ = cache.insert("k", "v".to_owned()).await;
            assert!(
                cache
                    .get_or_load("k", || async { Ok::<_, io::Error>("v".to_owned()) })
                    .await
                    .is_ok()
            );
            _ = changes.send(("user", SECOND));
            cache.close().await;
        }
    };
    // With one subscriber in the process, a line that a thread without it comes to first would be disabled for all.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    log.record(Level::TRACE, run);
    let log = log.text();
    assert!(log.contains("WRONGPASS"), "{log}");
    for secret in [FIRST, SECOND] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// Tokens, each of which is fetched when the one before was given, and not sooner. Redis refuses the first few.
struct Fetched {
    refused: u32,
}

impl StreamingCredentialsProvider for Fetched {
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send>> {
        let login = |password: &str| Ok(BasicAuth::new("user".into(), password.into()));
        let refused = self.refused;
        Box::pin(stream::unfold(0, move |given| async move {
            if given > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if given > refused {
                return std::future::pending().await;
            }
            let password = if given < refused { FIRST } else { SECOND };
            Some((login(password), given + 1))
        }))
    }
}

#[tokio::test]
async fn a_login_that_is_refused_takes_the_credentials_that_follow() {
    let server = RedisServer::start().await;
    allow(&server, "user", SECOND).await;
    let l2 = RedisL2::open(server.url()).unwrap();
    let partition = partition_of(&l2.credentials(Fetched { refused: 1 }).unwrap(), NAMESPACE);
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    assert_eq!(message(&mut *subscription).await.keys.len(), 1);
    assert_eq!(connected(&server, "user").await, ["user"; 2]);
    let log: Vec<HashMap<String, Value>> =
        run(&mut server.connection().await, &["ACL", "LOG"]).await;
    let refused = log.iter().map(|entry| match entry["count"] {
        Value::Int(count) => count,
        ref other => panic!("{other:?}"),
    });
    assert_eq!(refused.sum::<i64>(), 2, "one for each connection");
}

#[tokio::test]
async fn a_connection_tries_four_credentials() {
    let server = RedisServer::start().await;
    allow(&server, "user", SECOND).await;
    for refused in [3, 4] {
        let l2 = RedisL2::open(server.url()).unwrap();
        let l2 = l2.credentials(Fetched { refused }).unwrap();
        let found = partition_of(&l2, NAMESPACE).get("k").await;
        assert_eq!(found.is_ok(), refused < 4, "{found:?}");
    }
}

#[tokio::test]
async fn a_connection_logs_in_once_with_each_credentials() {
    let server = RedisServer::start().await;
    allow(&server, "user", FIRST).await;
    let (_changes, login) = watch::channel(("user", FIRST));
    let l2 = RedisL2::open(server.url()).unwrap();
    let partition = partition_of(&l2.credentials(Rotated(login)).unwrap(), NAMESPACE);
    insert(&*partition, "k", b"v").await;
    let used: String = run(&mut server.connection().await, &["INFO", "commandstats"]).await;
    let logins = ["auth", "hello"].map(|name| used.contains(&format!("cmdstat_{name}:calls=1,")));
    assert_ne!(logins[0], logins[1], "{used}");
}
