//! Hits in L2 a second, decoded, in several ways that take turns.
//!
//! `cargo bench --bench rounds`. Of each way it prints the median rate, and the median and the spread of
//! how many times the rate of the first it was in the same round.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the bench")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use larder::Cache;
use larder::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::deadpool_redis::redis::io::tcp::TcpSettings;
use larder::deadpool_redis::redis::{Client, IntoConnectionInfo, cmd};
use larder::deadpool_redis::{Manager, Pool};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::support::redis_server::RedisServer;

const KEYS: u64 = 10_000;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(200);
const CALLERS: [u64; 4] = [1, 16, 64, 256];

/// About 128 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    email: String,
    about: String,
    tags: Vec<u32>,
}

impl User {
    fn new(id: u64) -> Self {
        Self {
            id,
            name: format!("user number {id}"),
            email: format!("user.{id}@example.org"),
            about: "x".repeat(56),
            tags: (0..8).collect(),
        }
    }
}

/// One way to get a user who is there.
#[derive(Clone)]
enum Way {
    Checkout(Pool),
    Shared(MultiplexedConnection),
    Larder(Cache<u64, User>),
}

impl Way {
    fn name(&self) -> &'static str {
        match self {
            Self::Checkout(_) => "a checkout for each GET",
            Self::Shared(_) => "one shared connection",
            Self::Larder(_) => "larder",
        }
    }

    async fn get(&mut self, id: u64) -> User {
        let get = || cmd("GET").arg(format!("plain:{id}")).to_owned();
        let bytes: Vec<u8> = match self {
            Self::Larder(cache) => return User::clone(&*cache.get(&id).await.unwrap()),
            Self::Checkout(pool) => {
                let mut connection = pool.get().await.unwrap();
                get().query_async(&mut connection).await.unwrap()
            }
            Self::Shared(connection) => get().query_async(connection).await.unwrap(),
        };
        decode(&bytes)
    }
}

fn decode(bytes: &[u8]) -> User {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard())
        .unwrap()
        .0
}

async fn ways(server: &RedisServer) -> Vec<Way> {
    let info = server.url().into_connection_info().unwrap();
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let pool = Pool::builder(Manager::new(info.clone()).unwrap());
    let client = Client::open(info).unwrap();
    let mut shared = client.get_multiplexed_async_connection().await.unwrap();
    let cache = Cache::builder("bench:rounds")
        .l1_capacity(0)
        .redis(server.url())
        .build()
        .unwrap();
    cache.ready().await;
    for id in 0..KEYS {
        let user = User::new(id);
        let bytes = bincode::serde::encode_to_vec(&user, bincode::config::standard()).unwrap();
        let mut set = cmd("SET");
        set.arg(format!("plain:{id}")).arg(bytes);
        let () = set.query_async(&mut shared).await.unwrap();
        cache.insert(&id, user).await.unwrap();
    }
    vec![
        Way::Shared(shared),
        Way::Checkout(pool.max_size(16).build().unwrap()),
        Way::Larder(cache),
    ]
}

/// Hits a second by so many callers, each of whom asks for one after the other.
async fn round(way: &Way, callers: u64) -> f64 {
    let start = Instant::now();
    let all = (0..callers).map(|caller| -> BoxFuture<'static, u64> {
        let mut way = way.clone();
        let calls = async move {
            let mut hits = 0;
            while start.elapsed() < ROUND {
                // Far apart, so that callers do not share reads.
                let id = (caller * (KEYS / callers) + hits) % KEYS;
                assert_eq!(way.get(id).await.id, id);
                hits += 1;
            }
            hits
        };
        Box::pin(async move { tokio::spawn(calls).await.unwrap() })
    });
    let hits: u64 = join_all(all).await.into_iter().sum();
    #[allow(clippy::cast_precision_loss, reason = "they are few")]
    let hits = hits as f64;
    hits / start.elapsed().as_secs_f64()
}

fn compare(runtime: &Runtime, ways: &[Way], callers: u64) {
    let mut rates = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (rates, way) in rates.iter_mut().zip(ways) {
            rates.push(runtime.block_on(round(way, callers)));
        }
    }
    let middle = |mut numbers: Vec<f64>| {
        numbers.sort_by(f64::total_cmp);
        numbers.get(ROUNDS / 2).copied().unwrap()
    };
    let plain = rates.first().unwrap();
    for (way, rates) in ways.iter().zip(&rates) {
        // Of the same round, so that what slows the machine down slows down both.
        let ratios: Vec<f64> = rates
            .iter()
            .zip(plain)
            .map(|(one, other)| one / other)
            .collect();
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "{callers:>4} callers, {:<24} {:>4.0} thousand/s, {:.2} times the first ({low:.2}–{high:.2})",
            way.name(),
            middle(rates.clone()) / 1e3,
            middle(ratios),
        );
    }
}

fn main() {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let ways = runtime.block_on(ways(&server));
    for callers in CALLERS {
        compare(&runtime, &ways, callers);
    }
}
