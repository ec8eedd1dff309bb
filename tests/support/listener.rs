//! What stands between a client and a server, and takes the client's connections in the place of the server.

use tokio::net::{TcpListener, TcpStream};

use super::redis_server::RedisServer;

/// A connection.
pub(crate) type Stream = TcpStream;

pub(crate) struct Listener {
    listener: TcpListener,
    port: u16,
}

impl Listener {
    pub(crate) async fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.port();
        Self { listener, port }
    }

    /// For clients.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.listener.local_addr().unwrap())
    }

    /// The next client's connection, and one of its own to the server; `None` if there will be none.
    pub(crate) async fn accept(&mut self) -> Option<(Stream, Stream)> {
        let (client, _) = self.listener.accept().await.ok()?;
        let server = TcpStream::connect(("127.0.0.1", self.port)).await;
        Some((client, server.unwrap()))
    }
}
