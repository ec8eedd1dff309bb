//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures larder and its alternatives, and prints a table in Markdown.
#[derive(Parser)]
pub struct Args {
    /// Only check that everything runs, in a few seconds; the figures mean nothing
    #[arg(long)]
    pub quick: bool,

    /// Also write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
