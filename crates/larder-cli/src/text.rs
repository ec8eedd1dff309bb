//! How results are written: in lines that fit a terminal of 40 columns, unless a name in them is long.

use std::error::Error;
use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::time::{Duration, UNIX_EPOCH};

use humantime::{format_rfc3339_millis, parse_duration};
use serde_json::Value;

const COLUMNS: usize = 40;
/// Before each line of a sentence.
const INDENT: &str = "    ";

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
    // A part of it may come from the server, or from whoever answers in its place.
    escaped(&text.replace(['\n', '\r'], " "))
}

/// Whether a terminal does not show it as a character in its place: it moves the cursor, changes the direction of the
/// text around it, or is not seen. JSON has each of them as one `\u` and four digits.
pub(crate) fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

/// A text whose [hidden](is_hidden) characters are escaped: whoever may write to Redis chooses keys and tags, and must
/// not move the cursor, make up lines, or have a key look like another.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if is_hidden(char) {
            // As JSON has it.
            _ = write!(shown, "\\u{:04x}", u32::from(char));
        } else {
            shown.push(char);
        }
    }
    shown
}

/// A text in lines of so many columns, but for a word that is longer.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::<String>::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What a command prints, line by line.
#[derive(Default)]
pub(crate) struct Screen(String);

impl Screen {
    /// A line, [escaped].
    pub(crate) fn line(&mut self, line: impl Display) {
        self.0.push_str(&escaped(&line.to_string()));
        self.0.push('\n');
    }

    /// JSON, in several lines.
    pub(crate) fn json(&mut self, value: &Value) {
        format!("{value:#}")
            .lines()
            .for_each(|line| self.line(line));
    }

    /// A name and what it has.
    pub(crate) fn row(&mut self, name: &str, what: impl Display) {
        self.line(format_args!("{name:<10} {what}"));
    }

    /// A sentence, in as many lines as it takes.
    pub(crate) fn sentence(&mut self, text: &str) {
        for line in wrapped(text, COLUMNS - INDENT.len()) {
            self.line(format_args!("{INDENT}{line}"));
        }
    }

    /// Prints all of it. An error is for `main`: the reader may have gone.
    pub(crate) fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(self.0.as_bytes())?;
        out.flush()
    }
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

/// A time of the server as a date and a time of day in UTC, or a hyphen if it is not known.
pub(crate) fn date(at: Option<u64>) -> String {
    // Behind the year 9999 there is no such text.
    match at.filter(|at| *at < 253_402_300_800_000) {
        Some(at) => format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at)).to_string(),
        None => "-".to_owned(),
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a time. The mistakes are a text that is none, and one that does not fit.
pub(crate) fn time(
    text: &str,
    fit: RangeInclusive<Duration>,
    [none, unfit]: [&'static str; 2],
) -> Result<Duration, &'static str> {
    let time = parse_duration(text).map_err(|_| none)?;
    fit.contains(&time).then_some(time).ok_or(unfit)
}

/// As JSON has times.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An age in few characters.
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        0..10 => format!("{}.{}s", age.as_secs(), age.subsec_millis() / 100),
        10..600 => format!("{}s", age.as_secs()),
        600..36_000 => format!("{}min", age.as_secs() / 60),
        _ => format!("{}h", age.as_secs() / 3600),
    }
}
