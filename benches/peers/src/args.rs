//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::rows::NAMES;

/// Measures larder and its alternatives, and prints a table in Markdown.
#[derive(Parser)]
pub struct Args {
    /// Only check that everything runs, in a few seconds; the figures mean nothing
    #[arg(long)]
    pub quick: bool,

    /// Which rows to measure, by the file of `src/rows` that measures them; all unless some are named
    #[arg(value_name = "ROWS", value_parser = NAMES)]
    pub rows: Vec<String>,

    /// Also write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
