//! A script goes by one time.

use super::*;
use crate::store::*;

/// The clock of Redis 7.0 goes on while a script runs.
#[tokio::test]
async fn a_script_reads_the_time_once() {
    const SCRIPT: &str = concat!(
        include_str!("../../../src/l2/redis/lua/parts/checked.lua"),
        include_str!("../../../src/l2/redis/lua/parts/send.lua"),
        include_str!("../../../src/l2/redis/lua/parts/clock.lua"),
        "local first = time() for i = 1, 100000 do redis.call('EXISTS', KEYS[1]) end return time() - first",
    );
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let passed: u64 = run(&mut raw, &["EVAL", SCRIPT, "1", "k"]).await;
    assert_eq!(passed, 0);
}
