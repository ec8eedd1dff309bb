//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures larder beside what one would use instead of it, and prints a table in Markdown.
#[derive(Parser)]
pub struct Args {
    /// Only try everything out, in a few seconds; the figures are worth nothing
    #[arg(long)]
    pub quick: bool,

    /// Also write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
