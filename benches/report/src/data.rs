//! The figures that are kept beside the report.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;

fn file(benches: &Path, name: &str) -> PathBuf {
    benches.join("data").join(name).with_extension("json")
}

pub fn read<T: DeserializeOwned>(benches: &Path, name: &str) -> Result<T> {
    let file = file(benches, name);
    let open = File::open(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(serde_json::from_reader(open)?)
}

pub fn write(benches: &Path, name: &str, what: &impl Serialize) -> Result<()> {
    fs::write(
        file(benches, name),
        serde_json::to_string_pretty(what)? + "\n",
    )?;
    Ok(())
}
