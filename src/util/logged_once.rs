//! Whether a line of the log was written.

use std::sync::atomic::{AtomicU64, Ordering};

/// Keeps a line of the log from being written twice in a row for one cause. [`Throttle`](super::throttle::Throttle) is for
/// lines that are written again after some time.
#[derive(Debug, Default)]
pub(crate) struct LoggedOnce(AtomicU64);

impl LoggedOnce {
    /// Whether the line is to be written now. Of several callers at once, one writes it.
    pub(crate) fn is_first(&self) -> bool {
        self.is_new(1)
    }

    /// Whether the line is to be written now, as the last one had another cause. No cause is 0.
    pub(crate) fn is_new(&self, cause: u64) -> bool {
        self.0.swap(cause, Ordering::Relaxed) != cause
    }
}

#[cfg(test)]
mod tests {
    use super::LoggedOnce;

    #[test]
    fn a_line_is_written_once_for_each_cause() {
        let line = LoggedOnce::default();
        assert_eq!([line.is_first(), line.is_first()], [true, false]);
        let line = LoggedOnce::default();
        let written = [7, 7, 8, 7].map(|cause| line.is_new(cause));
        assert_eq!(written, [true, false, true, true]);
    }
}
