//! What instances and operators store for the whole fleet: counters, and the prefixes that are bypassed.

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{RedisResult, cmd};

use crate::key::Key;
use crate::l2::FleetBypass;
use crate::l2::redis::names::{Names, STATS};
use crate::vocabulary::MAX_BYPASSED_BY_FLEET;

/// Reads which prefixes are bypassed. Another program may have written any bytes: no key begins with them.
pub(crate) fn fleet_bypass(answer: &[Vec<u8>]) -> FleetBypass {
    let mut texts = answer.iter().map(|text| str::from_utf8(text).ok());
    let number = |text: &str| text.parse().ok();
    let now = texts.next().flatten().and_then(number).unwrap_or(0);
    let prefixes = texts.filter_map(|text| {
        let (till, prefix) = text?.split_once(' ')?;
        Some((Key::from(prefix), number(till)?))
    });
    FleetBypass {
        now,
        prefixes: prefixes.take(MAX_BYPASSED_BY_FLEET).collect(),
    }
}

/// The counters that instances have stored, each as it has stored them.
pub(crate) async fn stored_counts(
    names: &Names,
    mut connection: MultiplexedConnection,
) -> RedisResult<Vec<(u64, String)>> {
    let mut command = cmd("HGETALL");
    command.arg(names.name(STATS, ""));
    let stored: Vec<(Vec<u8>, Vec<u8>)> = match command.query_async(&mut connection).await {
        // Of another type: the next instance that stores its counters replaces it.
        Err(error) if error.code() == Some("WRONGTYPE") => Vec::new(),
        answer => answer?,
    };
    // Another program may have written any bytes.
    let texts = stored.into_iter().filter_map(|(id, text)| {
        let id = str::from_utf8(&id).ok()?.parse().ok()?;
        Some((id, String::from_utf8(text).ok()?))
    });
    Ok(texts.collect())
}
