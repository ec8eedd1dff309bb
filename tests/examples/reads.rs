//! Where answers come from.

use futures::future::join_all;
use rusqlite::Connection;
use serde_json::json;

use crate::fleet::Fleet;
use crate::support::eventually::eventually;

#[tokio::test]
async fn loaded_once_then_from_redis_then_from_memory() {
    let fleet = Fleet::<3>::start(&[]).await;
    let [a, b, c] = &fleet.instances;
    a.put(42, "Earl Grey").await;

    let product = json!({ "id": 42, "name": "Earl Grey", "price_cents": 450, "version": 1 });
    for (instance, source) in [
        (a, "loaded"),
        (b, "l2"),
        (c, "l2"),
        (a, "l1"),
        (b, "l1"),
        (c, "l1"),
    ] {
        let answer = instance.get(42).await;
        assert_eq!((answer.status, answer.source()), (200, source));
        assert_eq!(answer.body, product);
        assert!(!answer.is_stale() && answer.is_stored());
        // That there is one: any number will do.
        answer.age_ms();
    }
    assert_eq!(fleet.sum("loads").await, 1);
    assert_eq!(fleet.sum("l2_hits").await, 2);
    assert_eq!(fleet.sum("l1_hits").await, 3);
    assert_eq!(fleet.sum("l1_entries").await, 3);
}

#[tokio::test]
async fn an_absent_product_is_cached_too() {
    let fleet = Fleet::<2>::start(&[]).await;
    let [a, b] = &fleet.instances;
    for (instance, source) in [(a, "loaded"), (b, "l2"), (b, "l1")] {
        let answer = instance.get(7).await;
        assert_eq!((answer.status, answer.source()), (404, source));
        assert!(answer.error().contains('7') && !answer.is_stale());
        answer.age_ms();
    }
    a.put(7, "Assam").await;
    fleet.all_see(7, 1).await;
}

#[tokio::test]
async fn requests_that_come_together_cause_one_load() {
    let fleet = Fleet::<3>::start(&["--db-latency-ms=300"]).await;
    fleet.instances[0].put(7, "Assam").await;

    let requests = (0..60)
        .zip(fleet.instances.iter().cycle())
        .map(|(_, instance)| instance.get(7));
    let answers = join_all(requests).await;
    assert!(answers.iter().all(|answer| answer.version() == Some(1)));
    assert!(answers.iter().any(|answer| answer.source() == "loaded"));
    assert_eq!(fleet.sum("loads").await, 1);
}

#[tokio::test]
async fn a_stale_answer_is_flagged_and_then_replaced() {
    let fleet = Fleet::<1>::start(&["--soft-ttl-ms=500"]).await;
    let [a] = &fleet.instances;
    a.put(1, "old").await;
    assert_eq!(a.get(1).await.source(), "loaded");

    // Past the service, so that nothing but the refresh can bring it in.
    let db = Connection::open(&fleet.db).unwrap();
    db.execute("UPDATE products SET name = 'new' WHERE id = 1", ())
        .unwrap();
    drop(db);

    eventually("the answer is stale", || async {
        let answer = a.get(1).await;
        assert_eq!(answer.body["name"], "old");
        if answer.is_stale() {
            // The soft TTL, less what it is varied by.
            assert!(answer.age_ms() >= 450, "{answer:?}");
        }
        answer.is_stale()
    })
    .await;
    eventually("the answer is fresh again", || async {
        let answer = a.get(1).await;
        answer.body["name"] == "new" && !answer.is_stale()
    })
    .await;
    assert!(a.stat("refreshes").await >= 1 && a.stat("loads").await >= 2);
}

#[tokio::test]
async fn a_product_stays_in_memory_for_its_ttl() {
    let fleet = Fleet::<1>::start(&["--l1-ttl-ms=200"]).await;
    let [a] = &fleet.instances;
    assert_eq!(a.get(1).await.source(), "loaded");
    eventually("it is gone from memory", || async {
        a.get(1).await.source() == "l2"
    })
    .await;
    assert_eq!(a.stat("loads").await, 1);
}

#[tokio::test]
async fn a_product_stays_in_redis_for_its_ttl() {
    let fleet = Fleet::<1>::start(&["--l2-ttl-ms=300"]).await;
    let [a] = &fleet.instances;
    assert_eq!(a.get(1).await.source(), "loaded");
    eventually("it is gone from both levels", || async {
        a.get(1).await.source() == "loaded"
    })
    .await;
}
