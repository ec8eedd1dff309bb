//! Layers depend downward only, and no two files of a layer depend on each other.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the top. A file imports from its own layer or from lower ones.
const LAYERS: [&[&str]; 20] = [
    &["fuzzing"],
    &["admin", "internal"],
    &["generated", "write_behind"],
    &["caches"],
    &["builder"],
    &["any_cache"],
    &["loading"],
    &["cache"],
    &["engine"],
    &["entry", "loaded"],
    &["l1", "l2"],
    &["options"],
    &["settings"],
    &["events"],
    &["error"],
    &["stats", "token"],
    &["wire"],
    &["util"],
    &[
        "ablation",
        "clock",
        "key",
        "local",
        "prefixes",
        "vocabulary",
    ],
    &["lookup_by"],
];

/// The folders of the engine, from the top. All of them use the files beside them, but for [`OVER_MODULES`].
const MODULES: [&str; 6] = [
    "subscribe",
    "other_programs",
    "report",
    "load",
    "write",
    "read",
];
/// The files of the engine that use the folders.
const OVER_MODULES: [&str; 2] = ["engine", "operate"];

type Module = Vec<String>;

/// The modules of a package, and the text of each without its unit tests.
fn modules(package: &str) -> BTreeMap<Module, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(package)
        .join("src");
    let mut modules = BTreeMap::new();
    let mut folders = vec![(src, Module::new())];
    while let Some((folder, module)) = folders.pop() {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = [module.clone(), vec![name.clone()]].concat();
            if path.is_dir() {
                if name != "interleavings" {
                    folders.push((path, inner));
                }
            } else if path.extension().is_some_and(|end| end == "rs") && name != "lib" {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                let module = if name == "mod" { module.clone() } else { inner };
                modules.insert(module, code.to_owned());
            }
        }
    }
    modules
}

/// The paths of all `use` declarations, one for each name.
fn imports(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for declaration in code.split("use ").skip(1) {
        let tree: String = declaration
            .split(';')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        if tree.starts_with("crate::") || tree.starts_with("super::") || tree.starts_with("self::")
        {
            expand(&tree, &[], &mut paths);
            // Stand-ins of a test.
            paths.retain(|path| !path.contains(&"interleavings".to_owned()));
        }
    }
    paths
}

fn expand(tree: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let Some((head, group)) = tree.split_once('{') else {
        let path = tree.split("::").map(str::to_owned);
        paths.push(before.iter().cloned().chain(path).collect());
        return;
    };
    let head = head.split("::").filter(|part| !part.is_empty());
    let before: Vec<_> = before
        .iter()
        .cloned()
        .chain(head.map(str::to_owned))
        .collect();
    let group = group.strip_suffix('}').unwrap();
    let (mut depth, mut start) = (0, 0);
    for (at, sign) in group.char_indices().chain([(group.len(), ',')]) {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 && at > start => {
                expand(&group[start..at], &before, paths);
                start = at + 1;
            }
            ',' if depth == 0 => start = at + 1,
            _ => {}
        }
    }
}

/// From the crate's root, without `crate`, `self` and `super`.
fn absolute(path: &[String], from: &Module) -> Vec<String> {
    let mut absolute = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => from.clone(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(absolute.pop()),
            part => absolute.push(part.to_owned()),
        }
    }
    absolute
}

/// Which module each module of a package imports from. What a folder passes on counts as its own file's.
fn graph(package: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let modules = modules(package);
    let all: BTreeMap<&Module, Vec<Vec<String>>> = (modules.iter())
        .map(|(module, code)| {
            let paths = imports(code);
            (
                module,
                paths.iter().map(|path| absolute(path, module)).collect(),
            )
        })
        .collect();
    let module_of = |path: &[String]| -> Option<Module> {
        let prefixes = (0..=path.len()).rev().map(|end| path[..end].to_vec());
        prefixes
            .into_iter()
            .find(|prefix| modules.contains_key(prefix))
    };
    let origin = |path: &[String]| -> Option<Module> {
        let mut path = path.to_vec();
        loop {
            let module = module_of(&path)?;
            let name = path.get(module.len()).cloned();
            let passed_on = all[&module].iter().find(|import| {
                import.starts_with(&module)
                    && import.len() > module.len() + 1
                    && import.last() == name.as_ref()
            });
            match passed_on {
                Some(import) => path.clone_from(import),
                None => return Some(module),
            }
        }
    };
    let mut graph = BTreeMap::new();
    for (module, paths) in &all {
        let inner = |path: &[String]| path.starts_with(module) && path.len() > module.len() + 1;
        let passed_on = |path: &[String]| inner(path) && is_passed_on(&modules[*module], path);
        let used = paths.iter().filter(|path| !passed_on(path));
        let from = used.filter_map(|path| origin(path));
        let from: BTreeSet<_> = from.filter(|other| other != *module).collect();
        graph.insert((*module).clone(), from);
    }
    graph
}

