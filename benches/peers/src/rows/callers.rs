//! Callers who each do one thing after the other, all at the same time.

use std::time::Instant;

use futures::future::join_all;

use crate::peer::TwoLevels;

/// Prepares something for each id below `count`, divides that among so many callers, and says how many were done
/// a second.
pub async fn rate<P, T, Fut>(
    peer: &P,
    callers: u64,
    count: u64,
    prepare: impl Fn(u64) -> T,
    call: impl Fn(P, Vec<T>) -> Fut,
) -> f64
where
    P: TwoLevels,
    Fut: Future<Output = ()> + Send + 'static,
{
    let all: Vec<Fut> = (0..callers)
        .map(|caller| {
            let ids = caller * count / callers..(caller + 1) * count / callers;
            call(peer.clone(), ids.map(&prepare).collect())
        })
        .collect();
    let start = Instant::now();
    let all = all.into_iter().map(tokio::spawn);
    for one in join_all(all).await {
        one.unwrap();
    }
    count as f64 / start.elapsed().as_secs_f64()
}
