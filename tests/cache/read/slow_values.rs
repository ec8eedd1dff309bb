//! Values that take long to decode: other tasks run in between.

use std::cell::Cell;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use larder::{Cache, MemoryL2};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::task::{LocalSet, spawn_local, yield_now};

/// Holds its thread while it is decoded.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Slow(u32);

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        sleep(Duration::from_millis(2));
        u32::deserialize(input).map(Self)
    }
}

const VALUES: u32 = 50;

type Values = Cache<u32, Slow>;

fn cache(l2: &MemoryL2) -> Values {
    let builder = Cache::builder("test:slow").l2(l2.clone());
    builder.l1_capacity(0).build().unwrap()
}

/// How often another task runs during a look-up of all values.
async fn turns(cache: &Values) -> u32 {
    let turns = Rc::new(Cell::new(0));
    let counter = Rc::clone(&turns);
    let other = spawn_local(async move {
        loop {
            counter.set(counter.get() + 1);
            yield_now().await;
        }
    });
    let before = turns.get();
    let keys: Vec<u32> = (0..VALUES).collect();
    let found = cache.get_many(&keys).await;
    let during = turns.get() - before;
    other.abort();
    let found: Vec<_> = found.iter().flatten().map(|slow| slow.0).collect();
    assert_eq!(found, keys);
    during
}

#[tokio::test]
async fn other_tasks_run_between_values_of_one_look_up() {
    let l2 = MemoryL2::new();
    let writer = cache(&l2);
    let all: Vec<_> = (0..VALUES).map(|n| (n, Slow(n))).collect();
    writer
        .insert_many(all.iter().map(|(n, slow)| (n, slow.clone())))
        .await
        .unwrap();
    LocalSet::new()
        .run_until(async {
            let with_proof = cache(&l2);
            with_proof.ready().await;
            let without_proof = cache(&l2);
            for cache in [with_proof, without_proof] {
                let during = turns(&cache).await;
                assert!(during >= VALUES, "{during}");
            }
        })
        .await;
}
