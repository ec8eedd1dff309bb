//! The time that the server spends in scripts for one call, compared with plain commands, which keep no other instance
//! coherent. The server counts it.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::Cache;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{Value, cmd};

use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Row, count};
use crate::support::callers::{Call, drive, prepare};
use crate::support::redis::Redis;
use crate::support::user::User;

const CALLERS: [u64; 2] = [1, 64];
const KEYS: u64 = 10_000;
const ROUND: Duration = Duration::from_millis(150);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy)]
enum Kind {
    Insert,
    Load,
    Touch,
    Invalidate,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Insert, Self::Load, Self::Touch, Self::Invalidate];

    const fn name(self) -> &'static str {
        match self {
            Self::Insert => "an insert",
            Self::Load => "a load",
            Self::Touch => "a touch",
            Self::Invalidate => "an invalidation",
        }
    }

    /// The plain commands.
    const fn commands(self) -> &'static str {
        match self {
            Self::Insert => "SET",
            Self::Load => "GET and SET",
            Self::Touch => "PEXPIRE",
            Self::Invalidate => "DEL",
        }
    }
}

pub(crate) fn group() -> Group {
    let kinds = Kind::ALL.into_iter();
    let rows = kinds.flat_map(|kind| CALLERS.map(|callers| row(kind, callers)));
    Group {
        rows: rows.collect(),
        rounds: ROUNDS,
        set_up,
    }
}

fn row(kind: Kind, callers: u64) -> Row {
    let by = count(callers, "caller");
    Row {
        name: format!("server's time of {}, {by}", kind.name()),
        of: kind.commands(),
        ours: ours(kind, callers),
        other: Some(by_hand(kind, callers)),
        figure: 0,
        unit: "µs",
        goal: None,
    }
}

fn ours(kind: Kind, callers: u64) -> String {
    format!("{} by {callers}", kind.name())
}

fn by_hand(kind: Kind, callers: u64) -> String {
    format!("{} by hand by {callers}", kind.name())
}

fn set_up() -> Vec<Contestant> {
    let redis = Rc::new(Redis::start());
    let cache = redis.cache("bench:scripts", |cache| cache.l1_capacity(0));
    let connection = redis.connection();
    let next = Arc::default();
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for callers in CALLERS {
            let with = |name, by, commands| {
                let calls = Calls {
                    kind,
                    by,
                    next: Arc::clone(&next),
                };
                contestant(&redis, name, callers, calls, commands)
            };
            let by = By::Cache(cache.clone());
            all.push(with(ours(kind, callers), by, &["evalsha"]));
            let by = By::Hand(connection.clone());
            let plain = &["get", "set", "pexpire", "del"];
            all.push(with(by_hand(kind, callers), by, plain));
        }
    }
    all
}

fn contestant(
    redis: &Rc<Redis>,
    name: String,
    callers: u64,
    calls: Calls,
    commands: &'static [&'static str],
) -> Contestant {
    let (redis, mut connection) = (Rc::clone(redis), redis.connection());
    let stored = Calls {
        kind: Kind::Insert,
        ..calls.clone()
    };
    let round = move || {
        let time = async {
            // There is a value to replace, to touch or to remove.
            prepare(&stored, KEYS).await;
            let before = micros(&mut connection, commands).await;
            let done = drive(&calls, callers, KEYS, |_, since| since < ROUND).await;
            (micros(&mut connection, commands).await - before) / done.number()
        };
        vec![redis.runtime.block_on(time)]
    };
    Contestant::new(name, round)
}

/// How long the server has spent in these commands.
async fn micros(connection: &mut MultiplexedConnection, commands: &[&str]) -> f64 {
    let info: String = cmd("INFO")
        .arg("commandstats")
        .query_async(connection)
        .await
        .unwrap();
    let time = |line: &str| -> Option<f64> {
        let (command, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let micros = figures.split("usec=").nth(1)?.split(',').next()?;
        commands.contains(&command).then(|| micros.parse().unwrap())
    };
    info.lines().filter_map(time).sum()
}

#[derive(Clone)]
enum By {
    Cache(Cache<u64, User>),
    Hand(MultiplexedConnection),
}

#[derive(Clone)]
struct Calls {
    kind: Kind,
    by: By,
    /// Each load is of a key that has no value.
    next: Arc<AtomicU64>,
}

impl Call for Calls {
    async fn call(&mut self, id: u64) {
        let key = match self.kind {
            Kind::Load => KEYS + self.next.fetch_add(1, Ordering::Relaxed),
            _ => id,
        };
        match &mut self.by {
            By::Cache(cache) => through(cache, self.kind, key).await,
            By::Hand(connection) => by_commands(connection, self.kind, key).await,
        }
    }
}

async fn through(cache: &Cache<u64, User>, kind: Kind, key: u64) {
    match kind {
        Kind::Insert => drop(cache.insert(&key, User::new(key)).await.unwrap()),
        Kind::Load => {
            let load = move || async move { Ok::<_, Infallible>(User::new(key)) };
            cache.get_or_load(&key, load).await.unwrap();
        }
        Kind::Touch => drop(cache.touch(&key, HOUR).await.unwrap()),
        Kind::Invalidate => drop(cache.invalidate(&key).await.unwrap()),
    }
}

async fn by_commands(connection: &mut MultiplexedConnection, kind: Kind, key: u64) {
    let name = format!("plain:{}:{key}", kind.name());
    let mut send = async |command: &str, arguments: &[&[u8]]| {
        let mut command = cmd(command);
        command.arg(&name).arg(arguments);
        let _: Value = command.query_async(connection).await.unwrap();
    };
    let set: [&[u8]; 3] = [&User::new(key).encode(), b"PX", b"3600000"];
    match kind {
        Kind::Insert => send("SET", &set).await,
        Kind::Load => {
            send("GET", &[]).await;
            send("SET", &set).await;
        }
        Kind::Touch => send("PEXPIRE", &[b"3600000"]).await,
        Kind::Invalidate => send("DEL", &[]).await,
    }
}
