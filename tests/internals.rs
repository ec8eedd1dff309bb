//! `src/internals.md` names each task, each lock and each function of a path as the sources have them.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const PAGE: &str = include_str!("../src/internals.md");

/// What has no tasks and locks of a cache: stand-ins and inputs of tests, and the functions that take a lock.
const LEFT_OUT: [&str; 4] = [
    "fuzzing/",
    "l1/interleavings/",
    "l1/sync.rs",
    "util/lock.rs",
];

/// A path has no more steps than a reader keeps in mind.
const MOST_STEPS: usize = 20;

/// The sources by their paths in `src`, without comments and unit tests.
fn sources() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut sources, mut folders) = (BTreeMap::new(), vec![src.clone()]);
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
            let name = name.replace('\\', "/");
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !LEFT_OUT.iter().any(|out| name.starts_with(out))
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                let is_code = |line: &&str| !line.trim_start().starts_with("//");
                let code: Vec<_> = code.lines().filter(is_code).collect();
                sources.insert(name, code.join("\n"));
            }
        }
    }
    sources
}

/// The part of the page under a heading.
fn part(heading: &str) -> &str {
    let (_, rest) = PAGE.split_once(&format!("\n# {heading}\n")).unwrap();
    rest.split("\n# ").next().unwrap()
}

/// What a text has between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The first two cells of each row of a table.
fn rows(table: &str) -> Vec<[&str; 2]> {
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| {
        let mut cells = row
            .split('|')
            .skip(1)
            .map(|cell| cell.trim().trim_matches('`'));
        [cells.next().unwrap(), cells.next().unwrap()]
    });
    cells.collect()
}

/// How many places of the code spawn a task.
fn spawns(code: &str) -> usize {
    // A function with this name, and its calls.
    let code = code.replace("fn spawn(", "").replace("self.spawn(", "");
    code.matches("spawn(").count() + code.matches("spawn_blocking(").count()
}

/// The name of the field or the static that a line declares as a lock. Of a struct, a variant or a type its own name.
fn lock_in(line: &str) -> Option<&str> {
    let (before, _) = (line.split_once("Mutex<")).or_else(|| line.split_once("RwLock<"))?;
    let mut words = before.split(|c: char| !c.is_alphanumeric() && c != '_');
    let is_name =
        |word: &&str| !["", "pub", "crate", "super", "static", "struct", "type"].contains(word);
    let name = words.find(is_name)?;
    // One that a function is given, and one of a single call.
    (!before.contains('&') && name != "let").then_some(name)
}

#[test]
fn each_task_has_a_row() {
    let sources = sources();
    let of_code = sources.iter().map(|(file, code)| (&**file, spawns(code)));
    let of_code: BTreeMap<_, _> = of_code.filter(|(_, spawns)| *spawns > 0).collect();
    let mut of_page = BTreeMap::new();
    for [file, _] in rows(part("Tasks")) {
        *of_page.entry(file).or_insert(0) += 1;
    }
    let count = |of: &BTreeMap<&str, usize>, file| of.get(file).copied().unwrap_or(0);
    let files: BTreeSet<&str> = of_code.keys().chain(of_page.keys()).copied().collect();
    let wrong = files
        .into_iter()
        .map(|file| (file, count(&of_code, file), count(&of_page, file)));
    let wrong = wrong.filter(|(_, spawns, rows)| spawns != rows);
    let wrong: Vec<_> = wrong
        .map(|(file, spawns, rows)| {
            format!("`{file}` spawns {spawns} tasks, and the table has {rows} rows of it")
        })
        .collect();
    assert!(of_code.len() > 20, "{} files spawn tasks", of_code.len());
    assert!(wrong.is_empty(), "src/internals.md, Tasks: {wrong:#?}");
}

#[test]
fn each_lock_has_a_row() {
    let sources = sources();
    let of_file = |(file, code): (&String, &String)| {
        let locks = code.lines().filter_map(lock_in);
        let row = |name| format!("| `{file}` | `{name}` |");
        locks.map(row).collect::<Vec<_>>()
    };
    let of_code: BTreeSet<String> = sources.iter().flat_map(of_file).collect();
    let of_page = rows(part("Locks")).into_iter();
    let of_page: BTreeSet<String> = of_page
        .map(|[file, name]| format!("| `{file}` | `{name}` |"))
        .collect();
    let missing: Vec<_> = of_code.difference(&of_page).collect();
    let former: Vec<_> = of_page.difference(&of_code).collect();
    assert!(of_code.len() > 40, "{} locks", of_code.len());
    assert!(
        missing.is_empty() && former.is_empty(),
        "src/internals.md, Locks: add {missing:#?}, and remove {former:#?}"
    );
}

#[test]
fn each_step_of_a_path_is_in_the_code() {
    let sources = sources();
    let (mut wrong, mut paths) = (Vec::new(), 0);
    for path in part("Paths").split("\n## ").skip(1) {
        let title = path.lines().next().unwrap();
        let is_step = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
        let steps: Vec<_> = path.lines().filter(is_step).collect();
        if !(1..=MOST_STEPS).contains(&steps.len()) {
            wrong.push(format!("{title}: {} steps", steps.len()));
        }
        for step in steps {
            let [file, function, ..] = quoted(step)[..] else {
                wrong.push(format!("{title}: no file and function in {step}"));
                continue;
            };
            let has = |code: &String| {
                ["(", "<"].map(|end| code.contains(&format!("fn {function}{end}"))) != [false; 2]
            };
            if !sources.get(file).is_some_and(has) {
                wrong.push(format!("{title}: no fn {function} in src/{file}"));
            }
        }
        paths += 1;
    }
    assert!(paths >= 5, "{paths} paths");
    assert!(wrong.is_empty(), "src/internals.md, Paths: {wrong:#?}");
}

#[test]
fn each_part_and_each_file_is_there() {
    let sources = sources();
    let drawing = part("Who owns what").split("```").nth(1).unwrap();
    let mut wrong = Vec::new();
    for line in drawing.lines().skip(1) {
        let mut words = line.split_whitespace();
        let (name, file) = (words.next().unwrap(), words.next().unwrap_or_default());
        let has = |code: &String| {
            ["struct", "enum"].map(|kind| code.contains(&format!("{kind} {name}"))) != [false; 2]
        };
        if !sources.get(file).is_some_and(has) {
            wrong.push(format!("no {name} in src/{file}"));
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = quoted(PAGE)
        .into_iter()
        .filter(|word| Path::new(word).extension().is_some_and(|end| end == "rs"));
    let is_there = |file: &&str| root.join("src").join(file).exists() || root.join(file).exists();
    wrong.extend(
        files
            .filter(|file| !is_there(file))
            .map(|file| format!("no {file}")),
    );
    assert!(wrong.is_empty(), "src/internals.md: {wrong:#?}");
}
