//! What stands between a client and a server, and takes the client's connections in the place of the server.

use std::io;

use futures::FutureExt;
use futures::future::BoxFuture;
use larder::l2::deadpool_redis::redis::ConnectionAddr;
use larder::l2::{DialedStream, Dialer};
use simulated_redis::SimulatedRedis;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::redis_server::{Name, RedisServer, listen};

/// A connection.
pub(crate) type Stream = DuplexStream;

pub(crate) struct Listener {
    name: Name,
    dialed: UnboundedReceiver<Stream>,
    server: SimulatedRedis,
}

/// Where clients dial.
struct Door(UnboundedSender<Stream>);

impl Dialer for Door {
    fn dial(&self, _: &ConnectionAddr) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>> {
        let (ours, theirs) = duplex(64 * 1024);
        let sent = self.0.send(ours);
        async move {
            sent.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(theirs) as Box<dyn DialedStream>)
        }
        .boxed()
    }
}

impl Listener {
    pub(crate) async fn before(server: &RedisServer) -> Self {
        let (door, dialed) = unbounded_channel();
        Self {
            name: listen(Door(door)),
            dialed,
            server: server.redis.clone(),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.name.url()
    }

    pub(crate) async fn accept(&mut self) -> Option<(Stream, Stream)> {
        let client = self.dialed.recv().await?;
        Some((client, self.server.connect().expect("it is up")))
    }
}
