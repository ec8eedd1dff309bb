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
        println!(
            "{fault}, well after {:.1?}: {} requests, {} failed; checked {} pages, {} changes, {} orders, {} logouts, {} views, {} keys: {} violations",
            self.well,
            self.requests,
            self.failed,
            self.pages,
            self.changes,
            self.orders,
            self.logouts,
            self.views,
            self.keys,
            self.violations
        );
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
        type Cell = fn(&Found) -> String;
        let columns: [(&str, Cell); 11] = [
            ("times", |found| found.times.to_string()),
            ("well after", |found| format!("{:.1?}", found.well)),
            ("requests", |found| found.requests.to_string()),
            ("failed", |found| found.failed.to_string()),
            ("pages", |found| found.pages.to_string()),
            ("changes", |found| found.changes.to_string()),
            ("orders", |found| found.orders.to_string()),
            ("logouts", |found| found.logouts.to_string()),
            ("views", |found| found.views.to_string()),
            ("keys", |found| found.keys.to_string()),
            ("violations", |found| found.violations.to_string()),
        ];
        println!(
            "\n| fault | {} |",
            columns.map(|(name, _)| name).join(" | ")
        );
        println!("| --- |{}", " ---: |".repeat(columns.len()));
        let mut sum = Found::default();
        self.0.values().for_each(|found| sum.add(found));
        let rows = self.0.iter().map(|(name, found)| (name.as_str(), found));
        for (name, found) in rows.chain([("all", &sum)]) {
            let cells = columns.map(|(_, cell)| cell(found));
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
}
