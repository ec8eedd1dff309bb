//! The responses that a request with an unsafe method invalidates.

use ::http::header::{CONTENT_LOCATION, LOCATION};
use ::http::{Method, Uri, request::Parts as Request, response::Parts as Response};
use futures::future::join_all;
use larder::Cache;

use super::invalidated::InvalidatedResponses;
use super::keys::{for_each_host, key_of};
use super::layer::CacheLayer;
use super::references::target;
use super::stored::CachedResponse;

/// The responses that a successful request invalidates: by section 4.4 of RFC 9111, and by the rule.
pub(super) fn after(
    rules: &CacheLayer,
    request: &Request,
    response: &Response,
) -> InvalidatedResponses {
    let mut found = InvalidatedResponses::default();
    (rules.invalidate)(request, response, &mut found);
    let others: Vec<Uri> = (found.uris.iter())
        .filter_map(|path| {
            let uri = path.parse().ok().filter(|_| path.starts_with('/'));
            if uri.is_none() {
                tracing::debug!(path, "a rule invalidates a text that is no path");
            }
            uri
        })
        .collect();
    for mut get in for_each_host(request) {
        get.method = Method::GET;
        found.keys.extend(key_of(rules, &get));
        let named = [LOCATION, CONTENT_LOCATION].map(|name| target(&get, response, &name));
        let of_request = get.uri.clone();
        for uri in named.into_iter().flatten().chain(others.iter().cloned()) {
            // With the host of the request where that is in its URI, as by HTTP/2.
            let mut whole = of_request.clone().into_parts();
            whole.path_and_query = uri.path_and_query().cloned();
            get.uri = Uri::from_parts(whole).unwrap_or(uri);
            found.keys.extend(key_of(rules, &get));
        }
    }
    found
}

/// One round trip for keys, one for tags, and a pass over the database for all prefixes. The cache sends later what L2
/// does not accept now, and traces and counts that.
pub(super) async fn carry_out(found: InvalidatedResponses, cache: Cache<String, CachedResponse>) {
    let keys = found.keys.iter().map(String::as_str);
    let _ = cache.invalidate_many(keys).await;
    let _ = cache.invalidate_tags(&found.tags).await;
    // Together, so that they share a pass.
    let prefixes = found.prefixes.iter();
    join_all(prefixes.map(|prefix| cache.invalidate_prefix(prefix))).await;
}
