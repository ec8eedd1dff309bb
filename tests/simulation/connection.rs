//! One connection to the store: what goes either way keeps its order, and may get lost.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use larder::l2::{L2Error, Lane, LaneClock};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::faults::Fault;
use crate::link::{Link, Way, Wire};
use crate::store::{Name, Store};

type Packet = BoxFuture<'static, ()>;

/// The error of a replica for a write.
#[derive(Debug)]
pub(crate) struct ReadOnly;

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is a replica")
    }
}

impl Error for ReadOnly {}

/// That of a primary that takes no writes.
#[derive(Debug)]
pub(crate) struct NoReplicas;

impl fmt::Display for NoReplicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this primary has too few replicas")
    }
}

impl Error for NoReplicas {}

/// Whether a replica has refused a request.
pub(crate) fn is_read_only(error: &L2Error) -> bool {
    error
        .source()
        .is_some_and(<dyn std::error::Error>::is::<ReadOnly>)
}

pub(crate) struct Connection {
    pub(crate) link: Arc<Link>,
    pub(crate) store: Arc<Store>,
    pub(crate) cut: CancellationToken,
    wire: Wire,
    /// The incarnation of the store in which it was made.
    pub(crate) incarnation: u64,
    up: mpsc::UnboundedSender<(Instant, Packet)>,
    down: mpsc::UnboundedSender<(Instant, Packet)>,
    /// The store's end of it.
    lane: Mutex<Option<Arc<dyn Lane>>>,
}

impl Connection {
    pub(crate) fn new(link: &Arc<Link>, store: &Arc<Store>, wire: Wire) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::clone(link),
            store: Arc::clone(store),
            cut: link.connected(wire, store.server),
            wire,
            incarnation: store.incarnation(),
            up: pipe(Arc::clone(link), wire, Way::Up),
            down: pipe(Arc::clone(link), wire, Way::Down),
            lane: Mutex::default(),
        })
    }

    /// What the store does when a connection is made: says what its clock reads. A replica refuses.
    pub(crate) fn accept(&self, name: &Name) -> Result<LaneClock, L2Error> {
        if self.is_stranded() {
            return Err(L2Error::refused(ReadOnly));
        }
        let (lane, clock, has_changed) = self.store.open(name)?;
        if has_changed {
            // Each instance makes connections anew, and finds nothing in the store.
            let (recorder, recovery) = (&self.link.recorder, self.link.config.recovery());
            recorder.count(Fault::LanesChanged);
            recorder.disturbed(recovery, None, None);
        }
        *self.lane.lock().unwrap() = Some(lane);
        Ok(clock)
    }

    /// Whether the store has failed over since, and this leads to the replica that the old one has become.
    pub(crate) fn is_stranded(&self) -> bool {
        self.incarnation != self.store.incarnation()
    }

    /// The store's end, once it has been accepted.
    pub(crate) fn lane(&self) -> Result<Arc<dyn Lane>, L2Error> {
        self.lane
            .lock()
            .unwrap()
            .clone()
            .ok_or_else(L2Error::closed)
    }

    /// Sends something to the store. It may arrive when no caller waits for it any more, or never.
    pub(crate) fn send_up(self: &Arc<Self>, packet: impl Future<Output = ()> + Send + 'static) {
        if self.link.loses(self.wire, Way::Up) {
            return;
        }
        let this = Arc::clone(self);
        let arrives = async move {
            // A store that dies cuts all its connections; one that has failed over is still there.
            if !this.is_stranded() || !this.cut.is_cancelled() {
                packet.await;
            }
        };
        let _ = self.up.send((self.link.arrival(Way::Up), arrives.boxed()));
    }

    /// Sends something to the instance; `false` if it is lost at once.
    pub(crate) fn send_down(self: &Arc<Self>, packet: impl FnOnce() + Send + 'static) -> bool {
        if self.link.loses(self.wire, Way::Down) || self.cut.is_cancelled() {
            return false;
        }
        let this = Arc::clone(self);
        let arrives = async move {
            if !this.cut.is_cancelled() {
                packet();
            }
        };
        self.down
            .send((self.link.arrival(Way::Down), arrives.boxed()))
            .is_ok()
    }

    /// Has the store do something, and waits for its reply, without an end: only the caller knows how long.
    ///
    /// `serve` gets whether the caller was cancelled by then; `loss` names the fault that is counted when the reply
    /// is lost.
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        serve: impl FnOnce(bool) -> BoxFuture<'static, T> + Send + 'static,
        loss: fn(&T) -> Option<Fault>,
    ) -> Result<T, L2Error> {
        let (sender, answer) = oneshot::channel();
        let this = Arc::clone(self);
        self.send_up(async move {
            let reply = serve(sender.is_closed()).await;
            let (store, link) = (Arc::clone(&this.store), Arc::clone(&this.link));
            let published = store.published();
            let count = loss(&reply);
            let arrived = this.send_down(move || {
                if link.received() > published {
                    link.recorder.count(Fault::Overtaken);
                }
                if let (Err(_), Some(loss)) = (sender.send(reply), count) {
                    link.recorder.count(loss);
                }
            });
            if let (false, Some(loss)) = (arrived, count) {
                this.link.recorder.count(loss);
            }
        });
        let reply = async {
            match answer.await {
                Ok(reply) => reply,
                Err(_) => pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = reply => Ok(reply),
            () = self.cut.cancelled() => Err(L2Error::closed()),
        }
    }
}

/// One direction of a connection.
fn pipe(link: Arc<Link>, wire: Wire, way: Way) -> mpsc::UnboundedSender<(Instant, Packet)> {
    let (enter, mut leave) = mpsc::unbounded_channel::<(Instant, Packet)>();
    tokio::spawn(async move {
        while let Some((at, packet)) = leave.recv().await {
            sleep_until(at).await;
            while let Some(until) = link.held_up(wire, way) {
                sleep_until(until).await;
            }
            packet.await;
        }
    });
    enter
}
