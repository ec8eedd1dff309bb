//! Puts tables between their marks in the readme, which is otherwise written by hand.

use std::fs;
use std::path::Path;

use crate::Result;

pub fn fill(file: &Path, parts: &[(&str, String)]) -> Result<()> {
    let mut text = fs::read_to_string(file)?;
    for (name, part) in parts {
        text = replace(&text, name, part)
            .ok_or_else(|| format!("{} has no marks of {name}", file.display()))?;
    }
    fs::write(file, text)?;
    Ok(())
}

fn replace(text: &str, name: &str, part: &str) -> Option<String> {
    let (start, end) = (
        format!("<!-- {name} -->"),
        format!("<!-- end of {name} -->"),
    );
    let (before, rest) = text.split_once(&start)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{start}\n{part}\n{end}{after}"))
}

/// Digits for the eye: three that count.
pub fn number(n: f64) -> String {
    match n.abs() {
        n if n >= 100.0 => thousands(n),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// A whole number, in groups of three digits.
fn thousands(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{number, replace};

    #[test]
    fn a_part_goes_between_its_marks_and_the_rest_stays() {
        let text = "a\n<!-- x -->\nold\n<!-- end of x -->\nb";
        let new = "a\n<!-- x -->\nnew\n<!-- end of x -->\nb";
        assert_eq!(replace(text, "x", "new").as_deref(), Some(new));
        assert_eq!(replace(text, "y", "new"), None);
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let all = [1.0, 12.34, 123.4, 1_234.0, 1_234_567.0].map(number);
        assert_eq!(all, ["1.00", "12.3", "123", "1 234", "1 234 567"]);
    }
}
