//! Conditional requests: from clients, and to the inner service, to ask whether a stored response still holds.

use std::time::{Duration, SystemTime};

use ::http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use super::directives::members;

/// The headers that are of one connection.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The headers that describe the bytes of a body.
pub(super) const OF_THE_BODY: [HeaderName; 4] = [
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    CONTENT_TYPE,
];

/// The headers that name the version of a response, each with the condition that asks for another version.
fn validators(headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, &HeaderValue)> {
    let modified = headers.get(LAST_MODIFIED);
    let modified = modified.filter(|_| last_modified(headers).is_some());
    let etag = headers.get(ETAG).map(|etag| (IF_NONE_MATCH, etag));
    (etag.into_iter()).chain(modified.map(|modified| (IF_MODIFIED_SINCE, modified)))
}

pub(super) fn has_validator(headers: &HeaderMap) -> bool {
    validators(headers).next().is_some()
}

/// The time of the last change, if it names a version: of two versions of the same second, one at least was sent with a
/// `Date` of that second (RFC 9110, section 8.8.2.2). `Date` itself names none: it changes where the response does not.
fn last_modified(headers: &HeaderMap) -> Option<SystemTime> {
    let (modified, sent) = (date(headers, &LAST_MODIFIED)?, date(headers, &DATE)?);
    let second_is_over = sent.duration_since(modified).ok()? >= Duration::from_secs(1);
    second_is_over.then_some(modified)
}

/// Whether the client has the stored response: section 13.2.2 of RFC 9110.
pub(super) fn is_not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    // RFC 9110, section 13.1.3: beside `If-None-Match`, `If-Modified-Since` is ignored.
    if let Some(first) = request.get(IF_NONE_MATCH) {
        let Some(etag) = text(stored, &ETAG) else {
            return first == "*";
        };
        let lines = request.get_all(IF_NONE_MATCH).iter();
        let mut tags = (lines.filter_map(|line| line.to_str().ok())).flat_map(members);
        return tags.any(|tag| tag == "*" || is_same(tag, etag));
    }
    let since = date(request, &IF_MODIFIED_SINCE);
    // Not `Date` where there is none, as in section 4.3.2 of RFC 9111: the client may have an older response of the
    // same second. No time is before any.
    let modified = last_modified(stored);
    modified.is_some() && modified <= since
}

/// By weak comparison: section 8.8.3.2 of RFC 9110.
fn is_same(tag: &str, other: &str) -> bool {
    tag.trim_start_matches("W/") == other.trim_start_matches("W/")
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Asks for the whole response, or whether the stored one still holds.
pub(super) fn ask(request: &mut HeaderMap, stored: Option<&HeaderMap>) {
    // The preconditions of the client are for its own copy. They are checked again when the response is there.
    request.remove(IF_NONE_MATCH);
    request.remove(IF_MODIFIED_SINCE);
    for (condition, value) in stored.into_iter().flat_map(validators) {
        // Without it the whole response comes.
        let _ = request.try_insert(condition, value.clone());
    }
}

/// The headers of a stored response after a 304. `None` if that is about another response (section 4.3.4 of RFC 9111),
/// or if there is no room for all of them.
pub(super) fn merge(stored: &HeaderMap, mut not_modified: HeaderMap) -> Option<HeaderMap> {
    let of_both = |name| (text(&not_modified, name), text(stored, name));
    let is_about_it = match of_both(&ETAG) {
        (Some(new), Some(old)) if new.starts_with("W/") => is_same(new, old),
        // A strong one names bytes, which a weak one of the stored response does not.
        (Some(new), old) => old == Some(new),
        (None, _) => match of_both(&LAST_MODIFIED) {
            (Some(new), Some(old)) => new == old,
            _ => true,
        },
    };
    if !is_about_it {
        return None;
    }
    strip_hop_by_hop(&mut not_modified);
    let mut merged = stored.clone();
    // They say how old the 304 is, and not how old the stored response was. Without a date it is of now.
    for name in [AGE, DATE] {
        merged.remove(name);
    }
    // RFC 9111, section 3.2.
    for name in (not_modified.keys()).filter(|name| !OF_THE_BODY.contains(name)) {
        merged.remove(name);
        for value in not_modified.get_all(name) {
            merged.try_append(name, value.clone()).ok()?;
        }
    }
    Some(merged)
}

/// Removes the headers that are of one connection: section 7.6.1 of RFC 9110.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Besides the usual ones, those that this message itself names.
    let named: Vec<HeaderName> = (headers.get_all(CONNECTION).iter())
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The only date in a header.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    // Of two dates neither is certain: as if there were none.
    let only = lines.next().filter(|_| lines.next().is_none())?;
    httpdate::parse_http_date(only.to_str().ok()?).ok()
}
