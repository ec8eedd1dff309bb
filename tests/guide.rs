//! What the guide says of log lines and metrics is what the code has.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use larder::Stats;

const OPERATIONS: &str = include_str!("../src/guide/operations.md");

fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let all = paths.flat_map(|path| {
        if path.is_dir() {
            files(&path, end)
        } else {
            vec![path]
        }
    });
    all.filter(|path| path.extension().is_some_and(|found| found == end))
        .collect()
}

/// The texts of all lines at INFO and above: the last string of each call of a macro.
fn messages() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut messages = BTreeSet::new();
    for file in [
        "src",
        "crates/larder-admin/src",
        "crates/larder-http/src",
        "crates/larder-outbox/src",
    ]
    .iter()
    .flat_map(|folder| files(&root.join(folder), "rs"))
    {
        let code = fs::read_to_string(&file).unwrap();
        for level in ["info!(", "warn!(", "error!("] {
            for call in code.split(level).skip(1) {
                let message = last_string(call);
                messages.insert(message.unwrap_or_else(|| panic!("{}: {call}", file.display())));
            }
        }
    }
    messages
}

/// The last string before the end of the call that the text begins in.
fn last_string(call: &str) -> Option<String> {
    let (mut depth, mut last) = (1, None);
    let mut rest = call.chars();
    while depth > 0 {
        match rest.next()? {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => last = Some(rest.by_ref().take_while(|&c| c != '"').collect()),
            _ => {}
        }
    }
    last
}

/// The texts in the first column of the table of log lines.
fn explained() -> BTreeSet<String> {
    let (_, table) = OPERATIONS.split_once("# What each log line means").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().replace("\\|", "|"))
        .collect()
}

/// The files that the table of limits names, and the tests.
#[test]
fn limits_name_files_and_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let code = ["src", "crates", "tests"]
        .iter()
        .flat_map(|folder| files(&root.join(folder), "rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect::<String>();
    let (mut paths, mut tests) = (0, 0);
    for name in page.split('`').skip(1).step_by(2) {
        let folder = if name.starts_with("crates/") {
            ""
        } else {
            "src"
        };
        let path = root.join(folder).join(name);
        if path
            .extension()
            .is_some_and(|end| end == "rs" || end == "lua")
        {
            paths += 1;
            assert!(path.exists(), "{} is no file", path.display());
        } else if name.contains('_') && !name.contains("::") && name.starts_with(char::is_lowercase)
        {
            tests += 1;
            let last = name.rsplit(' ').next().unwrap();
            assert!(code.contains(last), "{name} is not in the code");
        }
    }
    assert!(paths > 40 && tests > 40, "{paths} paths and {tests} names");
}

#[test]
fn each_log_line_is_explained() {
    let (messages, explained) = (messages(), explained());
    assert!(messages.len() > 20, "{messages:?}");
    let missing: Vec<_> = messages.difference(&explained).collect();
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
    let gone: Vec<_> = explained.difference(&messages).collect();
    assert!(gone.is_empty(), "not in the code: {gone:#?}");
}

#[test]
fn each_metric_of_an_alert_exists() {
    let metrics = include_str!("../src/metrics.md");
    let counted: BTreeSet<_> = Stats::default()
        .iter()
        .map(|(name, _)| format!("larder_{name}_total"))
        .collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names: BTreeSet<_> = OPERATIONS
        .split(|c| !is_part(c))
        .filter(|word| word.starts_with("larder_"))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let of_histogram = name.strip_suffix("_count").unwrap_or(name);
        let is_listed = metrics.contains(&format!("`{of_histogram}`"));
        assert!(is_listed || counted.contains(name), "{name}");
    }
}

/// A page is read only if the guide has it, and is compiled only if it is a module.
#[test]
fn each_page_is_in_the_guide() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide");
    for page in files(&pages, "md") {
        let name = page.file_stem().unwrap().to_str().unwrap();
        let included = format!("include_str!(\"guide/{name}.md\")");
        assert!(include_str!("../src/lib.rs").contains(&included), "{name}");
        let is_listed = include_str!("../src/guide/mod.md").contains(&format!("[`{name}`]"));
        assert!(is_listed || name == "mod", "{name}");
    }
}

/// Pages for those who change the code name files by a path, or by its end: each is there.
#[test]
fn pages_name_files_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "crates", "tests", "benches", "examples", "fuzz"];
    let all = |end| {
        folders
            .iter()
            .flat_map(move |folder| files(&root.join(folder), end))
    };
    let sources: Vec<PathBuf> = ["rs", "lua", "sh", "json", "py", "md"]
        .into_iter()
        .flat_map(all)
        .collect();
    let pages = files(&root.join("src"), "md").into_iter();
    let pages = pages.chain([root.join("CONTRIBUTING.md")]);
    let mut names = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let end = Path::new(name).extension();
            let is_path = end.is_some_and(|end| end == "rs" || end == "lua" || end == "md");
            if !is_path || name.contains([' ', '*', '{', '=', '\n']) || name.ends_with("NAME.lua") {
                continue;
            }
            names += 1;
            let is_there = if name.starts_with("..") {
                page.parent().unwrap().join(name).exists()
            } else {
                root.join(name).exists() || sources.iter().any(|file| file.ends_with(name))
            };
            assert!(is_there, "{}: {name} is no file", page.display());
        }
    }
    assert!(names > 100, "{names} names of files");
}
