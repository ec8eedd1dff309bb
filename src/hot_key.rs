//! A key that is looked up often.

/// A key that is looked up often, of [`Cache::hot_keys`](crate::Cache::hot_keys).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HotKey {
    /// The key, as it is in Redis after the namespace.
    pub key: String,
    /// Its share of the last look-ups, from 0.0 to 1.0.
    pub share: f64,
}
