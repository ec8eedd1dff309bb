//! Leases and fills of many loads at once, which share requests.

use futures::future::join_all;
use larder::l2::{AcceptedValue, Fill, L2Error, Lease, LeaseReply, LeaseRequest, Partition};

use super::{calls, own_key, run, value_key};
use crate::store::*;

const MANY: usize = 100;

fn keys() -> Vec<String> {
    (0..MANY).map(|n| format!("k{n}")).collect()
}

async fn lease_each(partition: &dyn Partition, keys: &[String]) -> Vec<Lease> {
    join_all(keys.iter().map(|key| granted(partition, key))).await
}

async fn ask_each(partition: &dyn Partition, keys: &[String]) -> Vec<Result<LeaseReply, L2Error>> {
    let ask = LeaseRequest {
        ttl: LONG,
        want: AcceptedValue::Any,
        deadline: None,
    };
    join_all(keys.iter().map(|key| partition.acquire_lease(key, ask))).await
}

#[tokio::test]
async fn loads_that_come_together_are_few_requests() {
    let Redis { server, l2 } = Redis::start().await;
    let (partition, keys) = (partition_of(&l2, NAMESPACE), keys());
    // Connects, and loads the scripts.
    let lease = granted(&*partition, "first").await;
    filled(&*partition, "first", lease, b"v").await;
    let mut raw = server.connection().await;
    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    let leases = lease_each(&*partition, &keys).await;
    let fills = keys.iter().zip(leases);
    let fills =
        fills.map(async |(key, lease)| filled(&*partition, key, lease, key.as_bytes()).await);
    let stamps = join_all(fills).await;
    let scripts = calls(&mut raw).await;
    let scripts = scripts.iter().find(|(name, _)| name == "evalsha");
    // Each batch takes a half of those that are there. One for each key would be two hundred.
    let scripts = scripts.map_or(0, |(_, calls)| *calls);
    assert!((4..=12).contains(&scripts), "{scripts}");
    for (key, stamp) in keys.iter().zip(stamps) {
        let bytes = get(&*partition, key).await.expect("it is stored");
        assert_eq!(stamp_of(&bytes), stamp);
        assert!(bytes.ends_with(key.as_bytes()));
    }
}

#[tokio::test]
async fn a_key_that_is_refused_is_no_concern_of_other_loads() {
    let Redis { server, l2 } = Redis::start().await;
    let (partition, keys) = (partition_of(&l2, NAMESPACE), keys());
    let leases = lease_each(&*partition, &keys).await;
    // As "k1" to "k19".
    let (own, allowed) = (
        format!("~{}", own_key("*")),
        format!("~{}", value_key("k1*")),
    );
    let rights = ["ACL", "SETUSER", "default", "resetkeys", &own, &allowed];
    let _: () = run(&mut server.connection().await, &rights).await;
    let values: Vec<_> = keys.iter().map(|key| sealed(key.as_bytes())).collect();
    let fills = keys.iter().zip(&values).zip(leases);
    let fills = fills.map(|((key, value), lease)| partition.fill(key, lease, value, None));
    for (key, filled) in keys.iter().zip(join_all(fills).await) {
        match filled {
            Ok(Fill::Stored(_)) => assert!(key.starts_with("k1"), "{key}"),
            Err(error) => assert!(error.is_refused() && !key.starts_with("k1"), "{error}"),
            other => panic!("{key}: {other:?}"),
        }
    }
}

/// The step ends in the middle: it has granted leases whose tokens the instance was not told.
#[tokio::test]
async fn a_lease_of_a_step_that_is_refused_is_found_again() {
    let Redis { server, l2 } = Redis::start().await;
    let (partition, keys) = (partition_of(&l2, NAMESPACE), keys());
    granted(&*partition, "first").await;
    let mut raw = server.connection().await;
    // The mark of a write, which is looked for in the stream.
    let mark = own_key("hold:k7");
    let _: () = run(&mut raw, &["SET", &mark, "W1-1:0:0:0"]).await;
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-xrange"]).await;
    let replies = ask_each(&*partition, &keys).await;
    for (key, reply) in keys.iter().zip(replies) {
        match reply {
            Ok(LeaseReply::Granted(lease)) => {
                assert_ne!(key, "k7");
                filled(&*partition, key, lease, b"v").await;
            }
            Err(error) => assert!(error.is_refused() && key == "k7", "{key}: {error}"),
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn each_load_is_told_why_the_server_refuses_the_connection() {
    let Redis { server, l2 } = Redis::start().await;
    let (partition, keys) = (partition_of(&l2, NAMESPACE), keys());
    let mut raw = server.connection().await;
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-evalsha"]).await;
    let replies = ask_each(&*partition, &keys).await;
    for (key, reply) in keys.iter().zip(replies) {
        let error = reply.expect_err("there is no connection");
        assert!(error.is_refused(), "{key}: {error}");
    }
}
