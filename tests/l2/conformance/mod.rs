//! What every second level must do. Each test is written once and run against each of them.

mod fleet_counts;
mod holds;
mod leases;
mod lifetime;
mod listening;
mod members;
mod messages;
mod prefixes;
mod replay;
mod tags;
mod values;
#[cfg(feature = "write-behind")]
mod write_stream;

/// Makes a test for each store of each body.
macro_rules! conformance {
    ($($body:ident)+) => {
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $body() {
                    super::$body(<crate::store::Memory as crate::store::Store>::start().await).await;
                }
            )+
        }

        mod redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $body() {
                    super::$body(<crate::store::Redis as crate::store::Store>::start().await).await;
                }
            )+
        }
    };
}
use conformance;
