//! [guide]: crate::guide
//! [other_languages]: crate::other_languages
//! [protocol]: crate::protocol
//! [trouble]: crate::RedisL2#when-redis-is-in-trouble
#![doc = include_str!("../README.md")]
//!
//! # Layout
//!
//! Layers, from the top. A file imports from its own layer or from lower ones, and no two files of a layer import from
//! each other; `tests/layers.rs` checks both.
//!
//! | modules | what they do |
//! | --- | --- |
//! | `fuzzing` | what holds for any bytes; not part of a usual build |
//! | `http` | caches HTTP responses; uses the public calls of a cache |
//! | `caches` | the caches of a service, built alike and handled together |
//! | `builder` | collects and checks the options |
//! | `any_cache` | a cache without the types of its keys and values |
//! | `patterns` | what services build around a cache |
//! | `cache` | the public handle: one method per call |
//! | `engine` | carries out each call: L1, then L2, then the loader |
//! | `entry`, `loaded` | what a look-up returns, and what a loader does |
//! | `l1` | the entries of this process: what may be returned, joined and stored |
//! | [`l2`] | the shared store: on Redis, or in memory; beside `l1`, neither knows the other |
//! | `settings` | options from a file or the environment |
//! | `events` | what happens in an instance |
//! | `options`, `error` | what users set, and the errors that they get |
//! | `stats`, `hot_key`, `throttle`, `pacing`, `shared_result`, `token`, `warming` | counters, keys that are looked up often, log lines, the size of batches, one result for many callers, the name of a write, progress |
//! | `wire` | bytes: envelopes, messages and [codecs](codec); does no I/O |
//! | `key`, `lookup_by`, `clock`, `source`, `vocabulary`, `lock`, `prefixes`, `random`, `retry_delays`, `ablation` | what all layers use |
//!
//! The [protocol] has the rules that `engine`, `l1` and `l2` keep together, and says what each is for. `ablation` turns
//! one of them off, for the test that shows what breaks without it.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(larder_ablation)]
pub mod ablation;
#[cfg(not(larder_ablation))]
mod ablation;
mod any_cache;
mod builder;
mod cache;
mod caches;
mod clock;
mod engine;
mod entry;
mod error;
mod events;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hot_key;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
mod key;
mod l1;
pub mod l2;
mod loaded;
mod lock;
mod lookup_by;
mod options;
mod pacing;
mod patterns;
mod prefixes;
mod random;
mod retry_delays;
mod settings;
mod shared_result;
mod source;
mod stats;
mod throttle;
mod token;
mod vocabulary;
mod warming;
mod wire;

pub use crate::any_cache::AnyCache;
pub use crate::builder::{Builder, LoadingBuilder};
pub use crate::cache::Cache;
pub use crate::caches::Caches;
pub use crate::clock::Clock;
pub use crate::entry::{Entry, Meta, SomeEntry};
pub use crate::error::{BuildError, CommitError, LoadError, OrDeferred, WriteError};
pub use crate::events::CacheEvent;
pub use crate::hot_key::HotKey;
pub use crate::key::{CacheKey, KeyWriter, MAX_KEY_BYTES, redis_key};
pub use crate::l2::{L2Error, MemoryL2, MemorySnapshot, RedisL2};
pub use crate::loaded::Loaded;
pub use crate::lookup_by::{KeyFrom, LookupBy};
pub use crate::options::Mode;
#[cfg(any(feature = "outbox-rusqlite", feature = "outbox-sqlx"))]
#[cfg_attr(
    docsrs,
    doc(cfg(any(feature = "outbox-rusqlite", feature = "outbox-sqlx")))
)]
pub use crate::patterns::outbox;
#[cfg(feature = "write-behind")]
#[cfg_attr(docsrs, doc(cfg(feature = "write-behind")))]
pub use crate::patterns::write_behind;
pub use crate::patterns::{AtLeast, LoadingAtLeast, LoadingCache};
pub use crate::settings::{ServiceSettings, Settings, SettingsError};
pub use crate::source::Source;
pub use crate::stats::{Health, Stats};
pub use crate::token::{ParseTokenError, Token};
pub use crate::vocabulary::{Invalidation, Version};
pub use crate::warming::Warming;
pub use crate::wire::envelope::MAX_TAGS;
/// The Redis client and pool that this crate is built with, for [`Builder::redis_pool`].
pub use deadpool_redis;

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("other_languages.md")]
pub mod other_languages {}

#[doc = include_str!("guide/mod.md")]
pub mod guide {
    #[doc = include_str!("guide/getting_started.md")]
    pub mod getting_started {}

    #[doc = include_str!("guide/services.md")]
    pub mod services {}

    #[doc = include_str!("guide/ttls_and_codecs.md")]
    pub mod ttls_and_codecs {}

    #[doc = include_str!("guide/invalidation.md")]
    pub mod invalidation {}

    #[doc = include_str!("guide/patterns.md")]
    pub mod patterns {}

    #[cfg(feature = "http")]
    #[cfg_attr(docsrs, doc(cfg(feature = "http")))]
    #[doc = include_str!("guide/http.md")]
    pub mod http {}

    #[doc = include_str!("guide/loaders.md")]
    pub mod loaders {}

    #[doc = include_str!("guide/operations.md")]
    pub mod operations {}

    #[doc = include_str!("guide/testing.md")]
    pub mod testing {}

    #[doc = include_str!("guide/migrating.md")]
    pub mod migrating {}
}

/// Codecs: how values become bytes, and how to add a format.
///
/// [`Builder::codec`] takes a [`Codec`](codec::Codec), alone or in layers. The layers come with features:
/// `Compressed<C>` and `Encrypted<C>`, or both as `Encrypted<Compressed<C>>`.
pub mod codec {
    pub use crate::wire::codec::*;
}
