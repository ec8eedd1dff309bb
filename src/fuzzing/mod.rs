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
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// What a worker of Tokio has, unless it is set.
    const STACK: usize = 2 << 20;

    /// The files of a target. A packaged crate does not have them.
    fn files(folder: &str, target: &str) -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let least = if folder == "corpus" { 10 } else { 0 };
        let folder = root.join("fuzz").join(folder).join(target);
        if !root.join("fuzz").exists() && root.join("Cargo.toml.orig").exists() {
            return Vec::new();
        }
        let files = match fs::read_dir(&folder) {
            Ok(files) => files.map(|file| file.unwrap().path()).collect::<Vec<_>>(),
            Err(_) if least == 0 => Vec::new(),
            Err(error) => panic!("{}: {error}", folder.display()),
        };
        assert!(
            files.len() >= least,
            "{}: {} files",
            folder.display(),
            files.len()
        );
        files
    }

    fn run(target: &str, check: fn(&[u8])) {
        let files = ["corpus", "regressions"].map(|folder| files(folder, target));
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn(move || {
            for file in files.into_iter().flatten() {
                let bytes = fs::read(&file).unwrap();
                let checked = std::panic::catch_unwind(|| check(&bytes));
                assert!(checked.is_ok(), "{}", file.display());
            }
        });
        thread.unwrap().join().unwrap();
    }

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
