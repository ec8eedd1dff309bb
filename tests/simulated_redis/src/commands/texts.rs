//! Commands for keys that hold a text; and those that make a list.

use super::{Answer, Call, NO_NUMBER, SYNTAX, WRONG_TYPE, fail, number, word};
use crate::keyspace::Value;
use crate::reply::Reply;

fn text_in(value: &mut Value) -> Option<&mut Vec<u8>> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

pub(super) fn get(call: &mut Call<'_>) -> Answer {
    let key = call.arg(1);
    let text = call.held(key, |value| text_in(value).map(|text| text.clone()))?;
    Ok(text.map_or(Reply::Nil, Reply::Bulk))
}

pub(super) fn mget(call: &mut Call<'_>) -> Answer {
    let mut texts = Vec::new();
    for key in call.from(1) {
        let text = call
            .db()
            .value(key)
            .and_then(|value| text_in(value).cloned());
        texts.push(text.map_or(Reply::Nil, Reply::Bulk));
    }
    Ok(Reply::Array(texts))
}

pub(super) fn set(call: &mut Call<'_>) -> Answer {
    let (key, text) = (call.arg(1), call.arg(2));
    let (mut ends, mut if_there, mut keeps, mut gets) = (None, None, false, false);
    let mut options = call.from(3).iter();
    while let Some(option) = options.next() {
        match &*word(option) {
            "nx" if if_there != Some(true) => if_there = Some(false),
            "xx" if if_there != Some(false) => if_there = Some(true),
            "keepttl" if ends.is_none() => keeps = true,
            "get" => gets = true,
            unit @ ("px" | "ex") if !keeps => {
                let unit = if unit == "ex" { 1000 } else { 1 };
                let value = options.next().ok_or_else(|| Reply::error(SYNTAX))?;
                if ends
                    .replace((unit, value))
                    .is_some_and(|(other, _)| other != unit)
                {
                    return fail(SYNTAX);
                }
            }
            _ => return fail(SYNTAX),
        }
    }
    let mut expires = None;
    if let Some((unit, value)) = ends {
        let value = number(value).ok_or_else(|| Reply::error(NO_NUMBER))?;
        let now = i64::try_from(call.server.now()).ok();
        let ms = value.checked_mul(unit).filter(|ms| *ms > 0);
        let at = ms.and_then(|ms| now?.checked_add(ms));
        let at = at.and_then(|at| u64::try_from(at).ok());
        let invalid = || Reply::error("ERR invalid expire time in 'set' command");
        expires = Some(at.ok_or_else(invalid)?);
    }
    let former = call.db().entry(key).map(|entry| entry.clone());
    let old = match &former {
        _ if !gets => Reply::ok(),
        None => Reply::Nil,
        Some(entry) => match &entry.value {
            Value::Text(old) => Reply::text(old),
            _ => return fail(WRONG_TYPE),
        },
    };
    if if_there.is_some_and(|there| there != former.is_some()) {
        return Ok(if gets { old } else { Reply::Nil });
    }
    if keeps {
        expires = former.and_then(|entry| entry.expires_at);
    }
    call.db().set(key, Value::Text(text.to_vec()), expires);
    Ok(old)
}

pub(super) fn getrange(call: &mut Call<'_>) -> Answer {
    let (from, to) = (call.number(2)?, call.number(3)?);
    let key = call.arg(1);
    let text = call.held(key, |value| text_in(value).map(|text| text.clone()))?;
    let text = text.unwrap_or_default();
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    if from < 0 && to < 0 && from > to {
        return Ok(Reply::text(""));
    }
    // Counted from the end if negative.
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (from, to) = (place(from), place(to).min(length - 1));
    if from > to {
        return Ok(Reply::text(""));
    }
    let place = |at: i64| usize::try_from(at).unwrap_or(0);
    Ok(Reply::text(
        text.get(place(from)..=place(to)).unwrap_or(&[]),
    ))
}

/// The longest text.
const MOST: usize = 512 * 1024 * 1024;

pub(super) fn setrange(call: &mut Call<'_>) -> Answer {
    let (key, at, part) = (call.arg(1), call.number(2)?, call.arg(3));
    let Ok(at) = usize::try_from(at) else {
        return fail("ERR offset is out of range");
    };
    let length = call.held(key, |value| text_in(value).map(|text| text.len()))?;
    if part.is_empty() {
        return Ok(Reply::count(length.unwrap_or(0)));
    }
    let end = at.saturating_add(part.len());
    if end > MOST {
        return fail("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    }
    if length.is_none() {
        call.db().set(key, Value::Text(Vec::new()), None);
    }
    let length = call.held(key, |value| {
        let text = text_in(value)?;
        text.resize(text.len().max(end), 0);
        text[at..end].copy_from_slice(part);
        Some(text.len())
    })?;
    Ok(Reply::count(length.unwrap_or(0)))
}

pub(super) fn lpush(call: &mut Call<'_>) -> Answer {
    push(call, true)
}

pub(super) fn rpush(call: &mut Call<'_>) -> Answer {
    push(call, false)
}

fn push(call: &mut Call<'_>, in_front: bool) -> Answer {
    let (key, items) = (call.arg(1), call.from(2));
    if call.db().value(key).is_none() {
        call.db().set(key, Value::List(Vec::new()), None);
    }
    let many = call.held(key, |value| match value {
        Value::List(list) => {
            if in_front {
                list.splice(0..0, items.iter().rev().cloned());
            } else {
                list.extend_from_slice(items);
            }
            Some(list.len())
        }
        _ => None,
    })?;
    Ok(Reply::count(many.unwrap_or(0)))
}
