//! Hits in L2, decoded, compared with what a service would write by hand.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use larder::Cache;
use larder::l2::deadpool_redis::Pool;
use larder::l2::deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use larder::l2::deadpool_redis::redis::cmd;

use crate::hits::TTL;
use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Goal, Row, THREADS, count};
use crate::support::callers::{Call, drive};
use crate::support::redis::Redis;
use crate::support::user::User;

const KEYS: u64 = 10_000;
const ROUND: Duration = Duration::from_millis(300);
const CALLERS: [u64; 3] = [1, 64, 256];

const OURS: &str = "larder";
/// Caches that share their connections, and have a part of the keys each.
const CACHES: u64 = 20;
const TWENTY: &str = "larder, 20 caches";
const SHARED: &str = "one shared connection";
const CHECKOUT: &str = "a checkout for each GET";

/// Keys in one request.
const MANY: u64 = 100;
const OURS_MANY: &str = "larder, many";
const MGET: &str = "one MGET";

pub(crate) fn group() -> Group {
    let mut rows = Vec::new();
    for threads in THREADS {
        let mut row = |what: String, (ours, of), callers, figure, unit, goal| {
            rows.push(Row {
                name: format!("{what}, {}", count(threads, "thread")),
                of,
                ours: contestant(ours, callers, threads),
                other: Some(contestant(of, callers, threads)),
                figure,
                unit,
                goal: Some(goal),
            });
        };
        for callers in CALLERS {
            let by = count(callers, "caller");
            if callers == 1 {
                let goal = Goal::new(1.1, 1.0);
                row(
                    format!("L2 hit p50, {by}"),
                    (OURS, SHARED),
                    callers,
                    1,
                    "µs",
                    goal,
                );
            } else {
                for (of, goal) in [
                    (SHARED, Goal::new(1.5, 2.5)),
                    (CHECKOUT, Goal::new(8.0, 12.0)),
                ] {
                    row(format!("L2 hits, {by}"), (OURS, of), callers, 0, "/s", goal);
                }
            }
        }
        let callers = CALLERS[2];
        let what = format!("L2 hits of {CACHES} caches, {}", count(callers, "caller"));
        let goal = Goal::new(0.9, 1.0);
        row(what, (TWENTY, OURS), callers, 0, "/s", goal);
        let goal = Goal::new(1.25, 1.05);
        row(
            format!("get_many of {MANY}"),
            (OURS_MANY, MGET),
            1,
            1,
            "µs",
            goal,
        );
    }
    Group {
        rows,
        rounds: ROUNDS,
        set_up,
    }
}

fn contestant(way: &str, callers: u64, threads: u32) -> String {
    format!("{way} by {callers} on {threads}")
}

fn set_up() -> Vec<Contestant> {
    THREADS.into_iter().flat_map(contestants).collect()
}

fn contestants(threads: u32) -> Vec<Contestant> {
    let redis = Rc::new(Redis::with_threads(threads));
    let shared = Shared(redis.connection());
    let cache = redis.cache("bench:reads", |cache| cache.l1_capacity(0));
    // On a server of their own, as more data makes the others slower.
    let elsewhere = Rc::new(Redis::with_threads(threads));
    let l2 = elsewhere.l2();
    let one = |n| {
        let namespace = format!("bench:reads:{n}");
        elsewhere.cache(&namespace, |cache| cache.l1_capacity(0).l2(l2.clone()))
    };
    let twenty = Twenty((0..CACHES).map(one).collect());
    redis.runtime.block_on(async {
        for id in 0..KEYS {
            let user = User::new(id);
            let mut set = cmd("SET");
            set.arg(name(id))
                .arg(user.encode())
                .arg("EX")
                .arg(TTL.as_secs());
            let () = set.query_async(&mut shared.0.clone()).await.unwrap();
            cache.insert(&id, user).await.unwrap();
        }
    });
    elsewhere.runtime.block_on(async {
        for id in 0..KEYS {
            twenty.of(id).insert(&id, User::new(id)).await.unwrap();
        }
    });
    let (ours, checkout) = (Ours(cache), Checkout(redis.pool()));
    let mut all = Vec::new();
    for callers in CALLERS {
        let name = |way| contestant(way, callers, threads);
        all.push(contender(&redis, name(OURS), callers, ours.clone()));
        all.push(contender(&redis, name(SHARED), callers, shared.clone()));
        all.push(contender(&redis, name(CHECKOUT), callers, checkout.clone()));
    }
    let callers = CALLERS[2];
    let name = contestant(TWENTY, callers, threads);
    all.push(contender(&elsewhere, name, callers, twenty));
    let name = |way| contestant(way, 1, threads);
    all.push(contender(&redis, name(OURS_MANY), 1, OursMany(ours.0)));
    all.push(contender(&redis, name(MGET), 1, Mget(shared.0)));
    all
}

