//! Keys that are kept warm: their values are refreshed before they are stale, also if nobody looks them up.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::Loads;
use super::cache_loader::LoaderSource;
use crate::entry::AnyEntry;
use crate::key::Key;
use crate::util::retry_delays::spread;
use crate::vocabulary::Source;

impl Loads {
    /// Has a value refreshed that is almost as old as `every`: in one instance at a time, as with the refresh of a stale
    /// value. A value that another instance has refreshed meanwhile is young again. Returns after how long to look
    /// again; `None` if there is no value.
    pub(crate) async fn keep_warm(
        self: &Arc<Self>,
        key: &Key,
        every: Duration,
        loader_source: LoaderSource,
    ) -> Option<Duration> {
        let ctx = &*self.ctx;
        if ctx.switch.is_off_for(key) {
            return Some(every);
        }
        let mut entry = self.reads.look_up(key).await?;
        // Earlier by the time of a load, and by a jitter: of several instances one looks first, and the others find the
        // value that it has loaded.
        let before = ctx.convert.ahead.load_takes().min(every / 2) + spread(every / 20);
        let left = every.saturating_sub(before + entry.meta().age());
        if !left.is_zero() {
            return Some(left);
        }
        // Refreshed, though it may be one that is to be compared with the source.
        entry = AnyEntry::new(entry.record().clone(), ctx.now(), Source::L2);
        self.start_refreshes(vec![(0, key.clone(), entry)], |_| loader_source.loader());
        // The next look sees by the age of the value whether the refresh succeeded. A refresh that has just failed is not
        // tried again yet.
        Some(every / 20)
    }

    /// Loads a key that is kept warm and has no value. Returns whether it has one now.
    pub(crate) async fn load_to_keep_warm(
        self: &Arc<Self>,
        key: &Key,
        loader_source: LoaderSource,
    ) -> bool {
        let error = match self.get_or_load(key.clone(), loader_source).await {
            Ok(entry) => return entry.record().is_stored(),
            Err(error) => error,
        };
        if self.ctx.options.may_log_cause(&error) {
            warn!(
                namespace = self.ctx.options.namespace.as_str(),
                reason = %error,
                "a key that is kept warm could not be loaded"
            );
        }
        false
    }
}
