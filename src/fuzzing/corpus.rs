//! Calls a check with the committed inputs of its fuzz target.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::thread::Builder;

/// What a worker of Tokio has, unless it is set.
const STACK: usize = 2 << 20;

/// The files of a target. A packaged crate does not have them.
fn files(folder: &str, target: &str) -> Vec<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    // In the package or, for one of `crates`, in the repository.
    let mut fuzz = package.ancestors().take(3).map(|root| root.join("fuzz"));
    let Some(fuzz) = fuzz.find(|fuzz| fuzz.exists()) else {
        assert!(package.join("Cargo.toml.orig").exists(), "no folder fuzz");
        return Vec::new();
    };
    let least = if folder == "corpus" { 10 } else { 0 };
    let folder = fuzz.join(folder).join(target);
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

pub(super) fn run(target: &str, check: fn(&[u8])) {
    let files = ["corpus", "regressions"].map(|folder| files(folder, target));
    let thread = Builder::new().stack_size(STACK);
    let thread = thread.spawn(move || {
        for file in files.into_iter().flatten() {
            let bytes = fs::read(&file).unwrap();
            let checked = catch_unwind(|| check(&bytes));
            assert!(checked.is_ok(), "{}", file.display());
        }
    });
    thread.unwrap().join().unwrap();
}
