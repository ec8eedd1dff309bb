//! The connections of an instance: real ones, over streams that fail.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use larder::l2::deadpool_redis::redis::ConnectionAddr;
use larder::l2::{DialedStream, Dialer, Kind, L2};
use larder_store_tests::helpers::payload_of;
use simulated_redis::Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::faults::Fault;
use crate::link::{Link, Way, Wire};
use crate::store::{KEY_PREFIX, NUMBERS, Store};

/// How much is on its way in each direction at most.
const BUFFER: usize = 64 * 1024;
/// How many bytes are sent at once at most.
const PACKET: usize = 4096;
/// A connection that has not subscribed after so many packets is one for requests.
const FIRST: u64 = 10;
/// What a slow subscriber is sent of what has come meanwhile.
const QUEUE: usize = 2;
/// The first word of the answer that grants a lease.
const GRANTED: &[u8] = b"GRANTED";
/// How long it is until a packet that was lost is sent again.
const AGAIN: Duration = Duration::from_millis(20);

/// The store as an instance has it.
pub(crate) fn l2(link: &Arc<Link>, store: &Arc<Store>) -> impl L2 {
    store.join(link);
    let network = Arc::new(Network {
        link: Arc::clone(link),
        store: Arc::clone(store),
    });
    // Its first connections may take longer than a caller waits, who then loads without a lease.
    link.recorder
        .disturbed(link.config.recovery(), Some(link.instance), None);
    let dialer: Arc<dyn Dialer> = network;
    store.servers().l2(&dialer).key_prefix(KEY_PREFIX).unwrap()
}

/// An instance's way to the server.
struct Network {
    link: Arc<Link>,
    store: Arc<Store>,
}

impl Dialer for Network {
    fn dial(&self, to: &ConnectionAddr) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>> {
        let (link, store, to) = (Arc::clone(&self.link), Arc::clone(&self.store), to.clone());
        async move {
            for way in [Way::Up, Way::Down] {
                while link.loses(Wire::Data, way) {
                    sleep(AGAIN).await;
                }
                sleep_until(link.arrival(way)).await;
            }
            let (theirs, server) = store.servers().connect(&to)?;
            if !link.reaches(server) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            let (ours, given) = duplex(BUFFER);
            Connection::start(&link, ours, theirs, server);
            Ok(Box::new(given) as Box<dyn DialedStream>)
        }
        .boxed()
    }
}

/// Bytes that are on their way.
struct Packet {
    sent: Instant,
    arrives: Instant,
    bytes: Vec<u8>,
}

/// A connection, as long as one of its tasks has it.
struct Connection {
    link: Arc<Link>,
    /// The number of the server; none for a sentinel.
    number: Option<usize>,
    /// Ends it at the side of the instance. What has left it arrives.
    cut: CancellationToken,
    is_subscriber: AtomicBool,
}

impl Connection {
    fn start(link: &Arc<Link>, client: DuplexStream, server: DuplexStream, number: Option<usize>) {
        let this = Arc::new(Self {
            link: Arc::clone(link),
            number,
            cut: CancellationToken::new(),
            is_subscriber: AtomicBool::new(false),
        });
        this.ends_with(Wire::Data);
        let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
        let (up, leaves_up) = unbounded_channel();
        let (down, leaves_down) = unbounded_channel();
        tokio::spawn(Arc::clone(&this).requests(from_client, up));
        tokio::spawn(Arc::clone(&this).arrive(Way::Up, leaves_up, to_server));
        tokio::spawn(Arc::clone(&this).answers(from_server, down));
        tokio::spawn(this.arrive(Way::Down, leaves_down, to_client));
    }

