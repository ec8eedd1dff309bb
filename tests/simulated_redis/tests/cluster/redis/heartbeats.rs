//! What a node says of what it has done.

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;

use super::run;

/// In bytes, which nobody counts here.
pub(super) async fn received(_: &mut MultiplexedConnection) -> u64 {
    panic!("it is not measured")
}

/// In µs of CPU, which nobody counts here.
pub(super) async fn computed(_: &mut MultiplexedConnection) -> u64 {
    panic!("it is not measured")
}

/// The commands that clients and scripts have sent, with how often.
pub(super) async fn calls(raw: &mut MultiplexedConnection) -> Vec<(String, u64)> {
    let stats: String = run(raw, &["INFO", "commandstats"]).await;
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (name != "info").then(|| (name.to_owned(), calls))
    });
    calls.collect()
}
