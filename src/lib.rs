#![doc = include_str!("../README.md")]
//!
//! # Layout
//!
//! Layers depend downward only.
//!
//! - `cache`, `builder`, `entry`: the public face
//! - `flow`: what happens on a call, the one place that knows the order of the levels
//!   (`get`, `load`, `turn`, `loader`, `refresh`, `write`, `queue`, `outbox`, `listen`)
//! - `l1`: what this process holds, and whether it may be served and stored
//! - `l2`: the shared store: `redis`, `memory`, or none
//! - `wire`: what the bytes mean; pure
//! - `key`, `clock`, `options`, `error`, `source`, `stats`, `lock`, `pauses`, `pacing`: what all of them use
//! - [`protocol`]: the rules behind all this, and what they are for
//! - `ablation`: switches that turn one rule of the protocol off, for the test that shows what it is for

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(larder_ablation)]
pub mod ablation;
#[cfg(not(larder_ablation))]
mod ablation;
mod builder;
mod cache;
mod clock;
mod engine;
mod entry;
mod error;
mod key;
mod l1;
pub mod l2;
mod lock;
mod options;
mod pacing;
mod random;
mod retry_delays;
mod shared_result;
mod source;
mod stats;
mod throttle;
mod vocabulary;
mod wire;

pub use crate::builder::Builder;
pub use crate::cache::Cache;
pub use crate::clock::Clock;
pub use crate::entry::{Entry, Meta};
pub use crate::error::{BuildError, LoadError, WriteError};
pub use crate::key::{CacheKey, KeyWriter, MAX_KEY_BYTES, redis_key};
pub use crate::l2::{L2Error, MemoryL2, MemorySnapshot, RedisL2};
pub use crate::options::Mode;
pub use crate::source::Source;
pub use crate::stats::{Health, Stats};
/// The Redis client and pool that this crate is built with, for [`Builder::redis_pool`].
pub use deadpool_redis;

#[doc = include_str!("protocol.md")]
pub mod protocol {}

/// How values become bytes.
pub mod codec {
    pub use crate::wire::codec::*;
}
