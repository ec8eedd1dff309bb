//! The routes. For a further one: a row in [`ROUTES`], a function, and a row in the table of the module's
//! documentation.
//!
//! The future of a change is dropped if its client disconnects. The calls of a cache are carried out once they were
//! polled, so each function here begins all its calls in its first poll. A change of several steps, one after the
//! other, has to run in a task of its own.

use std::future::ready;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use http::Method;
use http::request::Parts;
use larder::Caches;
use larder::caches::AnyCache;
use larder::internal::{
    Located, LocatedEntry, all_done, epoch_and_number, instance_state, locate, mismatches,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::AdminCall;
use super::query::{Query, decoded};
use super::reply::Reply;

type Answer = Result<Reply, Reply>;

pub(super) struct Route {
    method: Method,
    of: Of,
    /// The path after the namespace.
    name: &'static str,
    /// The names that the query may have.
    takes: &'static [&'static str],
    answer: fn(AdminCall) -> BoxFuture<'static, Answer>,
}

/// Whether the path of a route names a cache.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    All,
    One,
    /// There is one path of each kind.
    Both,
}

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

#[rustfmt::skip]
static ROUTES: [Route; 18] = [
    Route { method: GET, of: Of::All, name: "", takes: &[], answer: |call| now(show_all(&call)) },
    Route { method: GET, of: Of::One, name: "", takes: &[], answer: |call| now(show(&call)) },
    Route { method: GET, of: Of::One, name: "global_stats", takes: &[], answer: |call| Box::pin(global_stats(call)) },
    Route { method: GET, of: Of::One, name: "hot_keys", takes: &["most"], answer: |call| now(hot_keys(&call)) },
    Route { method: GET, of: Of::One, name: "local_keys", takes: &["most"], answer: |call| now(local_keys(&call)) },
    Route { method: GET, of: Of::One, name: "mismatches", takes: &[], answer: |call| now(show_mismatches(&call)) },
    Route { method: GET, of: Of::One, name: "key", takes: &["key"], answer: |call| Box::pin(show_key(call)) },
    Route { method: PUT, of: Of::Both, name: "enabled", takes: &[], answer: |call| now(set_enabled(&call)) },
    Route { method: PUT, of: Of::Both, name: "enabled_everywhere", takes: &[], answer: |call| Box::pin(set_enabled_everywhere(call)) },
    Route { method: PUT, of: Of::Both, name: "share", takes: &[], answer: |call| now(set_share(&call)) },
    Route { method: PUT, of: Of::One, name: "max_concurrent_loads", takes: &[], answer: |call| now(set_loads(&call)) },
    Route { method: PUT, of: Of::One, name: "l1_capacity", takes: &[], answer: |call| now(set_l1_capacity(&call)) },
    Route { method: PUT, of: Of::One, name: "bypass", takes: &[], answer: |call| now(bypass(&call)) },
    Route { method: DELETE, of: Of::One, name: "bypass", takes: &[], answer: |call| now(end_bypass(&call)) },
    Route { method: DELETE, of: Of::Both, name: "values", takes: &[], answer: |call| Box::pin(clear(call)) },
    Route { method: DELETE, of: Of::Both, name: "tag", takes: &["tag"], answer: |call| Box::pin(invalidate_tag(call)) },
    Route { method: DELETE, of: Of::One, name: "key", takes: &["key"], answer: |call| Box::pin(invalidate(call)) },
    Route { method: DELETE, of: Of::One, name: "prefix", takes: &["prefix"], answer: |call| Box::pin(invalidate_prefix(call)) },
];

impl Route {
    pub(super) fn is_change(&self) -> bool {
        self.method != GET
    }

    pub(super) fn has_body(&self) -> bool {
        self.method == PUT
    }

    pub(super) fn query(&self, head: &Parts) -> Result<Query, Reply> {
        Query::parse(head.uri.query(), self.takes)
    }

    pub(super) fn answer(&self, call: AdminCall) -> BoxFuture<'static, Answer> {
        (self.answer)(call)
    }
}

