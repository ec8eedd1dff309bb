//! Many callers in several instances ask for one missing key.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder::Cache;
use tokio::time::sleep;

use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Goal, Row};
use crate::support::redis::Redis;
use crate::support::user::User;

const INSTANCES: usize = 4;
const CALLERS: usize = 200;
/// How long a load takes.
const LOAD: Duration = Duration::from_millis(10);

const ALL: &str = "all";
const ONE: &str = "one caller";

pub(crate) fn group() -> Group {
    let stampede = format!("a stampede of {INSTANCES} x {CALLERS}");
    let loads = Row {
        name: format!("loads in {stampede}"),
        of: "1",
        ours: ALL.to_owned(),
        other: None,
        figure: 0,
        unit: "loads",
        goal: Some(Goal::new(1.0, 1.0)),
    };
    let time = Row {
        name: format!("time of {stampede}"),
        of: ONE,
        ours: ALL.to_owned(),
        other: Some(ONE.to_owned()),
        figure: 1,
        unit: "ms",
        goal: None,
    };
    Group {
        rows: vec![loads, time],
        rounds: ROUNDS,
        set_up,
    }
}

fn set_up() -> Vec<Contestant> {
    let redis = Rc::new(Redis::start());
    let instances = [(); INSTANCES].map(|()| redis.cache("bench:stampede", |cache| cache));
    let contestant = |name, instances: &[Cache<u64, User>], callers, mut key| {
        let (redis, instances) = (Rc::clone(&redis), instances.to_vec());
        let round = move || {
            key += 1;
            redis.runtime.block_on(stampede(&instances, callers, key))
        };
        Contestant::new(name, round)
    };
    vec![
        contestant(ALL, &instances, CALLERS, 0),
        contestant(ONE, &instances[..1], 1, 1_000_000),
    ]
}

/// How many loads there were, and how many milliseconds it took until all callers had an answer.
async fn stampede(instances: &[Cache<u64, User>], callers: usize, key: u64) -> Vec<f64> {
    let loads = Arc::new(AtomicU32::new(0));
    let start = Instant::now();
    let callers = instances.iter().flat_map(|cache| vec![cache; callers]);
    let calls = callers.map(|cache| {
        let (cache, loads) = (cache.clone(), Arc::clone(&loads));
        let load = move || async move {
            loads.fetch_add(1, Ordering::Relaxed);
            sleep(LOAD).await;
            Ok::<_, Infallible>(User::new(key))
        };
        tokio::spawn(
            async move { assert_eq!(cache.get_or_load(&key, load).await.unwrap().id, key) },
        )
    });
    for call in join_all(calls).await {
        call.unwrap();
    }
    let lasted = start.elapsed().as_secs_f64() * 1e3;
    vec![f64::from(loads.load(Ordering::Relaxed)), lasted]
}
