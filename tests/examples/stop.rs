//! How instances end.

use crate::fleet::Fleet;
use crate::support::eventually::eventually;

#[tokio::test]
async fn a_signal_ends_an_instance_in_good_order() {
    let mut fleet = Fleet::<2>::start(&[]).await;
    for (instance, signal) in fleet.instances.iter_mut().zip(["TERM", "INT"]) {
        // With a connection that is still open.
        instance.put(1, "Assam").await;
        let before = instance.program.stderr();
        instance.program.signal(signal);
        assert_eq!(instance.program.exit_code().await, Some(0), "{signal}");
        assert_eq!(instance.program.stderr(), before, "{signal}");
    }
}

#[tokio::test]
async fn open_requests_are_answered_before_the_end() {
    let mut fleet = Fleet::<1>::start(&["--db-latency-ms=1000"]).await;
    let [a] = &mut fleet.instances;
    let request = async {
        let answer = a.get(1).await;
        assert_eq!((answer.status, answer.source()), (404, "loaded"));
    };
    let stop = async {
        eventually("the load is under way", || async {
            a.stat("loads").await == 1
        })
        .await;
        a.program.signal("TERM");
    };
    tokio::join!(request, stop);
    assert_eq!(a.program.exit_code().await, Some(0));
}

#[tokio::test]
async fn an_instance_ends_while_redis_is_away() {
    let mut fleet = Fleet::<2>::start(&[]).await;
    fleet.redis.kill();
    fleet.all_degraded().await;
    for instance in &mut fleet.instances {
        assert_eq!(instance.put(1, "Assam").await.invalidation(), "deferred");
        instance.program.signal("TERM");
        assert_eq!(instance.program.exit_code().await, Some(0));
        assert!(instance.program.stderr().contains("deferred invalidations"));
    }
}
