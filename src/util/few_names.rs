//! The names of things that may be many, for a log line.

use std::collections::BTreeSet;

/// How many are named.
const NAMED: usize = 8;

/// Some of the names, each once, and how many there are besides.
pub(crate) fn few_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let more = names.len().saturating_sub(NAMED);
    let named: Vec<&str> = names.into_iter().take(NAMED).collect();
    let named = named.join(", ");
    if more > 0 {
        return format!("{named} and {more} more");
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_few_are_written() {
        assert_eq!(few_names(["b", "a", "b"]), "a, b");
        let names: Vec<String> = (0..224).map(|n| format!("{n:03}")).collect();
        let few = few_names(names.iter().map(String::as_str));
        assert_eq!(few, "000, 001, 002, 003, 004, 005, 006, 007 and 216 more");
    }
}
