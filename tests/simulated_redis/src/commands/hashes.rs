//! Commands for keys that hold a hash.

use indexmap::IndexMap;

use super::{Answer, Call, fail};
use crate::keyspace::Value;
use crate::reply::Reply;

type Hash = IndexMap<Vec<u8>, Vec<u8>>;

fn hash_in(value: &mut Value) -> Option<&mut Hash> {
    match value {
        Value::Hash(hash) => Some(hash),
        _ => None,
    }
}

/// Answers by the hash of the first argument, which is empty if there is none.
fn read(call: &mut Call<'_>, answer: impl FnOnce(&Hash) -> Reply) -> Answer {
    let key = call.arg(1);
    let hash = call.held(key, |value| hash_in(value).map(|hash| hash.clone()))?;
    Ok(answer(&hash.unwrap_or_default()))
}

fn value_of(hash: &Hash, field: &[u8]) -> Reply {
    hash.get(field).map_or(Reply::Nil, Reply::text)
}

pub(super) fn hset(call: &mut Call<'_>) -> Answer {
    let (key, pairs) = (call.arg(1), call.from(2));
    if !pairs.len().is_multiple_of(2) {
        return fail("ERR wrong number of arguments for 'hset' command");
    }
    if call.db().value(key).is_none() {
        call.db().set(key, Value::Hash(Hash::new()), None);
    }
    let added = call.held(key, |value| {
        let hash = hash_in(value)?;
        let before = hash.len();
        for pair in pairs.chunks(2) {
            if let [field, value] = pair {
                hash.insert(field.clone(), value.clone());
            }
        }
        Some(hash.len() - before)
    })?;
    Ok(Reply::count(added.unwrap_or(0)))
}

pub(super) fn hget(call: &mut Call<'_>) -> Answer {
    let field = call.arg(2);
    read(call, |hash| value_of(hash, field))
}

pub(super) fn hmget(call: &mut Call<'_>) -> Answer {
    let fields = call.from(2);
    read(call, |hash| {
        Reply::Array(fields.iter().map(|field| value_of(hash, field)).collect())
    })
}

pub(super) fn hgetall(call: &mut Call<'_>) -> Answer {
    read(call, |hash| {
        let pair = |(field, value)| (Reply::text(field), Reply::text(value));
        Reply::Map(hash.iter().map(pair).collect())
    })
}

pub(super) fn hkeys(call: &mut Call<'_>) -> Answer {
    read(call, |hash| {
        Reply::Array(hash.keys().map(Reply::text).collect())
    })
}

pub(super) fn hvals(call: &mut Call<'_>) -> Answer {
    read(call, |hash| {
        Reply::Array(hash.values().map(Reply::text).collect())
    })
}

pub(super) fn hlen(call: &mut Call<'_>) -> Answer {
    read(call, |hash| Reply::count(hash.len()))
}

pub(super) fn hdel(call: &mut Call<'_>) -> Answer {
    let (key, fields) = (call.arg(1), call.from(2));
    let left = call.held(key, |value| {
        let hash = hash_in(value)?;
        let is_gone = |field: &&Vec<u8>| hash.shift_remove(*field).is_some();
        let gone = fields.iter().filter(is_gone).count();
        Some((gone, hash.is_empty()))
    })?;
    let (gone, is_empty) = left.unwrap_or((0, false));
    if is_empty {
        call.db().take(key);
    }
    Ok(Reply::count(gone))
}
