//! What a request with an unsafe method removes from the cache.

use std::collections::BTreeSet;

use ::http::header::{CONTENT_LOCATION, HeaderName, LOCATION};
use ::http::{Method, Uri, request, response};

use super::keys::{host_of, key_of};
use super::rules::Rules;
use super::stored::CachedResponse;
use crate::Cache;

/// What is to be removed, as a rule of [`CacheLayer::invalidate`](super::CacheLayer::invalidate) says.
#[derive(Clone, Debug, Default)]
pub struct Invalidations {
    uris: Vec<String>,
    keys: BTreeSet<String>,
    tags: BTreeSet<String>,
    prefixes: BTreeSet<String>,
}

impl Invalidations {
    /// The stored response of a resource: its path and query, on the host of the request. All of its variants.
    pub fn path(&mut self, path_and_query: impl Into<String>) {
        self.uris.push(path_and_query.into());
    }

    /// The stored response with this key, and all of its variants. See [`CacheLayer::key`](super::CacheLayer::key).
    pub fn key(&mut self, key: impl Into<String>) {
        self.keys.insert(key.into());
    }

    /// All responses with a tag. See [`CacheLayer::tags`](super::CacheLayer::tags).
    pub fn tag(&mut self, tag: impl Into<String>) {
        self.tags.insert(tag.into());
    }

    /// All responses whose keys begin so, as `GET shop.example/products`. Passes over the whole Redis database, see
    /// [`Cache::invalidate_prefix`]; a tag is better for what happens often.
    pub fn prefix(&mut self, prefix: impl Into<String>) {
        self.prefixes.insert(prefix.into());
    }

    /// What a successful request removes: section 4.4 of RFC 9111, and what the rule says.
    pub(super) fn after(
        rules: &Rules,
        request: &request::Parts,
        response: &response::Parts,
    ) -> Self {
        let mut found = Self::default();
        if let Some(rule) = &rules.invalidate {
            rule(request, response, &mut found);
        }
        let mut get = request.clone();
        get.method = Method::GET;
        found.keys.extend(key_of(rules, &get));
        let named = [LOCATION, CONTENT_LOCATION].map(|name| target(request, response, &name));
        let others = std::mem::take(&mut found.uris);
        let others = others.iter().filter_map(|path| path.parse().ok());
        for uri in named.into_iter().flatten().chain(others) {
            get.uri = uri;
            found.keys.extend(key_of(rules, &get));
        }
        found
    }

    /// One round trip for keys, one for tags, and a pass over the database for each prefix. What does not reach L2 now is
    /// sent later by the cache, which traces and counts that.
    pub(super) async fn carry_out(self, cache: &Cache<String, CachedResponse>) {
        if !self.keys.is_empty() {
            let _ = cache
                .invalidate_many(self.keys.iter().map(String::as_str))
                .await;
        }
        if !self.tags.is_empty() {
            let _ = cache.invalidate_tags(&self.tags).await;
        }
        for prefix in &self.prefixes {
            let _ = cache.invalidate_prefix(prefix).await;
        }
    }
}

/// Another resource of the same host that the response names.
fn target(request: &request::Parts, response: &response::Parts, name: &HeaderName) -> Option<Uri> {
    let text = response.headers.get(name)?.to_str().ok()?;
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(_) => return None,
    };
    let host = host_of(&request.uri, &request.headers);
    if uri.authority().is_some() {
        return (host_of(&uri, &request.headers) == host).then_some(uri);
    }
    // A relative path begins where that of the request ends.
    if text.starts_with('/') {
        return Some(uri);
    }
    let (folder, _) = request.uri.path().rsplit_once('/')?;
    format!("{folder}/{text}").parse().ok()
}
