//! A TCP proxy between one instance and Redis: the test decides which bytes arrive, and when.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// In so many steps a throttled line passes what it passes in a second.
const THROTTLED_STEPS: u32 = 50;

/// What happens to the bytes of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Line {
    #[default]
    Open,
    /// Each piece is late by this much.
    Slow(Duration),
    /// At most so many bytes a second; the sender has to wait.
    Throttled(u32),
    /// Nothing arrives until the line is open again; then all of it does.
    Held,
    /// Nothing arrives, neither end gets an error, and a connection that has lost a byte carries none ever again.
    BlackHole,
    /// So many bytes more, and the connection is cut: most likely within a frame.
    CutAfter(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToRedis,
    FromRedis,
}

/// What a connection is used for: the one that subscribes is the listener's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Subscription,
}

pub(crate) const WAYS: [Way; 2] = [Way::ToRedis, Way::FromRedis];
pub(crate) const KINDS: [Kind; 2] = [Kind::Data, Kind::Subscription];

/// Listens on a port of 127.0.0.1 until it is dropped, and cuts its connections then.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    upstream: AtomicU16,
    refusing: AtomicBool,
    lines: watch::Sender<Lines>,
    cuts: watch::Sender<()>,
    connections: [AtomicUsize; 2],
    refused: AtomicUsize,
    swallowed: AtomicUsize,
    cut_midway: AtomicUsize,
    held: AtomicUsize,
    delivered: AtomicUsize,
}

/// By kind and way, and how often that was changed.
#[derive(Clone, Copy, Default)]
struct Lines {
    lines: [[Line; 2]; 2],
    change: usize,
}

impl Proxy {
    /// To a port of 127.0.0.1.
    pub(crate) async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port of 127.0.0.1 is free");
        let port = listener.local_addr().expect("it has an address").port();
        let shared = Arc::new(Shared {
            upstream: AtomicU16::new(upstream),
            refusing: AtomicBool::new(false),
            lines: watch::Sender::default(),
            cuts: watch::Sender::default(),
            connections: Default::default(),
            refused: AtomicUsize::new(0),
            swallowed: AtomicUsize::new(0),
            cut_midway: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            delivered: AtomicUsize::new(0),
        });
        Self {
            port,
            accepting: tokio::spawn(accept(listener, Arc::clone(&shared))),
            shared,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on, of all connections of this kind, old and new.
    pub(crate) fn set(&self, kind: Kind, way: Way, line: Line) {
        self.shared.lines.send_modify(|lines| {
            lines.lines[kind as usize][way as usize] = line;
            lines.change += 1;
        });
    }

    /// Both kinds, both ways.
    pub(crate) fn set_all(&self, line: Line) {
        for kind in KINDS {
            for way in WAYS {
                self.set(kind, way, line);
            }
        }
    }

    /// Whether new connections are closed at once.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, SeqCst);
    }

    /// Ends all connections there are.
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_replace(());
    }

    /// Leads new connections elsewhere. Those that there are stay where they are.
    pub(crate) fn lead_to(&self, upstream: u16) {
        self.shared.upstream.store(upstream, SeqCst);
    }

    /// Leads new connections elsewhere, and ends the old ones.
    pub(crate) fn point_at(&self, upstream: u16) {
        self.lead_to(upstream);
        self.cut();
    }

    /// All is as at the start, except that what is lost stays lost.
    pub(crate) fn heal(&self) {
        self.refuse(false);
        self.set_all(Line::Open);
    }

    /// How many connections of a kind there have been.
    pub(crate) fn connections(&self, kind: Kind) -> usize {
        let subscribed = self.shared.connections[Kind::Subscription as usize].load(SeqCst);
        match kind {
            Kind::Subscription => subscribed,
            Kind::Data => self.shared.connections[Kind::Data as usize].load(SeqCst) - subscribed,
        }
    }

    /// Connections that were closed at once.
    pub(crate) fn refused(&self) -> usize {
        self.shared.refused.load(SeqCst)
    }

    /// Pieces that a black hole took.
    pub(crate) fn swallowed(&self) -> usize {
        self.shared.swallowed.load(SeqCst)
    }

    /// Connections that were cut after so many bytes.
    pub(crate) fn cut_midway(&self) -> usize {
        self.shared.cut_midway.load(SeqCst)
    }

    /// Pieces that had to wait, or were late.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.load(SeqCst)
    }

    /// Bytes from Redis that the kernel has taken for subscriptions, whether the instance has read them or not.
    pub(crate) fn delivered(&self) -> usize {
        self.shared.delivered.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Its connections end with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        if shared.refusing.load(SeqCst) {
            shared.refused.fetch_add(1, SeqCst);
            continue;
        }
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // However it ends, both sides see it: their sockets are dropped.
            _ = connect(client, shared).await;
        });
    }
}

