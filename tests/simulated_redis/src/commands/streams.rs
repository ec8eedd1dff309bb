//! Commands for keys that hold a stream.

use super::{Answer, Call, NO_NUMBER, SYNTAX, WRONG_TYPE, fail, number, word};
use crate::keyspace::Value;
use crate::observed::Entry;
use crate::reply::Reply;
use crate::stream::{Fields, Id, Stream};

const BAD_ID: &str = "ERR Invalid stream ID specified as stream command argument";

fn stream_in(value: &mut Value) -> Option<&mut Stream> {
    match value {
        Value::Stream(stream) => Some(stream),
        _ => None,
    }
}

fn read_id(text: &[u8], missing: u64) -> Result<Id, Reply> {
    Id::parse(text, missing).ok_or_else(|| Reply::error(BAD_ID))
}

pub(super) fn xadd(call: &mut Call<'_>) -> Answer {
    let (key, id, fields) = (call.arg(1), call.arg(2), call.from(3));
    let fields: Fields = fields.to_vec();
    let given = if id == b"*" {
        None
    } else {
        Some(read_id(id, 0)?)
    };
    if !fields.len().is_multiple_of(2) {
        return fail("ERR wrong number of arguments for 'xadd' command");
    }
    if given == Some(Id(0, 0)) {
        return fail("ERR The ID specified in XADD must be greater than 0-0");
    }
    let now = call.server.now();
    let is_new = call.db().value(key).is_none();
    let mut fresh = Stream::default();
    let id = {
        let stream = match call.db().value(key) {
            None => &mut fresh,
            Some(value) => stream_in(value).ok_or_else(|| Reply::error(WRONG_TYPE))?,
        };
        if stream.last == Id::MAX {
            return fail(
                "ERR The stream has exhausted the last possible ID, unable to add more items",
            );
        }
        let id = given.or_else(|| stream.next_id(now)).unwrap_or(Id::MAX);
        if id <= stream.last {
            return fail(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item",
            );
        }
        stream.add(id, fields);
        id
    };
    if is_new {
        call.db().set(key, Value::Stream(fresh), None);
    }
    note(call, key, id, call.from(3), true);
    Ok(Reply::text(id.to_string()))
}

/// Takes down what the observer is told.
fn note(call: &mut Call<'_>, stream: &[u8], id: Id, fields: &[Vec<u8>], is_added: bool) {
    if call.server.observer.is_some() {
        let (stream, id) = (stream.to_vec(), id.to_string());
        let entry = Entry {
            stream,
            id,
            fields: fields.to_vec(),
            is_added,
        };
        call.server.noted.entries.push(entry);
    }
}

pub(super) fn xrange(call: &mut Call<'_>) -> Answer {
    range(call, false)
}

pub(super) fn xrevrange(call: &mut Call<'_>) -> Answer {
    range(call, true)
}

fn range(call: &mut Call<'_>, is_reversed: bool) -> Answer {
    let (key, first, second) = (call.arg(1), call.arg(2), call.arg(3));
    let (from, to) = if is_reversed {
        (second, first)
    } else {
        (first, second)
    };
    let from = match from.strip_prefix(b"(") {
        Some(from) => read_id(from, 0)?
            .next()
            .ok_or_else(|| Reply::error("ERR invalid start ID for the interval"))?,
        None if from == b"-" => Id(0, 0),
        None if from == b"+" => Id::MAX,
        None => read_id(from, 0)?,
    };
    let to = match to.strip_prefix(b"(") {
        Some(to) => read_id(to, u64::MAX)?
            .previous()
            .ok_or_else(|| Reply::error("ERR invalid end ID for the interval"))?,
        None if to == b"-" => Id(0, 0),
        None if to == b"+" => Id::MAX,
        None => read_id(to, u64::MAX)?,
    };
    let (mut most, mut options) = (None, call.from(4));
    while let [name, value, more @ ..] = options
        && word(name) == "count"
    {
        let value = number(value).ok_or_else(|| Reply::error(NO_NUMBER))?;
        (most, options) = (Some(usize::try_from(value).unwrap_or(0)), more);
    }
    if !options.is_empty() {
        return fail(SYNTAX);
    }
    let found = call.held(key, |value| {
        let entries = stream_in(value)?.range(from, to);
        let most = most.unwrap_or(usize::MAX);
        let entries: Vec<_> = if is_reversed {
            entries.rev().take(most).map(entry).collect()
        } else {
            entries.take(most).map(entry).collect()
        };
        Some(entries)
    })?;
    // A stream that is there answers this as one without a value.
    if most == Some(0) && found.is_some() {
        return Ok(Reply::Nil);
    }
    Ok(Reply::Array(found.unwrap_or_default()))
}

fn entry((id, fields): (&Id, &Fields)) -> Reply {
    let fields = fields.iter().map(Reply::text).collect();
    Reply::Array(vec![Reply::text(id.to_string()), Reply::Array(fields)])
}

pub(super) fn xlen(call: &mut Call<'_>) -> Answer {
    let key = call.arg(1);
    let many = call.held(key, |value| stream_in(value).map(|stream| stream.len()))?;
    Ok(Reply::count(many.unwrap_or(0)))
}

pub(super) fn xdel(call: &mut Call<'_>) -> Answer {
    let key = call.arg(1);
    let ids = call.from(2);
    let is_there = call.held(key, |value| stream_in(value).map(drop))?;
    let ids: Vec<_> = match is_there {
        None => return Ok(Reply::Integer(0)),
        Some(()) => (ids.iter().map(|id| read_id(id, 0))).collect::<Result<_, _>>()?,
    };
    let mut many = 0;
    for id in ids {
        let deleted = call.held(key, |value| Some(stream_in(value)?.delete(id)))?;
        if let Some(Some(fields)) = deleted {
            many += 1;
            note(call, key, id, &fields, false);
        }
    }
    Ok(Reply::count(many))
}

pub(super) fn xtrim(call: &mut Call<'_>) -> Answer {
    let key = call.arg(1);
    let (is_about, most) = match call.from(2) {
        [how, most] if word(how) == "maxlen" => (false, most),
        [how, sign, most] if word(how) == "maxlen" && sign == b"~" => (true, most),
        [how, sign, most] if word(how) == "maxlen" && sign == b"=" => (false, most),
        _ => return fail(SYNTAX),
    };
    let most = number(most).ok_or_else(|| Reply::error(NO_NUMBER))?;
    let Ok(most) = usize::try_from(most) else {
        return fail("ERR The MAXLEN argument must be >= 0.");
    };
    let many = call.held(key, |value| Some(stream_in(value)?.trim(most, is_about)))?;
    Ok(Reply::count(many.unwrap_or(0)))
}
