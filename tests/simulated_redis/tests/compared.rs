//! The simulated Redis and a real one, `redis-server` or the one that `LARDER_REDIS` names: they answer alike, and hold
//! the same.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test"
)]

mod real;
#[path = "compared/replicas.rs"]
mod replicas;

use fastrand::Rng;

use crate::real::{RedisServer, compared, seeds};

/// Requests of a seed.
const REQUESTS: usize = 1000;

#[tokio::test]
async fn random_commands_do_the_same() {
    let server = RedisServer::start().await;
    for seed in seeds().unwrap_or(0..2) {
        let (simulated, connection) = compared(&server);
        let mut rng = Rng::with_seed(seed);
        for _ in 0..REQUESTS {
            _ = connection.request(&command(&mut rng));
        }
        assert!(simulated.compared() > 0);
    }
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

/// The names say which type a key mostly has.
fn key(rng: &mut Rng, kind: char) -> String {
    let kind = if rng.u8(..20) == 0 {
        pick(rng, &["t", "h", "s", "l"]).to_owned()
    } else {
        kind.to_string()
    };
    format!("{kind}{}", rng.u8(..4))
}

fn text(rng: &mut Rng) -> String {
    let most = if rng.u8(..10) == 0 { 2000 } else { 40 };
    let length = rng.usize(..most);
    (0..length).map(|_| rng.alphanumeric()).collect()
}

fn number(rng: &mut Rng) -> String {
    match rng.u8(..12) {
        0 => "x".to_owned(),
        1 => "-1".to_owned(),
        2 => "0".to_owned(),
        3 => i64::MAX.to_string(),
        4 => "01".to_owned(),
        5 => i64::MIN.to_string(),
        _ => rng.u32(..200).to_string(),
    }
}

fn ms(rng: &mut Rng) -> String {
    match rng.u8(..8) {
        0 => number(rng),
        1 => rng.u32(1..20).to_string(),
        _ => rng.u32(1000..100_000).to_string(),
    }
}

fn id(rng: &mut Rng) -> String {
    match rng.u8(..14) {
        0 => "-".to_owned(),
        1 => "+".to_owned(),
        2 => format!("({}-{}", rng.u8(..40), rng.u8(..3)),
        3 => number(rng),
        4 => format!("{}-{}", number(rng), number(rng)),
        5 => "0-0".to_owned(),
        6 => rng.u8(..40).to_string(),
        7 => u64::MAX.to_string(),
        _ => format!("{}-{}", rng.u8(..40), rng.u8(..3)),
    }
}

/// A command with arguments that mostly, but not always, suit it.
#[allow(clippy::too_many_lines, reason = "it is a table")]
fn command(rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut parts: Vec<String> = match rng.u8(..35) {
        0..=2 => {
            let mut set = vec!["SET".to_owned(), key(rng, 't'), text(rng)];
            while rng.bool() {
                match rng.u8(..5) {
                    0 => set.extend(["PX".to_owned(), ms(rng)]),
                    1 => set.push(pick(rng, &["NX", "XX", "nx"]).to_owned()),
                    2 => set.push("KEEPTTL".to_owned()),
                    3 => set.push("GET".to_owned()),
                    _ => set.extend(["EX".to_owned(), number(rng)]),
                }
            }
            set
        }
        3 => vec!["GET".to_owned(), key(rng, 't')],
        4 => vec![
            "MGET".to_owned(),
            key(rng, 't'),
            key(rng, 'h'),
            key(rng, 't'),
        ],
        5 => vec![
            "GETRANGE".to_owned(),
            key(rng, 't'),
            number(rng),
            number(rng),
        ],
        6 => {
            let at = rng.u8(..60).to_string();
            vec!["SETRANGE".to_owned(), key(rng, 't'), at, text(rng)]
        }
        7 => vec![
            "SETRANGE".to_owned(),
            key(rng, 't'),
            number(rng),
            pick(rng, &["", "x"]).to_owned(),
        ],
        8 => vec!["DEL".to_owned(), key(rng, 't'), key(rng, 'h')],
        9 => vec![
            "EXISTS".to_owned(),
            key(rng, 't'),
            key(rng, 's'),
            key(rng, 't'),
        ],
        10 => vec!["TYPE".to_owned(), key(rng, 'l')],
        11 => vec!["PTTL".to_owned(), key(rng, 't')],
        12 | 13 => {
            let kind = pick(rng, &["t", "h", "s"]).chars().next().unwrap();
            let mut expire = vec!["PEXPIRE".to_owned(), key(rng, kind), ms(rng)];
            while rng.u8(..3) == 0 {
                expire.push(pick(rng, &["GT", "LT", "NX", "XX", "zz"]).to_owned());
            }
            expire
        }
        14 => {
            let kind = pick(rng, &["t", "h", "s"]).chars().next().unwrap();
            vec!["RENAME".to_owned(), key(rng, kind), key(rng, kind)]
        }
        15 | 16 => {
            let mut set = vec!["HSET".to_owned(), key(rng, 'h')];
            for _ in 0..rng.u8(1..4) {
                set.extend([pick(rng, &["a", "b", "c", "d"]).to_owned(), text(rng)]);
            }
            set
        }
        17 => vec![
            "HGET".to_owned(),
            key(rng, 'h'),
            pick(rng, &["a", "b", "x"]).to_owned(),
        ],
        18 => vec![
            "HMGET".to_owned(),
            key(rng, 'h'),
            "a".to_owned(),
            "x".to_owned(),
        ],
        19 => {
            let name = pick(rng, &["HGETALL", "HKEYS", "HVALS", "HLEN"]).to_owned();
            vec![name, key(rng, 'h')]
        }
        20 => vec![
            "HDEL".to_owned(),
            key(rng, 'h'),
            pick(rng, &["a", "b"]).to_owned(),
            "c".to_owned(),
        ],
        21..=23 => vec![
            "XADD".to_owned(),
            key(rng, 's'),
            id(rng),
            "f".to_owned(),
            text(rng),
        ],
        24 => {
            let mut range = vec![
                pick(rng, &["XRANGE", "XREVRANGE"]).to_owned(),
                key(rng, 's'),
                id(rng),
                id(rng),
            ];
            if rng.bool() {
                range.extend(["COUNT".to_owned(), number(rng)]);
            }
            range
        }
        25 => vec!["XDEL".to_owned(), key(rng, 's'), id(rng), id(rng)],
        26 => vec!["XLEN".to_owned(), key(rng, 's')],
        27 => vec![
            "XTRIM".to_owned(),
            key(rng, 's'),
            "MAXLEN".to_owned(),
            rng.u8(..10).to_string(),
        ],
        29 => vec!["LPUSH".to_owned(), key(rng, 'l'), text(rng), text(rng)],
        30 => vec![
            "XADD".to_owned(),
            key(rng, 's'),
            "*".to_owned(),
            "f".to_owned(),
            text(rng),
        ],
        31 => vec!["SELECT".to_owned(), rng.u8(..2).to_string()],
        34 => vec!["PERSIST".to_owned(), key(rng, 't')],
        32 => vec![
            "KEYS".to_owned(),
            pick(rng, &["*", "t?", "[ht]*", "h[^1]", "\\*"]).to_owned(),
        ],
        _ => vec!["DBSIZE".to_owned()],
    };
    if parts.len() > 1 && rng.u8(..40) == 0 {
        parts.pop();
    }
    if parts.len() > 1 && rng.u8(..40) == 0 {
        parts.push(text(rng));
    }
    parts.into_iter().map(String::into_bytes).collect()
}
