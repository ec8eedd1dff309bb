//! Spans of tasks.

use tracing::Span;

/// The span of a task. If nobody takes spans of this level, its caller's span: otherwise the task would be in no span.
pub(crate) fn enabled(span: Span) -> Span {
    if span.is_disabled() {
        Span::current()
    } else {
        span
    }
}
