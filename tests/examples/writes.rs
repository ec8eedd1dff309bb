//! What is written on one instance, and what the others say then.

use crate::fleet::Fleet;
use crate::support::eventually::eventually;

#[tokio::test]
async fn a_write_arrives_everywhere() {
    let fleet = Fleet::<3>::start(&[]).await;
    let [a, b, c] = &fleet.instances;

    let created = a.put(42, "Earl Grey").await;
    assert_eq!((created.status, created.version()), (200, Some(1)));
    assert_eq!(created.invalidation(), "done");
    fleet.all_remember(42).await;
    let received = [
        b.stat("invalidations_received").await,
        c.stat("invalidations_received").await,
    ];
    let flushes = fleet.sum("l1_flushes").await;

    let changed = a.put(42, "Lady Grey").await;
    assert_eq!((changed.status, changed.version()), (200, Some(2)));
    assert_eq!(changed.invalidation(), "done");
    let own = a.get(42).await;
    assert_eq!(own.version(), Some(2), "its own write shows at once");
    assert_eq!(own.body["name"], "Lady Grey");
    fleet.all_see(42, 2).await;

    // It was this write's message that did it, and nothing that drops all.
    assert_eq!(a.stat("invalidations_sent").await, 2);
    assert_eq!(b.stat("invalidations_received").await, received[0] + 1);
    assert_eq!(c.stat("invalidations_received").await, received[1] + 1);
    assert_eq!(fleet.sum("l1_flushes").await, flushes);
}

#[tokio::test]
async fn every_instance_may_write() {
    let fleet = Fleet::<3>::start(&[]).await;
    let mut version = 0;
    for instance in fleet.instances.iter().cycle().take(9) {
        version += 1;
        assert_eq!(instance.put(1, "Oolong").await.version(), Some(version));
        fleet.all_see(1, version).await;
    }
}

#[tokio::test]
async fn a_deleted_product_is_gone_everywhere_and_keeps_its_version() {
    let fleet = Fleet::<3>::start(&[]).await;
    let [a, b, c] = &fleet.instances;
    a.put(5, "Sencha").await;
    a.put(5, "Sencha").await;
    fleet.all_remember(5).await;

    let deleted = b.delete(5).await;
    assert_eq!((deleted.status, deleted.invalidation()), (204, "done"));
    assert_eq!(b.get(5).await.status, 404, "its own write shows at once");
    for instance in [a, c] {
        eventually("the product is gone", || async {
            instance.get(5).await.status == 404
        })
        .await;
    }
    let again = c.delete(5).await;
    assert_eq!((again.status, again.invalidation()), (404, "done"));
    assert!(again.error().contains('5'));

    assert_eq!(c.put(5, "Sencha").await.version(), Some(3));
    fleet.all_see(5, 3).await;
}
