//! Rule 21: messages that another program makes up do not hide an invalidation, and do not empty L1.

use larder::l2::deadpool_redis::redis::AsyncCommands;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;

use crate::fleet::{Fleet, Source, Texts, pair, received};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Network, Step};

/// Many more than heartbeats may be sent for.
const MANY: u64 = 1000;

/// Another program that receives the messages, and may publish.
struct Publisher {
    redis: MultiplexedConnection,
    epoch: u64,
    seq: u64,
    ver: u64,
    /// Of the last message, whoever has published it.
    nonce: u64,
}

impl Publisher {
    async fn new(fleet: &Fleet) -> Self {
        let Fleet::Redis { server, .. } = fleet else {
            panic!("only Redis has other programs");
        };
        let mut redis = server.connection().await;
        let at: Vec<u8> = redis.hget("{test:text.0}!clock", "at").await.unwrap();
        let number = |at: &[u8]| u64::from_be_bytes(at.try_into().unwrap());
        Self {
            redis,
            epoch: number(&at[..8]),
            seq: number(&at[8..16]),
            ver: number(&at[16..24]),
            nonce: number(&at[24..]),
        }
    }

    /// Publishes a change of a key that no instance has.
    async fn publish(&mut self, epoch: u64, seq: u64) {
        let mut message = b"LM\x02".to_vec();
        let previous = self.nonce;
        self.nonce ^= 1;
        for number in [epoch, seq, self.ver + 1, self.nonce, previous] {
            message.extend_from_slice(&number.to_be_bytes());
        }
        message.push(0);
        message.extend_from_slice(&7_u64.to_be_bytes());
        message.extend_from_slice(b"\0\x01\0\x07made up");
        let mut publish = home::publish("test:text.0");
        publish.arg(message);
        let receivers: u64 = publish.query_async(&mut self.redis).await.unwrap();
        assert!(receivers > 0);
    }
}

struct Start {
    a: Texts,
    b: Texts,
    wire: Network,
    publisher: Publisher,
    flushes: u64,
}

async fn start(fleet: &Fleet) -> Start {
    let ((a, _), (b, wire)) = pair(fleet).await;
    Source::new("old").through(&b, "k").await.unwrap();
    a.invalidate("first").await.unwrap();
    received(&b, 1).await;
    let publisher = Publisher::new(fleet).await;
    let flushes = b.stats().l1_flushes;
    Start {
        a,
        b,
        wire,
        publisher,
        flushes,
    }
}

impl Start {
    /// An invalidation arrives, and L1 was never emptied.
    async fn is_not_disturbed(&self) {
        self.a.invalidate("k").await.unwrap();
        eventually("it is evicted", || async {
            self.b.get_local("k").is_none()
        })
        .await;
        assert_eq!(self.b.stats().l1_flushes, self.flushes);
    }
}

/// The number is taken when the real message comes.
#[tokio::test]
async fn the_next_number_hides_no_invalidation() {
    let fleet = Fleet::redis().await;
    let mut it = start(&fleet).await;
    let (epoch, next) = (it.publisher.epoch, it.publisher.seq + 1);
    it.publisher.publish(epoch, next).await;
    received(&it.b, 2).await;
    assert!(it.b.get_local("k").is_some());
    it.is_not_disturbed().await;
}

/// The partition has not given them: the instance goes back to what the partition has said.
#[tokio::test]
async fn numbers_that_are_not_given_do_not_empty_l1() {
    let fleet = Fleet::redis().await;
    let mut it = start(&fleet).await;
    let (epoch, last) = (it.publisher.epoch, it.publisher.seq);
    for n in 1..=3 {
        it.publisher.publish(epoch, last + n).await;
    }
    received(&it.b, 4).await;
    for _ in 0..2 {
        // The instance asks the partition, with a heartbeat.
        let heartbeats = it.wire.asked(Step::Heartbeat);
        it.publisher.publish(epoch, last + 1000).await;
        eventually("a heartbeat is answered", || async {
            it.wire.asked(Step::Heartbeat) > heartbeats
        })
        .await;
    }
    // A caller of `invalidate_and_wait` believes it.
    assert_eq!(it.wire.applied(), last);
    assert!(it.b.get_local("k").is_some());
    it.is_not_disturbed().await;
}

/// The partition gives them to other messages while the instance is cut off.
#[tokio::test]
async fn numbers_that_are_given_later_hide_nothing_from_a_new_subscription() {
    let fleet = Fleet::redis().await;
    let mut it = start(&fleet).await;
    let (epoch, next) = (it.publisher.epoch, it.publisher.seq + 1);
    it.publisher.publish(epoch, next).await;
    received(&it.b, 2).await;
    let gate = it.wire.cut_off().await;
    it.a.invalidate("k").await.unwrap();
    gate.open();
    it.b.ready().await;
    assert!(it.b.get_local("k").is_none());
    let stats = it.b.stats();
    assert_eq!((stats.replays, stats.l1_flushes), (1, it.flushes));
}

/// Many of them do not cause as many heartbeats. L1 may be unused until one is answered.
#[tokio::test]
async fn what_the_partition_does_not_confirm_does_not_empty_l1() {
    for (epochs, numbers) in [(1, 0), (0, 1000)] {
        let fleet = Fleet::redis().await;
        let mut it = start(&fleet).await;
        let (epoch, next) = (it.publisher.epoch + epochs, it.publisher.seq + 1 + numbers);
        let heartbeats = it.wire.asked(Step::Heartbeat);
        for _ in 0..MANY {
            it.publisher.publish(epoch, next).await;
        }
        let asked = || it.wire.asked(Step::Heartbeat) - heartbeats;
        eventually("the partition is asked", || async { asked() > 0 }).await;
        assert!(asked() < 200, "{} heartbeats", asked());
        eventually("L1 is used", || async { it.b.get_local("k").is_some() }).await;
        it.is_not_disturbed().await;
    }
}
