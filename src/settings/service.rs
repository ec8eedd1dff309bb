//! The settings of all caches of a service: some for all of them, and some for one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Settings;

/// Options of all caches of a service, from a configuration file or from the environment: some for all of them, and a
/// section for each cache that has others. For [`Caches`](crate::Caches).
///
/// # In a file
///
/// ```
/// use larder::ServiceSettings;
///
/// let file = r#"{
///     "redis": "redis://127.0.0.1:6379",
///     "l2_ttl": "1h",
///     "product": { "l2_ttl": "5m" },
///     "price": { "max_staleness": "500ms" }
/// }"#;
/// let settings: ServiceSettings = serde_json::from_str(file)?;
/// assert!(settings.caches.keys().eq(["price", "product"]));
/// // It is neither an option nor a section.
/// assert!(serde_json::from_str::<ServiceSettings>(r#"{ "l2_tll": "1h" }"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceSettings {
    /// For all caches.
    #[serde(flatten)]
    pub all: Settings,
    /// For single caches, by their names.
    #[serde(flatten)]
    pub caches: BTreeMap<String, Settings>,
}

impl ServiceSettings {
    /// These settings, with each option that `other` has taken from there. An option that `other` has for all caches
    /// also overrides the option of a single cache here: the operator who sets it means all.
    #[must_use]
    pub fn overridden_by(mut self, other: &Self) -> Self {
        self.all = self.all.overridden_by(&other.all);
        for settings in self.caches.values_mut() {
            *settings = std::mem::take(settings).overridden_by(&other.all);
        }
        for (name, settings) in &other.caches {
            let own = self.caches.entry(name.clone()).or_default();
            *own = std::mem::take(own).overridden_by(settings);
        }
        self
    }

    /// The options of one cache, with those for all.
    pub(crate) fn of(&self, cache: &str) -> Settings {
        // Compared as the environment writes names, so that a file and a variable name the same cache.
        let mut sections = self.caches.iter();
        let own = sections.find(|(name, _)| section(name) == section(cache));
        let own = own.map(|(_, own)| own.clone()).unwrap_or_default();
        self.all.clone().overridden_by(&own)
    }

    /// Whether there is a section for a cache of this name.
    pub(crate) fn has_section(&self, name: &str) -> bool {
        self.caches.keys().any(|of| section(of) == section(name))
    }

    /// The sections that belong to none of the caches with these names.
    pub(crate) fn unknown<'a>(&'a self, caches: &'a [String]) -> impl Iterator<Item = &'a str> {
        let is_known = |name: &str| caches.iter().any(|cache| section(cache) == section(name));
        (self.caches.keys().map(String::as_str)).filter(move |name| !is_known(name))
    }
}

/// How a variable of the environment names a cache, in small letters: `product-page` and `product:page` are both
/// `product_page`.
fn section(name: &str) -> String {
    (name.to_ascii_lowercase()).replace(|c: char| !c.is_alphanumeric(), "_")
}
