//! What becomes of the values of the store, as the checker is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::faults::Fault;
use crate::history::{Disturbance, Step, Write, WriteOutcome};
use crate::recorder::Recorder;
use crate::source::{Source, Versioned, unseal};

pub(crate) struct Truth {
    pub(crate) source: Arc<Source>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) late: Duration,
    /// Whether loads read from a replica of the source.
    is_lagging: bool,
    /// When an invalidated value is gone from all instances.
    gone_within: Duration,
}

impl Truth {
    pub(crate) fn new(config: &Config, source: Arc<Source>, recorder: Arc<Recorder>) -> Self {
        Self {
            source,
            recorder,
            late: config.late(),
            is_lagging: config.lag_ms > 0,
            // Of the instances that believe their values for twice as long, too; and of the reads that began before.
            gone_within: 2 * config.max_staleness() + config.answered_within(),
        }
    }

    /// The store has a value with this body now. Returns its key.
    pub(crate) fn stored(&self, body: &[u8]) -> Option<u64> {
        let Versioned { key, version } = unseal(body)?;
        let at = self.recorder.now();
        self.recorder
            .write(|history| history.steps.push(Step::Stored { at, key, version }));
        Some(key)
    }

    /// No load of this key that has its lease from before is stored any more; and what has it from after it was loaded
    /// after it. So the source's number of now is what fills are held to.
    pub(crate) fn ended(&self, key: u64) {
        let (at, version) = (self.recorder.now(), self.source.current(key));
        self.recorder
            .write(|history| history.steps.push(Step::Invalidated { at, key, version }));
        self.recorder.invalidated(key, self.gone_within);
        // A load whose lease was granted before this may begin when the grant arrives, and run on.
        self.recorder.disturbed(self.late, None, Some(key));
    }

    /// The same of all these keys, as an epoch has begun. Nothing holds loads off then, so what a replica of the source
    /// gives may be older.
    pub(crate) fn all_ended(&self, which: impl Fn(u64) -> bool) {
        for key in (0..self.source.len()).filter(|key| which(*key)) {
            if self.is_lagging {
                self.recorder.disturbed(self.late, None, Some(key));
            } else {
                self.ended(key);
            }
        }
    }

    /// Every load of values with these tags that began before is refused after this.
    pub(crate) fn tags_ended<'a>(
        &self,
        tags: impl Iterator<Item = &'a str>,
        which: impl Fn(u64) -> bool,
    ) {
        let tagged = tags.flat_map(|tag| self.source.tagged(tag));
        for key in tagged.filter(|key| which(*key)).collect::<BTreeSet<u64>>() {
            self.ended(key);
        }
    }

    /// The source has a write that waited, and all instances are told within this time.
    pub(crate) fn settled(&self, Versioned { key, version }: Versioned, within: Duration) {
        self.recorder.count(Fault::Settled);
        if let Some(since) = self.source.settled(key, version, within) {
            // Everyone has loaded for himself.
            let to = self.recorder.now() + self.late;
            self.recorder.write(|history| {
                history.disturbances.push(Disturbance {
                    from: since,
                    to,
                    instance: None,
                    key: Some(key),
                });
            });
        }
        self.ended(key);
        // From here on all have it, or what came later.
        let end = self.recorder.now();
        self.recorder.write(|history| {
            history.writes.push(Write {
                instance: usize::MAX,
                key,
                version,
                end,
                outcome: WriteOutcome::Done,
                everywhere: false,
                lagging: true,
            });
        });
    }
}
