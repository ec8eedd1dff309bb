//! Serves a connection: requests from its stream, answers and messages to it, in one order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::watch;

use crate::reply::{parts, read as read_reply};
use crate::server::{Server, SessionId};

/// Serves a stream until one of both ends it. Nothing is read while the server `is_paused`.
pub(crate) async fn serve(
    server: Arc<Mutex<Server>>,
    stream: impl AsyncRead + AsyncWrite + Send,
    mut is_paused: watch::Receiver<bool>,
) {
    let (id, wake) = lock(&server).connect();
    let (mut from, mut to) = split(stream);
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            // An error means that the server was dropped.
            if is_paused.wait_for(|is_paused| !is_paused).await.is_err() {
                return;
            }
            let mut read = 0;
            while let Some((request, length)) = read_reply(&bytes[read..]) {
                let Some(request) = parts(request) else {
                    return;
                };
                read += length;
                lock(&server).execute(id, &request);
            }
            bytes.drain(..read);
            match from.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    let writing = async {
        let mut bytes = Vec::new();
        while take(&server, id, &mut bytes) {
            if bytes.is_empty() {
                wake.notified().await;
            } else if to.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
        }
    };
    // The end of one is the end of both: a client that has closed its half reads nothing more.
    tokio::select! {
        biased;
        () = writing => {}
        () = reading => {}
    }
    lock(&server).disconnect(id);
}

/// Takes what is to be sent; `false` if the connection has ended.
fn take(server: &Mutex<Server>, id: SessionId, bytes: &mut Vec<u8>) -> bool {
    let mut server = lock(server);
    let Some(session) = server
        .sessions
        .get_mut(&id)
        .filter(|session| !session.is_ended)
    else {
        return false;
    };
    for reply in session.out.drain(..) {
        reply.write(session.protocol, bytes);
    }
    true
}

/// Another thread's panic has failed the test already.
pub(crate) fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}
