//! The builder: any URL, and any of the options that take more than a switch.

use std::error::Error;
use std::fmt::Debug;
use std::io;

use super::input::Input;
use crate::{BuildError, Builder, Cache, Invalidation, MemoryL2, Mode, RedisL2, RefreshAhead};

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
    let namespace = name(&mut input);
    let namespace = match options % 4 {
        0 => namespace,
        _ => "fuzz".into(),
    };
    let mut builder: Builder<String, String> = Cache::builder(namespace);
    builder = match options % 3 {
        0 => builder.redis(&url),
        1 => builder.l2(MemoryL2::new()),
        _ => builder,
    };
    // To make room for entries takes a thousand times as long as all the rest.
    if options < 250 {
        builder = builder.l1_capacity(0);
    }
    while !input.is_empty() {
        builder = set(builder, options, &mut input);
    }
    shows_nothing(&format!("{builder:?}"));
    match options % 5 {
        0 => {
            let load = |key| async { Ok::<_, io::Error>(key) };
            is_built(builder.read_through(load).build());
        }
        1 => {
            let load = |keys: Vec<String>| async {
                let pairs = keys.into_iter().map(|key| (key.clone(), key));
                Ok::<_, io::Error>(pairs)
            };
            is_built(builder.read_through_many(load).build());
        }
        _ => is_built(builder.build().inspect(|cache| {
            shows_nothing(&format!("{:?}", cache.health()));
        })),
    }
}

fn is_built(built: Result<impl Debug, BuildError>) {
    match built {
        Ok(cache) => shows_nothing(&format!("{cache:?}")),
        Err(error) => shows_nothing_of(&error),
    }
}

/// An error may show the name of a namespace or a channel, so it has no password in it.
fn name(input: &mut Input<'_>) -> String {
    let name = input.text();
    if name.contains(SECRET) {
        String::new()
    } else {
        name
    }
}

fn set(
    builder: Builder<String, String>,
    options: u8,
    input: &mut Input<'_>,
) -> Builder<String, String> {
    match input.u8() % 29 {
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
        20 => builder.schema_version(u32::from(input.u8())),
        21 => builder.refresh_ahead(f64::from_bits(input.u64())),
        22 => builder.refresh_ahead(RefreshAhead::XFetch(f64::from_bits(input.u64()))),
        23 => builder.batch_loads(input.duration(), input.usize()),
        24 => builder.listen_to(name(input), |_| vec![Invalidation::all()]),
        #[cfg(feature = "json")]
        25 => builder.publish_changes(name(input)),
        26 => {
            let ttl = input.duration();
            builder.ttl_of(move |_| Some(ttl))
        }
        // As above.
        27 if options < 250 => builder.l1_capacity_bytes(0),
        27 => builder.l1_capacity_bytes(input.u64()),
        _ => builder.l1_weigher(|_, _| u32::MAX),
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
