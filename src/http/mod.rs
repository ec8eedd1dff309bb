//! A tower layer that caches HTTP responses, for axum and hyper servers.

mod answer;
mod body;
mod conditional;
mod directives;
mod fetch;
mod invalidations;
mod keys;
mod layer;
mod policy;
mod rules;
mod service;
mod stored;

pub use self::body::CacheBody;
pub use self::invalidations::Invalidations;
pub use self::layer::CacheLayer;
pub use self::service::{CacheService, ResponseFuture};
pub use self::stored::CachedResponse;
