//! Callers that run at the same time, and each make one call after the other.

use std::time::Instant;

use futures::future::join_all;

use crate::peer::TwoLevels;

/// Prepares the argument of a call for each id below `count`, divides the arguments among the callers, and returns how
/// many calls were made per second.
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
