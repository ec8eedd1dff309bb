//! Inserts and invalidations, beside the same scripts called one by one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use larder::Cache;
use larder::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::deadpool_redis::redis::{Script, Value, cmd};

use crate::rounds::{Contestant, Group};
use crate::rows::{Goal, Row, count};
use crate::support::callers::{Call, drive};
use crate::support::redis::Redis;
use crate::support::user::User;

const KEYS: u64 = 10_000;
const ROUND: Duration = Duration::from_millis(150);
const CALLERS: [u64; 2] = [1, 64];
const LANE: &str = "{bench:writes.0}";
/// What comes before the body of a stored value.
const STAMP: usize = 36;

const INSERTS: &str = "inserts";
const INVALIDATIONS: &str = "invalidations";

pub(crate) fn group() -> Group {
    let mut rows = Vec::new();
    for callers in CALLERS {
        for what in [INSERTS, INVALIDATIONS] {
            rows.push(Row {
                name: format!("{what}, {}", count(callers, "caller")),
                of: "an EVALSHA each",
                ours: ours(what, callers),
                other: Some(scripts(what, callers)),
                figure: 0,
                unit: "/s",
                goal: (callers > 1).then_some(Goal::new(1.5, 3.0)),
            });
        }
    }
    Group { rows, set_up }
}

fn ours(what: &str, callers: u64) -> String {
    format!("{what} by {callers}")
}

fn scripts(what: &str, callers: u64) -> String {
    format!("scripts of {what} by {callers}")
}

fn set_up() -> Vec<Contestant> {
    let redis = Rc::new(Redis::start());
    // Both write into the lane of one instance, so that the server tells it of all that is written.
    let cache: Cache<u64, User> = redis.cache("bench:writes", |cache| cache);
    let mut connection = redis.connection();
    let body: Vec<u8> = redis.runtime.block_on(async {
        cache.insert(&0, User::new(0)).await.unwrap();
        let mut get = cmd("GET");
        get.arg(format!("{LANE}:0"));
        get.query_async(&mut connection).await.unwrap()
    });
    let insert = Scripted::new(connection.clone(), insert_script(), Some(&body[STAMP..]));
    let invalidate = Scripted::new(connection, invalidate_script(), None);
    let mut all = Vec::new();
    for callers in CALLERS {
        let mut add = |name, way| all.push(contender(&redis, name, callers, way));
        add(ours(INSERTS, callers), Way::Insert(cache.clone()));
        add(scripts(INSERTS, callers), Way::Scripted(insert.clone()));
        add(ours(INVALIDATIONS, callers), Way::Invalidate(cache.clone()));
        add(
            scripts(INVALIDATIONS, callers),
            Way::Scripted(invalidate.clone()),
        );
    }
    all
}

fn contender(redis: &Rc<Redis>, name: String, callers: u64, way: Way) -> Contestant {
    let redis = Rc::clone(redis);
    let round = move || {
        let calls = drive(&way, callers, KEYS, |_, since| since < ROUND);
        vec![redis.runtime.block_on(calls).a_second()]
    };
    Contestant::new(name, round)
}

#[derive(Clone)]
enum Way {
    Insert(Cache<u64, User>),
    Invalidate(Cache<u64, User>),
    Scripted(Scripted),
}

impl Call for Way {
    async fn call(&mut self, id: u64) {
        match self {
            Self::Insert(cache) => cache.insert(&id, User::new(id)).await.unwrap(),
            Self::Invalidate(cache) => cache.invalidate(&id).await.unwrap(),
            Self::Scripted(scripted) => scripted.call(id).await,
        }
    }
}

fn insert_script() -> Script {
    Script::new(concat!(
        include_str!("../../src/l2/redis/clock.lua"),
        include_str!("../../src/l2/redis/insert.lua"),
    ))
}

fn invalidate_script() -> Script {
    Script::new(concat!(
        "#!lua flags=allow-oom\n",
        include_str!("../../src/l2/redis/clock.lua"),
        include_str!("../../src/l2/redis/member.lua"),
        include_str!("../../src/l2/redis/members_of.lua"),
        include_str!("../../src/l2/redis/invalidate.lua"),
    ))
}

/// One call of a script for each write, over a shared connection.
#[derive(Clone)]
struct Scripted {
    connection: MultiplexedConnection,
    script: Arc<Script>,
    /// Inserted, or else the key is invalidated.
    body: Option<Arc<[u8]>>,
}

impl Scripted {
    fn new(connection: MultiplexedConnection, script: Script, body: Option<&[u8]>) -> Self {
        Self {
            connection,
            script: Arc::new(script),
            body: body.map(Arc::from),
        }
    }

    async fn call(&mut self, id: u64) {
        let mut call = self.script.prepare_invoke();
        call.key(format!("{LANE}!clock")).key(format!("{LANE}!log"));
        if self.body.is_none() {
            call.key(format!("{LANE}!live"));
        }
        call.key(format!("{LANE}:{id}"));
        call.key(format!("{LANE}!lease:{id}"));
        call.arg(format!("{LANE}!events")).arg(1).arg(self.tail(id));
        match &self.body {
            Some(body) => call.arg("").arg(&**body).arg(3_600_000),
            None => call.arg(0).arg(10),
        };
        let _: Value = call.invoke_async(&mut self.connection).await.unwrap();
    }

    /// Of a message, as in `src/wire/message.rs`.
    fn tail(&self, id: u64) -> Vec<u8> {
        let key = id.to_string();
        let mut tail = vec![u8::from(self.body.is_some())];
        tail.extend_from_slice(&[0; 8]);
        tail.extend_from_slice(&[0, 1, 0, u8::try_from(key.len()).unwrap()]);
        tail.extend_from_slice(key.as_bytes());
        tail
    }
}
