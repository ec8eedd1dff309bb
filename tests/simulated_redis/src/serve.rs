//! Serves a connection: requests from its stream, answers and messages to it, in one order.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::Notify;

use crate::reply::{parts, read as read_reply};
use crate::server::{Server, SessionId};

/// Has connections go on in the order in which they were paused: a channel of tokio's that all of them watch would not.
#[derive(Default)]
pub(crate) struct Pause {
    is_on: AtomicBool,
    ends: Notify,
}

impl Pause {
    pub(crate) fn set(&self, is_on: bool) {
        self.is_on.store(is_on, SeqCst);
        self.ends.notify_waiters();
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(SeqCst)
    }

    async fn is_over(&self) {
        loop {
            let ends = self.ends.notified();
            if !self.is_on() {
                return;
            }
            ends.await;
        }
    }
}

/// Serves a stream until one of both ends it. Nothing is read during a pause.
pub(crate) async fn serve(
    server: Arc<Mutex<Server>>,
    stream: impl AsyncRead + AsyncWrite + Send,
    pause: Arc<Pause>,
) {
    let (id, wake) = lock(&server).connect();
    let (mut from, mut to) = split(stream);
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            pause.is_over().await;
            let mut read = 0;
            while let Some((request, length)) = read_reply(&bytes[read..]) {
                let Some(request) = parts(request) else {
                    return;
                };
                read += length;
                writes_are_taken(&server, &request).await;
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

/// Waits for as long as a node holds back what this request does.
async fn writes_are_taken(server: &Mutex<Server>, request: &[Vec<u8>]) {
    loop {
        let Some(released) = lock(server).released_for(request) else {
            return;
        };
        let released = released.notified();
        if lock(server).released_for(request).is_none() {
            return;
        }
        released.await;
    }
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
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