fn contender(redis: &Rc<Redis>, name: String, callers: u64, way: impl Call) -> Contestant {
    let redis = Rc::clone(redis);
    let round = move || {
        let calls = drive(&way, callers, KEYS, |_, since| since < ROUND);
        let done = redis.runtime.block_on(calls);
        vec![done.a_second(), done.percentile(50)]
    };
    Contestant::new(name, round)
}

#[derive(Clone)]
struct Ours(Cache<u64, User>);

impl Call for Ours {
    async fn call(&mut self, id: u64) {
        assert_eq!(self.0.get(&id).await.unwrap().id, id);
    }
}

#[derive(Clone)]
struct Twenty(Vec<Cache<u64, User>>);

impl Twenty {
    fn of(&self, id: u64) -> &Cache<u64, User> {
        &self.0[usize::try_from(id % CACHES).unwrap()]
    }
}

impl Call for Twenty {
    async fn call(&mut self, id: u64) {
        assert_eq!(self.of(id).get(&id).await.unwrap().id, id);
    }
}

#[derive(Clone)]
struct Shared(MultiplexedConnection);

impl Call for Shared {
    async fn call(&mut self, id: u64) {
        get(&mut self.0, id).await;
    }
}

#[derive(Clone)]
struct Checkout(Pool);

impl Call for Checkout {
    async fn call(&mut self, id: u64) {
        get(&mut self.0.get().await.unwrap(), id).await;
    }
}

#[derive(Clone)]
struct OursMany(Cache<u64, User>);

impl Call for OursMany {
    async fn call(&mut self, id: u64) {
        let ids: Vec<u64> = many(id).collect();
        let users = black_box(self.0.get_many(&ids).await);
        for (id, user) in ids.into_iter().zip(users) {
            assert_eq!(user.unwrap().id, id);
        }
    }
}

#[derive(Clone)]
struct Mget(MultiplexedConnection);

impl Call for Mget {
    async fn call(&mut self, id: u64) {
        let mut mget = cmd("MGET");
        for id in many(id) {
            mget.arg(name(id));
        }
        let values: Vec<Vec<u8>> = mget.query_async(&mut self.0).await.unwrap();
        // All are decoded before the first is used, as in a call of `get_many`.
        let users: Vec<User> = values.iter().map(|bytes| User::decode(bytes)).collect();
        for (id, user) in many(id).zip(black_box(users)) {
            assert_eq!(user.id, id);
        }
    }
}

fn many(id: u64) -> impl Iterator<Item = u64> {
    (0..MANY).map(move |n| (id * MANY + n) % KEYS)
}

async fn get(connection: &mut (impl ConnectionLike + Send), id: u64) {
    let bytes: Vec<u8> = cmd("GET")
        .arg(name(id))
        .query_async(connection)
        .await
        .unwrap();
    assert_eq!(black_box(User::decode(&bytes)).id, id);
}

fn name(id: u64) -> String {
    format!("plain:reads:{id}")
}
