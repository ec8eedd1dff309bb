//! What was seen of a fault, and the table of all.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::service::failure::Trouble;

/// Of the violations of a fault, how many are told.
const TOLD: usize = 5;

#[derive(Default)]
pub(super) struct Found {
    times: u64,
    /// How long the shop took to be well again, at most.
    pub(super) well: Duration,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) pages: u64,
    pub(super) changes: u64,
    pub(super) orders: u64,
    pub(super) logouts: u64,
    pub(super) views: u64,
    pub(super) keys: u64,
    pub(super) violations: u64,
    told: Vec<String>,
}

type Count = fn(&Found) -> u64;

/// What is counted, in the order of the line and of the table.
const COUNTS: [(&str, Count); 9] = [
    ("requests", |found| found.requests),
    ("failed", |found| found.failed),
    ("pages", |found| found.pages),
    ("changes", |found| found.changes),
    ("orders", |found| found.orders),
    ("logouts", |found| found.logouts),
    ("views", |found| found.views),
    ("keys", |found| found.keys),
    ("violations", |found| found.violations),
];

impl Found {
    pub(super) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violation(what());
        }
    }

    pub(super) fn violation(&mut self, what: String) {
        self.violations += 1;
        if self.told.len() < TOLD {
            self.told.push(what);
        }
    }

    /// If somebody has ended by hand what a fault is about.
    pub(super) fn done(&mut self, done: Result<(), Trouble>) {
        if let Err(trouble) = done {
            self.violation(trouble.to_string());
        }
    }

    /// A line, and one for each violation.
    pub(super) fn print(&self, fault: &str) {
        let counts = COUNTS.map(|(name, count)| format!("{} {name}", count(self)));
        let counts = counts.join(", ");
        println!("{fault}, well after {:.1?}: {counts}", self.well);
        for violation in &self.told {
            println!("  {violation}");
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.times += other.times;
        self.well = self.well.max(other.well);
        self.requests += other.requests;
        self.failed += other.failed;
        self.pages += other.pages;
        self.changes += other.changes;
        self.orders += other.orders;
        self.logouts += other.logouts;
        self.views += other.views;
        self.keys += other.keys;
        self.violations += other.violations;
        let free = TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.iter().take(free).cloned());
    }
}

/// The sums of each fault.
#[derive(Default)]
pub(super) struct Table(BTreeMap<String, Found>);

impl Table {
    pub(super) fn add(&mut self, fault: String, found: &Found) {
        let sum = self.0.entry(fault).or_default();
        sum.times += 1;
        sum.add(found);
    }

    pub(super) fn violations(&self) -> u64 {
        self.0.values().map(|found| found.violations).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn print(&self) {
        let names = COUNTS.map(|(name, _)| name).join(" | ");
        println!("\n| fault | times | well after | {names} |");
        println!("| --- |{}", " ---: |".repeat(2 + COUNTS.len()));
        let mut sum = Found::default();
        self.0.values().for_each(|found| sum.add(found));
        let rows = self.0.iter().map(|(name, found)| (name.as_str(), found));
        for (name, found) in rows.chain([("all", &sum)]) {
            let cells = COUNTS
                .map(|(_, count)| count(found).to_string())
                .join(" | ");
            let Found { times, well, .. } = found;
            println!("| {name} | {times} | {well:.1?} | {cells} |");
        }
    }
}
