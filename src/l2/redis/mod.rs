//! L2 on Redis, through a deadpool pool.

mod connection;
mod listener;
mod scripts;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo,
    ProtocolVersion, ScriptInvocation, cmd, io::tcp::TcpSettings,
};
use deadpool_redis::{Manager, Pool, Runtime};
use futures::FutureExt;

use self::connection::Connections;
use self::scripts::Scripts;
use super::{
    Applied, Ask, FORGOTTEN_AFTER, Fill, L2, L2Error, Lane, LaneClock, Lead, Lease, Listener, Me,
    Member, Message, OnConnect, Reply, Sealed, Stamp, Told, Want, random,
};
use crate::clock::millis;
use crate::wire::message;

/// Messages read from the log at a time.
const REPLAY: usize = 1024;
/// A bound for a pool of our own that no process reaches: each lane takes one connection, once.
const POOL_SIZE: usize = 1024;

/// The second level on a Redis server, version 7.0 or later, or Valkey.
///
/// Several caches of a process can share one, and with it the pool. Each cache keeps one pooled
/// connection for good, over which all its requests are multiplexed, and opens one more, outside the
/// pool, on which it listens; so a pool of your own needs at least one connection per cache to spare.
#[derive(Clone)]
pub struct RedisL2 {
    pool: Pool,
    listener: Client,
}

impl RedisL2 {
    /// A store behind `redis://[user][:password@]host[:port][/db]`, with a pool of its own.
    ///
    /// Does not connect: that happens at the first use.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_url`] when the URL cannot be used. The error does not show the URL.
    pub fn open(url: &str) -> Result<Self, L2Error> {
        let info = connection_info(url)?;
        let manager = Manager::new_with_config(info.clone(), connection_config())
            .map_err(|error| L2Error::bad_url(&error))?;
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| L2Error::pool(&error))?;
        Self::new(pool, info)
    }

    /// A store behind a pool of your own; the URL is for the connection on which it listens, which a
    /// pool cannot give out.
    ///
    /// Both must lead to the same server and database. Set `TCP_NODELAY` in the pool's manager: the
    /// client's default leaves it off.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_url`] when the URL cannot be used. The error does not show the URL.
    pub fn with_pool(pool: Pool, url: &str) -> Result<Self, L2Error> {
        Self::new(pool, connection_info(url)?)
    }

    fn new(pool: Pool, info: ConnectionInfo) -> Result<Self, L2Error> {
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let listener = Client::open(info.set_redis_settings(settings))
            .map_err(|error| L2Error::bad_url(&error))?;
        Ok(Self { pool, listener })
    }
}

/// Never shows where the server is: a URL can hold a password.
impl fmt::Debug for RedisL2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisL2").finish_non_exhaustive()
    }
}

impl L2 for RedisL2 {
    fn lane(&self, namespace: &str, timeout: Duration, on_connect: OnConnect) -> Box<dyn Lane> {
        let names = Names::new(
            namespace,
            self.listener.get_connection_info().redis_settings().db(),
        );
        let scripts = Arc::new(Scripts::new());
        let connections =
            Connections::new(self.pool.clone(), &names, Arc::clone(&scripts), on_connect);
        Box::new(RedisLane {
            names,
            scripts,
            connections,
            listener: self.listener.clone(),
            timeout,
        })
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, L2Error> {
    let info = url
        .into_connection_info()
        .map_err(|error| L2Error::bad_url(&error))?;
    Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn connection_config() -> AsyncConnectionConfig {
    // Time limits are kept by the lane, for pools of any make.
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1024)
        .set_write_backpressure_boundary(64 * 1024)
}

/// The names of one lane's keys.
#[derive(Clone)]
struct Names {
    tag: String,
    clock: String,
    log: String,
    live: String,
    events: String,
}

impl Names {
    fn new(namespace: &str, db: i64) -> Self {
        let tag = format!("{{{namespace}.0}}");
        // Channels are not part of a database: without its number, two databases would hear each other.
        let database = if db == 0 {
            String::new()
        } else {
            format!("@{db}")
        };
        Self {
            clock: format!("{tag}!clock"),
            log: format!("{tag}!log"),
            live: format!("{tag}!live"),
            events: format!("{tag}!events{database}"),
            tag,
        }
    }

    fn value(&self, key: &str) -> String {
        format!("{}:{key}", self.tag)
    }

    fn lease(&self, key: &str) -> String {
        format!("{}!lease:{key}", self.tag)
    }
}

struct RedisLane {
    names: Names,
    scripts: Arc<Scripts>,
    connections: Connections,
    listener: Client,
    timeout: Duration,
}

impl fmt::Debug for RedisLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLane")
            .field("tag", &self.names.tag)
            .finish_non_exhaustive()
    }
}

