//! `Cache-Control`, of requests and responses.

use std::time::Duration;

use ::http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// The longest time that a directive can name: larger numbers count as this one.
const LONGEST: u64 = 1 << 31;

/// The directives that a line which cannot be read has if it mentions them, so that a response for one user is not
/// stored for others.
const FORBIDDING: [&str; 3] = ["private", "no-store", "no-cache"];

/// The directives of a message, with names in lower case and arguments without quotes.
#[derive(Clone, Debug, Default)]
pub(super) struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self::named(headers, &CACHE_CONTROL)
    }

    /// Those of any header with the syntax of `Cache-Control`.
    pub(super) fn named(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut found = Vec::new();
        for line in headers.get_all(name) {
            // Bytes that are not UTF-8 make the line malformed, and hide no directive beside them.
            let line = String::from_utf8_lossy(line.as_bytes());
            found.extend(members(&line).map(directive));
            // Such as a quote that is not closed, behind which `private` counts as a part of an argument.
            if !members(&line).all(is_well_formed) {
                let line = line.to_ascii_lowercase();
                let named = FORBIDDING.iter().filter(|name| line.contains(**name));
                found.extend(named.map(|name| ((*name).to_owned(), None)));
            }
        }
        Self(found)
    }

    /// Those of the first of these fields that a response has and that can be read (RFC 9213): a dictionary of
    /// structured values. A time that is no number counts as zero.
    pub(super) fn targeted(headers: &HeaderMap, fields: &[HeaderName]) -> Option<Self> {
        fields.iter().find_map(|field| {
            // RFC 9213, section 2.2: a field that cannot be parsed, or has no member, is as if it were not there.
            let lines = headers.get_all(field).iter().map(HeaderValue::as_bytes);
            let joined = lines.collect::<Vec<_>>().join(&b", "[..]);
            let members: Dictionary = Parser::new(&joined).parse().ok()?;
            let directives = members.into_iter().filter_map(|(name, member)| {
                let argument = match member {
                    ListEntry::Item(item) => match item.bare_item {
                        // RFC 9651, section 3.3.6: it says that the directive does not hold.
                        BareItem::Boolean(false) => return None,
                        BareItem::Boolean(true) => None,
                        BareItem::Integer(number) => Some(number.to_string()),
                        _ => Some(String::new()),
                    },
                    ListEntry::InnerList(_) => Some(String::new()),
                };
                Some((name.into(), argument))
            });
            let directives = Self(directives.collect());
            (!directives.is_empty()).then_some(directives)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other == name)
    }

    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.has(name))
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| other != name);
    }

    /// The argument in seconds. The first directive of the name counts. An argument that is no number of seconds
    /// counts as zero, so that the response is stale (RFC 9111, section 4.2.1).
    pub(super) fn seconds(&self, name: &str) -> Option<Duration> {
        let (_, argument) = self.0.iter().find(|(other, _)| other == name)?;
        let seconds = argument.as_deref().and_then(parse_seconds);
        Some(seconds.unwrap_or_default())
    }
}

/// A number of seconds: digits only.
pub(super) fn parse_seconds(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // RFC 9111, section 1.2.2: a number that is too large counts as 2³¹.
    let seconds = text.parse().unwrap_or(LONGEST).min(LONGEST);
    Some(Duration::from_secs(seconds))
}

/// The members of a list, divided at commas that are not in quotes.
pub(super) fn members(line: &str) -> impl Iterator<Item = &str> {
    let (mut in_quotes, mut escaped) = (false, false);
    let ends_member = move |c: char| {
        if escaped {
            escaped = false;
            return false;
        }
        match c {
            '"' => in_quotes = !in_quotes,
            '\\' => escaped = in_quotes,
            ',' => return !in_quotes,
            _ => {}
        }
        false
    };
    line.split(ends_member)
        // RFC 9110, section 5.6.3: a member with other white space around it is malformed.
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
}

/// A token, or a token and its argument, which is a token or a quoted string.
fn is_well_formed(member: &str) -> bool {
    match member.split_once('=') {
        Some((name, argument)) => is_token(name) && (is_token(argument) || is_quoted(argument)),
        None => is_token(member),
    }
}

/// A name, by section 5.6.2 of RFC 9110.
pub(super) fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// Whether the quotes close at the end, and not before.
fn is_quoted(text: &str) -> bool {
    let mut bytes = text.bytes();
    if bytes.next() != Some(b'"') {
        return false;
    }
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return bytes.next().is_none(),
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

fn directive(member: &str) -> (String, Option<String>) {
    let (name, argument) = match member.split_once('=') {
        Some((name, argument)) => (name, Some(argument)),
        None => (member, None),
    };
    let argument = argument.map(|argument| {
        let inner = argument.strip_prefix('"');
        let inner = inner.and_then(|inner| inner.strip_suffix('"'));
        inner.unwrap_or(argument).to_owned()
    });
    (name.to_ascii_lowercase(), argument)
}
