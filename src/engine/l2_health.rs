//! How L2 answered last: errors are counted, and traced at WARN once in five seconds; asked before a caller waits for L2.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::{debug, warn};

use crate::error::L2Error;
use crate::options::Options;
use crate::stats::Counters;
use crate::throttle::Throttle;

/// L2 did what it was asked.
const UP: u8 = 0;
/// It refused.
const REFUSES: u8 = 1;
/// It did not answer.
const SILENT: u8 = 2;

pub(super) struct L2Health {
    /// One of the three above.
    last: AtomicU8,
    warnings: Throttle,
    options: Arc<Options>,
    counters: Arc<Counters>,
}

impl L2Health {
    pub(super) fn new(options: &Arc<Options>, counters: &Arc<Counters>) -> Self {
        Self {
            last: AtomicU8::new(UP),
            warnings: Throttle::default(),
            options: Arc::clone(options),
            counters: Arc::clone(counters),
        }
    }

    /// Whether L2 did what it was last asked to do.
    pub(super) fn is_up(&self) -> bool {
        self.last.load(Ordering::Relaxed) == UP
    }

    /// Whether it is of any use to ask L2: it answered last, be it with a refusal.
    pub(super) fn does_answer(&self) -> bool {
        self.last.load(Ordering::Relaxed) != SILENT
    }

    /// Takes note of an answer, and passes it on.
    pub(super) fn observe<T>(&self, answer: Result<T, L2Error>) -> Result<T, L2Error> {
        match &answer {
            // Only a load: this is on the way of every answer.
            Ok(_) if self.is_up() => {}
            Ok(_) => {
                self.last.store(UP, Ordering::Relaxed);
                debug!(
                    namespace = self.options.namespace.as_str(),
                    "L2 answers again"
                );
            }
            Err(error) => self.observe_error(error),
        }
        answer
    }

    fn observe_error(&self, error: &L2Error) {
        self.counters.l2_errors.bump();
        let state = if error.is_refused() { REFUSES } else { SILENT };
        self.last.store(state, Ordering::Relaxed);
        let namespace = self.options.namespace.as_str();
        let error = error as &dyn Error;
        if self.warnings.allows(self.options.clock.now()) {
            warn!(
                namespace,
                error, "a request to L2 failed; going on without L2"
            );
        } else {
            debug!(namespace, error, "a request to L2 failed");
        }
    }
}
