//! The end of a scenario: what was seen, whether it was allowed, and whether it proves anything.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::history::{At, History, Level, Outcome, Read, Rest, Seen, Terms, WriteOutcome};
use crate::support::instance::Instance;
use crate::traffic::{KEYS, Recorder};

/// What waiting for Redis and for another's lease may take together, on a busy machine, and much more.
const ANSWERED_WITHIN: Duration = Duration::from_secs(8);

/// A run that promises were kept in, and how much that is worth.
pub(crate) struct Verdict {
    history: History,
}

impl Verdict {
    /// Reads everything once more, now that all is at rest, and panics where a promise was broken.
    pub(crate) async fn of(
        recorder: &Recorder,
        instances: &[Arc<Instance>],
        db: &Path,
        max_staleness: Duration,
    ) -> Self {
        let db = Connection::open(db).expect("the database is there");
        for (index, instance) in instances.iter().enumerate() {
            for key in KEYS {
                let source = db
                    .query_row("SELECT version FROM products WHERE id = ?1", [key], |row| {
                        row.get(0)
                    })
                    .expect("every key was written");
                let outcome = recorder.read(index, instance, key).await;
                let Outcome::Value(seen) = outcome else {
                    panic!("no answer at rest: {outcome:?}");
                };
                let rest = Rest {
                    instance: index,
                    key,
                    at: recorder.now(),
                    level: seen.level,
                    version: Some(seen.version),
                    source,
                };
                recorder.note(|history| history.rests.push(rest));
            }
        }
        let verdict = Self {
            history: recorder.note(std::mem::take),
        };
        let violations = verdict.history.check(&Terms {
            max_staleness: vec![max_staleness; instances.len()],
            answered_within: ANSWERED_WITHIN,
            types: 1,
        });
        let shown = violations.iter().take(10).map(ToString::to_string);
        let story = violations
            .first()
            .map(|first| verdict.story(first.key, first.at));
        let shown: Vec<_> = shown.chain(story.into_iter().flatten()).collect();
        let summary = verdict.summary();
        println!("{summary}");
        assert!(
            violations.is_empty(),
            "{} violations in {summary}:\n{}",
            violations.len(),
            shown.join("\n")
        );
        verdict.at_least(500, 30);
        verdict
    }

    fn at_least(&self, reads: usize, writes: usize) {
        let summary = self.summary();
        let hits = self.count(|seen| seen.level == Level::L1);
        let all = self.history.reads.len();
        assert!(all >= reads, "too few reads: {summary}");
        assert!(
            self.writes_with(WriteOutcome::Done) >= writes,
            "too few writes: {summary}"
        );
        assert!(hits * 4 >= all, "too few of them from L1: {summary}");
        let unproven = self.count(|seen| seen.unproven);
        assert_eq!(unproven, 0, "no instance may answer these: {summary}");
    }

    /// What clients saw of a key in the last second up to then.
    fn story(&self, key: u64, at: At) -> Vec<String> {
        let time = at.saturating_sub(Duration::from_secs(1))..=at;
        let reads = self.history.reads.iter();
        let reads = reads
            .filter(|read| read.key == key && time.contains(&read.end))
            .map(|read| (read.end, format!("{read:?}")));
        let writes = self.history.writes.iter();
        let writes = writes
            .filter(|write| write.key == key && time.contains(&write.end))
            .map(|write| (write.end, format!("{write:?}")));
        let mut story: Vec<_> = reads.chain(writes).collect();
        story.sort();
        let title = format!("the last second of key {key} up to {at:?}:");
        let events = story.into_iter().map(|(_, event)| event);
        [title].into_iter().chain(events).collect()
    }

    /// So many reads of this instance began in this time and were answered, from wherever.
    pub(crate) fn reads_within(&self, time: &Range<At>, instance: usize) -> usize {
        self.count_within(time, instance, |_| true)
    }

    /// So many of them were answered from its memory.
    pub(crate) fn remembered_within(&self, time: &Range<At>, instance: usize) -> usize {
        self.count_within(time, instance, |seen| seen.level == Level::L1)
    }

    /// So many writes that Redis had accepted ended in this time.
    pub(crate) fn writes_within(&self, time: &Range<At>) -> usize {
        let writes = self.history.writes.iter();
        writes
            .filter(|write| write.outcome == WriteOutcome::Done && time.contains(&write.end))
            .count()
    }

    pub(crate) fn deferred(&self) -> usize {
        self.writes_with(WriteOutcome::Deferred)
    }

    fn writes_with(&self, outcome: WriteOutcome) -> usize {
        let writes = self.history.writes.iter();
        writes.filter(|write| write.outcome == outcome).count()
    }

    fn values(&self) -> impl Iterator<Item = (&Read, Seen)> {
        let reads = self.history.reads.iter();
        reads.filter_map(|read| match read.outcome {
            Outcome::Value(seen) => Some((read, seen)),
            _ => None,
        })
    }

    fn count(&self, which: impl Fn(Seen) -> bool) -> usize {
        self.values().filter(|(_, seen)| which(*seen)).count()
    }

    fn count_within(
        &self,
        time: &Range<At>,
        instance: usize,
        which: impl Fn(Seen) -> bool,
    ) -> usize {
        self.values()
            .filter(|(read, _)| read.instance == instance && time.contains(&read.start))
            .filter(|(_, seen)| which(*seen))
            .count()
    }

    fn summary(&self) -> String {
        let reads = &self.history.reads;
        let end = reads.iter().map(|read| read.end).max();
        let slowest = reads
            .iter()
            .map(|read| read.end.saturating_sub(read.start))
            .max();
        format!(
            "{:?}: {} reads ({} from L1, {} from L2, {} loaded, {} of them unstored; the slowest took {:?}), \
             {} writes and {} deferred",
            end.unwrap_or_default(),
            reads.len(),
            self.count(|seen| seen.level == Level::L1),
            self.count(|seen| seen.level == Level::L2),
            self.count(|seen| seen.level == Level::Loader),
            self.count(|seen| !seen.stored),
            slowest.unwrap_or_default(),
            self.writes_with(WriteOutcome::Done),
            self.writes_with(WriteOutcome::Deferred),
        )
    }
}
