//! Inserts and invalidations, compared with the same scripts called one by one.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use larder::Cache;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{Script, Value, cmd};

use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Goal, Row, THREADS, count};
use crate::support::callers::{Call, drive, prepare};
use crate::support::redis::Redis;
use crate::support::user::User;

const KEYS: u64 = 10_000;
const ROUND: Duration = Duration::from_millis(150);
const HOUR: Duration = Duration::from_secs(3600);
const CALLERS: [u64; 2] = [1, 64];
const NAMESPACE: &str = "bench:inserts";
/// The length of the stamp, which comes before the body of a stored value.
const STAMP: usize = 36;

const INSERTS: &str = "inserts";
const INVALIDATIONS: &str = "invalidations";
const KEPT: &str = "inserts, kept in L1";

const SCRIPT: &str = "an EVALSHA each";
const SCRIPT_AND_MOKA: &str = "an EVALSHA and a moka insert each";

pub(crate) fn group() -> Group {
    let mut rows = Vec::new();
    for threads in THREADS {
        for callers in CALLERS {
            for (what, of) in [
                (INSERTS, SCRIPT),
                (INVALIDATIONS, SCRIPT),
                (KEPT, SCRIPT_AND_MOKA),
            ] {
                let (by, on) = (count(callers, "caller"), count(threads, "thread"));
                rows.push(Row {
                    name: format!("{what}, {by}, {on}"),
                    of,
                    ours: ours(what, callers, threads),
                    other: Some(by_hand(what, callers, threads)),
                    figure: 0,
                    unit: "/s",
                    goal: (callers > 1 && what != KEPT).then_some(Goal::new(1.5, 3.0)),
                });
            }
        }
    }
    let (callers, threads) = (CALLERS[1], THREADS[1]);
    let (by, on) = (count(callers, "caller"), count(threads, "thread"));
    rows.push(Row {
        name: format!("{KEPT}, {by}, {on}"),
        of: "inserts without L1",
        ours: ours(KEPT, callers, threads),
        other: Some(ours(INSERTS, callers, threads)),
        figure: 0,
        unit: "/s",
        goal: Some(Goal::new(0.85, 1.0)),
    });
    Group {
        rows,
        rounds: ROUNDS,
        set_up,
    }
}

fn ours(what: &str, callers: u64, threads: u32) -> String {
    format!("{what} by {callers} on {threads}")
}

fn by_hand(what: &str, callers: u64, threads: u32) -> String {
    format!("{what} by hand by {callers} on {threads}")
}

fn set_up() -> Vec<Contestant> {
    THREADS.into_iter().flat_map(contestants).collect()
}

fn contestants(threads: u32) -> Vec<Contestant> {
    let redis = Rc::new(Redis::with_threads(threads));
    let cache = |namespace, room| redis.cache(namespace, |cache| cache.l1_capacity(room));
    let (inserts, removals) = (cache(NAMESPACE, 0), cache("bench:removal", 0));
    let kept = cache("bench:kept", 2 * KEYS);
    let body = Some(body(&redis, &inserts));
    // The calls by hand use partitions of their own.
    let hand = |partition| Scripted::new(&redis, partition, insert_script(), body.clone());
    let (insert, refill) = (hand("{plain:inserts.0}"), hand("{plain:removal.0}"));
    let remove = Scripted {
        script: Arc::new(invalidate_script()),
        body: None,
        ..refill.clone()
    };
    let l1 = moka::sync::Cache::builder()
        .max_capacity(2 * KEYS)
        .time_to_live(HOUR)
        .build();
    // For each kind, the call that inserts the keys before a round, so that there is a value to replace or to
    // remove; and the call that is timed.
    let replace = |way: Way| (way.clone(), way);
    let kinds = [
        (
            INSERTS,
            replace(Way::Insert(inserts)),
            replace(Way::Scripted(insert)),
        ),
        (
            KEPT,
            replace(Way::Insert(kept)),
            replace(Way::Kept(hand("{plain:kept.0}"), l1)),
        ),
        (
            INVALIDATIONS,
            (Way::Insert(removals.clone()), Way::Invalidate(removals)),
            (Way::Scripted(refill), Way::Scripted(remove)),
        ),
    ];
    let mut all = Vec::new();
    for callers in CALLERS {
        for (what, mine, theirs) in &kinds {
            let mut add = |name, way| all.push(contender(&redis, name, callers, way));
            add(ours(what, callers, threads), mine);
            add(by_hand(what, callers, threads), theirs);
        }
    }
    all
}

/// The stored bytes of a value, without the stamp.
fn body(redis: &Redis, cache: &Cache<u64, User>) -> Arc<[u8]> {
    let mut connection = redis.connection();
    let stored: Vec<u8> = redis.runtime.block_on(async {
        cache.insert(&0, User::new(0)).await.unwrap();
        let mut get = cmd("GET");
        get.arg(format!("{{{NAMESPACE}.0}}:0"));
        get.query_async(&mut connection).await.unwrap()
    });
    Arc::from(&stored[STAMP..])
}

