//! Spans of tasks.

use tracing::Span;

/// The span of a task, or that of its caller, if nobody takes spans of this level: otherwise the task would be in none.
pub(crate) fn enabled(span: Span) -> Span {
    if span.is_disabled() {
        Span::current()
    } else {
        span
    }
}
