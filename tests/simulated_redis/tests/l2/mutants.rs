//! Mutants of the scripts: a line is left out, a comparison is turned round, a constant is one more. A test has to fail
//! with each: the random steps beside the store in memory, one of every store, or one of what lies in Redis.
//! `survivors.txt` lists the others, each before a line with the reason, which begins with a space.
//!
//! `LARDER_MUTANTS=fill.lua` tries those of one file.

use std::collections::BTreeSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use larder_store_tests::conformance;
use simulated_redis::edit_scripts;
use tokio::runtime::Builder;

use crate::agreement;
use crate::store::Redis;
use crate::support::mutants::{MUTANT, Mutant, mutants};
use crate::threads::share;

/// How many of the mutants may survive, in percent.
const SURVIVE: usize = 5;
/// The tests that another process runs with a mutant.
const REST: &str = "redis::";

/// The name of a test that fails with the mutant; `None` if it survives.
fn killed_by(mutant: &Mutant) -> Option<String> {
    edit_scripts(Some(mutant.edit.clone()));
    let killer = (0..2).find(|seed| fails(agreement::do_alike(*seed)));
    let killer = killer.map(|seed| format!("the steps of seed {seed}"));
    let killer = killer.or_else(|| {
        let bodies = conformance::all::<Redis>().into_iter();
        // It sends eight thousand messages.
        let mut bodies = bodies.filter(|(name, _)| !name.contains("a_full_queue"));
        let (name, _) = bodies.find(|(_, body)| fails(body()))?;
        Some(name.to_owned())
    });
    edit_scripts(None);
    killer.or_else(|| rest(mutant))
}

fn fails(test: impl Future<Output = ()>) -> bool {
    let run = || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test);
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

/// A test of [`REST`] that fails.
fn rest(mutant: &Mutant) -> Option<String> {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([REST, "--test-threads=1"]);
    command.env(MUTANT, &mutant.name).stderr(Stdio::null());
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(output.contains("test result: "), "{output}");
    let failed = output.lines().find(|line| line.ends_with("... FAILED"))?;
    Some(failed.to_owned())
}

#[test]
#[ignore = "long: see tests/proof.sh"]
fn each_mutant_is_found() {
    let known: BTreeSet<_> = include_str!("survivors.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with(' '))
        .map(str::to_owned)
        .collect();
    let only = env::var("LARDER_MUTANTS").unwrap_or_default();
    let all = mutants(&only);
    let many = all.len();
    let survivors = Mutex::new(BTreeSet::new());
    assert!(many > 0, "there is no file {only}");
    // They fail by hundreds.
    set_hook(Box::new(|_| {}));
    let threads = thread::available_parallelism().map_or(2, usize::from);
    share(threads, all.into_iter(), |mutant| {
        match killed_by(&mutant) {
            Some(killer) => eprintln!("{}: {killer}", mutant.name),
            None => {
                eprintln!("SURVIVES {}", mutant.name);
                survivors.lock().unwrap().insert(mutant.name);
            }
        }
    });
    _ = std::panic::take_hook();
    let survivors = survivors.into_inner().unwrap();
    println!("{} of {many} survive", survivors.len());
    let new: Vec<_> = survivors.difference(&known).collect();
    assert!(new.is_empty(), "not in the list: {new:#?}");
    if only.is_empty() {
        let gone: Vec<_> = known.difference(&survivors).collect();
        assert!(gone.is_empty(), "in the list, and found: {gone:#?}");
        assert!(survivors.len() * 100 <= SURVIVE * many, "too many");
    }
}
