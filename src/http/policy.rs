//! Which responses may be stored, for how long, and when a stored one may be used: RFC 9111 and RFC 5861.
//!
//! `http-cache-semantics` says which responses may be stored, and how long they are fresh.

use std::time::{Duration, SystemTime};

use ::http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, COOKIE, DATE, EXPIRES, HeaderMap, HeaderName,
    HeaderValue, LAST_MODIFIED, PRAGMA, SET_COOKIE, VARY,
};
use ::http::{Request, Response, StatusCode, request, response};
use http_cache_semantics::{CacheOptions, CachePolicy};

use super::conditional::{date, has_validator};
use super::directives::{Directives, is_token, members, parse_seconds};
use super::rules::Rules;
use super::stored::{Stored, Terms};
use crate::Meta;

/// Status codes whose meaning for caches is known.
const UNDERSTOOD: [u16; 14] = [
    200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501,
];

/// Status codes of responses that may be stored without saying so: section 15.1 of RFC 9110.
const STORED_UNASKED: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// For how long a response may be used, or `None` if it must not be stored. Sets its `Date` if it has none.
pub(super) fn terms(
    rules: &Rules,
    request: &request::Parts,
    response: &mut response::Parts,
    now: SystemTime,
    delay: Duration,
) -> Option<Terms> {
    if !(rules.store_if)(request, response) || !is_whole(response) {
        return None;
    }
    let may_be_private = (rules.store_private)(request, response);
    if !may_be_private && response.headers.contains_key(SET_COOKIE) {
        return None;
    }
    let date = date(&response.headers, &DATE).unwrap_or_else(|| {
        // RFC 9110, section 6.6.1: a recipient with a clock adds the `Date` before it stores the response.
        if let Ok(text) = HeaderValue::try_from(httpdate::fmt_http_date(now)) {
            let _ = response.headers.try_insert(DATE, text);
        }
        now
    });
    let targeted = Directives::targeted(&response.headers, &rules.targeted);
    let is_targeted = targeted.is_some();
    let mut directives = targeted.unwrap_or_else(|| Directives::of(&response.headers));
    let says_so = directives.has_any(&["max-age", "s-maxage", "public"])
        || !is_targeted && response.headers.contains_key(EXPIRES);
    let status = response.status.as_u16();
    // RFC 9111, section 3. A rule that looks at no status must not keep an error, or a redirect to a login, for
    // everybody.
    if !says_so && !STORED_UNASKED.contains(&status) {
        return None;
    }
    let own_ttl = (rules.ttl)(request, response);
    let is_understood = UNDERSTOOD.contains(&status);
    if directives.has("must-understand") {
        // RFC 9111, section 5.2.2.3.
        if !is_understood {
            return None;
        }
        directives.remove("no-store");
    }
    if may_be_private {
        directives.remove("no-store");
        directives.remove("private");
    } else if !says_so && own_ttl.is_none() && request.headers.contains_key(COOKIE) {
        // A response to one user that does not say that it holds for others.
        return None;
    }
    let asked = Asked {
        is_authorized: !may_be_private && request.headers.contains_key(AUTHORIZATION),
        response,
        directives: &directives,
        is_targeted,
        date,
        // The library refuses codes that it does not know.
        status: if is_understood {
            response.status
        } else {
            StatusCode::OK
        },
    };
    let lifetime = asked.lifetime()?;
    let terms = Terms {
        age: initial_age(&response.headers, date, now, delay),
        lifetime: own_ttl.unwrap_or(lifetime),
        while_revalidate: directives
            .seconds("stale-while-revalidate")
            .unwrap_or(rules.while_revalidate),
        if_error: directives
            .seconds("stale-if-error")
            .unwrap_or(rules.if_error),
        // RFC 9111, section 5.2.2.10: for a shared cache, `s-maxage` means `proxy-revalidate`, too.
        must_revalidate: directives.has_any(&[
            "must-revalidate",
            "proxy-revalidate",
            "s-maxage",
            "no-cache",
        ]),
    };
    let has_validator = has_validator(&response.headers);
    let is_of_use = !terms.fresh_for().is_zero() || !terms.after_fresh().is_zero() || has_validator;
    is_of_use.then_some(terms)
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

/// A response in the form in which `http-cache-semantics` is asked about it: directives in lower case, without quotes and
/// once each, and dates of one format.
struct Asked<'a> {
    is_authorized: bool,
    response: &'a response::Parts,
    directives: &'a Directives,
    /// Whether these are of a field for this cache: then `Expires` is for others (RFC 9213, section 2.2).
    is_targeted: bool,
    date: SystemTime,
    status: StatusCode,
}

