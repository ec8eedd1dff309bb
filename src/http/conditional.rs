//! Conditional requests: those of clients, and those that ask the inner service whether a stored response still holds.

use std::time::SystemTime;

use ::http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use super::directives::members;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

/// The headers that describe the bytes of a body.
pub(super) const OF_THE_BODY: [HeaderName; 4] = [
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    CONTENT_TYPE,
];

pub(super) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

/// Whether the client has what is stored.
pub(super) fn is_not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let Some(etag) = text(stored, &ETAG) else {
            return request.get(IF_NONE_MATCH).is_some_and(|tags| tags == "*");
        };
        let lines = request.get_all(IF_NONE_MATCH).iter();
        let lines = lines.filter_map(|line| line.to_str().ok());
        return lines
            .flat_map(members)
            .any(|tag| tag == "*" || is_same(tag, etag));
    }
    let since = date(request, &IF_MODIFIED_SINCE);
    // What does not say when it was modified was so before it was sent.
    let modified = date(stored, &LAST_MODIFIED).or_else(|| date(stored, &DATE));
    since
        .zip(modified)
        .is_some_and(|(since, modified)| modified <= since)
}

/// By weak comparison: section 8.8.3.2 of RFC 9110.
fn is_same(tag: &str, other: &str) -> bool {
    tag.trim_start_matches("W/") == other.trim_start_matches("W/")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Asks for the whole response, or whether the stored one still holds.
pub(super) fn ask(request: &mut HeaderMap, stored: Option<&HeaderMap>) {
    request.remove(IF_NONE_MATCH);
    request.remove(IF_MODIFIED_SINCE);
    let validators = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
    for (validator, condition) in validators {
        if let Some(value) = stored.and_then(|stored| stored.get(validator)) {
            // Without it the whole response comes.
            let _ = request.try_insert(condition, value.clone());
        }
    }
}

/// Whether a 304 is about what is stored.
pub(super) fn is_about(not_modified: &HeaderMap, stored: &HeaderMap) -> bool {
    match (text(not_modified, &ETAG), text(stored, &ETAG)) {
        (Some(new), Some(old)) => is_same(new, old),
        (Some(_), None) => false,
        (None, _) => true,
    }
}

/// The headers of a stored response after a 304. `None` if there is no room for all of them.
pub(super) fn merge(stored: &HeaderMap, not_modified: &HeaderMap) -> Option<HeaderMap> {
    let mut merged = stored.clone();
    // RFC 9111, section 3.2.
    for name in (not_modified.keys()).filter(|name| !OF_THE_BODY.contains(name)) {
        merged.remove(name);
        for value in not_modified.get_all(name) {
            merged.try_append(name, value.clone()).ok()?;
        }
    }
    Some(merged)
}

/// What is of one connection.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = (headers.get_all(CONNECTION).iter())
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let always = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATION_INFO,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in named.iter().chain(&always) {
        headers.remove(name);
    }
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.parse().ok()
}

/// The only date in a header.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    let only = lines.next().filter(|_| lines.next().is_none())?;
    httpdate::parse_http_date(only.to_str().ok()?).ok()
}