/// The route of a request, and the caches that it is about.
pub(super) fn find(
    caches: &Caches,
    head: &Parts,
) -> Result<(&'static Route, Vec<AnyCache>), Reply> {
    // The first slash names no part of the path.
    let path = head.uri.path().trim_start_matches('/');
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let first = decoded(first).ok_or_else(|| Reply::not_found("there is no such path"))?;
    // A namespace has a colon, and the name of a route has none.
    let (name, of, caches) = if first.contains(':') {
        let cache = caches.iter().find(|cache| cache.namespace() == first);
        let cache = cache.ok_or_else(|| {
            let names = caches.iter().map(|cache| cache.namespace().to_owned());
            let names = names.collect::<Vec<_>>().join(", ");
            Reply::not_found(format_args!("there is no such cache; there are: {names}"))
        })?;
        (rest, Of::One, vec![cache])
    } else {
        (path, Of::All, caches.iter().collect())
    };
    let named = (ROUTES.iter()).filter(|route| route.name == name && route.of.covers(of));
    let named: Vec<&'static Route> = named.collect();
    // The server leaves the body of an answer to HEAD out.
    let method = match &head.method {
        &Method::HEAD => &GET,
        method => method,
    };
    match named.iter().find(|route| route.method == *method) {
        Some(route) => Ok((route, caches)),
        None if named.is_empty() => Err(Reply::not_found(
            "there is no such path; the path of a cache has its whole namespace, such as /shop:price/key",
        )),
        None => {
            let methods = named.iter().map(|route| match &route.method {
                &GET => "GET, HEAD",
                method => method.as_str(),
            });
            Err(Reply::other_method(&methods.collect::<Vec<_>>().join(", ")))
        }
    }
}

impl Of {
    fn covers(self, of: Self) -> bool {
        self == of || self == Self::Both
    }
}

/// The answer of a function that waits for nothing.
fn now(answer: Answer) -> BoxFuture<'static, Answer> {
    Box::pin(ready(answer))
}

#[expect(clippy::unnecessary_wraps, reason = "as the other routes")]
fn show_all(call: &AdminCall) -> Answer {
    Ok(Reply::shown(call.caches.iter().map(shown).collect()))
}

fn show(call: &AdminCall) -> Answer {
    Ok(Reply::shown(shown(call.cache()?)))
}

fn shown(cache: &AnyCache) -> Value {
    let (state, health) = (instance_state(cache), cache.health());
    json!({
        "namespace": cache.namespace(),
        "instance": state.name,
        "member": format!("{:x}", state.member),
        "ok": health.is_ok(),
        "enabled": cache.is_enabled(),
        // The share of this instance: other instances may have another share.
        "share": state.share,
        // Without one the cache is healthy, and hears of no change by others.
        "l2": state.l2,
        "health": health,
        "bypassed": state.bypassed,
        "bypassed_everywhere": state.bypassed_everywhere,
        "l1_capacity": state.l1_capacity,
        "settings": state.settings,
        "partitions": cache.partition_health(),
        "stats": cache.stats(),
        "size_advice": cache.size_advice(),
    })
}

async fn global_stats(call: AdminCall) -> Answer {
    let stats = call.cache()?.global_stats().await?;
    Ok(Reply::shown(json!(stats)))
}

fn hot_keys(call: &AdminCall) -> Answer {
    let keys = call.cache()?.hot_keys(call.most()?);
    let shown = keys.iter();
    let shown = shown.map(|hot| json!({ "key": hot.key, "share": hot.share }));
    Ok(Reply::shown(shown.collect()))
}

fn local_keys(call: &AdminCall) -> Answer {
    let keys = call.cache()?.local_keys(call.most()?);
    Ok(Reply::shown(json!(keys)))
}

fn show_mismatches(call: &AdminCall) -> Answer {
    let all = mismatches(call.cache()?);
    let shown = all.iter().rev().map(|(mismatch, since)| {
        let (epoch, version) = epoch_and_number(mismatch.version);
        json!({
            "key": *mismatch.key,
            "epoch": epoch,
            "version": version,
            "age_ms": millis(mismatch.age),
            "found_ms_ago": millis(*since),
        })
    });
    Ok(Reply::shown(shown.collect()))
}

