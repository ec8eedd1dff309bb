//! What every second level must do. Each test is written once, as a body that runs on any store.

use futures::future::LocalBoxFuture;

use crate::StoreUnderTest;

pub mod fleet_counts;
pub mod holds;
pub mod leases;
pub mod lifetime;
pub mod listening;
pub mod members;
pub mod messages;
pub mod prefixes;
pub mod replay;
pub mod tags;
pub mod types;
pub mod values;
#[cfg(feature = "write-behind")]
pub mod write_stream;

/// Exports the bodies of a module, and a macro of the module's name, which makes a test of each. The compiler warns of
/// a body that is not in the list, as the bodies themselves are private.
macro_rules! bodies {
    ($group:ident: $($body:ident)+) => {
        pub mod run {
            $(
                pub async fn $body<S: $crate::StoreUnderTest>() {
                    super::$body(S::start().await).await;
                }
            )+
        }

        /// All of them, by their names.
        #[must_use]
        pub fn all<S: $crate::StoreUnderTest + 'static>() -> Vec<super::Body> {
            vec![$((stringify!($body), || Box::pin(run::$body::<S>()))),+]
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! $group {
            ($store:ty) => {
                $crate::$group! { $store, tokio::test(flavor = "multi_thread", worker_threads = 2) }
            };
            // For a store that needs another runtime.
            ($store:ty, $test:meta) => {
                mod $group {
                    // The name of the store.
                    #[allow(unused_imports)]
                    use super::*;

                    $(
                        #[$test]
                        async fn $body() {
                            $crate::conformance::$group::run::$body::<$store>().await;
                        }
                    )+
                }
            };
        }
    };
}
use bodies;

/// A body with its name.
pub type Body = (&'static str, fn() -> LocalBoxFuture<'static, ()>);

/// The bodies of all groups.
#[must_use]
pub fn all<S: StoreUnderTest + 'static>() -> Vec<Body> {
    let groups = [
        values::all::<S>(),
        types::all::<S>(),
        lifetime::all::<S>(),
        leases::all::<S>(),
        holds::all::<S>(),
        tags::all::<S>(),
        prefixes::all::<S>(),
        messages::all::<S>(),
        listening::all::<S>(),
        replay::all::<S>(),
        members::all::<S>(),
        fleet_counts::all::<S>(),
        #[cfg(feature = "write-behind")]
        write_stream::all::<S>(),
    ];
    groups.into_iter().flatten().collect()
}

/// Without the feature `write-behind` the group has no tests.
#[cfg(not(feature = "write-behind"))]
#[doc(hidden)]
#[macro_export]
macro_rules! write_stream {
    ($store:ty) => {};
}
