//! Commands for keys of any type.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Answer, Call, NO_KEY, NO_NUMBER, SYNTAX, fail, number, word};
use crate::reply::Reply;

pub(super) fn del(call: &mut Call<'_>) -> Answer {
    let mut many = 0;
    for key in call.from(1) {
        many += usize::from(call.db().take(key).is_some());
    }
    Ok(Reply::count(many))
}

pub(super) fn exists(call: &mut Call<'_>) -> Answer {
    let mut many = 0;
    for key in call.from(1) {
        many += usize::from(call.db().value(key).is_some());
    }
    Ok(Reply::count(many))
}

pub(super) fn kind(call: &mut Call<'_>) -> Answer {
    let key = call.arg(1);
    let kind = call.db().value(key).map_or("none", |value| value.kind());
    Ok(Reply::Status(kind.to_owned()))
}

pub(super) fn pttl(call: &mut Call<'_>) -> Answer {
    let (key, now) = (call.arg(1), call.db().now);
    let left = match call.db().entry(key) {
        None => -2,
        Some(entry) => entry.expires_at.map_or(-1, |at| signed(at - now)),
    };
    Ok(Reply::Integer(left))
}

pub(super) fn pexpire(call: &mut Call<'_>) -> Answer {
    let (key, now) = (call.arg(1), call.db().now);
    let mut only = Vec::new();
    for option in call.from(3) {
        match &*word(option) {
            known @ ("nx" | "xx" | "gt" | "lt") => only.push(known.to_owned()),
            _ => {
                let option = String::from_utf8_lossy(option);
                return fail(format!("ERR Unsupported option {option}"));
            }
        }
    }
    let has = |option: &str| only.iter().any(|given| given == option);
    if has("nx") && only.iter().any(|given| given != "nx") {
        return fail("ERR NX and XX, GT or LT options at the same time are not compatible");
    }
    if has("gt") && has("lt") {
        return fail("ERR GT and LT options at the same time are not compatible");
    }
    let ms = call.number(2)?;
    let Some(at) = signed(now).checked_add(ms) else {
        return fail("ERR invalid expire time in 'pexpire' command");
    };
    let Some(entry) = call.db().entry(key) else {
        return Ok(Reply::Integer(0));
    };
    let is_refused = match entry.expires_at.map(signed) {
        // Without a TTL a key counts as one that ends never.
        None => has("xx") || has("gt"),
        Some(current) => has("nx") || has("gt") && at <= current || has("lt") && at >= current,
    };
    if is_refused {
        return Ok(Reply::Integer(0));
    }
    if at <= signed(now) {
        call.db().take(key);
    } else {
        entry.expires_at = u64::try_from(at).ok();
    }
    Ok(Reply::Integer(1))
}

/// In seconds: only tests do so.
pub(super) fn expire(call: &mut Call<'_>) -> Answer {
    let (key, seconds) = (call.arg(1), call.number(2)?);
    let at = signed(call.db().now) + seconds * 1000;
    let Some(entry) = call.db().entry(key) else {
        return Ok(Reply::Integer(0));
    };
    entry.expires_at = u64::try_from(at).ok();
    Ok(Reply::Integer(1))
}

pub(super) fn persist(call: &mut Call<'_>) -> Answer {
    let key = call.arg(1);
    let had_ttl = call
        .db()
        .entry(key)
        .and_then(|entry| entry.expires_at.take());
    Ok(Reply::Integer(had_ttl.is_some().into()))
}

pub(super) fn rename(call: &mut Call<'_>) -> Answer {
    let (from, to) = (call.arg(1), call.arg(2));
    let Some(entry) = call.db().take(from) else {
        return fail(NO_KEY);
    };
    call.db().put(to, entry);
    Ok(Reply::ok())
}

pub(super) fn copy(call: &mut Call<'_>) -> Answer {
    let (from, to) = (call.arg(1), call.arg(2));
    let replaces = match call.from(3) {
        [] => false,
        [option] if word(option) == "replace" => true,
        _ => return fail(SYNTAX),
    };
    let Some(entry) = call.db().entry(from).cloned() else {
        return Ok(Reply::Integer(0));
    };
    if !replaces && call.db().entry(to).is_some() {
        return Ok(Reply::Integer(0));
    }
    call.db().put(to, entry);
    Ok(Reply::Integer(1))
}

