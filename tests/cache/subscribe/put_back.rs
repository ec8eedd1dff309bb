//! Rule 31: data that is put back while the store runs has values that were invalidated, and instances find out.

use larder::l2::deadpool_redis::redis::AsyncCommands;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;

use crate::fleet::{Fleet, Source, Texts, pair, received, without_heartbeats};
use crate::support::eventually::eventually;

const CLOCK: &str = "{test:text.0}!clock";
const VALUE: &str = "{test:text.0}:k";

/// What an operator has kept of the store.
struct Copy {
    clock: Vec<u8>,
    value: Vec<u8>,
}

impl Copy {
    async fn take(redis: &mut MultiplexedConnection) -> Self {
        Self {
            clock: redis.hget(CLOCK, "at").await.unwrap(),
            value: redis.get(VALUE).await.unwrap(),
        }
    }

    async fn put_back(&self, redis: &mut MultiplexedConnection) {
        let () = redis.hset(CLOCK, "at", &self.clock).await.unwrap();
        let () = redis.pset_ex(VALUE, &self.value, 3_600_000).await.unwrap();
    }
}

async fn another_epoch(redis: &MultiplexedConnection, former: &[u8]) {
    eventually("another epoch has begun", async || {
        let clock: Vec<u8> = redis.clone().hget(CLOCK, "at").await.unwrap();
        clock[..8] != former[..8]
    })
    .await;
}

/// `lose` is what the first instance does, of which the store knows nothing after that; `go_on` is what comes then, before
/// the instances ask for a proof.
async fn is_found(lose: impl AsyncFn(&Texts), go_on: impl AsyncFn(&Texts)) {
    let mut fleet = Fleet::redis().await;
    let ((a, wire), (b, other_wire)) = pair(&fleet).await;
    let mut redis = fleet.server().connection().await;
    let source = Source::new("old");
    for cache in [&a, &b] {
        source.through(cache, "k").await.unwrap();
    }
    let copy = Copy::take(&mut redis).await;
    lose(&a).await;
    for cache in [&a, &b] {
        let is_gone = || async { cache.get("k").await.is_none() };
        eventually("it is gone", is_gone).await;
    }
    copy.put_back(&mut redis).await;
    go_on(&b).await;
    wire.cut();
    other_wire.cut();
    another_epoch(&redis, &copy.clock).await;
    source.set("new");
    for cache in [&a, &b] {
        eventually("it is gone again", || async {
            **source.through(cache, "k").await.unwrap() == *"new"
        })
        .await;
    }
}

async fn invalidate(a: &Texts) {
    a.invalidate("k").await.unwrap();
}

async fn invalidate_others(b: &Texts) {
    for key in ["another", "a third one"] {
        b.invalidate(key).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_that_is_lost_is_found_by_its_number() {
    is_found(invalidate, async |_| {}).await;
}

/// The next message has its number.
#[tokio::test]
async fn a_message_that_is_lost_is_found_by_its_nonce() {
    is_found(invalidate, async |b| {
        b.invalidate("another").await.unwrap();
    })
    .await;
}

/// And messages after that.
#[tokio::test]
async fn a_message_that_is_lost_is_found_in_the_log() {
    is_found(invalidate, invalidate_others).await;
}

/// Though there are more messages in it than in its successor.
#[tokio::test]
async fn an_epoch_that_was_left_is_found() {
    let clear = async |a: &Texts| {
        a.clear().await.unwrap();
        a.ready().await;
    };
    is_found(clear, invalidate_others).await;
}

/// It has no message, and the invalidation of its key gets its version.
#[tokio::test]
async fn a_fill_that_is_lost_is_found_by_its_answer() {
    let mut fleet = Fleet::redis().await;
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let mut redis = fleet.server().connection().await;
    b.invalidate("another").await.unwrap();
    received(&a, 1).await;
    let clock: Vec<u8> = redis.hget(CLOCK, "at").await.unwrap();
    let source = Source::new("old");
    source.through(&a, "k").await.unwrap();
    let () = redis.hset(CLOCK, "at", &clock).await.unwrap();
    let () = redis.del(VALUE).await.unwrap();
    source.set("new");
    for key in ["k", "another"] {
        b.invalidate(key).await.unwrap();
    }
    wire.cut();
    another_epoch(&redis, &clock).await;
    eventually("it is gone", || async {
        **source.through(&a, "k").await.unwrap() == *"new"
    })
    .await;
}

/// No message of it has come, and the epoch of before goes on.
#[tokio::test]
async fn a_clear_that_is_lost_is_found_by_its_answer() {
    let mut fleet = Fleet::redis().await;
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let mut redis = fleet.server().connection().await;
    let source = Source::new("old");
    source.through(&a, "k").await.unwrap();
    let copy = Copy::take(&mut redis).await;
    wire.silence(true);
    a.clear().await.unwrap();
    copy.put_back(&mut redis).await;
    source.set("new");
    wire.cut();
    wire.silence(false);
    another_epoch(&redis, &copy.clock).await;
    eventually("it is gone again", || async {
        **source.through(&a, "k").await.unwrap() == *"new"
    })
    .await;
}