fn contender(redis: &Rc<Redis>, name: String, callers: u64, ways: &(Way, Way)) -> Contestant {
    let (redis, (fill, way)) = (Rc::clone(redis), ways.clone());
    let round = move || {
        let calls = async {
            prepare(&fill, KEYS).await;
            drive(&way, callers, KEYS, |_, since| since < ROUND).await
        };
        vec![redis.runtime.block_on(calls).a_second()]
    };
    Contestant::new(name, round)
}

#[derive(Clone)]
enum Way {
    Insert(Cache<u64, User>),
    Invalidate(Cache<u64, User>),
    Scripted(Scripted),
    /// The script, then an insert into moka.
    Kept(Scripted, moka::sync::Cache<String, Arc<User>>),
}

impl Call for Way {
    async fn call(&mut self, id: u64) {
        match self {
            Self::Insert(cache) => drop(cache.insert(&id, User::new(id)).await.unwrap()),
            Self::Invalidate(cache) => drop(cache.invalidate(&id).await.unwrap()),
            Self::Scripted(scripted) => scripted.call(id).await,
            Self::Kept(scripted, l1) => {
                scripted.call(id).await;
                l1.insert(id.to_string(), Arc::new(User::new(id)));
            }
        }
    }
}

fn insert_script() -> Script {
    Script::new(concat!(
        include_str!("../../src/l2/redis/lua/parts/checked.lua"),
        include_str!("../../src/l2/redis/lua/parts/send.lua"),
        include_str!("../../src/l2/redis/lua/parts/clock.lua"),
        include_str!("../../src/l2/redis/lua/parts/stamp.lua"),
        include_str!("../../src/l2/redis/lua/parts/staged.lua"),
        include_str!("../../src/l2/redis/lua/parts/tag_list.lua"),
        include_str!("../../src/l2/redis/lua/parts/tags.lua"),
        include_str!("../../src/l2/redis/lua/parts/body_tags.lua"),
        include_str!("../../src/l2/redis/lua/insert.lua"),
    ))
}

pub(crate) fn invalidate_script() -> Script {
    Script::new(concat!(
        "#!lua flags=allow-oom\n",
        include_str!("../../src/l2/redis/lua/parts/checked.lua"),
        include_str!("../../src/l2/redis/lua/parts/send.lua"),
        include_str!("../../src/l2/redis/lua/parts/clock.lua"),
        include_str!("../../src/l2/redis/lua/parts/member_list.lua"),
        include_str!("../../src/l2/redis/lua/parts/mark.lua"),
        include_str!("../../src/l2/redis/lua/invalidate.lua"),
    ))
}

/// One call of a script for each write, over a shared connection, as a user would write it by hand. A subscriber
/// receives the messages, as another instance would.
#[derive(Clone)]
pub(crate) struct Scripted {
    partition: &'static str,
    connection: MultiplexedConnection,
    _subscriber: MultiplexedConnection,
    script: Arc<Script>,
    /// The value to insert; without one, the key is invalidated.
    body: Option<Arc<[u8]>>,
}

impl Scripted {
    pub(crate) fn new(
        redis: &Redis,
        partition: &'static str,
        script: Script,
        body: Option<Arc<[u8]>>,
    ) -> Self {
        Self {
            partition,
            connection: redis.connection(),
            _subscriber: redis.subscriber(&format!("{partition}!events"), |message| {
                black_box(message);
            }),
            script: Arc::new(script),
            body,
        }
    }

    pub(crate) async fn call(&mut self, id: u64) {
        let partition = self.partition;
        let mut call = self.script.prepare_invoke();
        call.key(format!("{partition}!clock"))
            .key(format!("{partition}!log"));
        if self.body.is_none() {
            call.key(format!("{partition}!live"));
        }
        call.key(format!("{partition}:{id}"));
        call.key(format!("{partition}!lease:{id}"));
        call.arg(format!("{partition}!events"))
            .arg(1)
            .arg(tail(self.body.is_some(), id));
        match &self.body {
            Some(body) => call.arg("").arg(&**body).arg(3_600_000),
            None => call.arg(0).arg(10),
        };
        let _: Value = call.invoke_async(&mut self.connection).await.unwrap();
    }
}

/// The tail of a message, as in `src/wire/message.rs`.
fn tail(inserts: bool, id: u64) -> Vec<u8> {
    let key = id.to_string();
    let mut tail = vec![u8::from(inserts)];
    tail.extend_from_slice(&[0; 8]);
    tail.extend_from_slice(&[0, 1, 0, u8::try_from(key.len()).unwrap()]);
    tail.extend_from_slice(key.as_bytes());
    tail
}
