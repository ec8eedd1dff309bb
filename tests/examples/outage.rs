//! A Redis that dies, hangs, cuts connections, or is not there yet.

use larder::l2::deadpool_redis::redis::cmd;
use serde_json::json;

use crate::fleet::Fleet;
use crate::support::redis_server::RedisServer;

/// So that an instance soon stops waiting for a Redis that hangs.
const BOUND: &str = "--max-staleness-ms=600";

#[tokio::test]
async fn without_redis_the_database_answers() {
    let mut fleet = Fleet::<3>::start(&[]).await;
    let [a, b, c] = &fleet.instances;
    a.put(1, "Darjeeling").await;
    fleet.all_remember(1).await;

    fleet.redis.kill();
    fleet.all_degraded().await;
    let written = a.put(1, "Darjeeling").await;
    assert_eq!((written.status, written.version()), (200, Some(2)));
    assert_eq!(written.invalidation(), "deferred");
    for instance in [a, b, c] {
        let answer = instance.get(1).await;
        assert_eq!((answer.version(), answer.source()), (Some(2), "loaded"));
        assert!(!answer.is_stored());
        let health = instance.health().await;
        assert_eq!(health.status, 200, "a readiness probe does not fail");
        assert_eq!(
            health.body,
            json!({ "status": "degraded", "l2": "down", "listener": "lapsed" })
        );
    }
    assert!(fleet.sum("l2_errors").await > 0);
    let deleted = b.delete(1).await;
    assert_eq!((deleted.status, deleted.invalidation()), (204, "deferred"));
    for instance in [a, b, c] {
        assert_eq!(instance.get(1).await.status, 404);
    }
    let written = c.put(1, "Darjeeling").await;
    assert_eq!(
        (written.version(), written.invalidation()),
        (Some(3), "deferred")
    );

    fleet.redis.restart().await;
    fleet.all_well().await;
    fleet.all_see(1, 3).await;
    fleet.all_remember(1).await;
    let written = b.put(1, "Darjeeling").await;
    assert_eq!(
        (written.version(), written.invalidation()),
        (Some(4), "done")
    );
    fleet.all_see(1, 4).await;
}

#[tokio::test]
async fn an_available_instance_answers_from_memory_and_flags_it() {
    let mut fleet = Fleet::<2>::start(&[BOUND, "--available-ms=600000"]).await;
    let [a, b] = &fleet.instances;
    a.put(1, "Darjeeling").await;
    fleet.all_remember(1).await;
    assert!(!b.get(1).await.is_unproven());

    fleet.redis.kill();
    fleet.all_degraded().await;
    assert_eq!(a.put(1, "Assam").await.invalidation(), "deferred");
    let own = a.get(1).await;
    assert_eq!((own.version(), own.is_unproven()), (Some(2), false));
    let remembered = b.get(1).await;
    assert_eq!((remembered.version(), remembered.source()), (Some(1), "l1"));
    assert!(remembered.is_unproven() && remembered.is_stale());

    fleet.redis.restart().await;
    fleet.all_well().await;
    fleet.all_see(1, 2).await;
    assert!(!b.get(1).await.is_unproven());
}

#[tokio::test]
async fn a_write_while_redis_hangs_is_passed_on_later() {
    let mut fleet = Fleet::<3>::start(&[BOUND]).await;
    let [a, b, _] = &fleet.instances;
    a.put(1, "Darjeeling").await;
    fleet.all_remember(1).await;

    fleet.redis.pause();
    let written = a.put(1, "Darjeeling").await;
    assert_eq!(
        (written.version(), written.invalidation()),
        (Some(2), "deferred")
    );
    assert_eq!(
        a.get(1).await.version(),
        Some(2),
        "its own write shows at once"
    );
    fleet.all_degraded().await;
    for instance in &fleet.instances {
        assert_eq!(instance.get(1).await.version(), Some(2));
    }

    // Version 1 is still in there.
    fleet.redis.resume();
    fleet.all_see(1, 2).await;
    fleet.all_well().await;
    for instance in &fleet.instances {
        assert_eq!(instance.get(1).await.version(), Some(2), "and it stays");
    }
    let mut version = 2;
    for instance in [b, a] {
        let written = instance.put(1, "Darjeeling").await;
        version += 1;
        assert_eq!(
            (written.version(), written.invalidation()),
            (Some(version), "done")
        );
        fleet.all_see(1, version).await;
    }
}

#[tokio::test]
async fn subscribers_that_are_cut_off_come_back() {
    let fleet = Fleet::<3>::start(&[]).await;
    let [a, b, c] = &fleet.instances;
    a.put(1, "Darjeeling").await;
    fleet.all_remember(1).await;
    let mut before = Vec::new();
    for instance in [a, b, c] {
        before.push(instance.stat("l1_flushes").await);
    }

    let mut connection = fleet.redis.connection().await;
    let killed: u64 = cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(killed, 3);
    // Its message may or may not arrive: either way no instance shows the old value for long.
    b.put(1, "Darjeeling").await;
    fleet.all_see(1, 2).await;

    fleet.all_well().await;
    fleet.all_remember(1).await;
    for (instance, before) in [a, b, c].into_iter().zip(before) {
        assert_eq!(
            instance.stat("l1_flushes").await,
            before,
            "the log had what was missed"
        );
    }
    let received = c.stat("invalidations_received").await;
    a.put(1, "Darjeeling").await;
    fleet.all_see(1, 3).await;
    assert_eq!(c.stat("invalidations_received").await, received + 1);
}

#[tokio::test]
async fn instances_start_without_redis_and_find_it_later() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let mut fleet = Fleet::<2>::launch(redis, &[]).await;
    let [a, b] = &fleet.instances;
    assert!(!a.is_well().await);
    let written = a.put(1, "Darjeeling").await;
    assert_eq!(
        (written.version(), written.invalidation()),
        (Some(1), "deferred")
    );
    assert_eq!(b.get(1).await.version(), Some(1));

    fleet.redis.restart().await;
    fleet.all_well().await;
    fleet.all_remember(1).await;
    assert_eq!(b.put(1, "Darjeeling").await.invalidation(), "done");
    fleet.all_see(1, 2).await;
}
