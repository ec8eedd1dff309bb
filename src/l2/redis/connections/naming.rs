//! The names of connections in `CLIENT LIST`.

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use tracing::warn;

use crate::l2::redis::names::Names;

/// Gives a connection its name, if it is new. Without one it works as well.
pub(crate) async fn give_name(names: &Names, is_new: bool, mut connection: MultiplexedConnection) {
    if !is_new {
        return;
    }
    // The name is for people who read `CLIENT LIST`; a failure harms no request, and is said once.
    let mut command = cmd("CLIENT");
    command.arg("SETNAME").arg(&names.client);
    let named: Result<(), _> = command.query_async(&mut connection).await;
    if let Err(error) = named
        && matches!(error.code(), Some("NOPERM" | "ERR"))
        && names.missing_features.names.is_first()
    {
        warn!(
            name = names.client,
            "connections have no name in CLIENT LIST: the Redis user may not run client|setname; add +client|setname to its rights, unless the server lacks the command"
        );
    }
}
