//! What ends at a certain millisecond: only where the time stands still between two steps.

use std::time::Duration;

use larder::l2::{AcceptedValue, Append, Fill, Kind, LeaseReply};
use larder_store_tests::steps::Steps;
use tokio::time::advance;

use crate::store::*;

const MS: Duration = Duration::from_millis(1);

async fn a_lease_lasts_up_to_its_end(store: impl StoreUnderTest) {
    let (one, other) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    for is_late in [false, true] {
        let led = acquire_lease_for(&*one, "k", 10 * MS, AcceptedValue::Any).await;
        let LeaseReply::Granted(lease) = led else {
            panic!("no lease, but {led:?}");
        };
        advance(9 * MS).await;
        assert_eq!(acquire_lease(&*one, "k").await, LeaseReply::Wait(MS));
        // It is also kept beside a new one of another type.
        let of_other = granted(&*other, "k").await;
        if is_late {
            advance(MS).await;
        }
        let value = of_type(1, b"v", LONG, &[]);
        let filled = one.fill("k", lease, &value, None).await.unwrap();
        assert_eq!(filled == Fill::Rejected(None), is_late, "{filled:?}");
        assert!(given_back(&*other, "k", of_other).await);
        if is_late {
            granted(&*one, "k").await;
        }
        invalidate(&*one, &["k"]).await;
    }
}

async fn the_last_millisecond_of_a_hold_outlasts_a_write(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let payload = payload_of(Kind::Invalidate, &["k"]);
    partition
        .invalidate(&["k"], &payload, 10 * MS)
        .await
        .unwrap();
    advance(9 * MS).await;
    let append = Append {
        encoded_key: b"k".to_vec(),
        most: 1,
        version: None,
    };
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let appended = partition.append("k", &value, append, &payload, None);
    appended.await.unwrap();
    let taken = take_writes(partition).await;
    assert!(settle_writes(partition, &taken, Ok(&[])).await);
    assert_eq!(acquire_lease(partition, "k").await, LeaseReply::Hold);
    // Redis keeps a key in the last millisecond, too.
    advance(2 * MS).await;
    granted(partition, "k").await;
}

macro_rules! of_both_stores {
    ($($name:ident)+) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(<super::Memory as super::StoreUnderTest>::start().await).await;
            })+
        }
        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(<super::Redis as super::StoreUnderTest>::start().await).await;
            })+
        }
    };
}

of_both_stores! {
    a_lease_lasts_up_to_its_end
    the_last_millisecond_of_a_hold_outlasts_a_write
}
