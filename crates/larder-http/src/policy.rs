//! Which responses may be stored, for how long, and when a stored one may be used: RFC 9111 and RFC 5861.
//!
//! `http-cache-semantics` says which responses may be stored, and how long they are fresh.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use ::http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, COOKIE, DATE, EXPIRES,
    HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, SET_COOKIE, VARY,
};
use ::http::{Request, Response, StatusCode, request, response};
use http_cache_semantics::{CacheOptions, CachePolicy};
use larder::Meta;

use super::conditional::{date, has_validator, text};
use super::directives::{Directives, members, parse_seconds};
use super::layer::CacheLayer;
use super::stored::{Stored, Terms};

/// The directives that `http-cache-semantics` is asked with. Not `proxy-revalidate`, which says nothing of a response
/// that is fresh.
const ASKED_WITH: [&str; 8] = [
    "no-store",
    "private",
    "public",
    "must-revalidate",
    "no-cache",
    "immutable",
    "max-age",
    "s-maxage",
];

/// Types of bodies that go on until their client has gone. RPCs may, and end with trailers.
const ENDLESS: [&str; 2] = ["text/event-stream", "multipart/x-mixed-replace"];
const RPC: &str = "application/grpc";

/// For how long a response may be used, or `None` if it must not be stored. Sets its `Date` if it has none.
pub(super) fn terms(
    rules: &CacheLayer,
    request: &request::Parts,
    response: &mut response::Parts,
    delay: Duration,
) -> Option<Terms> {
    let may_be_whole = is_whole(response) && !is_endless(&response.headers);
    if !may_be_whole || !(rules.store_if)(request, response) {
        return None;
    }
    let may_be_private = (rules.store_private)(request, response);
    if !may_be_private && response.headers.contains_key(SET_COOKIE) {
        return None;
    }
    let now = SystemTime::now();
    let date = date(&response.headers, &DATE).unwrap_or_else(|| {
        // RFC 9110, section 6.6.1: a recipient with a clock adds the `Date` before it stores the response. The time at
        // which the request was sent: a change since then may be missing in the response, and a `Last-Modified` of the
        // second of that change would name two versions.
        let sent = now.checked_sub(delay).unwrap_or(now);
        if let Ok(text) = HeaderValue::try_from(httpdate::fmt_http_date(sent)) {
            let _ = response.headers.try_insert(DATE, text);
        }
        now
    });
    let targeted = Directives::targeted(&response.headers, &rules.targeted);
    // RFC 9213, section 2.2: beside a field for this cache, `Expires` is for others.
    let has_expires = targeted.is_none() && response.headers.contains_key(EXPIRES);
    let mut directives = targeted.unwrap_or_else(|| Directives::of(&response.headers));
    let says_so = has_expires || directives.has_any(&["max-age", "s-maxage", "public"]);
    if directives.has("must-understand") {
        // RFC 9111, section 5.2.2.3.
        if !is_understood(response.status) {
            return None;
        }
        directives.remove("no-store");
    }
    if may_be_private {
        directives.remove("no-store");
        directives.remove("private");
    }
    let is_authorized = !may_be_private && request.headers.contains_key(AUTHORIZATION);
    let lifetime = lifetime(is_authorized, response, &directives, has_expires, date)?;
    let own_ttl = (rules.ttl)(request, response);
    let is_for_all = may_be_private || says_so || own_ttl.is_some();
    if !is_for_all && request.headers.contains_key(COOKIE) {
        // A response to one user that does not say that it holds for others.
        return None;
    }
    let said_or = |name, otherwise| directives.seconds(name).unwrap_or(otherwise);
    let terms = Terms {
        age: initial_age(&response.headers, date, now, delay),
        lifetime: own_ttl.unwrap_or(lifetime),
        while_revalidate: said_or("stale-while-revalidate", rules.stale_while_revalidate),
        if_error: said_or("stale-if-error", rules.stale_if_error),
        // RFC 9111, section 5.2.2.10: for a shared cache, `s-maxage` means `proxy-revalidate`, too.
        must_revalidate: directives.has_any(&[
            "must-revalidate",
            "proxy-revalidate",
            "s-maxage",
            "no-cache",
        ]),
    };
    let after_fresh = terms.stale_for(terms.while_revalidate.max(terms.if_error));
    let is_used = !terms.fresh_for().is_zero() || !after_fresh.is_zero();
    (is_used || has_validator(&response.headers)).then_some(terms)
}

/// Whether `http-cache-semantics` knows what a code means for caches.
fn is_understood(status: StatusCode) -> bool {
    let response = Response::builder().status(status);
    let response = response.header(CACHE_CONTROL, "public").body(());
    response.is_ok_and(|response| CachePolicy::new(&Request::new(()), &response).is_storable())
}

/// Not a part of a response, and not one that is about another one.
fn is_whole(response: &response::Parts) -> bool {
    let status = response.status;
    !status.is_informational()
        && status != StatusCode::PARTIAL_CONTENT
        && status != StatusCode::NOT_MODIFIED
        && !response.headers.contains_key(CONTENT_RANGE)
        && vary(&response.headers).is_some()
}

fn is_endless(headers: &HeaderMap) -> bool {
    let of = text(headers, &CONTENT_TYPE).and_then(|text| text.split(';').next());
    let of = of.map(|of| of.trim().to_ascii_lowercase());
    of.is_some_and(|of| ENDLESS.contains(&&*of) || of.starts_with(RPC))
}

