//! What a test of real nodes measures, and no other one.

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;

/// In bytes, which nobody counts here.
pub(super) async fn received(_: &mut MultiplexedConnection) -> u64 {
    panic!("it is not measured")
}

/// In µs of CPU, which nobody counts here.
pub(super) async fn computed(_: &mut MultiplexedConnection) -> u64 {
    panic!("it is not measured")
}
