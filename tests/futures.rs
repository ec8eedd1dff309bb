//! The future of a call is small, whatever the types of keys and values are: a call that goes beyond L1 keeps its state
//! in a box. The loader or the value that a call is given lies in its future once.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::convert::Infallible;

use larder::{Cache, LoadingCache};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes that a future takes besides the loader or the value that its call is given.
const LIMIT: usize = 128;

/// A value of so many bytes.
#[derive(Clone, Copy)]
struct Wide<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Wide<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Wide<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| D::Error::custom("length"))
    }
}

/// Sizes of futures, by the names of the calls: of those that are given `N` bytes, without these.
fn sizes<const N: usize>() -> Vec<(&'static str, usize)> {
    let cache: Cache<String, Wide<N>> = Cache::builder("test:sizes").build().unwrap();
    let numbers: Cache<u64, Wide<N>> = Cache::builder("test:numbers").build().unwrap();
    let loading: LoadingCache<String, Wide<N>> = Cache::builder("test:loading")
        .read_through(|_| async { Ok::<_, Infallible>(Wide([7; N])) })
        .build()
        .unwrap();
    let captured = Wide([7; N]);
    let load = move || async move { Ok::<_, Infallible>(captured) };
    assert_eq!(size_of_val(&load), N);
    let with = move |_| async move { Ok::<_, Infallible>(captured) };
    let without = |size: usize| size.saturating_sub(N);
    vec![
        ("get", size_of_val(&cache.get("k"))),
        ("get by a number", size_of_val(&numbers.get(&7))),
        (
            "get of a loading cache",
            size_of_val(&loading.get_or_load("k")),
        ),
        ("invalidate", size_of_val(&cache.invalidate("k"))),
        (
            "get_or_load",
            without(size_of_val(&cache.get_or_load("k", load))),
        ),
        (
            "get_or_load_with",
            without(size_of_val(&cache.get_or_load_with("k", with))),
        ),
        ("refresh", without(size_of_val(&cache.refresh("k", load)))),
        ("insert", without(size_of_val(&cache.insert("k", captured)))),
    ]
}

#[test]
fn the_futures_of_calls_are_small() {
    for (bytes, sizes) in [(128, sizes::<128>()), (16 * 1024, sizes::<{ 16 * 1024 }>())] {
        for (call, size) in sizes {
            assert!(size <= LIMIT, "{call}: {size} bytes beside {bytes}");
        }
    }
}
