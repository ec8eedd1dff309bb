//! The examples of each call check what they show by themselves: here all of them have to get to their end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::program::run;

#[tokio::test]
async fn each_does_as_promised() {
    let shown = run("calls", &[]).await;
    assert_eq!(
        (shown.code, shown.stderr.as_str()),
        (Some(0), ""),
        "{shown:?}"
    );
    let named = shown.stdout.lines().map(|line| {
        let skipped = ": skipped: environment variable not found";
        let name = line
            .strip_suffix(": as promised")
            .or(line.strip_suffix(skipped));
        name.unwrap_or_else(|| panic!("{line:?}")).to_owned()
    });
    assert_eq!(named.collect::<BTreeSet<_>>(), files());
}

#[tokio::test]
async fn one_can_be_chosen() {
    let shown = run("calls", &["touch"]).await;
    assert_eq!(
        (shown.code, shown.stdout.as_str()),
        (Some(0), "touch: as promised\n")
    );
}

#[tokio::test]
async fn an_unknown_one_is_an_error_that_lists_them() {
    let ended = run("calls", &["brew"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(
        ended.stderr.contains("brew") && ended.stderr.contains("  touch\n"),
        "{ended:?}"
    );
}

/// Each row of the guide's tables names an example of all that it lists.
#[test]
fn each_row_of_the_guide_names_its_example() {
    let examples = root().join("examples");
    let page = include_str!("../../src/guide/calls.md");
    for table in [
        "| call | does | example |",
        "| option | default | sets | example |",
    ] {
        let (_, rows) = page.split_once(table).unwrap();
        let rows = rows
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let mut many = 0;
        for row in rows {
            let columns: Vec<_> = row.trim_matches('|').split(" | ").collect();
            let (listed, path) = (columns.first().unwrap(), columns.last().unwrap());
            let example = fs::read_to_string(examples.join(path.trim().trim_matches('`'))).unwrap();
            for name in listed.split('`').skip(1).step_by(2) {
                let call = format!("{}(", name.trim_start_matches("Loaded::"));
                assert!(example.contains(&call), "{row} names no example of {name}");
            }
            many += 1;
        }
        assert!(many > 8, "{many} rows of {table}");
    }
}

#[test]
fn each_feature_leads_to_an_example_of_what_it_gives() {
    let root = root();
    let page = include_str!("../../src/guide/features.md");
    let (_, rows) = page.split_once("| feature | gives | example |").unwrap();
    let rows = rows
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut features = BTreeSet::new();
    for row in rows {
        let mut columns = row.split('|').skip(1);
        let named = columns.next().unwrap().split('`').skip(1).step_by(2);
        features.extend(named.map(str::to_owned));
        let given = columns.next().unwrap().split('`').nth(1).unwrap();
        let path = columns.next().unwrap().trim().trim_matches('`');
        let folder = if path.starts_with("tests/") {
            root.to_owned()
        } else {
            root.join("examples")
        };
        let example = fs::read_to_string(folder.join(path)).unwrap();
        let given = given.rsplit_once("::").map_or(given, |(_, last)| last);
        assert!(example.contains(given), "{row} leads to no example");
    }
    let manifest = include_str!("../../Cargo.toml");
    let (_, declared) = manifest.split_once("\n[features]\n").unwrap();
    let declared = declared.lines().take_while(|line| !line.starts_with('['));
    let declared = declared
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name);
    let declared: BTreeSet<_> = declared
        .filter(|name| *name != "default")
        .map(str::to_owned)
        .collect();
    assert_eq!(features, declared);
}

/// The folder of the workspace.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The names of the examples: each has a file.
fn files() -> BTreeSet<String> {
    let files = fs::read_dir(root().join("examples/calls")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|found| found == "rs"));
    let names = paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name != "main").collect()
}
