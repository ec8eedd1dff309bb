//! What other programs, or people, may do to the keys that a partition keeps for itself in Redis.

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{AsyncCommands, Value, cmd};

/// Epoch, seq and ver, 8 bytes each.
const HUGE: &[u8] = &[0xff; 24];
const NO_EPOCH: &[u8] = &[0; 24];
const HUGE_SEQ: &[u8] = b"\0\0\0\0\0\0\0\x07\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\x07";
const HUGE_VER: &[u8] = b"\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x07\0\x20\0\0\0\0\0\0";

/// A command, the name of the key and the rest.
pub(crate) type Damage = (&'static str, &'static str, &'static [&'static [u8]]);

/// What may be done to the keys of a partition itself.
pub(crate) const DAMAGE: &[Damage] = &[
    ("DEL", "clock", &[]),
    ("SET", "clock", &[b"x"]),
    ("LPUSH", "clock", &[b"x"]),
    ("HDEL", "clock", &[b"at"]),
    ("HSET", "clock", &[b"at", b"cut"]),
    ("HSET", "clock", &[b"at", HUGE]),
    ("HSET", "clock", &[b"at", NO_EPOCH]),
    ("HSET", "clock", &[b"at", HUGE_SEQ]),
    ("HSET", "clock", &[b"at", HUGE_VER]),
    ("HDEL", "clock", &[b"run"]),
    ("HSET", "clock", &[b"run", b"\xff"]),
    ("HDEL", "clock", &[b"partitions"]),
    ("HSET", "clock", &[b"partitions", b"x"]),
    ("HSET", "clock", &[b"partitions", b"0"]),
    ("HSET", "clock", &[b"partitions", b"1.5"]),
    ("HSET", "clock", &[b"partitions", b"99999999999999999999"]),
    ("DEL", "live", &[]),
    ("SET", "live", &[b"x"]),
    ("LPUSH", "live", &[b"x"]),
    ("HDEL", "live", &[b"list"]),
    ("HSET", "live", &[b"list", b"\xff"]),
    ("HSET", "live", &[b"\xff", b"\xff"]),
    ("HSET", "live", &[b"7", b"1:2:3"]),
    ("HSET", "live", &[b"7", b"1:2:99999999999999999999:3"]),
    ("DEL", "log", &[]),
    ("SET", "log", &[b"x"]),
    ("HSET", "log", &[b"m", b"x"]),
    ("XADD", "log", &[b"9007199254740993-0", b"m", b"x"]),
    (
        "XADD",
        "log",
        &[b"18446744073709551615-18446744073709551615", b"m", b"x"],
    ),
];

/// Does it to the only partition of a namespace.
pub(crate) async fn damage(redis: &mut MultiplexedConnection, namespace: &str, damage: Damage) {
    let (command, key, rest) = damage;
    let key = format!("{{{namespace}.0}}!{key}");
    let is_hash = cmd("TYPE")
        .arg(&key)
        .query_async::<String>(redis)
        .await
        .unwrap()
        == "hash";
    if is_hash != command.starts_with('H') {
        let _: i64 = redis.del(&key).await.unwrap();
    }
    let mut harm = cmd(command);
    harm.arg(key).arg(rest);
    let _: Value = harm.query_async(redis).await.unwrap();
}