/// Whether a folder's own file exports something for one of the files in it, and does not use it itself.
fn is_passed_on(code: &str, path: &[String]) -> bool {
    let name = path.last().unwrap();
    let exports = code.split(';').filter(|part| {
        let part = part.trim_start_matches(|c: char| c != 'p');
        part.contains("pub use self::") || part.contains("pub(crate) use self::")
    });
    let words = |part: &str| -> BTreeSet<String> {
        let words = part.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.map(str::to_owned).collect()
    };
    exports.into_iter().any(|part| words(part).contains(name))
}

fn rank(module: &Module) -> usize {
    let layer = LAYERS
        .iter()
        .position(|layer| layer.contains(&module[0].as_str()));
    layer.unwrap_or_else(|| panic!("{} has no layer", module[0]))
}

#[test]
fn layers_depend_downward_only() {
    let graph = graph("");
    assert!(graph.len() > 50, "{} files", graph.len());
    let mut upward = Vec::new();
    for (module, imports) in &graph {
        for import in imports {
            let same = import[0] == module[0];
            if !same && rank(import) <= rank(module) {
                upward.push(format!(
                    "{} imports {}",
                    module.join("::"),
                    import.join("::")
                ));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn modules_of_the_engine_depend_downward_only() {
    let rank = |module: &Module| {
        let name = module.get(1)?.as_str();
        let module = MODULES.iter().position(|module| *module == name);
        Some(module.unwrap_or(if OVER_MODULES.contains(&name) {
            0
        } else {
            MODULES.len()
        }))
    };
    let (graph, mut upward, mut between) = (graph(""), Vec::new(), 0);
    let engine = |module: &Module| module[0] == "engine";
    for (module, imports) in graph.iter().filter(|(module, _)| engine(module)) {
        for import in imports.iter().filter(|import| engine(import)) {
            let (Some(from), Some(to)) = (rank(module), rank(import)) else {
                continue;
            };
            between += usize::from(from != to);
            if to < from {
                upward.push(format!(
                    "{} imports {}",
                    module.join("::"),
                    import.join("::")
                ));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
    assert!(between > 30, "{between} imports between modules");
}

#[test]
fn files_do_not_depend_on_each_other() {
    for (package, files) in [
        ("", 200),
        ("crates/larder-admin", 7),
        ("crates/larder-http", 20),
        ("crates/larder-outbox", 10),
    ] {
        let graph = graph(package);
        assert!(graph.len() >= files, "{package}: {} files", graph.len());
        has_no_cycle(&graph);
    }
}

fn has_no_cycle(graph: &BTreeMap<Module, BTreeSet<Module>>) {
    let reaches_itself = |module: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![module]);
        while let Some(one) = next.pop() {
            next.extend(graph[one].iter().filter(|import| seen.insert(*import)));
        }
        seen.contains(module)
    };
    let in_cycles: Vec<_> = graph
        .keys()
        .filter(|module| reaches_itself(module))
        .collect();
    let shown = in_cycles.iter().map(|module| {
        let imports = graph[*module]
            .iter()
            .filter(|import| in_cycles.contains(import));
        let imports: Vec<_> = imports.map(|import| import.join("::")).collect();
        format!("{} -> {}", module.join("::"), imports.join(", "))
    });
    let shown: Vec<_> = shown.collect();
    assert!(shown.is_empty(), "{shown:#?}");
}
