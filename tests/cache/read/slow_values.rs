//! Values that take long to decode: other tasks run in between.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use futures::poll;
use larder::l2::L2;
use larder::{Cache, Entry, MemoryL2};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::task::{LocalSet, spawn_local, yield_now};

use crate::support::network::{Network, Step, Way};

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

fn cache(l2: impl L2) -> Values {
    let builder = Cache::builder("test:slow").l2(l2);
    builder.l1_capacity(0).build().unwrap()
}

fn keys() -> Vec<u32> {
    (0..VALUES).collect()
}

async fn fill(cache: &Values) {
    let keys = keys();
    let all = keys.iter().map(|n| (n, Slow(*n)));
    cache.insert_many(all).await.unwrap();
}

/// How often another task runs while a look-up finds all values.
async fn turns(look_up: impl Future<Output = Vec<Option<Entry<Slow>>>>) -> u32 {
    let turns = Rc::new(Cell::new(0));
    let counter = Rc::clone(&turns);
    let other = spawn_local(async move {
        loop {
            counter.set(counter.get() + 1);
            yield_now().await;
        }
    });
    let before = turns.get();
    let found = look_up.await;
    let during = turns.get() - before;
    other.abort();
    let found: Vec<_> = found.iter().flatten().map(|slow| slow.0).collect();
    assert_eq!(found, keys());
    during
}

#[tokio::test]
async fn other_tasks_run_between_values_of_one_look_up() {
    let l2 = MemoryL2::new();
    fill(&cache(l2.clone())).await;
    LocalSet::new()
        .run_until(async {
            let with_proof = cache(l2.clone());
            with_proof.ready().await;
            let without_proof = cache(l2);
            for cache in [with_proof, without_proof] {
                let during = turns(cache.get_many(&keys())).await;
                assert!(during >= VALUES, "{during}");
            }
        })
        .await;
}

#[tokio::test]
async fn other_tasks_run_between_values_that_a_load_finds() {
    let l2 = MemoryL2::new();
    let network = Network::new(l2.clone());
    let (loading, writer) = (cache(network.clone()), cache(l2));
    loading.ready().await;
    LocalSet::new()
        .run_until(async {
            let keys = keys();
            let asked = network.close(Step::AcquireLease, Way::Request);
            let never = |_| async { Err::<Vec<(u32, Slow)>, _>(io::Error::other("no")) };
            let look_up = async { loading.get_many_or_load(&keys, never).await.unwrap() };
            let mut look_up = pin!(look_up);
            assert!(poll!(&mut look_up).is_pending());
            asked.arrived(keys.len()).await;
            fill(&writer).await;
            asked.open();
            let during = turns(look_up).await;
            assert!(during >= VALUES, "{during}");
        })
        .await;
}
