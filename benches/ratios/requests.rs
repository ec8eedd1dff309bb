//! Requests of one caller, for a tool that counts instructions: all of the client's are on the one thread.

use std::convert::Infallible;

use larder::Cache;
use tokio::runtime::Builder;

use crate::support::redis::Redis;
use crate::support::user::User;

/// How many values L2 has before the hits.
const STORED: u64 = 4_000;

/// Carries out one kind of request so often, each with a key of its own.
pub(crate) fn repeat(name: &str, times: u64) {
    let redis = Redis::start();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = || -> Cache<u64, User> {
            let builder = Cache::builder("bench:requests").l2(redis.l2());
            // No heartbeat is among the requests.
            (builder.max_staleness(crate::hits::TTL))
                .l1_capacity(10_000)
                .build()
                .unwrap()
        };
        let (cache, other) = (cache(), cache());
        tokio::join!(cache.ready(), other.ready());
        match name {
            "L2 hit" => {
                // As many in each run, so that their inserts are not in the difference of two runs.
                let stored: Vec<_> = (0..STORED).map(|id| (id, User::new(id))).collect();
                let stored = stored.iter().map(|(id, user)| (id, user.clone()));
                other.insert_many(stored).await.unwrap();
                assert!(times <= STORED);
                for id in 0..times {
                    cache.get(&id).await.unwrap();
                }
            }
            "insert" => {
                for id in 0..times {
                    cache.insert(&id, User::new(id)).await.unwrap();
                }
            }
            "load" => {
                for id in 0..times {
                    let load = move || async move { Ok::<_, Infallible>(User::new(id)) };
                    cache.get_or_load(&id, load).await.unwrap();
                }
            }
            _ => panic!("no hit and no request is called {name}"),
        }
    });
}