async fn connect(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let mut cuts = shared.cuts.subscribe();
    let port = shared.upstream.load(SeqCst);
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.connections[Kind::Data as usize].fetch_add(1, SeqCst);

    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let listens = Arc::new(AtomicBool::new(false));
    let there = Pump::new(&shared, &listens, Way::ToRedis, to_server);
    let back = Pump::new(&shared, &listens, Way::FromRedis, to_client);
    tokio::select! {
        ended = there.run(from_client) => ended,
        ended = back.run(from_server) => ended,
        _ = cuts.changed() => Ok(()),
    }
}

/// One way of one connection.
struct Pump {
    shared: Arc<Shared>,
    lines: watch::Receiver<Lines>,
    listens: Arc<AtomicBool>,
    way: Way,
    to: OwnedWriteHalf,
    /// It has lost something.
    dead: bool,
    /// What may still pass before the cut, and which change said so.
    left: (usize, usize),
}

impl Pump {
    fn new(shared: &Arc<Shared>, listens: &Arc<AtomicBool>, way: Way, to: OwnedWriteHalf) -> Self {
        Self {
            shared: Arc::clone(shared),
            lines: shared.lines.subscribe(),
            listens: Arc::clone(listens),
            way,
            to,
            dead: false,
            left: (0, 0),
        }
    }

    /// Until one of the ends is closed, or it is cut.
    async fn run(mut self, mut from: OwnedReadHalf) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = from.read(&mut buffer).await?;
            let piece = &buffer[..length];
            self.recognise(piece);
            let (line, change) = self.line().await;
            self.dead |= line == Line::BlackHole;
            if self.dead && self.way == Way::FromRedis && piece.is_empty() {
                // That the other end is closed is lost as well.
                std::future::pending::<()>().await;
            }
            if piece.is_empty() {
                return Ok(());
            }
            self.pass(piece, line, change).await?;
            if self.way == Way::FromRedis && self.listens.load(SeqCst) && !self.dead {
                self.shared.delivered.fetch_add(length, SeqCst);
            }
        }
    }

    /// The client sends this in one piece, long before there is any load.
    fn recognise(&self, piece: &[u8]) {
        let subscribes = || piece.windows(9).any(|word| word == b"SUBSCRIBE");
        if self.way == Way::ToRedis && !self.listens.load(SeqCst) && subscribes() {
            self.listens.store(true, SeqCst);
            self.shared.connections[Kind::Subscription as usize].fetch_add(1, SeqCst);
        }
    }

    /// The line as it is now, or as it is when it is no longer held.
    async fn line(&mut self) -> (Line, usize) {
        let mut waited = false;
        loop {
            let kind = usize::from(self.listens.load(SeqCst));
            let now = *self.lines.borrow_and_update();
            let line = now.lines[kind][self.way as usize];
            if line != Line::Held {
                return (line, now.change);
            }
            if !waited {
                self.shared.held.fetch_add(1, SeqCst);
            }
            waited = true;
            // Its sender lives as long as `self.shared` does.
            _ = self.lines.changed().await;
        }
    }

    async fn pass(&mut self, piece: &[u8], line: Line, change: usize) -> io::Result<()> {
        if self.dead {
            self.shared.swallowed.fetch_add(1, SeqCst);
            return Ok(());
        }
        match line {
            Line::Slow(late) => {
                self.shared.held.fetch_add(1, SeqCst);
                sleep(late).await;
            }
            Line::Throttled(rate) => {
                let step = Duration::from_secs(1) / THROTTLED_STEPS;
                for part in piece.chunks((rate / THROTTLED_STEPS).max(1) as usize) {
                    sleep(step).await;
                    self.to.write_all(part).await?;
                }
                return Ok(());
            }
            Line::CutAfter(bytes) => {
                if self.left.1 != change {
                    self.left = (bytes, change);
                }
                if piece.len() > self.left.0 {
                    self.to.write_all(&piece[..self.left.0]).await?;
                    self.shared.cut_midway.fetch_add(1, SeqCst);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                self.left.0 -= piece.len();
            }
            Line::Open | Line::Held | Line::BlackHole => {}
        }
        self.to.write_all(piece).await
    }
}
