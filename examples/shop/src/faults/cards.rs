//! No card is in a cache, and no hash of a password. An L1 has only values that Redis has, too, and the service that takes
//! cards has no cache.

use deadpool_redis::redis::{Pipeline, cmd};

use super::found::Found;
use crate::customers::visit::{CARD, Customers};
use crate::plan::Name;
use crate::run::redis::Redis;
use crate::service::failure::Trouble;

/// The beginning of each hash.
const HASH: &str = "$argon2";

/// Looks at all keys of Redis and their values.
pub(super) async fn check(
    redis: &Redis,
    customers: &Customers,
    found: &mut Found,
) -> Result<(), Trouble> {
    let mut connection = redis.connection().await?;
    // A value that is compressed hides its text.
    let mut plain = cmd("CONFIG");
    plain.arg("SET").arg("rdbcompression").arg("no");
    let () = plain.query_async(&mut connection).await?;
    let mut cursor = 0_u64;
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
        let mut dump = Pipeline::new();
        for key in &keys {
            dump.cmd("DUMP").arg(key);
        }
        let values: Vec<Option<Vec<u8>>> = dump.query_async(&mut connection).await?;
        for (key, value) in keys.iter().zip(values) {
            found.keys += 1;
            found.check(!has(key) && !value.is_some_and(|value| has(&value)), || {
                format!("a card or a hash is in {}", String::from_utf8_lossy(key))
            });
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let reports = customers.reports(0).await?;
    let mut caches = reports
        .iter()
        .filter(|report| report.service == Name::Payment);
    found.check(caches.all(|report| report.caches.is_empty()), || {
        "payment has a cache".to_owned()
    });
    Ok(())
}

fn has(bytes: &[u8]) -> bool {
    let is_in = |secret: &str| {
        let mut parts = bytes.windows(secret.len());
        parts.any(|part| part == secret.as_bytes())
    };
    is_in(CARD) || is_in(HASH)
}
