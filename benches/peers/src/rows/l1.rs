//! A hit in the process: what it costs by itself, and beside another thread that does the same.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::peer::{OneLevel, Peer, TwoLevels};
use crate::peers::{with_one_level, with_two_levels};
use crate::rows::{Bench, bring_to_l1};
use crate::turns::{Entrant, Round, Row, Title, Unit, take_turns};
use crate::user::User;

const KEYS: u64 = 1_000;
const HITS: u64 = 50_000;
const NAME: &str = "l1";

pub fn rows(bench: &Bench<'_>) -> Vec<Row> {
    let titles = ["one thread", "two threads"].map(|threads| Title {
        text: format!("L1 hit, {threads}"),
        unit: Unit::Nanoseconds,
    });
    let mut entrants = with_two_levels!(two_levels(bench));
    entrants.extend(with_one_level!(one_level(bench)));
    let before = bench.redis_hits();
    let rows = take_turns(titles, bench.rounds, entrants);
    // A way that asked Redis after all would ask for every hit.
    assert!(bench.redis_hits() - before < bench.times(HITS));
    rows
}

fn two_levels<'a, P: TwoLevels>(bench: &'a Bench<'a>) -> Entrant<'a, 2> {
    let round = bench.runtime.block_on(async {
        let (writer, peer): (P, P) = (bench.start(NAME).await, bench.start(NAME).await);
        for id in 0..KEYS {
            writer.insert(&writer.key(id), User::new(id)).await;
        }
        for id in 0..KEYS {
            bring_to_l1(&peer, id).await;
        }
        hits(bench, peer)
    });
    Entrant {
        name: P::NAME,
        two_levels: P::HAS_L1,
        round: P::HAS_L1
            .then_some(round)
            .ok_or_else(|| "has no L1".to_owned()),
    }
}

fn one_level<'a, P: OneLevel>(bench: &'a Bench<'a>) -> Entrant<'a, 2> {
    let peer = P::start();
    bench.runtime.block_on(async {
        for id in 0..KEYS {
            peer.insert(&peer.key(id), User::new(id)).await;
        }
    });
    Entrant {
        name: P::NAME,
        two_levels: false,
        round: Ok(hits(bench, peer)),
    }
}

fn hits<'a, P: Peer>(bench: &'a Bench<'a>, peer: P) -> Round<'a, 2> {
    let keys: Vec<P::Key> = (0..KEYS).map(|id| peer.key(id)).collect();
    Box::new(move || [1, 2].map(|threads| time(bench, &peer, &keys, threads)))
}

/// Nanoseconds per hit, from the first thread's start to the last one's end.
fn time<P: Peer>(bench: &Bench<'_>, peer: &P, keys: &[P::Key], threads: u64) -> f64 {
    let count = bench.times(HITS);
    let barrier = &Barrier::new(threads as usize);
    let hits = |thread: u64| {
        bench.runtime.block_on(async {
            barrier.wait();
            let start = Instant::now();
            for hit in 0..count {
                let id = (thread * KEYS / 2 + hit) % KEYS;
                let user = peer.get(&keys[id as usize]).await;
                assert_eq!(black_box(user).unwrap().id, id);
            }
            (start, Instant::now())
        })
    };
    let all: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || hits(thread)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let start = all.iter().map(|(start, _)| *start).min().unwrap();
    let end = all.iter().map(|(_, end)| *end).max().unwrap();
    (end - start).as_nanos() as f64 / count as f64
}
