//! What is measured, one thing in each file.

mod callers;
mod invalidation;
mod l1;
mod l2;
mod load;
mod race;
mod stampede;
mod write;

use deadpool_redis::redis::cmd;
use tokio::runtime::Runtime;

use crate::peer::TwoLevels;
use crate::support::redis_server::RedisServer;
use crate::turns::Row;

/// What all rows need.
pub struct Bench<'a> {
    pub runtime: &'a Runtime,
    /// How many threads the runtime has.
    threads: &'a str,
    server: &'a RedisServer,
    pub rounds: usize,
    quick: bool,
}

impl<'a> Bench<'a> {
    pub fn new(
        runtime: &'a Runtime,
        threads: &'a str,
        server: &'a RedisServer,
        quick: bool,
    ) -> Self {
        Self {
            runtime,
            threads,
            server,
            rounds: if quick { 2 } else { 25 },
            quick,
        }
    }

    /// An instance for this row. Ways do not share names: some would write to the same keys.
    pub async fn start<P: TwoLevels>(&self, row: &str) -> P {
        let way: String = P::NAME
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        P::start(&self.server.url(), &format!("{row}-{way}")).await
    }

    /// How many look-ups of keys Redis has answered with a value.
    pub fn redis_hits(&self) -> u64 {
        let info = self.runtime.block_on(async {
            let mut connection = self.server.connection().await;
            let info = cmd("INFO").arg("stats").to_owned();
            let info: String = info.query_async(&mut connection).await.unwrap();
            info
        });
        let mut lines = info.lines();
        let hits = lines.find_map(|line| line.strip_prefix("keyspace_hits:"));
        hits.unwrap().parse().unwrap()
    }

    /// `full`, or a tenth of it in a quick run.
    pub fn times(&self, full: u64) -> u64 {
        if self.quick { full / 10 } else { full }
    }
}

/// What [`all`] measures.
pub const NAMES: [&str; 7] = [
    "l1",
    "l2",
    "load",
    "stampede",
    "write",
    "invalidation",
    "race",
];

/// Measures the rows that are named, or all if none is, some of them on a runtime of one thread and on one of two.
pub fn all(one: &Bench<'_>, two: &Bench<'_>, named: &[String]) -> Vec<Row> {
    let is_measured = |name: &str| named.is_empty() || named.iter().any(|named| named == name);
    let mut rows = Vec::new();
    let mut add = |name, on: &[&Bench<'_>], of: fn(&Bench<'_>) -> Vec<Row>| {
        if is_measured(name) {
            rows.extend(on.iter().flat_map(|bench| of(bench)));
        }
    };
    add("l1", &[two], l1::rows);
    add("l2", &[one, two], l2::rows);
    add("load", &[one, two], load::rows);
    add("stampede", &[two], stampede::rows);
    add("write", &[one, two], write::rows);
    add("invalidation", &[two], invalidation::rows);
    add("race", &[two], race::rows);
    rows
}

/// Makes an instance read a stored key from L2, so that its L1 holds the key.
///
/// Calls `get_or_load`, as services do, because `get` does not always keep what it finds; and not `insert`, because not
/// all ways can read back what they inserted themselves.
async fn bring_to_l1<P: TwoLevels>(peer: &P, id: u64) {
    let load = move || async move { panic!("{} does not find key {id} in L2", P::NAME) };
    peer.get_or_load(&peer.key(id), load).await;
}
