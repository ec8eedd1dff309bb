//! The builder: any URL, any options.

use std::error::Error;

use super::input::Input;
use crate::{Builder, Cache, Mode, RedisL2};

/// A password that no error shows. It is in the URL wherever the bytes have a `*`.
const SECRET: &str = "s3cr3t-pa55";

/// `build` does not panic, and no error shows a password.
pub fn builder(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let options = input.u8();
    let url = input.text().replace('*', SECRET);
    match RedisL2::open(&url) {
        Ok(l2) => shows_nothing(&format!("{l2:?}")),
        Err(error) => {
            assert!(error.is_bad_config(), "{error:?}");
            shows_nothing_of(&error);
        }
    }
    let namespace = input.text();
    // An error may show a namespace, so that has no password in it.
    let namespace = match options % 4 {
        0 if !namespace.contains(SECRET) => namespace,
        _ => "fuzz".into(),
    };
    let mut builder: Builder<String, String> = Cache::builder(namespace);
    if options.is_multiple_of(2) {
        builder = builder.redis(&url);
    }
    // To make room for entries takes a thousand times as long as all the rest.
    if options < 250 {
        builder = builder.l1_capacity(0);
    }
    while !input.is_empty() {
        builder = set(builder, options, &mut input);
    }
    shows_nothing(&format!("{builder:?}"));
    match builder.build() {
        Ok(cache) => shows_nothing(&format!("{cache:?} {:?}", cache.health())),
        Err(error) => shows_nothing_of(&error),
    }
}

fn set(
    builder: Builder<String, String>,
    options: u8,
    input: &mut Input<'_>,
) -> Builder<String, String> {
    match input.u8() % 21 {
        0 if options < 250 => builder,
        0 => builder.l1_capacity(input.u64()),
        1 => builder.l1_ttl(input.duration()),
        2 => builder.l2_ttl(input.duration()),
        3 => builder.sliding(input.duration()),
        4 => builder.soft_ttl(input.duration()),
        5 => builder.stale_if_error(input.duration()),
        6 => builder.fallback_throttle(input.duration()),
        7 => builder.stale_wait(input.duration()),
        8 => builder.error_ttl(input.duration()),
        9 => builder.jitter(f64::from_bits(input.u64())),
        10 => builder.max_staleness(input.duration()),
        11 => builder.mode(Mode::Available {
            limit: input.duration(),
        }),
        12 => builder.max_value_size(input.usize()),
        13 => builder.l2_timeout(input.duration()),
        14 => builder.load_timeout(input.duration()),
        15 => builder.max_concurrent_loads(input.usize()),
        16 => builder.lease_ttl(input.duration()),
        17 => builder.lease_wait(input.duration()),
        18 => builder.max_deferred(input.usize()),
        19 => builder.type_tag(input.text()),
        _ => builder.schema_version(u32::from(input.u8())),
    }
}

/// All that a log could show of an error.
fn shows_nothing_of(error: &impl Error) {
    shows_nothing(&format!("{error} {error:?} {error:#?}"));
    let mut source = error.source();
    while let Some(cause) = source {
        shows_nothing(&format!("{cause} {cause:?}"));
        source = cause.source();
    }
}

fn shows_nothing(text: &str) {
    assert!(!text.contains(SECRET), "{text}");
}