impl Asked<'_> {
    /// Up to which age the response is fresh, or `None` if it must not be stored.
    fn lifetime(&self) -> Option<Duration> {
        let mut request = Request::new(());
        if self.is_authorized {
            let hidden = HeaderValue::from_static("hidden");
            request.headers_mut().insert(AUTHORIZATION, hidden);
        }
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers();
        // A shared cache is the default. At its date a response has no age yet, so that all of its lifetime is left.
        let options = CacheOptions::default();
        let policy = CachePolicy::new_options(&request, &response, self.date, options);
        let lifetime = || policy.time_to_live(self.date);
        policy.is_storable().then(lifetime)
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut insert = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        insert(DATE, httpdate::fmt_http_date(self.date));
        let from = &self.response.headers;
        if !self.is_targeted && from.contains_key(EXPIRES) {
            // RFC 9111, section 5.3: an `Expires` that is no date, or is there twice, means the past.
            let expires = date(from, &EXPIRES).map(httpdate::fmt_http_date);
            insert(EXPIRES, expires.unwrap_or_else(|| "0".to_owned()));
        }
        if let Some(modified) = date(from, &LAST_MODIFIED) {
            insert(LAST_MODIFIED, httpdate::fmt_http_date(modified));
        }
        // Not `proxy-revalidate`, which says nothing of a response that is fresh.
        let names = [
            "no-store",
            "private",
            "public",
            "must-revalidate",
            "no-cache",
            "immutable",
        ];
        let present = names.into_iter().filter(|name| self.directives.has(name));
        let mut directives: Vec<String> = present.map(str::to_owned).collect();
        for name in ["max-age", "s-maxage"] {
            if let Some(time) = self.directives.seconds(name) {
                directives.push(format!("{name}={}", time.as_secs()));
            }
        }
        // Section 5.4: `Pragma` counts only where there is no `Cache-Control`.
        if !self.directives.is_empty() {
            insert(CACHE_CONTROL, directives.join(", "));
        } else if Directives::named(from, &PRAGMA).has("no-cache") {
            insert(PRAGMA, "no-cache".to_owned());
        }
        headers
    }
}

/// How old a response is when it comes: section 4.2.3 of RFC 9111.
fn initial_age(
    headers: &HeaderMap,
    date: SystemTime,
    now: SystemTime,
    delay: Duration,
) -> Duration {
    // Of several values the first one counts: section 5.1.
    let line = headers.get(AGE).and_then(|age| age.to_str().ok());
    let age = line.and_then(|line| members(line).next());
    let age = age.and_then(parse_seconds).map(|age| age + delay);
    let apparent = now.duration_since(date).unwrap_or_default();
    // The larger one, as a clock or an earlier cache may be wrong.
    age.unwrap_or_default().max(apparent)
}

/// How many headers a response may depend on.
pub(super) const MOST_NAMES: usize = 32;

/// The names that a response depends on: in lower case, sorted. `None` if nothing says when it may be used again, as
/// with `*`, with a text that is no name, or with too many names.
pub(super) fn vary(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for line in headers.get_all(VARY) {
        for name in line.to_str().ok()?.split(',').map(str::trim) {
            match name {
                "" => {}
                name if name == "*" || !is_token(name) => return None,
                name => names.push(name.to_ascii_lowercase()),
            }
        }
    }
    // Sorted and unique: two responses that say the same in another order have the same variants.
    names.sort_unstable();
    names.dedup();
    (names.len() <= MOST_NAMES).then_some(names)
}

/// Whether a stored response answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Fresh,
    /// Within the time of `stale-while-revalidate`, or not proven to be current.
    Stale,
    No,
}

/// The freshness that a request asks of a stored response: section 5.2.1 of RFC 9111.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    pub(super) anew: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) min_fresh: Option<Duration>,
}

impl Wishes {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let directives = Directives::of(headers);
        let pragma = || Directives::named(headers, &PRAGMA).has("no-cache");
        Self {
            anew: directives.has("no-cache") || directives.is_empty() && pragma(),
            max_age: directives.seconds("max-age"),
            min_fresh: directives.seconds("min-fresh"),
        }
    }

    /// Whether the request wants another response though this one is fresh.
    fn refuse(&self, age: Duration, terms: &Terms) -> bool {
        self.anew
            || self.max_age.is_some_and(|limit| age > limit)
            || (self.min_fresh).is_some_and(|fresh| terms.lifetime.saturating_sub(age) < fresh)
    }
}

impl Terms {
    /// For how long it may be used past its freshness, in the best case.
    fn after_fresh(&self) -> Duration {
        if self.must_revalidate {
            return Duration::ZERO;
        }
        self.while_revalidate.max(self.if_error)
    }

    /// For how long it is used without waiting for the inner service.
    pub(super) fn ttl(&self) -> Duration {
        let stale = if self.must_revalidate {
            Duration::ZERO
        } else {
            self.while_revalidate
        };
        let ttl = self.fresh_for().saturating_add(stale);
        // It is also kept if it may not be used without asking.
        ttl.max(Duration::from_millis(1))
    }

    /// Whether it may be used instead of an error.
    pub(super) fn answers_for_error(&self, age: Duration) -> bool {
        !self.must_revalidate && age < self.lifetime.saturating_add(self.if_error)
    }
}

/// Whether `stored` may be used now.
pub(super) fn judge(stored: &Stored, meta: &Meta, wishes: &Wishes) -> Use {
    let terms = &stored.terms;
    let age = terms.age.saturating_add(meta.age());
    // Another request has failed. Whether this one may be answered so is known once it has failed, too.
    if meta.is_fallback() {
        return Use::No;
    }
    // In `Mode::Available` an entry without a proof is handed out as stale, though its time has not passed.
    if age < terms.lifetime {
        return match (wishes.refuse(age, terms), meta.is_unproven()) {
            (true, _) => Use::No,
            (false, true) => Use::Stale,
            (false, false) => Use::Fresh,
        };
    }
    // RFC 9111, section 4.2.4.
    if terms.must_revalidate || wishes.anew || wishes.max_age.is_some_and(|limit| age > limit) {
        return Use::No;
    }
    // A request with `min-fresh` wants no stale response, whatever the response allows.
    if wishes.min_fresh.is_none() && age < terms.lifetime.saturating_add(terms.while_revalidate) {
        Use::Stale
    } else {
        Use::No
    }
}
