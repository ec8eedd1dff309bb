//! Tests for stores that implement the second level of the cache [larder]: the traits [`L2`], [`Partition`] and
//! [`Subscription`](larder::l2::Subscription).
//!
//! larder's own stores, [`RedisL2`](larder::RedisL2) and [`MemoryL2`](larder::MemoryL2), pass these tests. Any other
//! store has to pass them, too: the cache relies on the rules that they check.
//!
//! # Usage
//!
//! Add this crate to the dev-dependencies of the crate that contains the store. Add tokio, whose test attribute the
//! macro uses:
//!
//! ```toml
//! [dev-dependencies]
//! larder-store-tests = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! In a file of `tests/`, implement [`StoreUnderTest`] and pass the type to [`store_tests!`]. This example tests a
//! [`MemoryL2`](larder::MemoryL2):
//!
//! ```test_harness
//! use larder::MemoryL2;
//! use larder::l2::L2;
//! use larder_store_tests::{StoreUnderTest, store_tests};
//!
//! struct Memory(MemoryL2);
//!
//! impl StoreUnderTest for Memory {
//!     async fn start() -> Self {
//!         Self(MemoryL2::new())
//!     }
//!
//!     fn l2(&self) -> &dyn L2 {
//!         &self.0
//!     }
//! }
//!
//! store_tests!(Memory);
//! ```
//!
//! Each test has the name of its group before its own, such as `values::an_inserted_value_is_read_with_its_stamp`.
//! `cargo test values::` runs one group.
//!
//! # Checks
//!
//! | group | the store |
//! | --- | --- |
//! | `values` | stores, reads and removes values; issues rising versions; refuses an insert after its deadline |
//! | `types` | keeps values of several types under a key, and removes all of them with each change |
//! | `lifetime` | makes values stale, changes their lifetime, and inserts on a condition |
//! | `leases` | grants one lease for a key; rejects the fill of a load that a change has overtaken |
//! | `holds` | grants no lease for as long as an invalidation demands |
//! | `tags` | invalidates values by their tags, and rejects the fills of loads under way |
//! | `prefixes` | removes values by a prefix of their keys, and rejects the fills of loads under way |
//! | `messages` | publishes each change once, in order, with numbers without holes |
//! | `listening` | loses no message while other partitions write, and changes a value and publishes the change in one step |
//! | `replay` | keeps a log of the messages, and returns it in parts |
//! | `members` | keeps the list of the subscribed instances |
//! | `fleet_counts` | keeps the counters of each instance ([`Partition::store_counts`]) |
//! | `write_stream` | keeps writes that wait for their source (`Partition::write_stream`) |
//!
//! A store may lack the last two. The group `write_stream` exists with the feature `write-behind` of this crate, which
//! turns on the feature of larder. If the store keeps no counters, pass the names of the other groups to
//! [`store_tests!`].
//!
//! The tests write and read stored bytes in larder's format, which `src/wire/envelope.rs` in larder's repository
//! describes, and payloads of messages in the format of `src/wire/message.rs`.
//!
//! # Limits
//!
//! The tests use the traits alone, on a store that answers throughout. They do not cover:
//!
//! - a server that restarts, loses data, goes back in time, or fails over to a replica. Each partition must then report
//!   another [incarnation](larder::l2::PartitionClock::incarnation) and another epoch;
//! - half-open connections, and time limits: each step of a partition must end within the timeout of the partition;
//! - requests that are sent again, and whose copies arrive late: the docs of each method of [`Partition`] say how a late
//!   copy does no harm;
//! - a server whose clock is stepped;
//! - namespaces with several partitions, channels of other programs ([`L2::has_channels`]), and the log of outages
//!   ([`L2::outages`]);
//! - load over hours, such as data that no step ever removes.
//!
//! A store needs tests of its own for these. `tests/l2/redis` in larder's repository has the tests of `RedisL2`.
//!
//! # Duration
//!
//! On two cores, all tests together take 2 s for `MemoryL2`, and 15 s for `RedisL2` where each test starts a Redis 7.0
//! on the same machine. Partitions have a timeout of 10 s, and a test waits for an event for 10 s at most.
//!
//! [larder]: larder

