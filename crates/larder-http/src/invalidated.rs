//! The responses that a rule asks to be removed from the cache.

use std::collections::BTreeSet;

/// The responses that a rule of [`CacheLayer::invalidate`](super::CacheLayer::invalidate) asks to be removed from
/// the cache.
#[derive(Clone, Debug, Default)]
pub struct InvalidatedResponses {
    pub(super) uris: Vec<String>,
    pub(super) keys: BTreeSet<String>,
    pub(super) tags: BTreeSet<String>,
    pub(super) prefixes: BTreeSet<String>,
}

impl InvalidatedResponses {
    /// The stored response of a resource: its path and query, on the host of the request. All of its variants.
    /// [`CacheLayer::prefix`](super::CacheLayer::prefix) and [`CacheLayer::key`](super::CacheLayer::key) are asked for
    /// its key.
    ///
    /// As in a request: it begins with `/`, and is percent-encoded. Any other text is ignored, with a line at DEBUG.
    pub fn path(&mut self, path_and_query: impl Into<String>) {
        self.uris.push(path_and_query.into());
    }

    /// The stored response with this key, and all of its variants.
    ///
    /// The whole key: the text that [`CacheLayer::prefix`](super::CacheLayer::prefix) returns, which is not added here,
    /// and the text that [`CacheLayer::key`](super::CacheLayer::key) returns, such as `GET shop.example/products?a=1`.
    pub fn key(&mut self, key: impl Into<String>) {
        self.keys.insert(key.into());
    }

    /// All responses with a tag. See [`CacheLayer::tags`](super::CacheLayer::tags).
    pub fn tag(&mut self, tag: impl Into<String>) {
        self.tags.insert(tag.into());
    }

    /// All responses whose keys begin with this text, such as `GET shop.example/products`. As in [`key`](Self::key),
    /// the prefix of [`CacheLayer::prefix`](super::CacheLayer::prefix) is not added.
    ///
    /// Passes over the whole Redis database, see [`Cache::invalidate_prefix`](larder::Cache::invalidate_prefix). A tag
    /// is better for changes that happen often.
    pub fn prefix(&mut self, prefix: impl Into<String>) {
        self.prefixes.insert(prefix.into());
    }
}
