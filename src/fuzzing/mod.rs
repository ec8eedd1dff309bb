//! What holds for any bytes, as functions from bytes that panic when it does not hold.
//!
//! The fuzz targets in `fuzz/` call them with what libFuzzer makes up; the unit test here calls them with the committed
//! corpus. Not part of a usual build: cargo-fuzz builds with `--cfg fuzzing`.
//!
//! - [`envelope`]: what is stored under a key
//! - [`message`]: what a channel carries, and the list of members
//! - [`codec`]: encoded values
//! - [`types`]: encoded values that are read as another type
//! - [`builder`]: URLs and options
//! - [`key`]: the texts of keys, and the names in Redis

// A check that fails panics, which the rest of the crate may not.
#![allow(clippy::panic, clippy::expect_used, missing_docs)]

mod builder;
mod codec;
#[cfg(test)]
mod corpus;
mod envelope;
mod input;
mod key;
mod message;
mod shapes;
mod types;

pub use self::builder::builder;
pub use self::codec::{codec, memory_allowed};
pub use self::envelope::envelope;
pub use self::key::key;
pub use self::message::message;
pub use self::types::types;

#[cfg(test)]
mod tests {
    use super::corpus::run;
    use super::*;

    #[test]
    fn of_envelopes() {
        run("envelope", envelope);
    }

    #[test]
    fn of_messages() {
        run("message", message);
    }

    #[test]
    fn of_codecs() {
        run("codec", |bytes| {
            let taken = allocation_counter::measure(|| codec(bytes));
            assert!(taken.bytes_max <= memory_allowed(bytes), "{taken:?}");
        });
    }

    #[test]
    fn of_types() {
        run("types", types);
    }

    #[test]
    fn of_builders() {
        run("builder", builder);
    }

    #[test]
    fn of_keys() {
        run("key", key);
    }
}
