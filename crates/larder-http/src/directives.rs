//! `Cache-Control`, of requests and responses.

use std::time::Duration;

use ::http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, PRAGMA};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// The longest time that a directive can name: larger numbers count as this one.
const LONGEST: u64 = 1 << 31;

/// The directives that a line which cannot be read has if it mentions them, so that a response for one user is not
/// stored for others.
const FORBIDDING: [&str; 3] = ["private", "no-store", "no-cache"];

/// The directives of a message: their names in lower case, and their arguments in seconds. An argument that is no
/// number of seconds counts as zero, so that the response is stale (RFC 9111, section 4.2.1).
#[derive(Clone, Debug, Default)]
pub(super) struct Directives(Vec<(String, Duration)>);

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self::named(headers, &CACHE_CONTROL)
    }

    /// The directives of any header with the syntax of `Cache-Control`.
    fn named(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut found = Vec::new();
        for line in headers.get_all(name) {
            // Bytes that are not UTF-8 make the line malformed, and hide no directive beside them.
            let line = String::from_utf8_lossy(line.as_bytes());
            found.extend(members(&line).map(directive));
            // Such as a quote that is not closed, behind which `private` counts as a part of an argument.
            if !members(&line).all(is_well_formed) {
                let line = line.to_ascii_lowercase();
                let named = FORBIDDING.into_iter().filter(|name| line.contains(name));
                found.extend(named.map(|name| (name.to_owned(), Duration::ZERO)));
            }
        }
        Self(found)
    }

    /// The directives of the first of these fields that a response has and that can be read (RFC 9213): a dictionary
    /// of structured values. A time that is no number counts as zero.
    pub(super) fn targeted(headers: &HeaderMap, fields: &[HeaderName]) -> Option<Self> {
        fields.iter().find_map(|field| {
            // RFC 9213, section 2.2: a field that cannot be parsed, or has no member, is as if it were not there.
            let lines = headers.get_all(field).iter().map(HeaderValue::as_bytes);
            let joined = lines.collect::<Vec<_>>().join(&b", "[..]);
            let members: Dictionary = Parser::new(&joined).parse().ok()?;
            let directives = members.into_iter().filter_map(|(name, member)| {
                let number = match member {
                    // RFC 9651, section 3.3.6: it says that the directive does not hold.
                    ListEntry::Item(item) if item.bare_item == BareItem::Boolean(false) => {
                        return None;
                    }
                    ListEntry::Item(item) => item.bare_item.as_integer(),
                    ListEntry::InnerList(_) => None,
                };
                let seconds = number.and_then(|number| u64::try_from(number).ok());
                Some((name.into(), at_most_longest(seconds.unwrap_or(0))))
            });
            let directives: Vec<_> = directives.collect();
            (!directives.is_empty()).then_some(Self(directives))
        })
    }

    /// With the `no-cache` of `Pragma`, which counts only where there is no `Cache-Control`: section 5.4 of RFC 9111.
    pub(super) fn or_pragma(&self, headers: &HeaderMap) -> Self {
        if self.0.is_empty() && Self::named(headers, &PRAGMA).has("no-cache") {
            return Self(vec![("no-cache".to_owned(), Duration::ZERO)]);
        }
        self.clone()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.seconds(name).is_some()
    }

    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.has(name))
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| other != name);
    }

    /// The argument of the first directive with this name.
    pub(super) fn seconds(&self, name: &str) -> Option<Duration> {
        let (_, seconds) = self.0.iter().find(|(other, _)| other == name)?;
        Some(*seconds)
    }
}

/// A number of seconds: digits only.
pub(super) fn parse_seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| at_most_longest(text.parse().unwrap_or(LONGEST)))
}

/// RFC 9111, section 1.2.2: a number that is too large counts as 2³¹.
fn at_most_longest(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(LONGEST))
}

/// Tells for one character after the other whether all quotes are closed after it.
fn outside_quotes() -> impl FnMut(char) -> bool {
    let (mut in_quotes, mut escaped) = (false, false);
    move |c| {
        match c {
            _ if escaped => escaped = false,
            '"' => in_quotes = !in_quotes,
            '\\' => escaped = in_quotes,
            _ => {}
        }
        !in_quotes
    }
}

/// The members of a list, divided at commas that are not in quotes.
pub(super) fn members(line: &str) -> impl Iterator<Item = &str> {
    let mut is_outside = outside_quotes();
    line.split(move |c| is_outside(c) && c == ',')
        // RFC 9110, section 5.6.3: a member with other white space around it is malformed.
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
}

/// A token, or a token and its argument, which is a token or a quoted string.
fn is_well_formed(member: &str) -> bool {
    // The name of a header is any token: section 5.6.2 of RFC 9110.
    let is_token = |text: &str| HeaderName::try_from(text).is_ok();
    match member.split_once('=') {
        Some((name, argument)) => is_token(name) && (is_token(argument) || is_quoted(argument)),
        None => is_token(member),
    }
}

/// Whether the quotes close at the end, and not before.
fn is_quoted(text: &str) -> bool {
    text.starts_with('"') && text.find(outside_quotes()) == Some(text.len() - 1)
}

fn directive(member: &str) -> (String, Duration) {
    let (name, argument) = member.split_once('=').unwrap_or((member, ""));
    let inner = argument.strip_prefix('"');
    let inner = inner.and_then(|inner| inner.strip_suffix('"'));
    let seconds = parse_seconds(inner.unwrap_or(argument));
    (name.to_ascii_lowercase(), seconds.unwrap_or_default())
}