impl RedisLane {
    async fn run<T: FromRedisValue>(&self, call: ScriptInvocation<'_>) -> Result<T, L2Error> {
        self.connections
            .with(self.timeout, |mut connection| {
                let call = &call;
                async move { call.invoke_async(&mut connection).await }
            })
            .await
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, L2Error> {
        self.connections
            .with(self.timeout, |mut connection| async move {
                command.query_async(&mut connection).await
            })
            .await
    }
}

/// Its id, then names and values in turn: there is one of each.
type LogEntry = (String, Vec<(String, Vec<u8>)>);

type Stamped = (u64, u64, u64);

fn stamp((epoch, ver, written_at): Stamped) -> Stamp {
    Stamp {
        epoch,
        ver,
        written_at,
    }
}

impl Lane for RedisLane {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        async move {
            let get = cmd("GET").arg(self.names.value(key)).to_owned();
            let send = |mut connection: MultiplexedConnection| {
                let get = &get;
                async move {
                    match get.query_async(&mut connection).await {
                        // Something that is no string: bytes that are no value, then.
                        Err(error) if error.code() == Some("WRONGTYPE") => Ok(Some(Vec::new())),
                        answer => answer,
                    }
                }
            };
            self.connections.with(self.timeout, send).await
        }
        .boxed()
    }

    fn lead<'a>(&'a self, key: &'a str, ask: Ask) -> Reply<'a, Lead> {
        async move {
            let mut call = self.scripts.lead.prepare_invoke();
            call.key(self.names.value(key))
                .key(self.names.lease(key))
                .key(&self.names.clock);
            call.arg(ask.token).arg(millis(ask.ttl));
            match ask.want {
                Want::Any => call.arg(""),
                Want::NewerThan(seen) => call.arg(seen),
                Want::Nothing => call.arg("*"),
            };
            call.arg(random());
            let (answer, value, number) = self.run::<(String, Option<Vec<u8>>, u64)>(call).await?;
            match (answer.as_str(), value) {
                ("HIT", Some(bytes)) => Ok(Lead::Hit(bytes)),
                ("LEAD", _) => Ok(Lead::Granted(Lease {
                    token: ask.token,
                    epoch: number,
                })),
                ("WAIT", _) => Ok(Lead::Wait(Duration::from_millis(number))),
                ("HOLD", _) => Ok(Lead::Hold),
                ("MISS", _) => Ok(Lead::Miss),
                _ => Err(L2Error::unexpected("its answer to LEAD makes no sense")),
            }
        }
        .boxed()
    }

