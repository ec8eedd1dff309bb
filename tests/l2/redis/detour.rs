//! A way to the server that can cut a connection while a request is on its way, and any of whose connections
//! can fall silent.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::support::listener::{Listener, Stream};
use crate::support::redis_server::RedisServer;

const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Detour {
    pub(super) url: String,
    trap: Trap,
    caught: UnboundedReceiver<Late>,
    silent: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

/// What happens to the next request. Its client sees the connection end.
#[derive(Clone, Copy)]
pub(super) enum Loss {
    /// It is held up, and may arrive late.
    HeldUp,
    /// It arrives, and its reply is lost.
    OfReply,
}

type Trap = Arc<Mutex<Option<Loss>>>;

/// A request that was held up, and the server's end of its connection.
pub(super) struct Late {
    server: Stream,
    request: Vec<u8>,
}

impl Detour {
    pub(super) async fn to(server: &RedisServer) -> Self {
        let mut listener = Listener::before(server).await;
        let url = listener.url();
        let (catch, caught) = unbounded_channel();
        let trap = Trap::default();
        let silent = Arc::<Mutex<Vec<_>>>::default();
        let (set, connections) = (Arc::clone(&trap), Arc::clone(&silent));
        tokio::spawn(async move {
            while let Some((client, server)) = listener.accept().await {
                let silent = Arc::<AtomicBool>::default();
                connections.lock().unwrap().push(Arc::clone(&silent));
                let trap = (Arc::clone(&set), catch.clone());
                tokio::spawn(relay(client, server, trap, silent));
            }
        });
        Self {
            url,
            trap,
            caught,
            silent,
        }
    }

    /// Loses the next request, over whichever connection it comes.
    pub(super) fn lose(&self, loss: Loss) {
        *self.trap.lock().unwrap() = Some(loss);
    }

    /// The request that was held up.
    pub(super) async fn caught(&mut self) -> Late {
        let caught = timeout(LIMIT, self.caught.recv()).await;
        caught.expect("it is caught in time").expect("it was sent")
    }

    /// The nth connection carries nothing from now on, and neither end gets an error.
    pub(super) fn silence(&self, nth: usize) {
        self.silent.lock().unwrap()[nth].store(true, SeqCst);
    }

    /// Whether the nth connection has not ended.
    pub(super) fn is_open(&self, nth: usize) -> bool {
        Arc::strong_count(&self.silent.lock().unwrap()[nth]) == 2
    }
}

impl Late {
    /// Lets it arrive, and waits until it was executed.
    pub(super) async fn arrive(mut self) {
        self.server.write_all(&self.request).await.unwrap();
        let mut reply = [0; 1];
        let executed = timeout(LIMIT, self.server.read_exact(&mut reply)).await;
        executed.expect("it is executed in time").unwrap();
    }
}

/// Until one of them closes, or the trap takes a request.
async fn relay(
    mut client: Stream,
    mut server: Stream,
    (trap, catch): (Trap, UnboundedSender<Late>),
    silent: Arc<AtomicBool>,
) {
    let (mut there, mut back) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let passed = tokio::select! {
            Ok(n @ 1..) = client.read(&mut there) => {
                let loss = trap.lock().unwrap().take();
                match loss {
                    Some(Loss::HeldUp) => {
                        there.truncate(n);
                        _ = catch.send(Late { server, request: there });
                        return;
                    }
                    Some(Loss::OfReply) => {
                        _ = server.write_all(&there[..n]).await;
                        _ = server.read(&mut back).await;
                        return;
                    }
                    None => {}
                }
                if silent.load(SeqCst) {
                    continue;
                }
                server.write_all(&there[..n]).await
            }
            Ok(n @ 1..) = server.read(&mut back) => client.write_all(&back[..n]).await,
            else => return,
        };
        if passed.is_err() {
            return;
        }
    }
}