async fn show_key(call: AdminCall) -> Answer {
    let key = call.text("key")?;
    let located = locate(call.cache()?, &key).await?;
    let Located {
        is_enabled,
        is_deferred,
        l1,
        l2,
    } = located;
    // Not as a failure of the request: L1 may have the key.
    let error = l2.as_ref().err().map(ToString::to_string);
    Ok(Reply::shown(json!({
        "key": key,
        "enabled": is_enabled,
        "deferred": is_deferred,
        "l1": l1.map(|entry| found(&entry)),
        "l2": l2.ok().flatten().map(|entry| found(&entry)),
        "l2_error": error,
    })))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// All but the value.
fn found(entry: &LocatedEntry) -> Value {
    let meta = &entry.meta;
    let (epoch, version) = meta.version().map(epoch_and_number).unzip();
    json!({
        "epoch": epoch,
        "version": version,
        "age_ms": millis(meta.age()),
        "expires_in_ms": millis(meta.expires_in()),
        "stale_in_ms": meta.stale_in().map(millis),
        "is_stale": meta.is_stale(),
        "tags": entry.tags,
    })
}

fn set_enabled(call: &AdminCall) -> Answer {
    let is_enabled = call.parse("true or false", |_| true)?;
    // In this instance: nothing is sent, so nothing can fail half-way.
    for cache in &call.caches {
        cache.set_enabled(is_enabled);
    }
    Ok(Reply::done())
}

async fn set_enabled_everywhere(call: AdminCall) -> Answer {
    let is_enabled = call.parse("true or false", |_| true)?;
    // Side by side, so that a client which disconnects leaves no cache out.
    let switch = async |cache: &AnyCache| cache.set_enabled_everywhere(is_enabled).await;
    let switched = join_all(call.caches.iter().map(switch)).await;
    switched.into_iter().collect::<Result<(), _>>()?;
    Ok(Reply::done())
}

fn set_l1_capacity(call: &AdminCall) -> Answer {
    let capacity = call.parse("a whole number", |_| true)?;
    call.cache()?.set_l1_capacity(capacity);
    Ok(Reply::done())
}

/// For which keys the cache is to be off.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Bypass {
    Key(String),
    Prefix(String),
}

fn bypass(call: &AdminCall) -> Answer {
    let expected = r#"{"key":KEY} or {"prefix":PREFIX}, with a prefix that is not empty"#;
    // As with an invalidation: a field that was left empty is not to mean all keys.
    let which = call.parse(
        expected,
        |which| !matches!(which, Bypass::Prefix(prefix) if prefix.is_empty()),
    )?;
    let cache = call.cache()?;
    let bypassed = match &which {
        Bypass::Key(key) => cache.bypass(key),
        Bypass::Prefix(prefix) => cache.bypass_prefix(prefix),
    };
    bypassed.map_err(Reply::bad_request)?;
    Ok(Reply::done())
}

fn end_bypass(call: &AdminCall) -> Answer {
    call.cache()?.end_bypass();
    Ok(Reply::done())
}

fn set_share(call: &AdminCall) -> Answer {
    let share = call.parse("a number from 0.0 to 1.0", |share| {
        (0.0..=1.0).contains(share)
    })?;
    for cache in &call.caches {
        cache.set_enabled_for(share);
    }
    Ok(Reply::done())
}

fn set_loads(call: &AdminCall) -> Answer {
    let most = call.parse("a whole number from 1 on", |most| *most > 0)?;
    call.cache()?.set_max_concurrent_loads(most);
    Ok(Reply::done())
}

async fn clear(call: AdminCall) -> Answer {
    let clear = async |cache: &AnyCache| cache.clear().await;
    all_done(join_all(call.caches.iter().map(clear)).await)?;
    Ok(Reply::done())
}

async fn invalidate_tag(call: AdminCall) -> Answer {
    let tag = call.text("tag")?;
    let invalidate = async |cache: &AnyCache| cache.invalidate_tag(&tag).await;
    all_done(join_all(call.caches.iter().map(invalidate)).await)?;
    Ok(Reply::done())
}

async fn invalidate(call: AdminCall) -> Answer {
    let key = call.text("key")?;
    call.cache()?.invalidate(&key).await?;
    Ok(Reply::done())
}

async fn invalidate_prefix(call: AdminCall) -> Answer {
    let prefix = call.text("prefix")?;
    if prefix.is_empty() {
        let line = "the prefix is empty: DELETE values to remove all values";
        return Err(Reply::bad_request(line));
    }
    let removed = call.cache()?.invalidate_prefix(&prefix).await?;
    Ok(Reply::shown(json!({ "removed": removed })))
}
