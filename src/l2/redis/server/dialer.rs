//! Streams to servers in the process of a test.

use std::io;

use deadpool_redis::redis::ConnectionAddr;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opens streams to servers, for a test whose servers are in its process.
#[doc(hidden)]
pub trait Dialer: Send + Sync {
    /// Opens a stream. It carries no TLS, whatever the address says.
    fn dial(
        &self,
        address: &ConnectionAddr,
    ) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>>;
}

/// A stream to a server.
#[doc(hidden)]
pub trait DialedStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> DialedStream for T {}
