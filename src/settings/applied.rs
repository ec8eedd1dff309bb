//! What settings have changed in a cache that is used.

use std::sync::Mutex;

use super::Settings;

/// What settings have changed in a cache, see [`Cache::apply_settings`](crate::Cache::apply_settings).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedSettings {
    pub(crate) namespace: String,
    pub(crate) changed: Vec<&'static str>,
    pub(crate) needs_restart: Vec<&'static str>,
}

impl AppliedSettings {
    /// The namespace of the cache.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The names of the options that have changed, such as `l2_ttl`.
    #[must_use]
    pub fn changed(&self) -> &[&'static str] {
        &self.changed
    }

    /// The names of the options that will change when the service is started again with these settings.
    #[must_use]
    pub fn needs_restart(&self) -> &[&'static str] {
        &self.needs_restart
    }
}

/// The settings of a cache, by where they come from.
pub(crate) struct AllSettings {
    /// From the builder.
    code: Settings,
    /// The code's and the operator's together, with which the cache was built.
    pub(crate) built: Settings,
    /// The operator's, as they were applied last. Locked while others are.
    pub(crate) last: Mutex<Settings>,
}

impl AllSettings {
    pub(crate) fn new(code: Settings, operator: Settings) -> Self {
        Self {
            built: code.clone().overridden_by(&operator),
            code,
            last: Mutex::new(operator),
        }
    }

    /// The settings of the code, overridden by the operator's.
    pub(crate) fn with(&self, operator: &Settings) -> Settings {
        self.code.clone().overridden_by(operator)
    }
}