    fn fill<'a>(&'a self, key: &'a str, lease: Lease, value: &'a Sealed) -> Reply<'a, Fill> {
        async move {
            let mut call = self.scripts.fill.prepare_invoke();
            call.key(self.names.value(key))
                .key(self.names.lease(key))
                .key(&self.names.clock);
            call.arg(lease.token)
                .arg(lease.epoch)
                .arg(&value.body)
                .arg(millis(value.ttl))
                .arg(random());
            let (answer, bytes, stamped) = self
                .run::<(String, Option<Vec<u8>>, Option<Stamped>)>(call)
                .await?;
            match (answer.as_str(), stamped) {
                ("OK", Some(stamped)) => Ok(Fill::Stored(stamp(stamped))),
                ("REJECTED", _) => Ok(Fill::Rejected(bytes)),
                _ => Err(L2Error::unexpected("its answer to FILL makes no sense")),
            }
        }
        .boxed()
    }

    fn renew<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        async move {
            let mut call = self.scripts.renew.prepare_invoke();
            call.key(self.names.lease(key)).arg(token).arg(millis(ttl));
            self.run(call).await
        }
        .boxed()
    }

    fn insert<'a>(
        &'a self,
        key: &'a str,
        value: &'a Sealed,
        tail: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        async move {
            let mut call = self.scripts.insert.prepare_invoke();
            call.key(&self.names.clock)
                .key(&self.names.log)
                .key(self.names.value(key))
                .key(self.names.lease(key));
            call.arg(&self.names.events).arg(random()).arg(tail);
            call.arg(&value.body)
                .arg(millis(value.ttl))
                .arg(deadline.map_or_else(String::new, |at| at.to_string()));
            match self.run::<Option<Stamped>>(call).await? {
                Some(stamped) => Ok(stamp(stamped)),
                None => Err(L2Error::unexpected("the insert came after its deadline")),
            }
        }
        .boxed()
    }

    fn invalidate<'a>(
        &'a self,
        keys: &'a [&'a str],
        tail: &'a [u8],
        hold: Duration,
    ) -> Reply<'a, Told> {
        async move {
            let mut call = self.scripts.invalidate.prepare_invoke();
            call.key(&self.names.clock).key(&self.names.log);
            for key in keys {
                call.key(self.names.value(key)).key(self.names.lease(key));
            }
            call.arg(&self.names.events).arg(random()).arg(tail);
            call.arg(millis(hold));
            let (epoch, ver, written_at, seq) = self.run(call).await?;
            let stamp = stamp((epoch, ver, written_at));
            Ok(Told { stamp, seq })
        }
        .boxed()
    }

    fn clear<'a>(&'a self, tail: &'a [u8]) -> Reply<'a, Stamp> {
        async move {
            let mut call = self.scripts.clear.prepare_invoke();
            call.key(&self.names.clock)
                .arg(&self.names.events)
                .arg(random())
                .arg(tail);
            self.run(call).await.map(stamp)
        }
        .boxed()
    }

    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>> {
        async move {
            let mut range = cmd("XRANGE");
            range.arg(&self.names.log).arg(first).arg("+");
            range.arg("COUNT").arg(REPLAY);
            let entries: Vec<LogEntry> = self.ask(&range).await?;
            let payloads = entries.into_iter().flat_map(|(_, fields)| fields);
            // What this release cannot read leaves a hole.
            Ok(payloads
                .filter_map(|(_, payload)| message::open(&payload))
                .collect())
        }
        .boxed()
    }

    fn members(&self) -> Reply<'_, Vec<Member>> {
        async move {
            let mut call = self.scripts.members.prepare_invoke();
            call.key(&self.names.live).arg(FORGOTTEN_AFTER);
            let entries: Vec<(u64, String)> = self.run(call).await?;
            let members = entries.iter().map(|(id, entry)| member(*id, entry));
            members.collect::<Option<_>>().ok_or_else(|| {
                L2Error::unexpected("its list of members was written by something else")
            })
        }
        .boxed()
    }

    fn leave(&self, id: u64) -> Reply<'_, ()> {
        async move { self.ask(cmd("HDEL").arg(&self.names.live).arg(id)).await }.boxed()
    }

    fn listen(&self, me: Me) -> Reply<'_, (LaneClock, Box<dyn Listener>)> {
        listener::listen(&self.listener, &self.names, &self.scripts, self.timeout, me).boxed()
    }
}

/// Reads what a member has noted of itself: `epoch:seq:staleness:at`.
fn member(id: u64, entry: &str) -> Option<Member> {
    let mut fields = entry.split(':').map(str::parse::<u64>);
    let mut field = || fields.next()?.ok();
    let (epoch, seq, staleness) = (field()?, field()?, field()?);
    Some(Member {
        me: Me {
            id,
            max_staleness: Duration::from_millis(staleness),
        },
        applied: Applied { epoch, seq },
    })
}

/// How an error of the client looks to the crate.
fn l2_error(error: deadpool_redis::redis::RedisError) -> L2Error {
    if error.is_io_error() {
        L2Error::unreachable(error)
    } else {
        L2Error::refused(error)
    }
}
