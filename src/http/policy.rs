//! Which responses may be stored, for how long, and when a stored one may be used: RFC 9111 and RFC 5861.

use std::time::{Duration, SystemTime};

use ::http::header::{
    AGE, AUTHORIZATION, CONTENT_RANGE, COOKIE, DATE, EXPIRES, HeaderMap, HeaderValue,
    LAST_MODIFIED, PRAGMA, SET_COOKIE, VARY,
};
use ::http::{StatusCode, request, response};

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

/// How long a response is fresh that only says `immutable`. RFC 8246 names no time.
const IMMUTABLE: Duration = Duration::from_secs(24 * 3600);

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
    // RFC 9213, section 2.2: a field for this cache takes the place of `Expires` as well.
    let expires = (targeted.is_none() && response.headers.contains_key(EXPIRES)).then(|| {
        // RFC 9111, section 5.3: an `Expires` that is no date, or is there twice, means the past.
        let expires = self::date(&response.headers, &EXPIRES);
        let left = expires.and_then(|expires| expires.duration_since(date).ok());
        left.unwrap_or_default()
    });
    let mut directives = targeted.unwrap_or_else(|| Directives::of(&response.headers));
    let says_so = directives.has_any(&["max-age", "s-maxage", "public"]) || expires.is_some();
    let status = response.status.as_u16();
    // RFC 9111, section 3. A rule that looks at no status must not keep an error, or a redirect to a login, for
    // everybody.
    if !says_so && !STORED_UNASKED.contains(&status) {
        return None;
    }
    let own_ttl = (rules.ttl)(request, response);
    if directives.has("must-understand") {
        // RFC 9111, section 5.2.2.3.
        if !UNDERSTOOD.contains(&status) {
            return None;
        }
        directives.remove("no-store");
    }
    if !may_be_private {
        // A response to one user that does not say that it holds for others.
        let is_unsaid = !says_so && own_ttl.is_none() && request.headers.contains_key(COOKIE);
        // RFC 9111, section 3.5.
        let is_authorized = request.headers.contains_key(AUTHORIZATION)
            && !directives.has_any(&["must-revalidate", "public", "s-maxage"]);
        if is_unsaid || is_authorized || directives.has_any(&["no-store", "private"]) {
            return None;
        }
    }
    let lifetime = || lifetime(&directives, expires, date, &response.headers);
    let terms = Terms {
        age: initial_age(&response.headers, date, now, delay),
        lifetime: own_ttl.unwrap_or_else(lifetime),
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

/// Up to which age a response says that it is fresh: sections 4.2.1 and 4.2.2 of RFC 9111.
fn lifetime(
    directives: &Directives,
    expires: Option<Duration>,
    date: SystemTime,
    headers: &HeaderMap,
) -> Duration {
    // Section 5.4: `Pragma` counts only where there is no `Cache-Control`.
    let pragma = || directives.is_empty() && Directives::named(headers, &PRAGMA).has("no-cache");
    if directives.has("no-cache") || pragma() {
        return Duration::ZERO;
    }
    let said = directives.seconds("s-maxage");
    let said = said.or_else(|| directives.seconds("max-age"));
    said.or(expires).unwrap_or_else(|| {
        if directives.has("immutable") {
            return IMMUTABLE;
        }
        // The tenth part of the time for which it has not changed, as section 4.2.2 suggests.
        let modified = self::date(headers, &LAST_MODIFIED);
        let unchanged = modified.and_then(|modified| date.duration_since(modified).ok());
        Duration::from_secs(unchanged.unwrap_or_default().as_secs() / 10)
    })
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
