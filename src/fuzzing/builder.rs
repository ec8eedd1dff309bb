//! The builder: any URL, and any of the options that take more than a switch.

use std::error::Error;
use std::fmt::Debug;
use std::io;

use super::input::Input;
use crate::{BuildError, Builder, Cache, Invalidation, MemoryL2, RedisL2, Settings};

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
    // As below.
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
    match input.u8() % 16 {
        0 => builder.type_tag(input.text()),
        1 => builder.schema_version(u32::from(input.u8())),
        2 => builder.listen_to(name(input), |_| vec![Invalidation::all()]),
        #[cfg(feature = "json")]
        3 => builder.publish_changes(name(input)),
        4 => {
            let ttl = input.duration();
            builder.ttl_of(move |_| Some(ttl))
        }
        5 => builder.l1_weigher(|_, _| u32::MAX),
        _ => {
            let number = usize::from(input.u8()) % Settings::NAMES.len();
            let option = Settings::NAMES.get(number).copied().unwrap_or_default();
            let value = option_value(input);
            // To make room for entries takes a thousand times as long as all the rest.
            if option == "l1_capacity" && options < 250 {
                return builder;
            }
            match Settings::of_one(option, &value) {
                Ok(one) => builder.settings(&one),
                Err(_) => builder,
            }
        }
    }
}

/// The value of an option, in one of the forms that options have.
fn option_value(input: &mut Input<'_>) -> String {
    let form = input.u8();
    let mut duration = || format!("{}ns", input.duration().as_nanos());
    match form % 8 {
        0 => "max".to_owned(),
        1 => duration(),
        2 => format!("available:{}", duration()),
        3 => format!("{},{}", duration(), input.usize()),
        4 => input.u64().to_string(),
        5 => f64::from_bits(input.u64()).to_string(),
        6 => format!("xfetch:{}", f64::from_bits(input.u64())),
        _ => input.text(),
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
