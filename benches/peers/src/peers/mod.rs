//! The ways that are compared, one in each file.

mod by_hand;
mod cached;
mod cachekit;
mod foyer;
mod hitbox;
mod larder;
mod moka_future;
mod moka_sync;
mod multi_tier_cache;
mod quick_cache;

pub use self::by_hand::ByHand;
pub use self::cached::Cached;
pub use self::cachekit::CacheKit;
pub use self::foyer::Foyer;
pub use self::hitbox::Hitbox;
pub use self::larder::Larder;
pub use self::moka_future::MokaFuture;
pub use self::moka_sync::MokaSync;
pub use self::multi_tier_cache::MultiTierCache;
pub use self::quick_cache::QuickCache;
pub use deadpool_redis::Pool;
pub use deadpool_redis::redis::aio::MultiplexedConnection as Shared;

/// The ways that are not measured, and why.
pub const ABSENT: &[(&str, &str)] = &[(
    "oxcache",
    "not built: 0.4 needs regex 1.13 or later, hitbox needs an earlier one, and 0.5.0-rc.12 needs Rust 1.97",
)];

/// Calls a function for each way with Redis; the first is the one that all are compared with.
macro_rules! with_two_levels {
    ($row:ident($($argument:expr),*)) => {
        vec![
            $row::<$crate::peers::ByHand<$crate::peers::Pool>>($($argument),*),
            $row::<$crate::peers::Larder>($($argument),*),
            $row::<$crate::peers::ByHand<$crate::peers::Shared>>($($argument),*),
            $row::<$crate::peers::MultiTierCache>($($argument),*),
            $row::<$crate::peers::Hitbox>($($argument),*),
            $row::<$crate::peers::CacheKit>($($argument),*),
            $row::<$crate::peers::Cached<true>>($($argument),*),
            $row::<$crate::peers::Cached<false>>($($argument),*),
        ]
    };
}

/// Calls a function for each way without Redis.
macro_rules! with_one_level {
    ($row:ident($($argument:expr),*)) => {
        vec![
            $row::<$crate::peers::MokaFuture>($($argument),*),
            $row::<$crate::peers::MokaSync>($($argument),*),
            $row::<$crate::peers::Foyer>($($argument),*),
            $row::<$crate::peers::QuickCache>($($argument),*),
        ]
    };
}

pub(crate) use {with_one_level, with_two_levels};
