//! The keys of requests: from host, path and sorted query, and for a variant also from the headers that it depends on.

use std::fmt::Write as _;

use ::http::header::{HOST, HeaderMap};
use ::http::uri::Authority;
use ::http::{HeaderName, Uri, request};
use twox_hash::XxHash3_64;

use super::rules::Rules;
use super::stored::Varies;
use crate::MAX_KEY_BYTES;

/// What a variant adds at most.
const VARIANT_BYTES: usize = 34;

/// The key of a GET of this resource. `None` if it is too long, or if a rule says so; or if its path does not begin with a
/// slash, as the key could be that of another host and path.
pub(super) fn key_of(rules: &Rules, request: &request::Parts) -> Option<String> {
    if !request.uri.path().starts_with('/') {
        return None;
    }
    let mut key = (rules.prefix.as_ref()).map_or_else(String::new, |prefix| prefix(request));
    match &rules.key {
        Some(rule) => key.push_str(&rule(request)?),
        None => write_usual(&mut key, request),
    }
    (key.len() + VARIANT_BYTES <= MAX_KEY_BYTES).then_some(key)
}

/// `GET example.com/path?a=1&b=2`. HEAD is answered from what a GET has stored.
fn write_usual(key: &mut String, request: &request::Parts) {
    key.push_str("GET ");
    let host = host_of(&request.uri, &request.headers);
    key.push_str(&host.to_ascii_lowercase());
    key.push_str(request.uri.path());
    if let Some(query) = request.uri.query() {
        let mut pairs: Vec<_> = query.split('&').collect();
        // Stable: the order of values with one name may mean something.
        pairs.sort_by_key(|pair| pair.split('=').next());
        for (place, pair) in pairs.into_iter().enumerate() {
            key.push(if place == 0 { '?' } else { '&' });
            key.push_str(pair);
        }
    }
}

/// Empty if the request does not say.
pub(super) fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let authority = uri.authority().map(|authority| {
        let text = authority.as_str();
        text.rsplit_once('@').map_or(text, |(_, host)| host)
    });
    let header = || headers.get(HOST).and_then(|host| host.to_str().ok());
    authority.or_else(header).unwrap_or_default()
}

/// Whether a request has one host, or none. Otherwise the inner service may answer for another host than that of the key;
/// and a host with a slash would make the key that of another path.
pub(super) fn has_clear_host(request: &request::Parts) -> bool {
    let host = host_of(&request.uri, &request.headers);
    let mut lines = request.headers.get_all(HOST).iter();
    lines.all(|line| line.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
        && (host.is_empty() || Authority::try_from(host).is_ok())
}

/// What a request has in these headers. HTTP/2 may send the cookies of one request in several lines.
pub(super) fn select(names: &[String], headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let select = |name: &String| {
        let mut value = Vec::new();
        let separator: &[u8] = if name == "cookie" { b"; " } else { b", " };
        if let Ok(header) = HeaderName::try_from(name) {
            for (place, line) in headers.get_all(header).iter().enumerate() {
                if place > 0 {
                    value.extend_from_slice(separator);
                }
                value.extend_from_slice(line.as_bytes().trim_ascii());
            }
        }
        (name.clone(), value)
    };
    names.iter().map(select).collect()
}

/// The key of one variant. Another variant with the same hash is told apart by what was selected, which is stored with it.
pub(super) fn variant_key(primary: &str, varies: &Varies, headers: &HeaderMap) -> String {
    let mut bytes = Vec::new();
    for (name, value) in select(&varies.names, headers) {
        for part in [name.as_bytes(), &value] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    let mut key = String::with_capacity(primary.len() + VARIANT_BYTES);
    key.push_str(primary);
    // A space is in no URI.
    let hash = XxHash3_64::oneshot(&bytes);
    let _ = write!(key, " {:016x}{hash:016x}", varies.generation);
    key
}
