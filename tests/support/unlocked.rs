//! That the crate holds no lock while it calls code of users: a lock that the called code needs, or a slow one, would
//! hold up threads for ever, or all of them. A subscriber of `tracing`, and the `Drop` of a loader, are such code.

use std::backtrace::Backtrace;
use std::io::{Write, stderr};
use std::process::abort;
use std::sync::Once;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Ends the process if this thread holds a lock of the crate: a panic in a background task would be lost.
pub(crate) fn check(called: &str) {
    let held = larder::locks_held();
    if held > 0 {
        // Not by `eprintln!`: what a test prints is kept until it ends.
        let trace = Backtrace::force_capture();
        let _ = writeln!(stderr(), "{called} was called under {held} locks:\n{trace}");
        abort();
    }
}

/// Checks when it is dropped. For values, and for what closures are given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Unlocked;

impl Drop for Unlocked {
    fn drop(&mut self) {
        check("a Drop");
    }
}

/// Checks all that is logged from here on, in threads that have no subscriber of their own.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Watch);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// Calls [`check`] in each call.
pub(crate) struct Watch;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Watch {
    fn enabled(&self, of: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *of.level() <= Level::DEBUG && of.target().starts_with("larder")
    }

    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        check("on_event");
    }

    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        check("on_new_span");
    }

    fn on_record(&self, _: &Id, _: &Record<'_>, _: Context<'_, S>) {
        check("on_record");
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        check("on_enter");
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        check("on_exit");
    }

    fn on_close(&self, _: Id, _: Context<'_, S>) {
        check("on_close");
    }
}
