//! [calls]: crate::guide::calls
//! [codecs]: crate::guide::ttls_and_codecs
//! [derived]: crate::guide::invalidation#values-that-are-made-of-cached-values
//! [design]: crate::guide::design
//! [features]: crate::guide::features
//! [guide]: crate::guide
//! [other_languages]: crate::other_languages
//! [protocol]: crate::protocol
//! [redis]: crate::guide::redis
//! [trouble]: crate::RedisL2#when-redis-is-in-trouble
//! [which_call]: crate::guide::which_call
#![doc = include_str!("../README.md")]
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
#[cfg(feature = "http")]
pub mod http;
mod key;
mod l1;
pub mod l2;
mod loaded;
mod loading;
mod lookup_by;
mod options;
mod patterns;
mod prefixes;
mod settings;
mod stats;
mod token;
mod util;
mod vocabulary;
mod wire;

pub use crate::any_cache::AnyCache;
pub use crate::builder::{Builder, LoadingBuilder, Verify, WithLoader};
pub use crate::cache::Cache;
pub use crate::caches::Caches;
pub use crate::clock::Clock;
pub use crate::entry::{Entry, Meta, SomeEntry};
pub use crate::error::{BuildError, CommitError, LoadError, OrDeferred, WriteError};
pub use crate::events::CacheEvent;
pub use crate::key::{CacheKey, KeyWriter, MAX_KEY_BYTES, redis_key};
pub use crate::l2::{L2Error, MemoryL2, MemorySnapshot, RedisL2};
pub use crate::loaded::Loaded;
pub use crate::loading::{AtLeast, LoadingAtLeast, LoadingCache, with_state};
pub use crate::lookup_by::{KeyFrom, LookupBy};
#[cfg(any(feature = "outbox-rusqlite", feature = "outbox-sqlx"))]
pub use crate::patterns::outbox;
#[cfg(feature = "write-behind")]
pub use crate::patterns::write_behind;
pub use crate::settings::{ServiceSettings, Settings, SettingsError};
pub use crate::stats::{Health, HotKey, Stats, Warming};
pub use crate::token::{ParseTokenError, Token};
pub use crate::vocabulary::{Invalidation, Mode, RefreshAhead, Source, Version};
pub use crate::wire::envelope::MAX_TAGS;
/// The Redis client and pool that this crate is built with, for [`RedisL2::with_pool`].
pub use deadpool_redis;

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[cfg(feature = "metrics")]
#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("other_languages.md")]
pub mod other_languages {}

#[doc = include_str!("guide/mod.md")]
pub mod guide {
    #[doc = include_str!("guide/getting_started.md")]
    pub mod getting_started {}

    #[doc = include_str!("guide/which_call.md")]
    pub mod which_call {}

    #[doc = include_str!("guide/calls.md")]
    pub mod calls {}

    #[doc = include_str!("guide/services.md")]
    pub mod services {}

    #[doc = include_str!("guide/ttls_and_codecs.md")]
    pub mod ttls_and_codecs {}

    #[doc = include_str!("guide/invalidation.md")]
    pub mod invalidation {}

    #[doc = include_str!("guide/patterns.md")]
    pub mod patterns {}

    #[cfg(feature = "http")]
    #[doc = include_str!("guide/http.md")]
    pub mod http {}

    #[doc = include_str!("guide/loaders.md")]
    pub mod loaders {}

    #[doc = include_str!("guide/operations.md")]
    pub mod operations {}

    #[doc = include_str!("guide/redis.md")]
    pub mod redis {}

    #[doc = include_str!("guide/features.md")]
    pub mod features {}

    #[doc = include_str!("guide/testing.md")]
    pub mod testing {}

    #[doc = include_str!("guide/design.md")]
    pub mod design {}

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
