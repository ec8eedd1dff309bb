//! How results are written: in lines that fit a terminal of 40 columns, unless a name in them is long.

use std::error::Error;
use std::fmt::{Display, Write};
use std::time::Duration;

const COLUMNS: usize = 40;
/// Before each line of a sentence, and then a space.
const INDENT: &str = "   ";

/// An error and its causes, in one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            _ = write!(text, ": {said}");
        }
        cause = next.source();
    }
    text.replace(['\n', '\r'], " ")
}

/// A name and what it has.
pub(crate) fn row(name: &str, what: impl Display) {
    println!("{name:<9} {what}");
}

/// A sentence, in as many lines as it takes.
pub(crate) fn sentence(text: &str) {
    let mut line = INDENT.to_owned();
    for word in text.split(' ') {
        if line != INDENT && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            println!("{line}");
            INDENT.clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    println!("{line}");
}

/// A time of the server, seen from now.
pub(crate) fn from_now(at: u64, now: u64) -> String {
    let between = Duration::from_millis(at.abs_diff(now));
    if at > now {
        format!("in {between:?}")
    } else {
        format!("{between:?} ago")
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}
