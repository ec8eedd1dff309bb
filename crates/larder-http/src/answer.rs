//! Responses to clients from stored ones, and the headers that say how a response came about.

use std::fmt::Write as _;
use std::time::Duration;

use ::http::header::{AGE, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, Response, StatusCode, request};
use bytes::Bytes;

use super::any_body::AnyBody;
use super::conditional::{OF_THE_BODY, is_not_modified};
use super::layer::CacheLayer;
use super::stored::Stored;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How a response came about, for `Cache-Status` and `X-Cache`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    /// Why the inner service was asked; `None` for a hit.
    pub(super) fwd: Option<&'static str>,
    pub(super) fwd_status: Option<StatusCode>,
    pub(super) is_stored: bool,
    /// Another request has brought the response.
    pub(super) is_collapsed: bool,
    pub(super) is_stale: bool,
    /// In seconds; negative for a stale response.
    pub(super) ttl: Option<i64>,
}

impl How {
    /// `status` is the status of the inner service's response, if there is a response.
    pub(super) fn forwarded(why: &'static str, status: Option<StatusCode>) -> Self {
        Self {
            fwd: Some(why),
            fwd_status: status,
            ..Self::default()
        }
    }

    /// A response that is passed on may have no room for more headers.
    pub(super) fn write(&self, name: &str, headers: &mut HeaderMap) {
        let mut text = match self.fwd {
            None => format!("{name}; hit"),
            Some(why) => format!("{name}; fwd={why}"),
        };
        if let Some(status) = self.fwd_status {
            let _ = write!(text, "; fwd-status={}", status.as_u16());
        }
        // RFC 9211, section 2.4: negative once the response is stale.
        if let Some(ttl) = self.ttl {
            let _ = write!(text, "; ttl={ttl}");
        }
        if self.is_stored {
            text.push_str("; stored");
        }
        if self.is_collapsed {
            text.push_str("; collapsed");
        }
        // After the lines of caches that are nearer to the origin.
        if let Ok(text) = HeaderValue::try_from(text) {
            let _ = headers.try_append(CACHE_STATUS, text);
        }
        let short = match (self.is_stale, self.fwd) {
            (true, _) => "STALE",
            (false, None) => "HIT",
            (false, Some(_)) => "MISS",
        };
        let _ = headers.try_insert(X_CACHE, HeaderValue::from_static(short));
    }
}

/// The response to a request, from a response that was stored `resident` ago.
pub(super) fn answer(
    rules: &CacheLayer,
    request: &request::Parts,
    stored: &Stored,
    resident: Duration,
    mut how: How,
) -> Response<AnyBody> {
    let age = stored.terms.age.saturating_add(resident);
    let mut headers = stored.headers.clone();
    // RFC 9111, section 5.1: a response that the origin has not just made has an `Age`.
    headers.insert(AGE, age.as_secs().into());
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    how.ttl = Some(seconds(stored.terms.lifetime).saturating_sub(seconds(age)));
    how.write(&rules.name, &mut headers);
    let (mut status, mut body) = (stored.status, Bytes::new());
    let is_head = request.method == Method::HEAD;
    // RFC 9110, section 13.2.1: a precondition counts only where the response would be 200 without it.
    if stored.status == StatusCode::OK && is_not_modified(&request.headers, &stored.headers) {
        // RFC 9110, section 15.4.5: the client has these.
        for name in &OF_THE_BODY {
            headers.remove(name);
        }
        status = StatusCode::NOT_MODIFIED;
    } else if !is_head {
        body = stored.body.clone();
    }
    // The length of the body of the GET, also with 304: a server writes the length of the empty body otherwise. With
    // 204 there must be no length.
    if is_head && stored.status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, (stored.body.len() as u64).into());
    }
    let mut response = Response::new(AnyBody::memory(body));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    response
}

/// Whether a GET like this one is answered as a whole, so that a stored response can answer it.
pub(super) fn is_plain(request: &request::Parts) -> bool {
    use ::http::header::{IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, UPGRADE};
    // A range, a precondition that only the origin can check, or another protocol on the connection.
    let others = [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE, UPGRADE];
    !others.iter().any(|name| request.headers.contains_key(name))
}
