//! Each line of a script is needed: worlds break a promise without it.
//!
//! `LARDER_MUTANTS=fill.lua LARDER_SEEDS=0..50`

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use simulated_redis::edit_scripts;

use crate::mutants::{Mutant, mutants};
use crate::{draw, seeds, world};

/// The first of the seeds whose world breaks a promise without the line, and which.
fn found_by(mutant: &Mutant) -> Option<String> {
    edit_scripts(Some(mutant.edit.clone()));
    let mut seeds = seeds::seeds().unwrap_or(0..50);
    let found = seeds.find_map(|seed| {
        let run = || world::run(seed, &draw(seed)).violations;
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(violations) => {
                let first = violations.first()?;
                Some(format!("seed {seed}: {:?}", first.invariant))
            }
            Err(_) => Some(format!("seed {seed}: a panic")),
        }
    });
    edit_scripts(None);
    found
}

#[test]
#[ignore = "long: see tests/proof.sh"]
fn each_line_is_needed() {
    let only = env::var("LARDER_MUTANTS").unwrap_or_else(|_| "fill.lua".to_owned());
    let left_out = mutants(&only).into_iter();
    let left_out = left_out.filter(|mutant| mutant.name.contains(": left out: "));
    let queue = Mutex::new(left_out);
    let missing = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(mutant) = next else {
                        break;
                    };
                    let found = found_by(&mutant);
                    eprintln!("{}: {found:?}", mutant.name);
                    if found.is_none() {
                        missing.lock().unwrap().push(mutant.name);
                    }
                }
            });
        }
    });
    let missing = missing.into_inner().unwrap();
    assert!(missing.is_empty(), "{missing:#?}");
}
