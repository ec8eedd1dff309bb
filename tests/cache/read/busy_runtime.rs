//! Look-ups on a runtime whose threads are held by other work for longer than a request may take.

use std::thread::sleep;
use std::time::Duration;

use futures::future::join_all;
use larder::Cache;

use crate::fleet::{Fleet, Texts};
use crate::support::home;

const LIMIT: Duration = Duration::from_millis(100);

async fn all_are_found(cache: &Texts, is_proven: bool) {
    let look_ups = (0..20).map(|n| {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get(&n.to_string()).await.is_some() })
    });
    let look_ups: Vec<_> = look_ups.collect();
    // They have sent their requests.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    sleep(3 * LIMIT);
    let found = join_all(look_ups).await;
    let found = found.into_iter().filter(|found| *found.as_ref().unwrap());
    assert_eq!(found.count(), 20, "with a proof: {is_proven}");
}

#[tokio::test]
async fn an_answer_that_is_there_is_not_late() {
    if home::is_simulated("its time passes while all wait") {
        return;
    }
    let fleet = Fleet::redis().await;
    let (writer, _) = fleet.instance().await;
    let all: Vec<_> = (0..20).map(|n| (n.to_string(), "v".to_owned())).collect();
    let all = all.iter().map(|(key, value)| (key.as_str(), value.clone()));
    writer.insert_many(all).await.unwrap();
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!("it is Redis")
    };
    for is_proven in [false, true] {
        let builder = Cache::builder("test:text").redis(server.url());
        let cache: Texts = builder.l2_timeout(LIMIT).l1_capacity(0).build().unwrap();
        cache.ready().await;
        if !is_proven {
            sleep(Duration::from_secs(2));
        }
        all_are_found(&cache, is_proven).await;
    }
}
