//! Makes mutants of the scripts.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use simulated_redis::{Edit, compiles, edit_scripts};

/// Scripts that no step of a store runs: tools and programs in other languages do.
const NO_STEPS: &[&str] = &[
    "audit.lua",
    "bypass.lua",
    "forget.lua",
    "forget_partition.lua",
    "has_entry.lua",
    "inspect.lua",
    "other_languages.lua",
    "other_languages_head.lua",
    "remains.lua",
];

/// Names the mutant with which all tests of a process run.
pub(crate) const MUTANT: &str = "LARDER_MUTANT";

pub(crate) struct Mutant {
    /// The file, the line, and what became of it.
    pub(crate) name: String,
    pub(crate) edit: Edit,
}

/// The servers of this thread have the mutant that [`MUTANT`] names.
pub(crate) fn edit() {
    static EDIT: OnceLock<Option<Edit>> = OnceLock::new();
    let edit = EDIT.get_or_init(|| {
        let name = env::var(MUTANT).ok()?;
        let file = name.split(':').next().unwrap_or_default();
        let found = mutants(file).into_iter().find(|other| other.name == name);
        Some(found.expect("there is such a mutant").edit)
    });
    if edit.is_some() {
        edit_scripts(edit.clone());
    }
}

/// The mutants of a file, or of all if none is named.
pub(crate) fn mutants(only: &str) -> Vec<Mutant> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/l2/redis/lua");
    let folders = [folder.join("parts"), folder];
    let paths = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = paths.map(|entry| entry.unwrap().path());
    let scripts = paths.filter(|path| path.extension().is_some_and(|end| end == "lua"));
    let names = scripts.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, path)
    });
    let mut names: Vec<_> = names
        .filter(|(name, _)| !NO_STEPS.contains(&&**name))
        .filter(|(name, _)| only.is_empty() || name == only)
        .collect();
    names.sort();
    let of_file = |(name, path): (String, PathBuf)| of(&name, &fs::read_to_string(path).unwrap());
    names.into_iter().flat_map(of_file).collect()
}

fn of(file: &str, text: &str) -> Vec<Mutant> {
    let lines: Vec<_> = text.lines().collect();
    let mut made = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim();
        if code.is_empty() || code.starts_with("--") {
            continue;
        }
        for (what, new) in changes(line) {
            let edited = lines.iter().enumerate();
            let edited = edited.map(|(n, line)| if n == number { &*new } else { line });
            let edited: String = edited.flat_map(|line| [line, "\n"]).collect();
            // What is no Lua is no mutant.
            if compiles(&edited) {
                let name = format!("{file}: {what}: {code}");
                let many = made
                    .iter()
                    .filter(|other: &&Mutant| other.name.starts_with(&name));
                let many = many.count();
                let again = if many == 0 {
                    String::new()
                } else {
                    format!(" ({})", many + 1)
                };
                made.push(Mutant {
                    name: name + &again,
                    edit: Edit::new(text, &edited),
                });
            }
        }
    }
    made
}

/// The other lines that are tried in the place of one.
fn changes(line: &str) -> Vec<(String, String)> {
    let mut changes = vec![("left out".to_owned(), String::new())];
    let code = outside_of_texts(line);
    for (sign, other) in [
        ("==", "~="),
        ("~=", "=="),
        ("<=", ">"),
        (">=", "<"),
        ("<", ">="),
        (">", "<="),
    ] {
        for (at, _) in code.match_indices(sign) {
            let after = &code[at + sign.len()..];
            let before = &code[..at];
            let is_part = after.starts_with('=') || before.ends_with(['<', '>', '=', '~']);
            if !is_part {
                let new = [&line[..at], other, &line[at + sign.len()..]].concat();
                changes.push((format!("{other} at {at}"), new));
            }
        }
    }
    let bytes = code.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let is_name =
            at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || b"_.".contains(&bytes[at - 1]));
        if length > 0 && !is_name {
            let number: u64 = code[at..at + length].parse().unwrap();
            let new = format!("{}{}{}", &line[..at], number + 1, &line[at + length..]);
            changes.push((format!("{} at {at}", number + 1), new));
        }
        at += length.max(1);
    }
    changes
}

/// The line with spaces in the place of its texts and its comment, which are not changed.
fn outside_of_texts(line: &str) -> String {
    let (mut code, mut quote) = (String::new(), None);
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        if quote.is_none() && char == '-' && chars.peek() == Some(&'-') {
            break;
        }
        let is_end = quote == Some(char);
        let is_text = quote.is_some();
        if is_end {
            quote = None;
        } else if quote.is_none() && (char == '\'' || char == '"') {
            quote = Some(char);
        }
        code.push(if is_text && !is_end { ' ' } else { char });
    }
    code
}