/// Goes through the keys by their hashes, so that each key that stays is returned.
pub(super) fn scan(call: &mut Call<'_>) -> Answer {
    let cursor = std::str::from_utf8(call.arg(1)).ok();
    let Some(cursor) = cursor.and_then(|text| text.parse::<u64>().ok()) else {
        return fail("ERR invalid cursor");
    };
    let (mut pattern, mut kind, mut most) = (None, None, 10);
    for option in call.from(2).chunks(2) {
        let [name, value] = option else {
            return fail(SYNTAX);
        };
        match &*word(name) {
            "match" => pattern = Some(value.clone()),
            "type" => kind = Some(word(value)),
            "count" => match number(value) {
                Some(count) if count > 0 => most = usize::try_from(count).unwrap_or(usize::MAX),
                Some(_) => return fail(SYNTAX),
                None => return fail(NO_NUMBER),
            },
            _ => return fail(SYNTAX),
        }
    }
    let mut keys: Vec<_> = call.db().keys().into_iter().map(by_hash).collect();
    keys.sort();
    keys.retain(|(hash, _)| *hash >= cursor);
    let next = keys.get(most).map_or(0, |(hash, _)| *hash);
    // Those with one hash go together.
    keys.retain(|(hash, _)| next == 0 || *hash < next);
    let mut found = Vec::new();
    for (_, key) in keys {
        let is_kind = |name: &String| {
            let value = call.db().value(&key);
            value.is_some_and(|value| value.kind() == name)
        };
        let is_matched = pattern
            .as_ref()
            .is_none_or(|pattern| matches(pattern, &key));
        if is_matched && kind.as_ref().is_none_or(is_kind) {
            found.push(Reply::Bulk(key));
        }
    }
    Ok(Reply::Array(vec![
        Reply::text(next.to_string()),
        Reply::Array(found),
    ]))
}

/// A key behind its hash, which is not zero, and the same in each process.
fn by_hash(key: Vec<u8>) -> (u64, Vec<u8>) {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish().max(1), key)
}

pub(super) fn all(call: &mut Call<'_>) -> Answer {
    let pattern = call.arg(1);
    let keys = call.db().keys().into_iter();
    let found = keys.filter(|key| matches(pattern, key)).map(Reply::Bulk);
    Ok(Reply::Array(found.collect()))
}

pub(super) fn how_many(call: &mut Call<'_>) -> Answer {
    Ok(Reply::count(call.db().keys().len()))
}

pub(super) fn flush(call: &mut Call<'_>) -> Answer {
    call.server.flush();
    Ok(Reply::ok())
}

/// A time or a length of time as commands have it.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Whether a text matches a pattern with `*`, `?`, `[…]` and `\`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        [b'?', rest @ ..] => !text.is_empty() && matches(rest, &text[1..]),
        [b'[', rest @ ..] => {
            let Some((first, others)) = text.split_first() else {
                return false;
            };
            let end = rest.iter().position(|byte| *byte == b']');
            let end = end.unwrap_or(rest.len());
            let (set, after) = (&rest[..end], rest.get(end + 1..).unwrap_or(&[]));
            let (is_negated, set) = match set {
                [b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            is_in(set, *first) != is_negated && matches(after, others)
        }
        [b'\\', escaped, rest @ ..] => text.first() == Some(escaped) && matches(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
}

fn is_in(set: &[u8], byte: u8) -> bool {
    match set {
        [] => false,
        [b'\\', escaped, rest @ ..] => *escaped == byte || is_in(rest, byte),
        [from, b'-', to, rest @ ..] => (from..=to).contains(&&byte) || is_in(rest, byte),
        [one, rest @ ..] => *one == byte || is_in(rest, byte),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        let cases = [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*x", "*x", true),
            ("\\*x", "ax", false),
            ("{a\\[b}", "{a[b}", true),
        ];
        for (pattern, text, expected) in cases {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }
}
