//! What a request with an unsafe method removes from the cache: section 4.4 of RFC 9111, and rules.

use ::http::header::{CONTENT_LOCATION, HeaderName, LOCATION};
use ::http::{Method, Uri, request, response};
use futures::future::join_all;
use url::{Position, Url};

use super::invalidations::Invalidations;
use super::keys::{host_of, key_of};
use super::rules::Rules;
use super::stored::CachedResponse;
use crate::{Cache, MAX_KEY_BYTES};

/// What a successful request removes: section 4.4 of RFC 9111, and what the rule says.
pub(super) fn after(
    rules: &Rules,
    request: &request::Parts,
    response: &response::Parts,
) -> Invalidations {
    let mut found = Invalidations::default();
    if let Some(rule) = &rules.invalidate {
        rule(request, response, &mut found);
    }
    let mut get = request.clone();
    get.method = Method::GET;
    found.keys.extend(key_of(rules, &get));
    let named = [LOCATION, CONTENT_LOCATION].map(|name| target(request, response, &name));
    let others = std::mem::take(&mut found.uris);
    let others = others.iter().filter_map(|path| {
        let uri: Option<Uri> = path.parse().ok().filter(|_| path.starts_with('/'));
        if uri.is_none() {
            tracing::debug!(path, "what is to be invalidated is no path");
        }
        uri
    });
    for uri in named.into_iter().flatten().chain(others) {
        get.uri = on_host_of(request, uri);
        found.keys.extend(key_of(rules, &get));
    }
    found
}

/// One round trip for keys, one for tags, and a pass over the database for all prefixes. What does not reach L2 now is
/// sent later by the cache, which traces and counts that.
pub(super) async fn carry_out(mut found: Invalidations, cache: Cache<String, CachedResponse>) {
    // No response has a longer one, and the cache would refuse those beside it, too.
    found.keys.retain(|key| key.len() <= MAX_KEY_BYTES);
    found.tags.retain(|tag| tag.len() <= MAX_KEY_BYTES);
    if !found.keys.is_empty() {
        let _ = cache
            .invalidate_many(found.keys.iter().map(String::as_str))
            .await;
    }
    if !found.tags.is_empty() {
        let _ = cache.invalidate_tags(&found.tags).await;
    }
    // Together, so that they share a pass.
    join_all(
        found
            .prefixes
            .iter()
            .map(|prefix| cache.invalidate_prefix(prefix)),
    )
    .await;
}

/// Another resource of the same host that the response names, as a client resolves the reference.
fn target(request: &request::Parts, response: &response::Parts, name: &HeaderName) -> Option<Uri> {
    let reference = response.headers.get(name)?.to_str().ok()?;
    let host = match host_of(&request.uri, &request.headers) {
        "" => "unknown.invalid",
        host => host,
    };
    // The scheme is no part of a key, and is not known here.
    let own = Url::parse(&format!("http://{host}{}", request.uri.path())).ok()?;
    let named = own.join(reference).ok()?;
    let is_same = (named.host(), named.port()) == (own.host(), own.port());
    let path = &named[Position::BeforePath..Position::AfterQuery];
    path.parse().ok().filter(|_| is_same)
}

/// A path, with the host of the request where that is in its URI, as by HTTP/2.
fn on_host_of(request: &request::Parts, uri: Uri) -> Uri {
    if uri.authority().is_some() || request.uri.authority().is_none() {
        return uri;
    }
    let mut whole = request.uri.clone().into_parts();
    whole.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(whole).unwrap_or(uri)
}
