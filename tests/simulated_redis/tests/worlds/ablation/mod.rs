//! What each rule of the protocol is for: without it, a promise breaks.

mod lines;
#[cfg(larder_ablation)]
mod switches;

use std::collections::BTreeMap;
use std::sync::Mutex;

#[cfg(larder_ablation)]
use larder::ablation::{Rule, switch_off};
use simulated_redis::{Edit, edit_scripts};

use self::lines::{LINES, Line};
use crate::config::Config;
use crate::evidence::{self, THREADS};
use crate::history::Invariant;
use crate::{threads, world};

/// Tried at most, to see a promise break.
const SEEDS: u64 = 200;
const TABLE_SEEDS: u64 = 10;

/// Violations by what they violate.
type Counts = BTreeMap<Invariant, usize>;

/// A part of a rule.
struct Part {
    rule: u8,
    /// The promise that is certain to break without it.
    promise: Invariant,
    how: How,
}

/// How it is left out.
#[derive(Clone, Copy)]
enum How {
    Line(&'static Line),
    #[cfg(larder_ablation)]
    Switch(Rule),
}

/// All parts, in the order of the protocol; those of one rule, if it was asked for.
fn parts() -> Vec<Part> {
    let lines = LINES.iter().map(|line| Part {
        rule: line.rule,
        promise: line.promise,
        how: How::Line(line),
    });
    #[cfg(larder_ablation)]
    let lines = lines.chain(Rule::ALL.iter().filter_map(|rule| {
        let (number, promise) = switches::expected(*rule)?;
        Some(Part {
            rule: number,
            promise,
            how: How::Switch(*rule),
        })
    }));
    let mut parts: Vec<_> = lines.collect();
    parts.retain(|part| evidence::rule().is_none_or(|rule| part.rule == rule));
    parts.sort_by_key(|part| part.rule);
    parts
}

impl Part {
    /// How its row in the protocol begins.
    fn row(&self) -> String {
        let rule = self.rule;
        match self.how {
            How::Line(line) => format!("| {rule} | {} | `{}` |", line.what, line.file.0),
            #[cfg(larder_ablation)]
            How::Switch(of) => format!("| {rule} | `{of:?}` | Rust |"),
        }
    }

    /// What is broken in the world of a seed, without it or with it.
    fn violations(&self, seed: u64, is_off: bool) -> Counts {
        match self.how {
            How::Line(Line {
                file, text, new, ..
            }) => edit_scripts(is_off.then(|| Edit::line(file.1, text, new))),
            #[cfg(larder_ablation)]
            How::Switch(rule) => switch_off(is_off.then_some(rule)),
        }
        let outcome = world::run(seed, &Config::against(self.rule, seed));
        edit_scripts(None);
        #[cfg(larder_ablation)]
        switch_off(None);
        let mut counts = Counts::new();
        for violation in outcome.violations {
            *counts.entry(violation.invariant).or_default() += 1;
        }
        counts
    }
}

#[test]
fn the_protocol_lists_the_parts() {
    let text = include_str!("../../../../../src/protocol.md");
    for part in parts() {
        assert!(text.contains(&part.row()), "{}", part.row());
    }
}

#[test]
#[ignore = "long: see tests/proof.sh"]
fn no_rule_is_idle() {
    let idle = Mutex::new(Vec::new());
    threads::share(THREADS, parts().into_iter(), |part| {
        let (row, promise) = (part.row(), part.promise);
        let breaks = |seed: &u64| part.violations(*seed, true).contains_key(&promise);
        let Some(seed) = (0..SEEDS).find(breaks) else {
            return idle.lock().unwrap().push(row);
        };
        let with_it = part.violations(seed, false);
        assert!(with_it.is_empty(), "{row} {with_it:?} with it, too");
        println!("{row} without it, {promise:?} breaks in world {seed}");
    });
    let idle = idle.into_inner().unwrap();
    assert!(idle.is_empty(), "nothing breaks without {idle:?}");
}

/// The table in the documentation; its rows may come in another order.
#[test]
#[ignore = "takes minutes"]
fn the_table() {
    println!("| rule | left out | where | violations without it | with it |");
    println!("| --- | --- | --- | --- | --- |");
    threads::share(THREADS, parts().into_iter(), |part| {
        let total = |is_off| {
            let worlds = (0..TABLE_SEEDS).map(|seed| part.violations(seed, is_off));
            worlds.fold(Counts::new(), |mut total, counts| {
                for (invariant, n) in counts {
                    *total.entry(invariant).or_default() += n;
                }
                total
            })
        };
        let (without, with) = (told(&total(true)), told(&total(false)));
        let row = format!("{} {without} | {with} |", part.row());
        println!("{row}");
    });
}

fn told(counts: &Counts) -> String {
    if counts.is_empty() {
        return "0".to_owned();
    }
    let told = |(invariant, n): (&Invariant, &usize)| {
        let name = format!("{invariant:?}");
        // Without what it is about.
        let number = name.find(|letter: char| !letter.is_ascii_digit() && letter != 'I');
        format!("{}: {n}", &name[..number.unwrap_or(name.len())])
    };
    counts.iter().map(told).collect::<Vec<_>>().join(", ")
}