/// Up to which age the response is fresh, or `None` if it must not be stored. `http-cache-semantics` is asked about it
/// in a form that it reads without a mistake: directives in lower case, without quotes and once each, and dates of one
/// format.
fn lifetime(
    is_authorized: bool,
    response: &response::Parts,
    directives: &Directives,
    has_expires: bool,
    at: SystemTime,
) -> Option<Duration> {
    let mut request = Request::new(());
    if is_authorized {
        (request.headers_mut()).insert(AUTHORIZATION, HeaderValue::from_static("hidden"));
    }
    let from = &response.headers;
    let directives = directives.or_pragma(from);
    let directives = ASKED_WITH.iter().filter_map(|name| {
        // All with an argument, as those that take none may have one.
        let seconds = directives.seconds(name)?.as_secs();
        Some(format!("{name}={seconds}"))
    });
    // The library refuses codes that it does not know. As this one they are stored if they say so: a rule that looks at
    // no status must not keep an error, or a redirect to a login, for everybody.
    let known = Some(response.status).filter(|status| is_understood(*status));
    let mut asked = Response::builder()
        .status(known.unwrap_or(StatusCode::FOUND))
        .header(CACHE_CONTROL, directives.collect::<Vec<_>>().join(", "))
        .header(DATE, httpdate::fmt_http_date(at));
    if has_expires {
        // RFC 9111, section 5.3: an `Expires` that is no date, or is there twice, means the past.
        let expires = date(from, &EXPIRES).map(httpdate::fmt_http_date);
        asked = asked.header(EXPIRES, expires.unwrap_or_else(|| "0".to_owned()));
    }
    if let Some(modified) = date(from, &LAST_MODIFIED) {
        asked = asked.header(LAST_MODIFIED, httpdate::fmt_http_date(modified));
    }
    let asked = asked.body(()).ok()?;
    // A shared cache is the default. At its date a response has no age yet, so that all of its lifetime is left.
    let policy = CachePolicy::new_options(&request, &asked, at, CacheOptions::default());
    policy.is_storable().then(|| policy.time_to_live(at))
}

/// How old a response is when it comes: section 4.2.3 of RFC 9111.
fn initial_age(headers: &HeaderMap, at: SystemTime, now: SystemTime, delay: Duration) -> Duration {
    // Of several values the first one counts: section 5.1.
    let age = text(headers, &AGE).and_then(|line| members(line).next());
    let age = age.and_then(parse_seconds).map(|age| age + delay);
    let apparent = now.duration_since(at).unwrap_or_default();
    // The larger one, as a clock or an earlier cache may be wrong.
    age.unwrap_or_default().max(apparent)
}

/// How many headers a response may depend on.
pub(super) const MAX_NAMES: usize = 32;

/// The names that a response depends on, in lower case. `None` if nothing says when it may be used again, as with `*`,
/// with a text that is no name, or with too many names.
pub(super) fn vary(headers: &HeaderMap) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for line in headers.get_all(VARY) {
        let parts = line.to_str().ok()?.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let name = HeaderName::try_from(part).ok()?;
            names.insert(name.as_str().to_owned());
        }
    }
    (names.len() <= MAX_NAMES && !names.contains("*")).then_some(names)
}

impl Terms {
    /// For how much longer it is fresh.
    pub(super) fn fresh_for(&self) -> Duration {
        self.lifetime.saturating_sub(self.age)
    }

    /// For how long it may be used when it is not fresh any more: for `time`, unless it must be revalidated.
    fn stale_for(&self, time: Duration) -> Duration {
        if self.must_revalidate {
            return Duration::ZERO;
        }
        time
    }

    /// For how long it is used without waiting for the inner service.
    pub(super) fn ttl(&self) -> Duration {
        let stale = self.stale_for(self.while_revalidate);
        let ttl = self.fresh_for().saturating_add(stale);
        // It is also kept if it may not be used without asking.
        ttl.max(Duration::from_millis(1))
    }

    /// Whether it may be used instead of an error.
    pub(super) fn answers_for_error(&self, age: Duration) -> bool {
        !self.must_revalidate && age < self.lifetime.saturating_add(self.if_error)
    }
}

/// Whether `stored` is stale, or not proven to be current; `None` if it may not be used now. `wishes` is the freshness
/// that the request asks for: section 5.2.1 of RFC 9111.
pub(super) fn is_stale(stored: &Stored, meta: &Meta, wishes: &Directives) -> Option<bool> {
    let terms = &stored.terms;
    let age = terms.age.saturating_add(meta.age());
    let min_fresh = wishes.seconds("min-fresh");
    let is_refused = wishes.has("no-cache")
        || (wishes.seconds("max-age")).is_some_and(|limit| age > limit)
        // A request with `min-fresh` wants no stale response, whatever the response allows.
        || min_fresh.is_some_and(|fresh| {
            age >= terms.lifetime || terms.lifetime.saturating_sub(age) < fresh
        });
    // Another request has failed. Whether this one may be answered so is known once it has failed, too.
    if is_refused || meta.is_fallback() {
        return None;
    }
    // In `Mode::Available` an entry without a proof is handed out as stale, though its time has not passed.
    if age < terms.lifetime {
        return Some(meta.is_unproven());
    }
    // RFC 9111, section 4.2.4.
    let stale = terms.stale_for(terms.while_revalidate);
    (age < terms.lifetime.saturating_add(stale)).then_some(true)
}
