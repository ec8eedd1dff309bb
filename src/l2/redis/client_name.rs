//! The name of a lane's connections in `CLIENT LIST`.

use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use tracing::warn;

pub(super) struct ClientName {
    name: String,
    /// Whether the user may not give it, and a warning said so.
    is_refused: AtomicBool,
}

impl ClientName {
    /// Redis takes printable ASCII without spaces.
    pub(super) fn new(namespace: &str) -> Self {
        let printable = |char: char| if char.is_ascii_graphic() { char } else { '_' };
        let namespace: String = namespace.chars().map(printable).collect();
        Self {
            name: format!("larder:{namespace}"),
            is_refused: AtomicBool::new(false),
        }
    }

    /// Gives a connection the name. Without one it works as well.
    pub(super) async fn give_to(&self, mut connection: MultiplexedConnection) {
        let mut command = cmd("CLIENT");
        command.arg("SETNAME").arg(&self.name);
        let named: Result<(), _> = command.query_async(&mut connection).await;
        if let Err(error) = named
            && error.code() == Some("NOPERM")
            && !self.is_refused.swap(true, Ordering::Relaxed)
        {
            warn!(
                name = self.name,
                "connections have no name in CLIENT LIST: the Redis user may not run client|setname; add +client|setname to its rights"
            );
        }
    }
}
