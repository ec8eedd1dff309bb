//! The keys of resources: from host, path and sorted query.

use std::collections::BTreeSet;

use ::http::header::{HOST, HeaderMap, HeaderValue};
use ::http::uri::Authority;
use ::http::{Uri, request};
use larder::key::MAX_KEY_BYTES;
use url::form_urlencoded;

use super::layer::CacheLayer;
use super::variants::VARIANT_BYTES;

/// The key of a GET of this resource. `None` if the key is too long, or if a rule says so; or if the path does not
/// begin with a slash, as the key could then name another host and path.
pub(super) fn key_of(rules: &CacheLayer, request: &request::Parts) -> Option<String> {
    if !request.uri.path().starts_with('/') {
        return None;
    }
    let mut key = (rules.prefix)(request);
    match &rules.key {
        Some(rule) => key.push_str(&rule(request)?),
        None => write_usual(&mut key, request, rules.sort_query),
    }
    // Any resource may turn out to have variants.
    (key.len() + VARIANT_BYTES <= MAX_KEY_BYTES).then_some(key)
}

/// `GET example.com/path?a=1&b=2`. HEAD is answered from the response to a GET. No host and no path has a space, and no
/// host a slash, so that each key names one host and one path.
fn write_usual(key: &mut String, request: &request::Parts, sorts_query: bool) {
    key.push_str("GET ");
    let host = host_of(&request.uri, &request.headers);
    // RFC 9110, section 4.2.3: the case of a host means nothing, and the case of a path means something.
    key.push_str(&host.to_ascii_lowercase());
    key.push_str(request.uri.path());
    let Some(query) = request.uri.query() else {
        return;
    };
    let mut pairs: Vec<_> = query.split('&').collect();
    // Some services divide at semicolons, too: then these are not the names.
    if sorts_query && !query.contains(';') {
        // Stable: the order of values with one name may mean something, however the name is written.
        pairs.sort_by_cached_key(|pair| {
            let decoded = form_urlencoded::parse(pair.as_bytes()).next();
            decoded.map_or_else(String::new, |(name, _)| name.into_owned())
        });
    }
    key.push('?');
    key.push_str(&pairs.join("&"));
}

/// Empty if the request does not say.
pub(super) fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    // RFC 9112, section 3.2.2: the host of the URI counts, and not `Host` beside it.
    let header = || headers.get(HOST).and_then(|host| host.to_str().ok());
    host_in(uri).or_else(header).unwrap_or_default()
}

fn host_in(uri: &Uri) -> Option<&str> {
    let text = uri.authority()?.as_str();
    Some(text.rsplit_once('@').map_or(text, |(_, host)| host))
}

/// Whether a request has one host, or none. Otherwise the inner service may answer for another host than the key's
/// host; and a host with a slash would make the key name another path.
pub(super) fn has_clear_host(request: &request::Parts) -> bool {
    let host = host_of(&request.uri, &request.headers);
    let mut lines = request.headers.get_all(HOST).iter();
    lines.all(|line| line.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
        && (host.is_empty() || is_host(host))
}

fn is_host(text: &str) -> bool {
    Authority::try_from(text).is_ok_and(|authority| !authority.as_str().contains('@'))
}

/// The request; and if it has no clear host, then also one for each host that it names: the inner service may have
/// taken it for any of them.
pub(super) fn for_each_host(request: &request::Parts) -> Vec<request::Parts> {
    let mut requests = vec![request.clone()];
    if has_clear_host(request) {
        return requests;
    }
    let lines = request.headers.get_all(HOST).iter();
    let hosts: BTreeSet<_> = (lines.filter_map(|line| line.to_str().ok()))
        .chain(host_in(&request.uri))
        .filter(|host| is_host(host))
        .collect();
    let on = |host: &str| {
        let mut request = request.clone();
        if request.uri.authority().is_some() {
            let mut uri = request.uri.into_parts();
            uri.authority = Some(host.parse().ok()?);
            request.uri = Uri::from_parts(uri).ok()?;
        }
        (request.headers).insert(HOST, HeaderValue::try_from(host).ok()?);
        Some(request)
    };
    requests.extend(hosts.into_iter().filter_map(on));
    requests
}