// A failed step ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::sync::Arc;

use larder::l2::{L2, Partition};

/// The tests, as functions.
#[allow(
    missing_docs,
    clippy::wildcard_imports,
    reason = "not public, and all of it uses most helpers"
)]
#[doc(hidden)]
pub mod conformance;
mod eventually;
/// For larder's own tests: may change in any release.
#[allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "not public"
)]
#[doc(hidden)]
pub mod helpers;
/// For larder's own tests: may change in any release.
#[allow(missing_docs, reason = "not public")]
#[doc(hidden)]
pub mod steps;

/// The store of one test.
///
/// Each test starts a store and drops it at the end, also if the test fails. Tests run at the same time, each on a
/// tokio runtime of its own with two worker threads.
///
/// The constants depend on the store. Their defaults fit `RedisL2`.
pub trait StoreUnderTest: Sized {
    /// The largest number of messages that a subscription holds while the caller does not poll it, with the buffers of
    /// the connection.
    ///
    /// A test writes twice as many messages, and expects a hole in the numbers of those that arrive. Raise it for a
    /// store that holds more. A lower number makes the test faster. Other tests need a store that holds 900 messages.
    const QUEUE: u64 = 4096;

    /// How often a test subscribes while other partitions write.
    ///
    /// A partition that reads its clock before it subscribes loses the messages in between. The test fails only if a
    /// message falls into that gap. Raise the number if the gap is short: for `MemoryL2`, larder's tests use 3000.
    const SUBSCRIPTIONS: u64 = 100;

    /// The largest number of messages that [`Partition::replay`] returns.
    ///
    /// A test replays three more, so the log of a partition must keep as many. Raise it for a store that returns more.
    const REPLAY: usize = 1024;

    /// Starts an empty store that no other test uses.
    ///
    /// All tests use the same namespaces. If they share a server, give each store a random prefix for its keys and its
    /// channels.
    ///
    /// # Panics
    ///
    /// May panic if the store does not start. The test fails.
    fn start() -> impl Future<Output = Self>;

    /// Returns the store. The partitions that a test opens on it share their data.
    fn l2(&self) -> &dyn L2;

    /// Opens a partition as another instance would.
    #[doc(hidden)]
    fn partition(&self) -> Arc<dyn Partition> {
        helpers::partition_of(self.l2(), helpers::NAMESPACE)
    }
}

/// Makes the tests of a type that implements [`StoreUnderTest`].
///
/// Each group of tests becomes a module of the module that calls the macro. So a module can test one store. Each test
/// is a `#[tokio::test(flavor = "multi_thread", worker_threads = 2)]`: the calling crate needs tokio with the features
/// `macros` and `rt-multi-thread`.
///
/// `store_tests!(MyStore)` makes the tests of all groups. With names of groups it makes the tests of these alone, such
/// as for a store that keeps no counters:
///
/// ```
/// # use larder::{MemoryL2, l2::L2};
/// # use larder_store_tests::{StoreUnderTest, store_tests};
/// # struct MyStore(MemoryL2);
/// # impl StoreUnderTest for MyStore {
/// #     async fn start() -> Self { Self(MemoryL2::new()) }
/// #     fn l2(&self) -> &dyn L2 { &self.0 }
/// # }
/// store_tests!(MyStore: values types lifetime leases holds tags prefixes messages listening replay members);
/// ```
#[macro_export]
macro_rules! store_tests {
    ($store:ty) => {
        $crate::store_tests! {
            $store: values types lifetime leases holds tags prefixes messages listening replay members
                fleet_counts write_stream
        }
    };
    ($store:ty: $($group:ident)+) => {
        $($crate::$group! { $store })+
    };
}
