//! The table, the figures for the plot, and the checks.

use serde_json::{Value, json};

use crate::faults::{FAULT, FAULTS, Phase, SLOT};
use crate::recovery::{LIMIT, WINDOW};
use crate::run::Run;
use crate::seen::{Second, Seen, percentile, share};

/// How much longer the slowest hits in L1 may take in faults than in calm.
const SLOWER: f64 = 2.0;

pub(crate) struct Check {
    pub(crate) what: &'static str,
    pub(crate) is_kept: bool,
    pub(crate) found: String,
}

/// One row for each phase, and each service.
pub(crate) fn table(runs: &[Run]) -> String {
    let mut lines = vec![
        "| phase | service | available | p50 | p99 | L1 hits: p50 | p99 | requests/s | unproven | fallbacks/s | source queries/s | \
         outdated | loads of a key in recovery |"
            .to_owned(),
        format!("| --- | --- |{}", " ---: |".repeat(11)),
    ];
    let faults = FAULTS.map(Phase::During);
    for phase in [Phase::Calm].into_iter().chain(faults) {
        for run in runs {
            lines.push(row(run, phase));
        }
    }
    lines.join("\n")
}

fn row(run: &Run, phase: Phase) -> String {
    let seen = run.sum(|other| other == phase);
    let (name, loads) = match phase {
        Phase::During(fault) => {
            let of_fault = || run.recoveries.iter().filter(|one| one.fault == fault);
            let loads: u64 = of_fault().map(|one| one.loads).sum();
            let recoveries = of_fault().count() / crate::INSTANCES;
            let keys = crate::source::HOT * recoveries as u64;
            (fault.name(), format!("{:.2}", share(loads, keys)))
        }
        _ => ("calm", String::new()),
    };
    let available = seen.availability().unwrap_or_default() * 100.0;
    format!(
        "| {name} | {} | {available:.2} % | {} | {} | {} | {} | {:.0} | {:.1} % | {:.0} | {:.0} | {} | {loads} |",
        run.name,
        time(percentile(&seen.latency, 50.0)),
        time(percentile(&seen.latency, 99.0)),
        time(percentile(&seen.l1, 50.0)),
        time(percentile(&seen.l1, 99.0)),
        seen.a_second(seen.requests),
        share(seen.unproven, seen.requests) * 100.0,
        seen.a_second(seen.fallbacks),
        seen.a_second(seen.queries),
        seen.outdated,
    )
}

fn time(us: Option<f64>) -> String {
    match us {
        None => "–".to_owned(),
        Some(us) if us < 1_000.0 => format!("{us:.1} µs"),
        Some(us) => format!("{:.1} ms", us / 1_000.0),
    }
}

/// The last round of each run, second by second.
pub(crate) fn series(runs: &[Run]) -> Value {
    let slots = FAULTS.iter().zip(0..).map(|(fault, slot)| {
        let (begin, fails) = (slot * SLOT, fault.source_fails());
        json!({
            "name": fault.name(),
            "seconds": [begin, begin + FAULT],
            "source_fails": [begin + fails.start, begin + fails.end],
        })
    });
    let runs = runs.iter().map(|run| {
        let column = |of: fn(&Second) -> Option<f64>| -> Vec<Option<f64>> {
            let rounded = |n: f64| (n * 1e4).round() / 1e4;
            run.last_round
                .iter()
                .map(|second| of(second).map(rounded))
                .collect()
        };
        json!({
            "name": run.name,
            "available": column(|second| second.available),
            "p50_us": column(|second| second.p50_us),
            "p99_us": column(|second| second.p99_us),
            "l1_p99_us": column(|second| second.l1_p99_us),
            "queries": column(|second| Some(second.queries)),
        })
    });
    json!({ "slots": slots.collect::<Vec<_>>(), "runs": runs.collect::<Vec<_>>() })
}

/// What larder must have kept.
pub(crate) fn checks(run: &Run) -> Vec<Check> {
    let all = run.sum(|_| true);
    vec![
        Check {
            what: "no request failed that had a fallback",
            is_kept: all.needless == 0,
            found: format!("{} of {}", all.needless, all.requests),
        },
        Check {
            what: "no answer older than promised",
            is_kept: all.outdated == 0,
            found: format!("{} {:?}", all.outdated, all.examples),
        },
        Check {
            what: "fallbacks and unproven answers were needed",
            is_kept: all.fallbacks > 0 && all.unproven > 0,
            found: format!("{} and {}", all.fallbacks, all.unproven),
        },
        l1_hits(run),
        recovered(run),
        loads(run),
        resources(run),
    ]
}

fn l1_hits(run: &Run) -> Check {
    let p99 = |seen: &Seen| percentile(&seen.l1, 99.0).unwrap_or_default();
    let calm = p99(&run.sum(|phase| phase == Phase::Calm));
    let faults = p99(&run.sum(|phase| matches!(phase, Phase::During(_))));
    Check {
        what: "p99 of L1 hits during faults within 2x of calm",
        is_kept: calm > 0.0 && faults > 0.0 && faults <= calm * SLOWER,
        found: format!("{faults:.2} µs and {calm:.2} µs"),
    }
}

fn recovered(run: &Run) -> Check {
    let times = || run.recoveries.iter().map(|one| one.took);
    let slowest = times().flatten().max();
    Check {
        what: "each instance works with Redis again soon after each fault",
        is_kept: slowest.is_some() && times().all(|took| took.is_some()),
        found: format!("the slowest after {slowest:.1?}, at most {LIMIT:?}"),
    }
}

fn loads(run: &Run) -> Check {
    let bad = run
        .recoveries
        .iter()
        .filter(|one| !one.too_often.is_empty());
    let bad: Vec<_> = bad
        .map(|one| {
            let some: Vec<_> = one.too_often.iter().take(5).collect();
            let (name, keys) = (one.fault.name(), one.too_often.len());
            let errors = one.errors;
            format!("{name}: {keys} keys, such as {some:?} times, with {errors} errors of Redis")
        })
        .collect();
    Check {
        what: "after a fault each instance loads a key once at most",
        is_kept: bad.is_empty() && !run.recoveries.is_empty(),
        found: format!(
            "{bad:?} within {WINDOW:?}, in {} recoveries",
            run.recoveries.len()
        ),
    }
}

fn resources(run: &Run) -> Check {
    // What the first faults need is needed again and again: of more than one round, the end of the first counts.
    let first = run.resources.get(usize::from(run.resources.len() > 2));
    let (first, last) = (
        first.expect("it ran"),
        run.resources.last().expect("it ran"),
    );
    Check {
        what: "memory, tasks and descriptors are flat",
        is_kept: last.is_flat(first),
        found: format!("{first:?}, at the end {last:?}"),
    }
}
