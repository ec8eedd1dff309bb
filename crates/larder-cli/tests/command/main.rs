//! The built command, against Redis servers of its own.

// A failed step ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod bypass;
mod change;
mod check;
mod dead_letters;
mod forget;
mod inspect;
mod program;
mod readme;
mod tail;
#[cfg(unix)]
mod terminal;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod top;
mod topologies;
#[path = "../../../../tests/support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    #[cfg(feature = "tls")]
    pub(crate) mod certificates;
    pub(crate) mod eventually;
    #[cfg(feature = "cluster")]
    pub(crate) mod proxy;
    #[cfg(feature = "cluster")]
    pub(crate) mod redis_cluster;
    pub(crate) mod redis_server;
    pub(crate) mod signal;
}