    /// It is cut with the others of this kind.
    fn ends_with(&self, wire: Wire) {
        let (others, cut) = (self.link.connected(wire, self.number), self.cut.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = others.cancelled() => cut.cancel(),
                () = cut.cancelled() => others.cancel(),
            }
        });
    }

    /// Sends bytes on. `false` if the connection has come to an end.
    async fn send(&self, way: Way, bytes: Vec<u8>, to: &UnboundedSender<Packet>) -> bool {
        let (wire, sent) = (self.wire(), Instant::now());
        if self.link.loses(wire, way) {
            if self.link.chance(0.5) {
                self.note_lost(way, &bytes);
                // Something between the two has forgotten the connection: it is half open from now on.
                self.cut.cancelled().await;
                return false;
            }
            // They are sent again until they arrive.
            while self.link.loses(wire, way) {
                tokio::select! {
                    biased;
                    () = self.cut.cancelled() => return false,
                    () = sleep(AGAIN) => {}
                }
            }
        }
        let arrives = self.link.arrival(way);
        if way == Way::Down && self.link.overtakes(wire, arrives) {
            self.link.recorder.count(Fault::Overtaken);
        }
        let packet = Packet {
            sent,
            arrives,
            bytes,
        };
        to.send(packet).is_ok()
    }

    /// Counts what arrives after the instance has stopped waiting, or never.
    fn note_lost(&self, way: Way, bytes: &[u8]) {
        let recorder = &self.link.recorder;
        match way {
            Way::Up if self.wire() == Wire::Data => recorder.count(Fault::LateRequest),
            Way::Down if bytes.windows(GRANTED.len()).any(|part| part == GRANTED) => {
                recorder.count(Fault::GrantLost);
            }
            _ => {}
        }
    }

    /// What the instance sends.
    async fn requests(
        self: Arc<Self>,
        mut from: ReadHalf<DuplexStream>,
        to: UnboundedSender<Packet>,
    ) {
        for packet in 0_u64.. {
            let mut bytes = Vec::with_capacity(PACKET);
            let read = tokio::select! {
                biased;
                () = self.cut.cancelled() => return,
                read = from.read_buf(&mut bytes) => read,
            };
            if !matches!(read, Ok(1..)) {
                return self.cut.cancel();
            }
            let subscribes =
                packet < FIRST && bytes.windows(11).any(|part| part == b"\nSUBSCRIBE\r");
            if subscribes && !self.is_subscriber.swap(true, SeqCst) {
                self.ends_with(Wire::Subscription);
            }
            if !self.send(Way::Up, bytes, &to).await {
                return;
            }
        }
    }

    /// What the server sends, one answer or message after the other.
    async fn answers(
        self: Arc<Self>,
        mut from: ReadHalf<DuplexStream>,
        to: UnboundedSender<Packet>,
    ) {
        let mut bytes = Vec::new();
        loop {
            let read = tokio::select! {
                biased;
                () = self.cut.cancelled() => return,
                read = from.read_buf(&mut bytes) => read,
            };
            if !matches!(read, Ok(1..)) {
                break self.cut.cancel();
            }
            let is_slow = self.wire() == Wire::Subscription && self.link.has(Fault::SlowSubscriber);
            if is_slow {
                while self.link.has(Fault::SlowSubscriber) {
                    sleep(Duration::from_millis(5)).await;
                }
                // All that has come meanwhile.
                while let Some(Ok(1..)) = from.read_buf(&mut bytes).now_or_never() {}
            }
            let sent = self.leaves(&mut bytes, is_slow);
            if !sent.is_empty() && !self.send(Way::Down, sent, &to).await {
                return;
            }
        }
    }

    /// Takes answers and messages that are complete, without those that are lost, and with those that nobody sent.
    fn leaves(&self, bytes: &mut Vec<u8>, is_slow: bool) -> Vec<u8> {
        if self.wire() == Wire::Data {
            return mem::take(bytes);
        }
        let (mut sent, mut messages) = (Vec::new(), 0);
        while let Some((reply, length)) = Reply::read(bytes) {
            let frame = bytes.drain(..length);
            if let Some(message) = message_in(&reply) {
                if message.starts_with(MESSAGE) && self.link.has(Fault::MessagesMadeUp) {
                    sent.extend(made_up(&reply, &self.link));
                }
                messages += 1;
                let is_over = is_slow && messages > QUEUE;
                if is_over || self.link.has(Fault::MessagesLost) && self.link.chance(0.5) {
                    continue;
                }
            }
            sent.extend(frame);
        }
        sent
    }

    fn wire(&self) -> Wire {
        if self.is_subscriber.load(SeqCst) {
            Wire::Subscription
        } else {
            Wire::Data
        }
    }

    /// Lets out what has left, at its time.
    async fn arrive(
        self: Arc<Self>,
        way: Way,
        mut leaves: UnboundedReceiver<Packet>,
        mut to: WriteHalf<DuplexStream>,
    ) {
        while let Some(packet) = leaves.recv().await {
            sleep_until(packet.arrives).await;
            while let Some(until) = self.link.held_up(self.wire(), way) {
                sleep_until(until).await;
            }
            if packet.sent.elapsed() > self.link.config.l2_timeout() {
                self.note_lost(way, &packet.bytes);
            }
            let is_cut = way == Way::Down && self.cut.is_cancelled();
            if is_cut || to.write_all(&packet.bytes).await.is_err() {
                break;
            }
        }
        self.cut.cancel();
        _ = to.shutdown().await;
    }
}

/// How a message of a change begins.
const MESSAGE: &[u8] = b"LM\x02";

/// What was published, if it is that.
fn message_in(reply: &Reply) -> Option<&[u8]> {
    match reply {
        Reply::Push(parts) => match &**parts {
            [Reply::Bulk(kind), _, Reply::Bulk(message)] if kind == b"message" => Some(message),
            _ => None,
        },
        _ => None,
    }
}

/// What a publisher may send that has seen all messages before this one.
fn made_up(next: &Reply, link: &Link) -> Vec<u8> {
    let mut made_up = next.clone();
    if let Reply::Push(parts) = &mut made_up
        && let [.., Reply::Bulk(message)] = &mut **parts
    {
        let epoch = 3..11;
        if link.chance(0.2) {
            message[epoch.end - 1] ^= 1;
        }
        // A number far ahead.
        if link.chance(0.2) {
            message[11 + 5] += 1;
        }
        message.truncate(NUMBERS);
        message.extend(payload_of(Kind::Invalidate, &["made up"]));
    }
    made_up.to_bytes()
}
