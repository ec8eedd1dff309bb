//! What a subscription receives while others write as fast as they can: the order on which everything else rests.

use std::sync::Arc;

use larder::l2::{Event, Kind, Partition};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

bodies! { listening:
    a_heartbeat_never_overtakes_a_message
    no_message_is_lost_while_it_subscribes
    a_value_is_gone_when_its_message_is_received
    no_value_is_usable_when_the_message_of_a_clear_is_received
}

/// Invalidates until dropped.
struct Writer(JoinHandle<()>);

impl Writer {
    /// Writes as often as `room` has permits.
    fn start(partition: Arc<dyn Partition>, room: Arc<Semaphore>) -> Self {
        Self(tokio::spawn(async move {
            loop {
                room.acquire().await.expect("the test goes on").forget();
                invalidate(&*partition, &["k"]).await;
                tokio::task::yield_now().await;
            }
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn a_heartbeat_never_overtakes_a_message(store: impl StoreUnderTest) {
    const MESSAGES: u64 = 6000;
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    // The subscriber's queue never fills up, so that every message counts.
    let room = Arc::new(Semaphore::new(900));
    let _writers = [(); 3].map(|()| Writer::start(store.partition(), Arc::clone(&room)));
    let (mut last, mut heartbeats, mut asked) = (clock.seq, 0, None);
    while last < clock.seq + MESSAGES {
        match next_event(&mut *subscription).await {
            Event::Message(message) => {
                assert_eq!(message.seq, last + 1);
                last = message.seq;
                room.add_permits(1);
            }
            Event::Heartbeat(now) => {
                let since = asked.take().expect("a heartbeat was asked for");
                assert!(
                    since <= now.seq && now.seq <= last,
                    "a heartbeat names {}, asked for after {since}, and {last} is the last one received",
                    now.seq
                );
                assert_eq!(now.epoch, clock.epoch);
                heartbeats += 1;
            }
            other => panic!("no load waits for a lease, and there is no other event: {other:?}"),
        }
        if asked.is_none() && last.is_multiple_of(5) {
            subscription.heartbeat(NOTHING);
            asked = Some(last);
        }
        if last.is_multiple_of(1000) {
            // Falls behind, so that the heartbeat finds many messages before it.
            eventually("the writers have no room left", async || {
                room.available_permits() == 0
            })
            .await;
        }
    }
    // Each waits for what the queue holds, and is asked for after five more.
    assert!(
        heartbeats >= MESSAGES / 905,
        "only {heartbeats} heartbeats came through"
    );
}

async fn no_message_is_lost_while_it_subscribes<S: StoreUnderTest>(store: S) {
    let partition = store.partition();
    let room = Arc::new(Semaphore::new(0));
    let _writers = [(); 2].map(|()| Writer::start(store.partition(), Arc::clone(&room)));
    for round in 0..S::SUBSCRIPTIONS {
        // Enough to keep them busy, and too little to fill the subscriber's queue.
        room.add_permits(50 - room.available_permits());
        let writing = async {
            while room.available_permits() > 45 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, writing).await.expect("they write");
        let (clock, mut subscription) = subscribe(&*partition).await;
        // They may be done by now: one more, at least, comes after it.
        room.add_permits(1);
        // A message of before the clock was read may be received, too.
        let mut next = message(&mut *subscription).await.seq;
        assert!(next <= clock.seq + 1, "lost one in round {round}");
        while next <= clock.seq {
            assert_eq!(message(&mut *subscription).await.seq, next + 1);
            next += 1;
        }
    }
}

/// With two steps in place of one, an instance could keep the old value after it has applied the message.
async fn a_value_is_gone_when_its_message_is_received(store: impl StoreUnderTest) {
    const ROUNDS: u64 = 500;
    let reader = store.partition();
    let (clock, mut subscription) = subscribe(&*reader).await;
    let room = Arc::new(Semaphore::new(1));
    let writer = {
        let (partition, room) = (store.partition(), Arc::clone(&room));
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                room.acquire().await.expect("the test goes on").forget();
                insert(&*partition, "k", b"v").await;
                room.acquire().await.expect("the test goes on").forget();
                invalidate(&*partition, &["k"]).await;
            }
        })
    };
    for n in 1..=ROUNDS * 2 {
        let received = message(&mut *subscription).await;
        assert_eq!(received.seq, clock.seq + n);
        let found = get(&*reader, "k").await;
        match received.kind {
            Kind::Insert => assert_eq!(found.as_deref().map(stamp_of).unwrap().ver, received.ver),
            _ => assert_eq!(found, None, "{received:?}"),
        }
        room.add_permits(1);
    }
    writer.await.expect("the writer ends well");
}

async fn no_value_is_usable_when_the_message_of_a_clear_is_received(store: impl StoreUnderTest) {
    let (reader, writer) = (store.partition(), store.partition());
    let (_, mut subscription) = subscribe(&*reader).await;
    for _ in 0..50 {
        insert(&*writer, "k", b"v").await;
        assert_eq!(message(&mut *subscription).await.kind, Kind::Insert);
        let (cleared, found) = tokio::join!(clear(&*writer), async {
            let received = message(&mut *subscription).await;
            assert_eq!(received.kind, Kind::Clear);
            (received, usable(&*reader, "k").await)
        });
        assert_eq!(found.0.epoch, cleared.epoch);
        assert_eq!(found.1, None);
    }
}
