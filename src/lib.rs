//! [calls]: crate::guide::calls
//! [codecs]: crate::guide::ttls_and_codecs
//! [design]: crate::guide::design
//! [features]: crate::guide::features
//! [guarantees]: crate::guide::guarantees
//! [guide]: crate::guide
//! [http]: https://docs.rs/larder-http
//! [invalidation]: crate::guide::invalidation
//! [loaders]: crate::guide::loaders
//! [macros]: crate::guide
//! [migrating]: crate::guide::migrating
//! [operations]: crate::guide::operations
//! [other_languages]: crate::other_languages
//! [outbox]: https://docs.rs/larder-outbox
//! [patterns]: crate::guide::patterns
//! [protocol]: crate::protocol
//! [redis]: crate::guide::redis
//! [services]: crate::guide::services
//! [start]: crate::guide::getting_started
//! [testing]: crate::guide::testing
//! [which_call]: crate::guide::which_call
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// Layout: the root has the names that every service uses, in the order in which to read them. Names that few services
// use are in the public module of their topic. CONTRIBUTING.md has the layers of all modules.

#[cfg(larder_ablation)]
pub mod ablation;
#[cfg(not(larder_ablation))]
mod ablation;
mod any_cache;
pub mod builder;
mod cache;
pub mod caches;
mod clock;
mod engine;
pub mod entry;
mod error;
mod events;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod generated;
#[doc(hidden)]
pub mod internal;
pub mod key;
mod l1;
pub mod l2;
pub mod loaded;
mod loading;
mod local;
mod lookup_by;
mod options;
mod prefixes;
mod settings;
pub mod stats;
pub mod token;
mod util;
mod vocabulary;
mod wire;
#[cfg(feature = "write-behind")]
pub mod write_behind;

// Building a cache.
#[doc(inline)]
pub use crate::builder::Builder;
pub use crate::cache::{Cache, InvalidationBatch};
pub use crate::clock::Clock;
#[doc(inline)]
pub use crate::key::CacheKey;
#[doc(inline)]
pub use crate::l2::{MemoryL2, RedisL2};
pub use crate::loading::{LoadingCache, with_state};
pub use crate::local::Local;
pub use crate::vocabulary::{L1Capacity, Mode, RefreshAhead};
#[cfg(feature = "macros")]
#[doc(inline)]
pub use larder_macros::{CacheKey, cached};

// The results of look-ups, loads and writes.
#[doc(inline)]
pub use crate::entry::{Entry, Meta};
#[doc(inline)]
pub use crate::loaded::Loaded;
#[doc(inline)]
pub use crate::token::Token;
pub use crate::vocabulary::{Source, Version};

// Errors.
pub use crate::error::{BuildError, CommitError, L2Error, LoadError, OrDeferred, WriteError};

// Running the caches of a service: settings, health, and events.
#[doc(inline)]
pub use crate::caches::Caches;
pub use crate::events::{CacheEvent, InvalidatedBy};
pub use crate::settings::{AppliedSettings, ServiceSettings, Settings, SettingsError};
#[doc(inline)]
pub use crate::stats::{Health, Stats};
pub use crate::vocabulary::Invalidation;

/// Look-ups that answer with nothing older than a write, on any instance: read your own writes.
///
/// [`Cache::at_least`] and [`LoadingCache::at_least`] return these types. Code names them if a function takes them as
/// an argument, or a struct keeps them.
pub mod at_least {
    pub use crate::loading::{AtLeast, LoadingAtLeast};
}

/// Codecs: how values become bytes, and how to add a format.
///
/// [`Builder::codec`] takes a [`Codec`](codec::Codec), alone or in layers. The layers come with features:
/// `Compressed<C>` and `Encrypted<C>`, or both as `Encrypted<Compressed<C>>`.
pub mod codec {
    pub use crate::wire::codec::*;
}

/// Reads what Redis holds for a namespace or a key, without changing anything: for tools such as the command `larder`.
/// `Namespace` is for one look, and `Watch` for looks at many fleets again and again.
///
/// The bytes in Redis have a format of their own for each release of larder: so a tool reads what its own release
/// knows.
#[cfg(feature = "inspect")]
#[cfg_attr(docsrs, doc(cfg(feature = "inspect")))]
pub mod inspect {
    pub use crate::l2::redis::inspect::*;
    // Fields of the types above have these types, which `l2` exports with the feature `unstable-store` alone: a tool needs
    // their names, and no store of its own.
    pub use crate::l2::store_types::{
        Key, Kind, Lifetime, Member, Message, PartitionNumber, Stamp, TagVersion, Version,
    };
}

/// For tests that no code of users runs while this crate holds a lock.
#[doc(hidden)]
pub use crate::util::lock::held as locks_held;

/// For tests whose random numbers follow from a seed.
#[doc(hidden)]
pub use crate::util::random::seed_randomness;

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("internals.md")]
pub mod internals {}

#[cfg(feature = "metrics")]
#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("other_languages.md")]
pub mod other_languages {}

#[doc = include_str!("guide/mod.md")]
pub mod guide {
    #[doc = include_str!("guide/getting_started.md")]
    pub mod getting_started {}

    #[doc = include_str!("guide/guarantees.md")]
    pub mod guarantees {}

    #[doc = include_str!("guide/which_call.md")]
    pub mod which_call {}

    #[doc = include_str!("guide/calls.md")]
    pub mod calls {}

    #[doc = include_str!("guide/services.md")]
    pub mod services {}

    #[doc = include_str!("guide/ttls_and_codecs.md")]
    pub mod ttls_and_codecs {}

    #[doc = include_str!("guide/deploys.md")]
    pub mod deploys {}

    #[doc = include_str!("guide/invalidation.md")]
    pub mod invalidation {}

    #[doc = include_str!("guide/patterns.md")]
    pub mod patterns {}

    #[cfg(feature = "macros")]
    #[doc = include_str!("guide/macros.md")]
    pub mod macros {}

    #[doc = include_str!("guide/loaders.md")]
    pub mod loaders {}

    #[doc = include_str!("guide/operations.md")]
    pub mod operations {}

    #[doc = include_str!("guide/not_caching.md")]
    pub mod not_caching {}

    #[doc = include_str!("guide/old_value.md")]
    pub mod old_value {}

    #[doc = include_str!("guide/redis.md")]
    pub mod redis {}

    #[doc = include_str!("guide/features.md")]
    pub mod features {}

    #[doc = include_str!("guide/testing.md")]
    pub mod testing {}

    #[doc = include_str!("guide/design.md")]
    pub mod design {}

    #[doc = include_str!("guide/costs.md")]
    pub mod costs {}

    #[doc = include_str!("guide/migrating.md")]
    pub mod migrating {}
}
